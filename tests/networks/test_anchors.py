"""Anchors put on heads, and predicted from codes."""

import pytest
import torch

import headfields as hf
from headfields.networks import Anchors, head_anchors
from tests.shapes import uv_sphere
from tests.shared_data import shared

MIRROR = torch.tensor([-1.0, 1.0, 1.0])


def procedural() -> hf.Template:
    head = hf.synthetic.procedural_head()
    return hf.Template(head().vertices[0].detach(), head.faces)


def check(template: hf.Template, index: torch.Tensor, pairs: int, middle: int, tolerance: float) -> torch.Tensor:
    points = template.canonical_vertices[index]
    assert index.dtype == torch.int64 and len(index) == 2 * pairs + middle == len(index.unique())
    left, right = points[: 2 * pairs : 2], points[1 : 2 * pairs : 2]
    assert bool((left[:, 0] > 2 * tolerance).all() and (right[:, 0] < -2 * tolerance).all())
    assert float((left * MIRROR - right).norm(dim=-1).max()) <= tolerance
    assert float(points[2 * pairs :, 0].abs().max()) <= tolerance
    apart = torch.cdist(points, points) + torch.eye(len(points))
    assert float(apart.min()) > 0.25 * float(apart.amin(dim=1).median()), "two anchors in nearly one place"
    return points


def test_on_the_procedural_head():
    template = procedural()
    index = head_anchors(template)
    points = check(template, index, 30, 5, 0.005)
    front = template.canonical_vertices[:, 2].max()
    assert float(points[60, 2]) > float(front) - 0.005, "the first in the middle is the tip of the nose"
    # denser in front: of the anchors' distances to their nearest neighbor
    nearest = (torch.cdist(points, points) + torch.eye(65)).amin(dim=1)
    assert nearest[points[:, 2] > 0.04].mean() < nearest[points[:, 2] < -0.02].mean()
    few = head_anchors(template, 8, 3)
    check(template, few, 8, 3, 0.005)
    assert torch.equal(few, head_anchors(template, 8, 3)), "they are the same each time"
    assert len(head_anchors(template, 0, 1)) == 1 and len(head_anchors(template, 2, 0)) == 4


@pytest.mark.slow
def test_on_a_head_that_is_nearly_symmetric():
    template = hf.data.load_capture(shared("captures/ict_a")).template
    check(template, head_anchors(template), 30, 5, 0.005)


def gaps(anchors: torch.Tensor, landmarks: torch.Tensor) -> float:
    """The largest distance from a landmark of eyes, mouth and brows to the nearest anchor, meters."""
    return float(torch.cdist(landmarks[17:], anchors).amin(dim=1).max())


@pytest.mark.parametrize(("pairs", "middle"), [(8, 3), (14, 5), (30, 5), (3, 0)])
def test_anchors_at_landmarks_come_first(pairs: int, middle: int):
    template, head = procedural(), hf.synthetic.procedural_head()
    points, tolerance = template.canonical_vertices, 0.005
    landmarks = head.landmarks(points[None])[0]
    index = head_anchors(template, pairs, middle, landmarks=landmarks)
    assert len(index) == 2 * pairs + middle == len(index.unique())
    anchors = points[index]
    left, right = anchors[: 2 * pairs : 2], anchors[1 : 2 * pairs : 2]
    assert bool((left[:, 0] > tolerance).all()) and float((left * MIRROR - right).norm(dim=-1).max()) <= tolerance
    assert float((left[0] - landmarks[54]).norm()) < 0.005, "the corner of the mouth comes first"
    if pairs >= 8:
        assert gaps(anchors, landmarks) < 0.035 and gaps(anchors, landmarks[[36] * 17 + [*range(36, 68)]]) < 0.02
        assert gaps(points[head_anchors(template, pairs, middle)], landmarks) > gaps(anchors, landmarks)
    if pairs >= 14:  # three fifths at landmarks: the rest spreads over the head
        assert float(anchors[:, 2].min()) < -0.02


def test_unknown_landmarks_are_left_out_and_one_side_is_enough(unchecked):
    template, head = procedural(), hf.synthetic.procedural_head()
    landmarks = head.landmarks(template.canonical_vertices[None])[0].clone()
    whole = head_anchors(template, 14, 5, landmarks=landmarks)
    landmarks[36:42] = torch.nan  # the right eye
    assert torch.equal(head_anchors(template, 14, 5, landmarks=landmarks), whole)
    landmarks[17:] += 0.5  # nowhere near the mesh
    landmarks[:17] = torch.nan
    assert torch.equal(head_anchors(template, 14, 5, landmarks=landmarks), head_anchors(template, 14, 5))
    with pytest.raises(ValueError, match=r"landmarks has shape \(51, 3\)"):
        head_anchors(template, landmarks=landmarks[17:])


