"""Fine-tuning of the tracking: gradients, that it finds errors of pose and expression, what is refused, and
resuming."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import headfields as hf
from headfields.avatar.splat_avatar import SplatAvatar
from headfields.deformers import TriangleBinding
from headfields.losses import L1DSSIM, HuberColor
from headfields.networks import Gaussians
from headfields.networks.surface_splats import surface_splats
from headfields.records import Camera, HeadState, ImageBatch, PixelBatch, Template
from headfields.training import Trainer
from headfields.training.fine_tuning import FineTunedCapture, FineTuning, TrackingCorrections
from headfields.training.opened_run import avatar_of_run

FRAMES = 3


class Tracked:
    """Frames of a small head, their images drawn from the truth and their tracking off by `error`."""

    name, size, path = "tracked", (24, 24), None

    def __init__(self, head: Any, error: dict[str, torch.Tensor]) -> None:
        self.head, self.error = head, error
        self.splits = {"train": torch.arange(FRAMES - 1), "test": torch.tensor([FRAMES - 1])}
        mouth = torch.arange(len(head.faces)) < 20
        self.template = Template(
            head.template_vertices, head.faces, {"mouth": mouth}, expression_width=head.expression_count
        )
        expression = 0.3 * torch.randn(FRAMES, head.expression_count)
        pose = 0.05 * torch.randn(FRAMES, len(head.parents), 3)
        pose[:, 0] = 0
        self.exact = head(expression=expression, pose=pose).replace(frame_id=torch.arange(FRAMES))
        deformer = TriangleBinding(self.template.canonical_vertices, self.template.faces)
        start, face = surface_splats(self.template.canonical_vertices, self.template.faces, 400, opacity=0.95)
        colored = start.replace(colors=(0.5 + 0.5 * torch.sin(60 * start.means)).contiguous())
        self.truth = SplatAvatar(Gaussians.of(*deformer.attach(colored, face)), deformer, template=self.template)
        self.images = [self.truth.render(self.camera([i])[0], self.exact[i], 0.0) for i in range(FRAMES)]

    def __len__(self) -> int:
        return FRAMES

    def tracked(self, frames: Any) -> torch.Tensor:
        return self.state(frames).vertices

    def state(self, frames: Any) -> HeadState:
        rows = torch.as_tensor(frames)
        exact = self.exact[rows]
        expression = exact.expression + self.error.get("expression", torch.zeros(FRAMES, 1))[rows]
        return self.head(expression=expression, pose=exact.pose).replace(frame_id=rows)

    def camera(self, frames: Any) -> Camera:
        shift = self.error.get("shift", torch.zeros(FRAMES, 3))
        middle = self.head.template_vertices.mean(0)
        view = Camera.look_at(middle + torch.tensor([0.0, 0, 0.6]), middle, size=self.size, fov=26).world_to_camera
        views = view.repeat(FRAMES, 1, 1)
        views[:, :3, 3] += shift
        lens = torch.tensor([[52.0, 0, 12], [0, 52, 12], [0, 0, 1]])
        exact = views if hasattr(self, "images") else view.repeat(FRAMES, 1, 1)
        return Camera(exact, lens.expand(FRAMES, 3, 3), self.size)[torch.as_tensor(frames)]

    def image(self, frame: int) -> torch.Tensor:
        drawn = self.images[frame]
        alpha = drawn.opacity[..., None]
        return torch.cat([(drawn.rgb / alpha.clamp_min(1e-3)).clamp(0, 1), alpha], -1)

    def sample_images(self, frames: Any, generator: torch.Generator, background: str = "random") -> Any:
        rows = torch.as_tensor(frames)
        images = torch.stack([self.image(int(row)) for row in rows])
        behind = torch.rand(len(rows), 3, generator=generator)
        return ImageBatch(self.camera(rows), images[..., :3], images[..., 3], behind), rows

    def sample_pixels(self, frames: Any, count: int, generator: torch.Generator, background: str = "random") -> Any:
        rows = torch.as_tensor(frames)
        row, pixel = (torch.randint(most, (count,), generator=generator) for most in (len(rows), 24 * 24))
        rays = self.camera(rows).rays(torch.stack([pixel // 24, pixel % 24], -1), row)
        images = torch.stack([self.image(int(each)) for each in rows]).flatten(1, 2)[row, pixel]
        return PixelBatch(rays, images[:, :3], images[:, 3], torch.rand(count, 3, generator=generator)), rows

    def label(self, frame: int) -> None:
        return None


def avatar_like(capture: Tracked) -> SplatAvatar:
    deformer = TriangleBinding(capture.template.canonical_vertices, capture.template.faces)
    own = SplatAvatar(Gaussians(len(capture.truth.gaussians)), deformer, template=capture.template)
    own.load_state_dict(capture.truth.state_dict())
    return own


def trainer(capture: Tracked, avatar: Any = None, steps: int = 0, **options: Any) -> Trainer:
    rates = {"position": 1e-5, "log_scale": 1e-5, "quaternion": 1e-5, "opacity_logit": 1e-5, "color": 1e-4}
    made = Trainer(
        avatar_like(capture) if avatar is None else avatar, capture, [L1DSSIM(dssim=0)], learning_rates=rates,
        bar=False, device="cpu", **{"fine_tuning": FineTuning(head=capture.head), **options},
    )  # fmt: skip
    if steps:
        made.fit(steps=steps)
    return made


@pytest.mark.parametrize("kind", ["images", "rays"])
def test_gradients_are_those_of_finite_differences(tiny_head: Any, kind: str) -> None:
    """From the corrections through the head's forward pass to what is rendered, float64."""
    capture = Tracked(tiny_head, {})
    corrections = TrackingCorrections(capture, ("expression", "joints", "turn", "shift"), tiny_head).double()
    corrections._vertices_of._head = copy.deepcopy(tiny_head).double()
    frames = torch.tensor([1, 0])
    state = capture.state(frames).map(lambda x: x.double() if x.is_floating_point() else x)
    generator = torch.Generator().manual_seed(0)
    drawn = capture.sample_images if kind == "images" else lambda f, g: capture.sample_pixels(f, 5, g)
    batch = drawn(frames, generator)[0].map(lambda x: x.double() if x.is_floating_point() else x)
    weights = torch.randn(3, generator=generator).double()
    avatar = avatar_like(capture).double()

    def loss(*values: torch.Tensor) -> torch.Tensor:
        for name, value in zip(("expression", "joints", "turn", "shift"), values, strict=True):
            del corrections._parameters[name]
            corrections._parameters[name] = value  # type: ignore[assignment]
        corrected, moved = corrections(batch, state, frames)
        if kind == "images":
            posed = avatar.splats(moved)
            pixels = corrected.camera.project(posed.means)[0]
            return (pixels.square().sum() + posed.quaternions.sum() + moved.joint_transforms.square().sum()) * 1e-3
        return (corrected.rays.origins * moved.vertices.mean(1)[corrected.rays.frame]).sum() + (
            corrected.rays.directions.square() * weights
        ).sum()

    values = [0.01 * torch.randn_like(p).requires_grad_() for p in corrections.parameters()]
    assert torch.autograd.gradcheck(loss, values, eps=1e-7, atol=1e-6, rtol=1e-4, fast_mode=True)


