"""Avatars of Gaussians: composed, rendered, trained on whole images, saved and loaded."""

from pathlib import Path

import pytest
import torch

import headfields as hf
from headfields.avatar.avatar import Avatar
from headfields.avatar.splat_avatar import SplatAvatar, load_avatar
from headfields.deformers import SurfaceCanonicalizer, TriangleBinding
from headfields.losses import L1DSSIM, HuberColor, SplatPosition, SplatScale, SSIMLoss
from headfields.networks import Gaussians
from headfields.networks.surface_splats import surface_splats
from headfields.records import Camera, HeadState, ImageBatch, Template
from headfields.renderers import SplatRenderer
from headfields.training.splat_start import start_from_images
from headfields.training.trainer import Trainer
from tests.shapes import uv_sphere

VERTICES, FACES = uv_sphere(6, 8, radius=0.1)
TEMPLATE = Template(VERTICES, FACES)
SIZE = (16, 16)


def avatar(count: int = 60, height: float = 0.0, degree: int = 0) -> SplatAvatar:
    deformer = TriangleBinding(VERTICES, FACES)
    start, face = surface_splats(VERTICES, FACES, count, height=height)
    return SplatAvatar(Gaussians.of(*deformer.attach(start, face), degree=degree), deformer, template=TEMPLATE)


def state(frames: int = 2) -> HeadState:
    shift, expression = torch.linspace(0, 0.02, frames), torch.linspace(-1, 1, 3 * frames).view(-1, 3)
    return HeadState(VERTICES + shift[:, None, None], expression, frame_id=torch.arange(frames))


def cameras(frames: int = 2) -> Camera:
    return Camera.stack([Camera.orbit((0, 0, 0), 0.6, 20.0 * i, 0, size=SIZE, fov=24) for i in range(frames)])


class Colored:
    """A capture of four frames of a red ball on the left and a blue one on the right."""

    name, size, template, path = "ball", SIZE, TEMPLATE, None

    def __init__(self) -> None:
        self.splits = {
            "train": torch.arange(3),
            "val": torch.tensor([3]),
            "test": torch.tensor([]),
            "all": torch.arange(4),
        }
        truth = avatar(400)
        left = truth.splats(state(1)).means[0, :, 0] < 0
        with torch.no_grad():
            truth.gaussians.color.copy_(torch.where(left[:, None], 1.0, -1.0) * torch.tensor([1.0, 0, -1.0]))
            truth.gaussians.opacity_logit.fill_(4.0)
        self.images = [truth.render(cameras(4)[i], state(4)[i], 0.0) for i in range(4)]

    def __len__(self) -> int:
        return 4

    def state(self, frames: object) -> HeadState:
        return state(4)[torch.as_tensor(frames)]

    def camera(self, frames: object) -> Camera:
        return cameras(4)[torch.as_tensor(frames)]

    def image(self, frame: int) -> torch.Tensor:
        rgb, alpha = self.images[frame].rgb, self.images[frame].opacity[..., None]
        return torch.cat([(rgb / alpha.clamp_min(1e-3)).clamp(0, 1), alpha], -1)

    def sample_images(
        self, frames: torch.Tensor, generator: torch.Generator, background: str = "random"
    ) -> tuple[ImageBatch, torch.Tensor]:
        images = torch.stack([self.image(int(frame)) for frame in frames])
        color = torch.rand(len(frames), 3, generator=generator)
        return ImageBatch(self.camera(frames), images[..., :3], images[..., 3], color), frames


