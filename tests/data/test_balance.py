"""Balanced sampling: yaw of the views, weights of frames, pixels drawn by label."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import headfields as hf
from headfields.data import Capture, load_capture, yaw_balanced_weights
from headfields.data.balance import view_yaw, yaw_bins
from headfields.ops.rotations import rotation_matrices
from headfields.records import Camera, HeadState, Template
from tests.shapes import uv_sphere

VERTICES, FACES = uv_sphere(8, 12, radius=0.1)


class Turning(Capture):
    """A head that turns before a fixed camera, or a camera that moves around the head; most views are frontal."""

    def __init__(self, yaw: torch.Tensor, moves: str, chest: bool = False) -> None:
        front = VERTICES[FACES].mean(dim=1)[:, 2] > 0.05
        self.template = Template(VERTICES, FACES, {} if chest else {"face": front})
        order = torch.arange(len(yaw))
        self.splits = {"all": order, "train": order[:-2], "test": order[-2:]}
        turn = rotation_matrices(torch.stack([0 * yaw, yaw, 0 * yaw], dim=-1))
        look = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
        look[2, 3] = 1.0
        self._views = look.repeat(len(yaw), 1, 1)
        self._vertices = VERTICES.repeat(len(yaw), 1, 1)
        if moves == "head":  # by -yaw, so that its left faces the camera
            self._vertices = self._vertices @ turn
        else:
            self._views[:, :3, :3] = look[:3, :3] @ turn.mT

    def __len__(self) -> int:
        return len(self._views)

    def state(self, frames: Any) -> HeadState:
        return HeadState(self._vertices[frames])

    def camera(self, frames: Any) -> Camera:
        return Camera(self._views[frames], torch.eye(3).repeat(len(frames), 1, 1), (8, 8))


@pytest.mark.parametrize("moves", ["head", "camera"])
def test_yaw_is_the_same_whatever_moves(moves: str) -> None:
    yaw = torch.tensor([0.0, 0.5, -1.2, math.pi / 2, 3.0, -3.0])
    for chest in (False, True):
        measured = view_yaw(Turning(yaw, moves, chest), vertices=None)
        torch.testing.assert_close(measured, yaw, atol=0.15, rtol=0)  # relative to the face's center, not the head's
    everything = torch.ones(len(VERTICES), dtype=torch.bool)
    measured = view_yaw(Turning(yaw, moves), [1, 3], everything)
    torch.testing.assert_close(measured, yaw[[1, 3]], atol=1e-4, rtol=0)
    assert view_yaw(Turning(yaw, moves), []).shape == (0,)


class Moving:
    """Frames of a head on a body that keeps still or turns the other way, with jaw and expression, before one camera;
    no labels."""

    def __init__(self, template: Template, vertices: torch.Tensor, skull: torch.Tensor) -> None:
        self.template, self._vertices = template, vertices
        self.splits = {"all": torch.arange(len(vertices)), "train": torch.arange(len(vertices))}
        look = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
        look[2, 3] = 2.0
        self._views = look.repeat(len(vertices), 1, 1)
        self.truth = torch.atan2(skull[:, 2, 0], skull[:, 2, 2])  # of the camera's axis in the skull's frame

    def state(self, frames: Any) -> HeadState:
        return HeadState(self._vertices[frames])

    def camera(self, frames: Any) -> Camera:
        return Camera(self._views[frames], torch.eye(3).repeat(len(frames), 1, 1), (8, 8))


def of_model(head: Any, subset: bool = False, shape: int = 0) -> Moving:
    """Ten frames of a head model that turns by up to 34 degrees while jaw, brows and trunk move."""
    random = torch.Generator().manual_seed(shape)
    count, joints = 10, len(head.parents)
    pose = torch.zeros(count, joints, 3)
    pose[:, head.skull_joint, 1] = torch.linspace(-0.6, 0.6, count)
    pose[:, head.skull_joint, 0] = 0.1
    pose[:, head.jaw_joint, 0] = 0.35 * torch.rand(count, generator=random)
    if joints == 55:
        pose[:, 9, 1] = -0.3 * torch.linspace(-0.5, 0.5, count)
    identity = torch.randn(1, head.shape_count, generator=random).clamp(-1, 1)
    expression = torch.rand(count, 20, generator=random) * (torch.rand(count, 20, generator=random) < 0.2)
    state = head(shape=identity, expression=expression, pose=pose)
    canonical = head(shape=identity).vertices[0]
    order = torch.randperm(len(canonical), generator=random) if subset else torch.arange(len(canonical))
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    faces = place[head.faces]
    if subset:  # another topology: vertices in another order, half of the faces
        faces = faces[torch.randperm(len(faces), generator=random)[: len(faces) // 2]]
    return Moving(
        Template(canonical[order], faces), state.vertices[:, order], state.joint_transforms[:, head.skull_joint]
    )


def of_spheres() -> Moving:
    """A head of 86 vertices on a trunk that has more of them and is larger, and turns the other way."""
    trunk, faces = uv_sphere(14, 20, radius=0.22)
    trunk = trunk - torch.tensor([0.0, 0.32, 0.0])
    canonical = torch.cat([VERTICES, trunk])
    yaw = torch.linspace(-1.0, 1.0, 9)

    def about_y(angle: torch.Tensor) -> torch.Tensor:
        return rotation_matrices(torch.stack([0 * angle, angle, 0 * angle], dim=-1))

    turned = torch.cat([VERTICES @ about_y(yaw).mT, trunk @ about_y(-0.5 * yaw).mT], dim=1)
    return Moving(Template(canonical, torch.cat([FACES, faces + len(VERTICES)])), turned, about_y(yaw))


@pytest.mark.parametrize(
    "make",
    [
        of_spheres,
        lambda: of_model(hf.synthetic.procedural_head()),
        pytest.param(lambda: of_model(hf.synthetic.procedural_head(), subset=True, shape=3), marks=pytest.mark.slow),
        pytest.param(lambda: of_model(hf.synthetic.procedural_body(), shape=1), marks=pytest.mark.slow),
        pytest.param(lambda: of_model(hf.synthetic.procedural_body(), subset=True, shape=2), marks=pytest.mark.slow),
    ],
    ids=["spheres", "head", "head, other topology", "body", "body, other topology"],
)
def test_yaw_without_labels_is_the_heads(make: Any) -> None:
    capture = make()
    measured = view_yaw(capture).rad2deg()
    truth = capture.truth.rad2deg()
    assert float(truth.abs().max()) > 23
    offset = (measured - truth).mean()  # the camera is near: the head's center moves sideways as the neck turns
    assert abs(float(offset)) < 1
    slope = float(((measured - offset) * truth).sum() / truth.square().sum())
    assert 0.93 < slope < 1.07, slope
    assert float((measured - offset - slope * truth).abs().max()) < 1.5


def test_weights_balance_directions() -> None:
    yaw = torch.cat([0.05 * torch.randn(40, generator=torch.Generator().manual_seed(0)), torch.linspace(-3, 3, 13)])
    capture: Any = Turning(yaw, "head", chest=True)
    weights = yaw_balanced_weights(capture, bins=8)
    train = capture.splits["train"]
    assert weights.shape == (53,) and float(weights[train].mean()) == pytest.approx(1)
    bin_index = yaw_bins(view_yaw(capture), 8)[train]
    sums = torch.zeros(8).index_add(0, bin_index, weights[train])
    assert int((sums > 0).sum()) >= 7
    torch.testing.assert_close(sums[sums > 0], sums.max().expand(int((sums > 0).sum())))
    assert torch.equal(yaw_balanced_weights(capture, strength=0), torch.ones(53))
    half = yaw_balanced_weights(capture, bins=8, strength=0.5)
    assert 1 < float(half.max() / half.min()) < float(weights.max() / weights.min())
    assert yaw_bins(torch.tensor([0.0, math.pi / 4, -math.pi / 4, math.pi, -math.pi]), 4).tolist() == [0, 1, 0, 2, 2]


def test_frame_weights_refuse_bad_arguments() -> None:
    capture: Any = Turning(torch.zeros(4), "head")
    with pytest.raises(ValueError, match="bins=0"):
        yaw_balanced_weights(capture, bins=0)
    with pytest.raises(ValueError, match="split 'nobody' is empty; the capture has all, test, train"):
        yaw_balanced_weights(capture, split="nobody")
    with pytest.raises(ValueError, match="marks 0"):
        view_yaw(capture, vertices=torch.zeros(len(VERTICES), dtype=torch.bool))


def test_pixels_by_label(written: Path) -> None:
    """Shares follow the weights; weight 0 excludes a label; the same generator gives the same pixels."""
    capture = load_capture(written)
    plain, _ = capture.sample_pixels(range(6), 40_000, torch.Generator().manual_seed(0))
    assert plain.label is not None
    labels, counts = plain.label.unique(return_counts=True)
    chosen = int(labels[counts.argmax()])
    share = float(counts.max()) / 40_000
    weights = {chosen: 0.25}
    batch, _ = capture.sample_pixels(range(6), 40_000, torch.Generator().manual_seed(1), weights=weights)
    again, _ = capture.sample_pixels(range(6), 40_000, torch.Generator().manual_seed(1), weights=weights)
    assert batch.label is not None and len(batch) == 40_000
    assert torch.equal(batch.rgb, again.rgb) and torch.equal(batch.rays.directions, again.rays.directions)
    expected = 0.25 * share / (0.25 * share + 1 - share)
    assert float((batch.label == chosen).float().mean()) == pytest.approx(expected, abs=0.015)
    none, _ = capture.sample_pixels(range(6), 500, torch.Generator(), weights={chosen: 0})
    assert none.label is not None and not bool((none.label == chosen).any())
    assert len(capture.sample_pixels([], 0, torch.Generator(), weights=weights)[0]) == 0
    with pytest.raises(ValueError, match="only 0 have a label"):
        capture.sample_pixels([0], 10, torch.Generator(), weights={label: 0 for label in range(256)})
