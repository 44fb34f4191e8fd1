"""Patches of rays: their pixels, losses on images over them, and training with them."""

import warnings

import pytest
import torch

import headfields as hf
from headfields.losses import FunctionLoss, HuberColor, LPIPSLoss, SSIMLoss
from headfields.records import ImageBatch, PixelBatch
from headfields.training import Trainer
from headfields.training.batches import BatchSource
from headfields.training.processes import Processes
from tests.training.fakes import FakeAvatar, FakeCapture

SIDE = 12


def composed(capture):
    torch.manual_seed(0)
    template = capture.template
    return hf.Avatar(
        deformer=hf.deformers.SurfaceCanonicalizer(template.canonical_vertices, template.faces),
        encoder=hf.encoders.HashGrid(levels=2, log2_table_size=6, finest_resolution=16),
        decoder=hf.decoders.NeRFDecoder(hidden=8, density_bias=3.0),
        renderer=hf.renderers.VolumeRenderer(sampler=hf.renderers.UniformSampler(8)),
    )


def corner(capture, frame, batch, patch):
    """Row and column of the first pixel of a patch."""
    rays = capture.camera([frame])[0].rays()
    nearest = (rays.directions - batch.rays.directions[batch.patches[patch, 0, 0]]).norm(dim=-1).argmin()
    return divmod(int(nearest), capture.size[1])


def test_ssim_of_patches_is_that_of_the_rendered_image_there(capture):
    avatar = composed(capture).eval()
    generator = torch.Generator().manual_seed(3)
    batch, frames = capture.sample_patches([0, 2, 3], 4, SIDE, generator, background="white")
    single, _ = capture.sample_pixels(frames, 5, generator, background="white")
    batch = hf.records.PixelBatch.cat([single, batch])  # patches need not come first
    assert batch.patches.shape == (4, SIDE, SIDE) and batch[:9].patch_rays is None
    rendering = avatar(batch.rays, capture.state(frames), batch.background)
    values = []
    for patch in range(4):
        frame = int(frames[batch.rays.frame[batch.patches[patch, 0, 0]]])
        top, left = corner(capture, frame, batch, patch)
        window = slice(top, top + SIDE), slice(left, left + SIDE)
        image = avatar.render(capture.camera([frame])[0], capture.state([frame]), 1.0).rgb[window]
        rgba = capture.image(frame)
        truth = (rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:])[window]
        assert torch.allclose(batch.target[batch.patches[patch]], truth, atol=1e-6)
        assert float(rgba[window][SIDE // 2, SIDE // 2, 3]) > 0.5 or min(top, left) == 0 or max(top, left) == 40 - SIDE
        values.append(hf.metrics.ssim(image, truth))
    loss = SSIMLoss()(rendering, batch, 0)
    assert float(loss.detach()) == pytest.approx(1 - sum(values) / 4, abs=1e-5)
    loss.backward()
    assert float(avatar.encoder.table.grad.abs().sum()) > 0


def pixelwise(rendered, target):
    """A perceptual network's stand-in: P distances of images in [-1, 1]."""
    assert rendered.shape[1:] == (3, SIDE, SIDE) and float(target.min()) >= -1
    return (rendered - target).square().mean(dim=(1, 2, 3))


def make(capture, losses=None, **options):
    options = {"rays_per_step": 3 * SIDE**2, "frames_per_step": 2, "bar": False, "device": "cpu"} | {
        "patch": SIDE, "patches_per_step": 2, "learning_rate": 1e-2, **options
    }  # fmt: skip
    own = FunctionLoss(lambda r, b: (r.rgb[b.patches].mean((1, 2)) - b.target[b.patches].mean((1, 2))).square().mean())
    losses = losses or [HuberColor(), SSIMLoss(0.1), LPIPSLoss(network=pixelwise), own]
    return Trainer(composed(capture), capture, losses, **options)


def weights(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.avatar.parameters()])


def test_training_on_patches_is_reproduced_and_resumed_to_the_same_bits(capture, tmp_path):
    first, second = make(capture), make(capture, out=tmp_path)
    before = weights(first)
    first.fit(steps=4), second.fit(steps=2)
    resumed = make(capture, out=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the same network is the same option
        resumed.fit(steps=4, resume=True)
    assert torch.equal(weights(first), weights(resumed)) and not torch.equal(before, weights(first))


def test_all_rays_in_patches(capture):
    assert make(capture, [SSIMLoss()], rays_per_step=2 * SIDE**2).fit(steps=1).step == 1


def test_processes_share_whole_patches(capture):
    def drawn(rank, count):
        frames = capture.splits["train"]
        processes = Processes(rank, count, torch.device("cpu"))
        source = BatchSource(capture, processes, frames, None, 2, "random", None, SIDE, 4)
        return source.draw(4 * SIDE**2 + 7, torch.Generator().manual_seed(1))

    whole, frames, first, total = drawn(0, 1)
    assert first == 0 and total == len(whole) == 4 * SIDE**2 + 7
    shares = [drawn(rank, 2) for rank in range(2)]
    assert [share[2] for share in shares] == [0, len(shares[0][0])] and {share[3] for share in shares} == {total}
    assert all(torch.equal(share[1], frames) and share[0].patches.shape == (2, SIDE, SIDE) for share in shares)
    targets = torch.cat([share[0].target[share[0].patches] for share in shares])
    assert torch.equal(targets, whole.target[whole.patches])
    singles = torch.cat([share[0].target[2 * SIDE**2 :] for share in shares])
    assert torch.equal(singles, whole.target[4 * SIDE**2 :])


def test_patches_stay_in_the_image_and_show_the_head(capture):
    batch, _ = capture.sample_patches([0, 1], 30, 8, torch.Generator().manual_seed(0))
    alpha = batch.alpha[batch.patches].mean(dim=(1, 2))
    everywhere = capture.image(0)[..., 3].mean()
    assert float(alpha.mean()) > 1.3 * float(everywhere) and float(alpha.min()) > 0
    behind = batch.background[batch.patches]
    assert torch.equal(behind, behind[:, :1, :1].expand_as(behind)) and len(behind[:, 0, 0].unique(dim=0)) == 30
    whole, _ = capture.sample_patches([0], 1, 40, torch.Generator(), background="black")
    assert torch.equal(whole.rgb, capture.pixels(0).rgb)
    assert len(capture.sample_patches([0], 0, 8, torch.Generator())[0]) == 0
    joined, order = hf.data.JoinedCaptures([capture, capture]).sample_patches([6, 1], 3, 8, torch.Generator())
    assert joined.patches.shape == (3, 8, 8) and order.tolist() == [1, 6]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 41}, r"patch is 41 .* expected a side of 1 to 40 pixels"),
        ({"patch": 0}, "patch is 0"),
        ({"patches_per_step": 0}, "at least one patch"),
        ({"patches_per_step": 4}, "4 patches of 12 x 12 rays are 576 rays, and rays_per_step is 432"),
    ],
)
def test_patches_that_do_not_fit_are_refused(capture, options, message):
    with pytest.raises(ValueError, match=message):
        make(capture, **options)