@pytest.mark.parametrize(("scale", "away"), [(1000, "[0-9]{2,3}"), (100, "[0-9.]+")])
def test_landmarks_in_another_unit_are_refused(scale: float, away: str):
    template, head = procedural(), hf.synthetic.procedural_head()
    landmarks = scale * head.landmarks(template.canonical_vertices[None])[0]
    landmarks[:40] = torch.nan
    with pytest.raises(ValueError, match=f"head_anchors: landmarks lie up to {away} m from .*in meters"):
        head_anchors(template, 14, 5, landmarks=landmarks)


def test_meshes_that_will_not_do(unchecked):
    vertices, faces = uv_sphere(8, 12, radius=0.1)
    moved = hf.Template(vertices + torch.tensor([0.05, 0.0, 0.0]), faces)
    with pytest.raises(
        ValueError, match=r"head_anchors: \w+ is \d+, and \d+ of the mesh's .* plane of symmetry at x = 0"
    ):
        head_anchors(moved, tolerance=0.001)
    with pytest.raises(ValueError, match="pairs is 60, and"):
        head_anchors(hf.Template(vertices, faces), pairs=60)  # fewer vertices than that
    with pytest.raises(ValueError, match="pairs is 0 and middle 0"):
        head_anchors(hf.Template(vertices, faces), 0, 0)


def test_a_code_of_zeros_has_the_mean_anchors_and_others_move_them():
    mean = torch.randn(5, 3)
    anchors = Anchors(mean, 2, global_width=4, local_width=3, hidden=8, scale=4.0)
    assert anchors.layout.width == 4 + 6 * 3 and len(anchors) == 5
    torch.testing.assert_close(anchors(torch.zeros(2, 4)), mean.expand(2, 5, 3))
    code = torch.randn(3, 22, requires_grad=True)
    found = anchors(code)
    assert found.shape == (3, 5, 3) and not torch.allclose(found, mean.expand(3, 5, 3))
    torch.testing.assert_close(found, anchors(code[:, :4]))
    found.sum().backward()
    assert bool(code.grad[:, :4].any()) and not bool(code.grad[:, 4:].any())
    assert anchors(torch.zeros(0, 4)).shape == (0, 5, 3)
    state = hf.HeadState(torch.zeros(3, 0, 3), codes={"geometry": code})
    torch.testing.assert_close(anchors.prepare(state), found)
    centered = Anchors(mean, 2, center=torch.tensor([0.1, 0.0, 0.0]), scale=2.0)
    torch.testing.assert_close(centered.normalized(mean), 2 * (mean - torch.tensor([0.1, 0.0, 0.0])))


def test_codes_that_start_at_zero_learn_whose_anchors_they_are():
    """An auto-decoder's start: hidden layers without biases have no gradient there, and anchors would stay the same."""
    torch.manual_seed(0)
    wanted = 0.01 * torch.randn(4, 5, 3)
    anchors = Anchors(torch.zeros(5, 3), 2, global_width=8, local_width=2, hidden=16)
    codes = torch.zeros(4, 8, requires_grad=True)
    optimizer = torch.optim.Adam([{"params": anchors.parameters(), "lr": 2e-3}, {"params": [codes], "lr": 4e-3}])
    for _ in range(400):
        optimizer.zero_grad()
        (anchors(codes) - wanted).square().sum().backward()
        optimizer.step()
    alike = (wanted - wanted.mean(0)).norm(dim=-1).mean()
    assert float((anchors(codes).detach() - wanted).norm(dim=-1).mean()) < 0.2 * float(alike)


def test_anchor_derivatives():
    anchors = Anchors(torch.randn(3, 3), 1, global_width=3, local_width=2, hidden=5).double()
    code = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(anchors, code)


def test_anchor_errors(unchecked):
    with pytest.raises(ValueError, match="3 pairs among 5 anchors"):
        Anchors(torch.zeros(5, 3), 3)
    with pytest.raises(ValueError, match="scale is 0"):
        Anchors(torch.zeros(5, 3), 2, scale=0)
    with pytest.raises(ValueError, match=r"mean has shape \(5, 2\)"):
        Anchors(torch.zeros(5, 2), 2)
    anchors = Anchors(torch.zeros(5, 3), 2, global_width=4, local_width=3)
    with pytest.raises(ValueError, match=r"code has shape \(2, 5\); expected \(B, 22\)"):
        anchors(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="'geometry' of the HeadState has 5 numbers; expected 22"):
        anchors.prepare(hf.HeadState(torch.zeros(2, 0, 3), codes={"geometry": torch.zeros(2, 5)}))
