"""Training with an error-correction warp: resumed, saved, at its own rate, and worth having."""

import pytest
import torch

from headfields.avatar.avatar import Avatar
from headfields.decoders import NeRFDecoder
from headfields.deformers import Chain, ErrorWarp, NearSurface
from headfields.encoders import HashGrid
from headfields.losses.color import HuberColor
from headfields.losses.silhouette import OpacityLoss
from headfields.losses.warp import Elastic, WarpMagnitude
from headfields.parts import Deformer
from headfields.records import Camera, HeadState
from headfields.renderers import UniformSampler, VolumeRenderer
from headfields.training import Trainer
from headfields.training.parameter_groups import parameter_groups
from tests.training.ball import BallCapture


class ShakenBall(BallCapture):
    """The ball at its one size, seen by a camera whose pose is wrong by some millimeters in every frame."""

    def __init__(self, amount: float = 0.008) -> None:
        super().__init__()
        self._expression = torch.full_like(self._expression, 0.5)
        self._vertices = self.template.canonical_vertices.expand(12, -1, -1)
        sideways = torch.tensor([1.0, 1.0, 0.0])
        self.errors = amount * torch.randn(12, 3, generator=torch.Generator().manual_seed(0)) * sideways

    def camera(self, frames: torch.Tensor) -> Camera:
        """The image is drawn by the true camera: what it shows at x is at x + error for this one."""
        camera = super().camera(frames)
        matrix = camera.world_to_camera.clone()
        matrix[:, :3, 3] -= (matrix[:, :3, :3] @ self.errors[frames][..., None])[..., 0]
        return camera.replace(world_to_camera=matrix)


def shaken_trainer(
    corrected: bool = True, capture: ShakenBall | None = None, start: int = 4, centered: bool = False, **options
) -> Trainer:
    capture = ShakenBall() if capture is None else capture
    torch.manual_seed(0)
    near = NearSurface(capture.template.canonical_vertices, capture.template.faces, shell=0.04)
    deformer: Deformer = near
    losses = [HuberColor(region_weight=1), OpacityLoss(0.1)]
    if corrected:
        sizes = {"bands": 2, "hidden": 32, "layers": 3, "head_layers": 1}
        sizes |= {"centered": True, "code_std": 1.0} if centered else {}
        deformer = Chain(near, ErrorWarp(near.bounds(), 12, **sizes, start=start, coarse_to_fine=800))
        losses += [Elastic(samples=128), WarpMagnitude(samples=128, unit=1.0)]  # 8 mm are to be found, not held down
        options = {"learning_rates": {"warp": 2e-3}, **options}
    avatar = Avatar(
        deformer, HashGrid(4, 2, 10, 4, 32), NeRFDecoder(hidden=32, direction_degree=0, density_bias=3.0),
        VolumeRenderer(UniformSampler(16)),
    )  # fmt: skip
    options = {"rays_per_step": 256, "frames_per_step": 4, "learning_rate": 1e-2, "network_learning_rate": 2.5e-3,
               "ema": 0.0, "bar": False, "device": "cpu", **options}  # fmt: skip
    return Trainer(avatar, capture, losses, **options)


@pytest.mark.slow
def test_per_frame_misalignment_is_found_and_the_image_gets_sharp() -> None:
    capture, quality = ShakenBall(), {}
    for corrected in (False, True):
        trainer = shaken_trainer(corrected, capture, start=20, rays_per_step=128)
        trainer.fit(steps=120)
        avatar = trainer.avatar.train()
        batch, frames = capture.sample_pixels(capture.splits["train"], 2048, torch.Generator().manual_seed(5))
        with torch.no_grad():
            image = avatar(batch.rays, capture.state(frames), batch.background).rgb
        quality[corrected] = -10 * float((image - batch.target).square().mean().log10())
    assert quality[True] > quality[False] + 3, quality
    # What the warp does to the same point of the ball in each frame, but for what it does in all of them.
    train = capture.splits["train"]
    errors = capture.errors[train]
    front = torch.tensor([0.0, 0.0, 0.1]) + errors
    with torch.no_grad():
        (correction,) = avatar.field(capture.state(train)).corrections(front, torch.arange(len(train)))
    moved, expected = (value[:, :2] - value[:, :2].mean(0) for value in (correction.after - correction.before, -errors))
    assert float((moved - expected).norm() / expected.norm()) < 0.6
    assert float(torch.nn.functional.cosine_similarity(moved.flatten(), expected.flatten(), dim=0)) > 0.85


