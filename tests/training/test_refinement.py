"""Refinement of a frame finds the pose and codes that its image was made with, and leaves the avatar alone."""

import copy
import math
import re

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from headfields.avatar.avatar import Avatar
from headfields.deformers import SurfaceCanonicalizer
from headfields.parts import Decoder, Encoder, Sampler
from headfields.records import Camera, Canonical, Features, FieldValues, HeadState
from headfields.renderers import HierarchicalSampler, OccupancySampler, UniformSampler, VolumeRenderer
from headfields.training import evaluate
from headfields.training.refinement import correct_pose, refine_frame
from tests.avatar.test_splat_avatar import Colored
from tests.avatar.test_splat_avatar import avatar as gaussians
from tests.data.moving import jaw
from tests.data.tiny import blob, camera

VERTICES, FACES = blob()
CENTER = VERTICES.mean(0)
SIZE = (36, 30)
BASIS = torch.stack([jaw(VERTICES, 1.0) - VERTICES, 0.01 * VERTICES * (VERTICES[:, 1:2] > 0.03)])


class Place(Encoder):
    """Canonical coordinates, and the frame's code for the light."""

    needs = ("light",)
    width = 4

    def prepare(self, state: HeadState) -> Tensor:
        return state.need("Place", "light")

    def forward(self, canonical: Canonical, prepared: Tensor) -> Float[Tensor, "m width"]:
        return torch.cat([canonical.points, prepared[canonical.frame]], dim=-1)


class Painted(Decoder):
    """An ellipsoid somewhat inside the blob, painted with waves; a parameter that nothing depends on but its color."""

    def __init__(self) -> None:
        super().__init__()
        self.tint = torch.nn.Parameter(torch.tensor([0.5, 0.5, 0.5]))

    def forward(self, features: Features, canonical: Canonical, prepared: None, color: bool = True) -> FieldValues:
        place = features.own[:, :3] - torch.tensor([0.0, 0.02, 0.01])
        inside = 1 - (place / torch.tensor([0.075, 0.105, 0.085])).norm(dim=-1)
        density = 400 * torch.sigmoid(inside / 0.03)
        waves = torch.sin(place @ torch.tensor([[90.0, 20, 40], [30.0, 110, -20], [60.0, -40, 70]]))
        return FieldValues(rgb=(self.tint + 0.3 * waves + 0.1 * features.own[:, 3:]).clamp(0, 1), density=density)


def painted(sampler: Sampler | None = None) -> Avatar:
    return Avatar(
        SurfaceCanonicalizer(VERTICES, FACES), Place(), Painted(),
        VolumeRenderer(UniformSampler(24) if sampler is None else sampler),
    )  # fmt: skip


def view(frame: int) -> Camera:
    seen = camera(0.5 * math.sin(frame + 0.4), 0.2 * math.cos(1.7 * frame))
    return Camera(seen.world_to_camera, torch.tensor([[90.0, 0, 15.4], [0, 91.0, 17.6], [0, 0, 1]]), SIZE)


class Tracked:
    """Four frames drawn by an avatar, and a tracker that is off by known amounts."""

    name = "painted"

    def __init__(self, avatar: Avatar, degrees: float = 1.5, millimeters: float = 3.0) -> None:
        generator = torch.Generator().manual_seed(3)
        order = torch.arange(4)
        self.splits = {"all": order, "train": order[:2], "test": order[2:]}
        self.expression = torch.rand(4, 2, generator=generator)
        self.true = Camera(
            torch.stack([view(frame).world_to_camera for frame in range(4)]), view(0).intrinsics.repeat(4, 1, 1), SIZE
        )
        self.images = [avatar.render(self.true[f], self.state(torch.tensor([f])), background=1.0) for f in range(4)]
        axes = torch.nn.functional.normalize(torch.randn(4, 2, 3, generator=generator), dim=-1)
        turns, shifts = math.radians(degrees) * axes[:, 0], 1e-3 * millimeters * axes[:, 1]
        off = [correct_pose(single(self.true[f]), turns[f], shifts[f], CENTER) for f in range(4)]
        self.tracked = self.true.replace(world_to_camera=torch.stack([one.world_to_camera for one in off]))

    def __len__(self) -> int:
        return 4

    def state(self, frames: Tensor) -> HeadState:
        expression = self.expression[frames]
        vertices = VERTICES + torch.einsum("be,evk->bvk", expression, BASIS)
        return HeadState(vertices, expression, codes={"light": torch.zeros(len(frames), 1)})

    def camera(self, frames: Tensor) -> Camera:
        return self.tracked[frames]

    def image(self, frame: int) -> Tensor:
        return torch.cat([self.images[frame].rgb, torch.ones(*SIZE, 1)], dim=-1)

    def error(self, frame: int, seen: Camera) -> tuple[float, float]:
        """Degrees and millimeters from the truth, at the head's middle."""
        true, estimate = self.true.world_to_camera[frame].double(), seen.world_to_camera.reshape(4, 4).double()
        cosine = ((true[:3, :3] @ estimate[:3, :3].T).trace() - 1) / 2
        place = [pose[:3, :3] @ CENTER.double() + pose[:3, 3] for pose in (true, estimate)]
        return math.degrees(math.acos(min(float(cosine), 1.0))), 1000 * float((place[0] - place[1]).norm())