def test_render_and_forward_agree_and_survive_a_file(tmp_path: Path) -> None:
    made = avatar(degree=1).eval()
    both = made(cameras(), state(), torch.tensor([[1.0, 1, 1], [0, 0, 0]]))
    assert both.rgb.shape == (2, *SIZE, 3) and both.opacity.shape == (2, *SIZE)
    for row, gray in enumerate((1.0, 0.0)):
        image = made.render(cameras()[row], state()[row], gray)
        torch.testing.assert_close(image.rgb, both.rgb[row].detach(), atol=1e-5, rtol=0)
    opacity = both.opacity[0].detach()
    assert float(opacity[8, 8]) > 0.5 and float(opacity[0, 0]) == 0
    depth = float(both.depth[0, 8, 8].detach() / opacity[8, 8])
    assert 0.49 < depth < 0.6, "between the front of the ball and its back"
    made.save(tmp_path / "avatar.safetensors")
    again = load_avatar(tmp_path / "avatar.safetensors")
    assert isinstance(again, SplatAvatar) and again.template is not None
    assert torch.equal(again.render(cameras()[0], state()[0]).rgb, made.render(cameras()[0], state()[0]).rgb)
    assert torch.equal(again.gaussians.face, made.gaussians.face)
    with pytest.raises(ValueError, match="gaussians"):
        Avatar.load(tmp_path / "avatar.safetensors")


def test_a_smaller_low_pass_is_sharper_and_survives_a_file(tmp_path: Path) -> None:
    made = avatar().eval()
    blurred = made.render(cameras()[0], state()[0]).opacity
    made.renderer = SplatRenderer(low_pass=0.05)
    sharp = made.render(cameras()[0], state()[0]).opacity
    assert float(sharp.sum()) < float(blurred.sum())
    made.save(tmp_path / "avatar.safetensors")
    assert torch.equal(load_avatar(tmp_path / "avatar.safetensors").render(cameras()[0], state()[0]).opacity, sharp)
    with pytest.raises(ValueError, match="SplatRenderer: low_pass is -0"):
        SplatRenderer(low_pass=-0.1)


def test_every_parameter_has_a_gradient_and_losses_read_the_gaussians() -> None:
    made = avatar(degree=1, height=0.03)
    rendering = made(cameras(), state(), torch.rand(2, 3))
    target = ImageBatch(cameras(), torch.rand(2, *SIZE, 3), torch.rand(2, *SIZE), torch.rand(2, 3))
    losses = [L1DSSIM(), SplatPosition(0.1), SplatScale(0.1), SSIMLoss(0.1), HuberColor(region_weight=1, name="huber")]
    sum(loss(rendering, target, 0) for loss in losses).backward()  # type: ignore[union-attr]
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()), name
    assert rendering.means2d_offset is not None and bool(rendering.means2d_offset.grad.any())
    assert rendering.rasterized.radii.shape == (2, 60)
    far = rendering.attached.means.norm(dim=-1)
    visible = rendering.rasterized.radii > 0
    expected = ((far - 0.1).clamp_min(0) * visible).sum() / visible.sum()
    torch.testing.assert_close(SplatPosition(0.1)(rendering, target, 0), expected)
    assert float(SplatPosition(1e3)(rendering, target, 0)) == 0 == float(SplatScale(1e3)(rendering, target, 0))


def trainer(out: Path | None = None, **options: object) -> Trainer:
    torch.manual_seed(0)
    rates = {"position": 5e-3, "log_scale": 1e-2, "opacity_logit": 0.05, "color": 0.05}
    return Trainer(
        avatar(), Colored(), [L1DSSIM(0.0), SplatScale()], learning_rates=rates, ema=0, weight_decay=0.0, bar=False,
        device="cpu", out=out, **options,
    )  # type: ignore[arg-type]  # fmt: skip


def test_training_on_whole_images_learns_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    unbroken = trainer()
    early = unbroken.fit(steps=2).psnr
    result = unbroken.fit(steps=24)
    assert result.psnr > early + 3
    first = trainer(tmp_path / "run")
    first.fit(steps=10)
    second = trainer(tmp_path / "run")
    second.fit(steps=24, resume=True)
    for name, tensor in unbroken.avatar.state_dict().items():
        assert torch.equal(tensor, second.avatar.state_dict()[name]), name