@pytest.mark.slow
def test_a_centered_warp_leaves_the_field_where_the_frames_are_on_average() -> None:
    """Rendered without the warp, by a camera that is wrong as the training frames are on average, the image is sharp
    and in place. With a warp that may move all frames alike it is not; without a warp it is blurred."""
    quality = {}
    for kind in ("none", "plain", "centered"):
        capture = ShakenBall()
        trainer = shaken_trainer(kind != "none", capture, start=20, centered=kind == "centered")
        trainer.fit(steps=150)
        capture.errors[:] = capture.errors[capture.splits["train"]].mean(0)
        batch, frames = capture.sample_pixels(capture.splits["train"], 4096, torch.Generator().manual_seed(6))
        avatar = trainer.avatar.eval()
        with torch.no_grad():
            image = avatar(batch.rays, capture.state(frames), batch.background).rgb
        quality[kind] = -10 * float((image - batch.target).square().mean().log10())
    assert quality["centered"] > max(quality["none"], quality["plain"]) + 2, quality


def test_resuming_gives_the_same_weights_and_schedule(tmp_path) -> None:
    through = shaken_trainer()
    through.fit(steps=10)
    shaken_trainer(out=tmp_path).fit(steps=6)
    again = shaken_trainer(out=tmp_path)
    with torch.no_grad():
        again.avatar.deformer.deformers[1].codes.table.zero_()  # what it starts from must not matter
    again.fit(steps=10, resume=True)
    expected, resumed = through.avatar.state_dict(), again.avatar.state_dict()
    assert expected.keys() == resumed.keys() and int(resumed["deformer.deformers.1.step"]) == 9
    for name, tensor in expected.items():
        assert torch.equal(tensor, resumed[name]), name


def test_a_saved_avatar_keeps_codes_and_step_and_renders_without_frames(tmp_path) -> None:
    trainer = shaken_trainer()
    trainer.fit(steps=6)
    avatar, capture = trainer.avatar, trainer.capture
    avatar.save(tmp_path / "avatar")
    again = Avatar.load(tmp_path / "avatar")
    warp, before = again.deformer.deformers[1], avatar.deformer.deformers[1]
    assert int(warp.step) == 5 and torch.equal(warp.codes.table, before.codes.table) and warp.start == 4
    camera, one = capture.camera(torch.tensor([0]))[0], HeadState(capture.state(torch.tensor([0])).vertices)
    torch.testing.assert_close(again.render(camera, one).rgb, avatar.render(camera, one).rgb, atol=1e-6, rtol=0)


def test_the_warp_waits_for_its_start() -> None:
    trainer = shaken_trainer(start=4)
    fresh = {name: value.clone() for name, value in trainer.avatar.deformer.named_parameters()}
    trainer.fit(steps=4)  # steps 0 to 3
    for name, value in trainer.avatar.deformer.named_parameters():
        assert torch.equal(value, fresh[name]), name
    trainer.fit(steps=5)
    now = dict(trainer.avatar.deformer.named_parameters())
    for name in ("deformers.1.codes.table", "deformers.1.trunk.0.weight"):
        assert not torch.equal(now[name], fresh[name])


def test_the_warp_has_a_rate_of_its_own(unchecked) -> None:
    trainer = shaken_trainer(schedule="exponential", learning_rates={"warp": 1e-4})
    groups = parameter_groups(trainer.avatar, 1e-6)
    assert [(group["name"], group["weight_decay"]) for group in groups] == [
        ("tables", 0.0), ("networks", 1e-6), ("warp", 0.0), ("warp", 1e-6),
    ]  # fmt: skip
    codes, networks = (group["params"] for group in groups[2:])
    warp = trainer.avatar.deformer.deformers[1]
    assert len(codes) == 1 and codes[0] is warp.codes.table
    assert {id(p) for p in networks} == {id(p) for n, p in warp.named_parameters() if n != "codes.table"}
    assert trainer.rates == {"tables": 1e-2, "networks": 2.5e-3, "warp": 1e-4}
    trainer.fit(steps=2)
    rates = {group["name"]: group["lr"] for group in trainer.optimizer.param_groups}
    assert rates["warp"] == pytest.approx(1e-4 * 0.1**0.5) and rates["tables"] == pytest.approx(1e-2 * 0.1**0.5)
    assert shaken_trainer(learning_rates={}).rates["warp"] == 2.5e-3
    with pytest.raises(ValueError, match=r"learning_rates has 'wrap'; parts of this avatar have groups \['warp'\]"):
        shaken_trainer(learning_rates={"wrap": 1e-4})
    with pytest.raises(ValueError, match=r"learning_rates\['warp'\] is 0"):
        shaken_trainer(learning_rates={"warp": 0.0})