def single(seen: Camera) -> Camera:
    return Camera(seen.world_to_camera.reshape(4, 4), seen.intrinsics.reshape(3, 3), seen.size)


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    return painted()


@pytest.fixture(scope="module")
def capture(avatar: Avatar) -> Tracked:
    return Tracked(avatar)


QUICK = {"steps": 40, "rays": 300, "pose_rate": 1e-3}


def test_pose_is_recovered_and_the_avatar_is_left_alone(avatar: Avatar, capture: Tracked) -> None:
    before = copy.deepcopy(avatar.state_dict())
    avatar.train()
    with torch.no_grad():  # gradients are taken whatever the caller has switched off
        refined = refine_frame(avatar, capture, 2, **QUICK)
    was, now = capture.error(2, single(capture.tracked[2])), capture.error(2, refined.camera)
    assert was[0] == pytest.approx(1.5, abs=0.01) and was[1] == pytest.approx(3.0, abs=0.01)
    assert now[0] < was[0] / 5 and now[1] < was[1] / 4
    assert refined.psnr_after > refined.psnr_before + 8
    assert refined.rotation == pytest.approx(1.5, abs=0.4) and refined.translation == pytest.approx(3.0, abs=0.8)
    assert refined.rendering.rgb.shape == (*SIZE, 3) and not refined.rendering.rgb.requires_grad
    assert not refined.camera.world_to_camera.requires_grad and refined.left_out == () and refined.seconds > 0
    assert avatar.training and all(p.requires_grad and p.grad is None for p in avatar.parameters())
    assert all(torch.equal(value, before[name]) for name, value in avatar.state_dict().items())
    rotation = refined.camera.world_to_camera[:3, :3]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3), atol=1e-5, rtol=0)


def test_it_is_the_same_each_time(avatar: Avatar, capture: Tracked) -> None:
    one, other = (refine_frame(avatar, capture, 2, steps=3, rays=100) for _ in range(2))
    assert torch.equal(one.camera.world_to_camera, other.camera.world_to_camera)
    third = refine_frame(avatar, capture, 2, steps=3, rays=100, seed=1)
    assert not torch.equal(one.camera.world_to_camera, third.camera.world_to_camera)


@pytest.mark.slow
def test_expression_and_the_mesh_with_it(avatar: Avatar, capture: Tracked) -> None:
    true = capture.state(torch.tensor([1]))
    assert true.expression is not None
    wrong = true.expression + torch.tensor([[-0.25, 0.2]])
    start = HeadState(VERTICES + torch.einsum("be,evk->bvk", wrong, BASIS), wrong, codes=true.codes)
    refined = refine_frame(
        avatar, capture, 1, camera=capture.true[1], state=start, pose=False, codes=False, expression=True, basis=BASIS,
        **QUICK,
    )  # fmt: skip
    assert refined.state.expression is not None
    was, now = ((state.vertices - true.vertices).norm(dim=-1).mean() for state in (start, refined.state))
    assert float(now / was) < 0.4 and refined.psnr_after > refined.psnr_before + 3
    expected = VERTICES + torch.einsum("be,evk->bvk", refined.state.expression, BASIS)
    torch.testing.assert_close(refined.state.vertices, expected, atol=1e-6, rtol=0)
    assert refined.rotation < 1e-3 and refined.translation < 1e-3


def test_codes(avatar: Avatar, capture: Tracked) -> None:
    start = capture.state(torch.tensor([3])).replace(codes={"light": torch.tensor([[0.8]])})
    refined = refine_frame(avatar, capture, 3, camera=capture.true[3], state=start, pose=False, code_rate=0.1, **QUICK)
    assert abs(float(refined.state.codes["light"])) < 0.1
    kept = refine_frame(avatar, capture, 3, camera=capture.true[3], state=start, pose=False, codes=False)
    assert kept.state.codes["light"] == 0.8 and kept.psnr_after == kept.psnr_before


@pytest.mark.parametrize(
    ("folder", "reason"),
    [("empty", "no blendshapes.npz"), ("bent", "leaves .*% of the meshes' motion unexplained"), ("small", "has shape")],
)
def test_expression_is_left_out_without_a_linear_basis(avatar, capture, folder, reason, tmp_path) -> None:
    there = copy.copy(capture)
    there.path = tmp_path
    if folder != "empty":
        table = BASIS.flip(0) if folder == "bent" else BASIS[:1]
        np.savez(tmp_path / "blendshapes.npz", expression=table.numpy().astype(np.float16))
    refined = refine_frame(avatar, there, 1, expression=True, steps=2, rays=50)
    assert len(refined.left_out) == 1 and refined.left_out[0].startswith("expression: ")
    assert re.search(reason, refined.left_out[0])
    np.savez(tmp_path / "blendshapes.npz", expression=BASIS.numpy().astype(np.float16))
    assert refine_frame(avatar, there, 1, expression=True, steps=1, rays=50).left_out == ()