def test_zero_is_the_capture_and_frames_of_test_stay(tiny_head: Any) -> None:
    capture = Tracked(tiny_head, {"shift": torch.tensor([[0.004, 0, 0], [0, -0.004, 0], [0.004, 0.0, 0]])})
    made = trainer(capture, steps=3)
    before = Tracked.state(capture, [2])
    view = FineTunedCapture(capture, made.corrections)
    torch.testing.assert_close(view.state([2]).vertices, before.vertices)
    torch.testing.assert_close(view.camera([2]).world_to_camera, capture.camera([2]).world_to_camera)
    assert not torch.equal(view.camera([0]).world_to_camera, capture.camera([0]).world_to_camera)
    for parameter in made.corrections.parameters():
        assert bool((parameter[2] == 0).all()) and bool((parameter[:2] != 0).any())
    assert made.avatar is not None and "tracking.turn" not in made.avatar.state_dict()


def test_it_finds_errors_of_pose_and_expression(tiny_head: Any) -> None:
    errors = {
        "shift": torch.tensor([[0.006, 0, 0], [0, -0.006, 0], [0.0, 0.0, 0]]),
        "expression": torch.zeros(FRAMES, tiny_head.expression_count),
    }
    errors["expression"][0, 0] = errors["expression"][1, 0] = 1.0
    capture = Tracked(tiny_head, errors)

    def away(view: Any) -> float:
        in_camera = [
            (c.world_to_camera[0, :3, :3] @ s.vertices[0].T).T + c.world_to_camera[0, :3, 3]
            for c, s in ((view.camera([f]), view.state([f])) for f in (0, 1))
        ]
        exact = Tracked.__new__(Tracked)
        exact.__dict__.update(capture.__dict__, error={})
        truth = [
            (exact.camera([f]).world_to_camera[0, :3, :3] @ capture.exact.vertices[f].T).T
            + exact.camera([f]).world_to_camera[0, :3, 3]
            for f in (0, 1)
        ]
        return float(
            torch.stack([(a - b)[:, :2].norm(dim=-1).mean() for a, b in zip(in_camera, truth, strict=True)]).mean()
        )

    made = trainer(capture, frames_per_step=2)
    before = away(FineTunedCapture(capture, made.corrections))
    made.fit(steps=60)
    assert before > 0.005 and away(FineTunedCapture(capture, made.corrections)) < 0.5 * before