class Halving:
    """A callback that drops half of the Gaussians once and doubles a few."""

    def on_step(self, trainer: Trainer, outcome: hf.training.results.StepOutcome) -> None:
        assert outcome.rendering.means2d_offset.grad is not None
        if trainer.progress.step == 4:
            gaussians = trainer.avatar.gaussians
            gaussians.take(torch.arange(0, len(gaussians), 2), None, trainer.optimizer)
            trainer.resized()


def test_the_number_of_gaussians_may_change(tmp_path: Path) -> None:
    first = trainer(tmp_path / "run", callbacks=[Halving()])
    first.fit(steps=8)
    assert len(first.avatar.gaussians) == 30
    second = trainer(tmp_path / "run", callbacks=[Halving()])
    second.fit(steps=10, resume=True)
    assert len(second.avatar.gaussians) == 30
    unbroken = trainer(callbacks=[Halving()])
    unbroken.fit(steps=10)
    for name, tensor in unbroken.avatar.state_dict().items():
        assert torch.equal(tensor, second.avatar.state_dict()[name]), name


def test_colors_start_from_the_images_and_empty_space_is_dropped() -> None:
    made, capture = avatar(300, height=0.1), Colored()
    start_from_images(made, capture)
    assert 200 <= len(made.gaussians) < 290
    rest = made.deformer.rest(made.gaussians(), made.gaussians.face).means
    front = (rest[:, 2] > 0.04) & (rest[:, 0].abs() > 0.03) & (rest.norm(dim=-1) < 0.12)
    red = made.gaussians.color[:, 0] > 0
    assert float((red == (rest[:, 0] < 0))[front].float().mean()) > 0.9
    capture.images = [image.replace(opacity=torch.zeros_like(image.opacity)) for image in capture.images]
    count = len(made.gaussians)
    with pytest.warns(UserWarning, match=rf"mattes of 3 training frames of 'ball' are empty at all {count} Gaussians"):
        start_from_images(made, capture)
    assert len(made.gaussians) == count


def test_seeds_are_even_and_in_the_planes_of_triangles() -> None:
    splats, face = surface_splats(VERTICES, FACES, 4000)
    area = hf.ops.vertex_geometry.triangle_areas(VERTICES, FACES)
    counts = torch.bincount(face, minlength=len(FACES))
    assert float((counts - 4000 * area / area.sum()).abs().max()) <= 1.0
    a, b, c = VERTICES[FACES[face]].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    assert float(((splats.means - a) * normal).sum(-1).abs().max()) < 1e-8
    above, _ = surface_splats(VERTICES, FACES, 1000, height=0.05)
    assert float(above.means.norm(dim=-1).max()) > 0.12
    assert surface_splats(VERTICES, FACES, 0)[0].count == 0


def test_compositions_that_cannot_work_are_refused(unchecked: None) -> None:
    gaussians, binding = Gaussians(3), TriangleBinding(VERTICES, FACES)
    with pytest.raises(ValueError, match="SurfaceCanonicalizer canonicalizes points, and does not pose"):
        SplatAvatar(gaussians, SurfaceCanonicalizer(VERTICES, FACES))
    with pytest.raises(TypeError, match="gaussians is None"):
        SplatAvatar(None, binding)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="encoder and decoder belong together"):
        SplatAvatar(gaussians, binding, encoder=hf.encoders.Frequency(2))
    with pytest.raises(ValueError, match="gaussians has 4 blendshapes, and the mapping network 0"):
        SplatAvatar(Gaussians(3, blendshapes=4), binding)
    made = avatar()
    with pytest.raises(ValueError, match="1 cameras, state 2 frames"):
        made(cameras()[0], state(), torch.ones(1, 3))
    with pytest.raises(ValueError, match="rays_per_step is about rays"):
        trainer(rays_per_step=64)
    with pytest.raises(ValueError, match="patch is about rays, and SplatAvatar renders whole images"):
        trainer(patch=8)