def test_a_head_out_of_sight_stays_where_it_is(avatar: Avatar, capture: Tracked) -> None:
    away = single(capture.tracked[2]).world_to_camera.clone()
    away[2, 3] = -5.0
    lost = Camera(away, capture.true.intrinsics[2], SIZE)
    refined = refine_frame(avatar, capture, 2, camera=lost, steps=2, rays=20)
    assert torch.equal(refined.camera.world_to_camera, away) and refined.psnr_after == refined.psnr_before


@pytest.mark.parametrize(
    "sampler",
    [
        UniformSampler(64),
        pytest.param(HierarchicalSampler(48, 48), marks=pytest.mark.slow),
        OccupancySampler("posed", step=0.003),
        pytest.param(OccupancySampler("canonical", step=0.003), marks=pytest.mark.slow),
    ],
    ids=["uniform", "hierarchical", "posed grid", "canonical grid"],
)
def test_gradient_to_the_pose_is_that_of_the_image(sampler: Sampler, capture: Tracked) -> None:
    """In evaluation mode; against central differences, which see how samples move as well."""
    avatar = painted(sampler).eval().requires_grad_(False)
    seen, state = single(capture.tracked[2]), capture.state(torch.tensor([2]))
    truth, white = capture.image(2)[..., :3].reshape(-1, 3), torch.ones(SIZE[0] * SIZE[1], 3)
    field = avatar.field(state)

    def loss(values: Tensor) -> Tensor:
        moved = correct_pose(seen, values[:3] / 0.08, values[3:], CENTER)
        return (avatar.renderer(moved.rays(), field, white).rgb - truth).square().mean()

    values = torch.zeros(6, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(values), values)
    with torch.no_grad():
        steps = 4e-4 * torch.eye(6)
        numeric = torch.stack([(loss(step) - loss(-step)) / 8e-4 for step in steps])
    assert float(torch.nn.functional.cosine_similarity(gradient, numeric, dim=0)) > 0.97
    assert float((gradient - numeric).norm() / numeric.norm()) < 0.25


def test_correct_pose_turns_about_the_heads_middle() -> None:
    seen = single(view(1))
    turned = correct_pose(seen, torch.tensor([0.1, -0.2, 0.05]), torch.zeros(3), CENTER)
    torch.testing.assert_close(turned.project(CENTER[None])[0], seen.project(CENTER[None])[0])
    shifted = correct_pose(seen, torch.zeros(3), torch.tensor([0.0, 0.0, 0.01]), CENTER)
    assert float(shifted.project(CENTER[None])[1] - seen.project(CENTER[None])[1]) == pytest.approx(0.01, abs=1e-6)


@pytest.mark.slow
def test_evaluation_reports_both(avatar: Avatar, capture: Tracked) -> None:
    plain = evaluate(avatar, capture)
    both = evaluate(avatar, capture, refine={**QUICK, "expression": True})
    assert both["psnr"] == plain["psnr"] and "psnr_refined" not in plain and "refined_mm" not in plain
    assert both["psnr_refined"] > both["psnr"] + 5 and both["ssim_refined"] > both["ssim"]
    assert 0.5 < both["refined_degrees"] < 3 and 1 < both["refined_mm"] < 6 and both["seconds_refining"] > 0
    assert both["refine_left_out"] == ["expression: the capture has no blendshapes.npz, so how the mesh follows the "
                                       "coefficients is not known"]  # fmt: skip
    assert {"psnr_refined", "psnr_head_refined", "refined_degrees"} <= set(both["per_frame"][0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0 and rays 1024; both must be at least 1"),
        ({"rays": 0}, "rays 0"),
        ({"expression": True, "basis": BASIS[:1]}, r"basis has shape \(1, .*expected \(2,"),
    ],
)
def test_bad_arguments(avatar: Avatar, capture: Tracked, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refine_frame(avatar, capture, 2, **options)
    with pytest.raises(IndexError, match="capture 'painted': frame 4 is out of range"):
        refine_frame(avatar, capture, 4)


def test_avatars_of_gaussians_are_refined_by_whole_images() -> None:
    capture, made = Colored(), gaussians(400)
    left = made.splats(capture.state([0])).means[0, :, 0] < 0
    with torch.no_grad():  # as those that drew the capture
        made.gaussians.color.copy_(torch.where(left[:, None], 1.0, -1.0) * torch.tensor([1.0, 0, -1.0]))
        made.gaussians.opacity_logit.fill_(4.0)
    camera = capture.camera([1])
    camera = Camera(camera.world_to_camera.reshape(4, 4), camera.intrinsics.reshape(3, 3), camera.size)
    off = correct_pose(camera, torch.tensor([0.0, 0.1, 0.0]), torch.tensor([0.004, 0, 0]), torch.zeros(3))
    result = refine_frame(made, capture, 1, camera=off, background=0.0, steps=40, pose_rate=2e-3)
    assert result.psnr_after > result.psnr_before + 3 and result.rotation > 1 and not result.skipped
    assert made.training and all(parameter.grad is None for parameter in made.parameters())