def test_losses_on_images_say_what_they_need(capture):
    with pytest.raises(ValueError, match="ssim loss: the batch has no patches; pass patch=32"):
        make(capture, [SSIMLoss()], patch=None, patches_per_step=None).fit(steps=1)
    with pytest.raises(ValueError, match="patches have sides of 8 pixels; expected the window's 11 or more"):
        make(capture, [SSIMLoss()], patch=8).fit(steps=1)
    if not hf.metrics.image.lpips_installed():
        with pytest.raises(ModuleNotFoundError, match=r"pip install headfields\[lpips\]"):
            make(capture, [LPIPSLoss()]).fit(steps=1)
    with pytest.raises(TypeError, match="FakeCapture has no sample_patches"):
        Trainer(FakeAvatar(), FakeCapture(), [SSIMLoss()], patch=12, device="cpu")


def test_a_side_is_a_whole_number(capture, unchecked):
    with pytest.raises(TypeError, match=r"patch is 12\.5; expected a whole number"):
        make(capture, [SSIMLoss()], patch=12.5)


def test_a_loss_on_images_is_refused_on_single_rays_and_serves_whole_images() -> None:
    camera = hf.Camera.look_at((0, 0, 1), (0, 0, 0), size=(3, 4), fov=20)
    rays = camera.rays()
    zeros = torch.zeros(len(rays))
    batch = PixelBatch(rays, zeros[:, None].expand(-1, 3), zeros, zeros[:, None].expand(-1, 3))
    with pytest.raises(ValueError, match="only single rays; pass patch=32 to Trainer"):
        batch.patches  # noqa: B018
    cameras = camera.replace(**{k: getattr(camera, k)[None] for k in ("world_to_camera", "intrinsics")})
    images = ImageBatch(cameras, torch.rand(1, 3, 4, 3), torch.ones(1, 3, 4), torch.zeros(1, 3))
    assert images.target[images.patches].shape == (1, 3, 4, 3)