def test_fields_of_rays_are_tuned_too(tiny_head: Any) -> None:
    capture = Tracked(tiny_head, {})
    avatar = hf.models.insta(
        capture.template, expression_width=4, levels=2, log2_table_size=8, finest_resolution=16, grid_resolution=8
    )
    made = Trainer(
        avatar, capture, [HuberColor()], rays_per_step=64, bar=False, device="cpu",
        fine_tuning=FineTuning(head=tiny_head, start=1),
    )  # fmt: skip
    made.fit(steps=1)
    assert all(bool((p == 0).all()) for p in made.corrections.parameters())
    made.fit(steps=6)
    for name in ("expression", "joints", "turn", "shift"):
        assert bool((getattr(made.corrections, name)[:2] != 0).any()), name
    assert made.rates["tracking_shift"] == 1e-4


def test_a_run_resumes_with_its_corrections(tiny_head: Any, tmp_path: Path) -> None:
    capture = Tracked(tiny_head, {})
    torch.manual_seed(3)
    whole = trainer(capture, steps=6, schedule="constant")
    trainer(capture, steps=3, schedule="constant", out=tmp_path / "run")
    again = trainer(capture, schedule="constant", out=tmp_path / "run")
    again.fit(steps=6, resume=True)
    for one, other in ((whole.corrections, again.corrections), (whole.avatar, again.avatar)):
        for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b), name
    assert again.config["trainer"]["fine_tuning"]["turn"] == 3e-4
    (tmp_path / "run" / "avatar.safetensors").unlink()
    opened = avatar_of_run(again.folder, again.folder.config(), lambda: capture)  # from the checkpoint, without them
    assert torch.equal(opened.gaussians.color, again.avatar.gaussians.color)


def test_what_cannot_be_is_refused(tiny_head: Any, head: Any) -> None:
    capture = Tracked(tiny_head, {})
    with pytest.raises(ValueError, match=r"capture 'tracked' has meshes and no head model .* expression=None, joints="):
        trainer(capture, fine_tuning=FineTuning())
    rigid = trainer(capture, fine_tuning=FineTuning(expression=None, joints=None))
    assert [name for name, _ in rigid.corrections.named_parameters()] == ["turn", "shift"]
    with pytest.raises(ValueError, match=r"head has \d+ vertices, and meshes of capture 'tracked' have"):
        trainer(capture, fine_tuning=FineTuning(head=head))
    with pytest.raises(ValueError, match=r"shift is -1\.0; expected a positive rate"):
        FineTuning(shift=-1.0)
    with pytest.raises(ValueError, match="all rates are None"):
        FineTuning(None, None, None, None)
    larger = Tracked(tiny_head, {})
    larger.tracked = lambda frames: 1.1 * Tracked.tracked(larger, frames)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"meshes that are \d+\.\d mm from those of capture"):
        trainer(larger)
