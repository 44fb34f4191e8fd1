"""Landmarks of a prior: dependence on anchors and codes, files."""

from pathlib import Path

import pytest
import torch

from headfields.apps.tracking.prior.landmarks import TRACKED_LANDMARKS, LandmarkPoints


def people(count: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Landmarks and anchors that are linear in two numbers per person."""
    numbers = torch.randn(count, 2)
    base = torch.randn(68, 3), torch.randn(5, 3)
    ways = torch.randn(2, 68, 3), torch.randn(2, 5, 3)
    return tuple(b + torch.einsum("pk,knc->pnc", numbers, w) for b, w in zip(base, ways, strict=True))  # type: ignore[return-value]


def test_fitted_landmarks_follow_people() -> None:
    points, anchors = people(14)
    found = LandmarkPoints.fitted(points[:12], anchors[:12], ridge=1e-6)
    for person in (12, 13):  # of whom it has not seen anything
        assert float((found(anchors[person]) - points[person]).norm(dim=1).max()) < 1e-2
        assert float((found.base - points[person]).norm(dim=1).max()) > 0.1


def test_codes_say_what_anchors_do_not() -> None:
    points, anchors = people(42)
    codes = torch.randn(42, 3) * torch.tensor([1e-2, 1.0, 10.0])  # in spreads of their own
    points = points + torch.einsum("pk,klc->plc", codes / torch.tensor([1e-2, 1.0, 10.0]), torch.randn(3, 68, 3))
    both = LandmarkPoints.fitted(points[:40], anchors[:40], ridge=1e-6, codes=codes[:40])
    alone = LandmarkPoints.fitted(points[:40], anchors[:40], ridge=1e-6)
    for person in (40, 41):
        assert float((both(anchors[person], codes[person]) - points[person]).norm(dim=1).max()) < 1e-2
        assert float((alone(anchors[person], codes[person]) - points[person]).norm(dim=1).mean()) > 0.1
    torch.testing.assert_close(both(), points[:40].mean(dim=0))
    code = codes[0].double().requires_grad_()
    whole = LandmarkPoints.fitted(points.double(), anchors.double(), codes=codes.double())
    assert torch.autograd.gradcheck(lambda z: whole(anchors[0].double(), z), code)


def test_near_landmarks_follow_their_anchors() -> None:
    anchors = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [9, 9, 9]])
    found = LandmarkPoints.near(torch.tensor([[0.2, 0.2, 0.0]]), anchors)
    shift = torch.tensor([0.1, -0.2, 0.3])
    torch.testing.assert_close(found(anchors + shift)[0], torch.tensor([0.2, 0.2, 0.0]) + shift)
    far = anchors.clone()
    far[3] += 5  # not among the nearest three
    torch.testing.assert_close(found(far)[0], torch.tensor([0.2, 0.2, 0.0]))
    alone = LandmarkPoints.near(torch.zeros(2, 3), torch.zeros(0, 3))
    torch.testing.assert_close(alone(torch.zeros(0, 3)), torch.zeros(2, 3))


def test_gradient_reaches_anchors() -> None:
    points, anchors = people()
    found = LandmarkPoints.fitted(points.double(), anchors.double())
    assert torch.autograd.gradcheck(found, anchors[0].double().requires_grad_())


def test_kept_landmarks_keep_their_numbers(tmp_path: Path) -> None:
    points, anchors = people()
    whole = LandmarkPoints.fitted(points, anchors)
    some = whole.kept()
    assert some.number.tolist() == sorted(TRACKED_LANDMARKS) and 0 not in TRACKED_LANDMARKS and 8 in TRACKED_LANDMARKS
    torch.testing.assert_close(some(anchors[3]), whole(anchors[3])[some.number])
    assert 48 in TRACKED_LANDMARKS and not set(range(60, 68)) & set(TRACKED_LANDMARKS)
    again = LandmarkPoints.load(some.save(tmp_path / "a" / "landmarks.npz"))
    assert torch.equal(again(anchors[1]), some(anchors[1])) and torch.equal(again.number, some.number)
    codes = torch.randn(12, 4)
    some = LandmarkPoints.fitted(points, anchors, codes=codes).kept()
    again = LandmarkPoints.load(some.save(tmp_path / "landmarks.npz"))
    assert torch.equal(again(anchors[1], codes[1]), some(anchors[1], codes[1])) and len(again) == len(TRACKED_LANDMARKS)


def test_files_that_are_something_else(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a file"):
        LandmarkPoints.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.npz: not an npz file"):
        LandmarkPoints.load(tmp_path / "text.npz")
    with pytest.raises(ValueError, match=r"by_anchors has shape \(2, 2\); expected \(3, 6\)"):
        LandmarkPoints(torch.zeros(2, 3), torch.zeros(1, 3), torch.zeros(2, 2), torch.arange(2))
    with pytest.raises(ValueError, match=r"by_code has shape \(4, 6\); expected .* None"):
        LandmarkPoints(
            torch.zeros(2, 3), torch.zeros(1, 3), torch.zeros(3, 6), torch.arange(2), None, torch.zeros(4, 6)
        )  # fmt: skip
