"""Latent codes of an avatar in training: rows, held-out frames, resuming, rates, refinement."""

import copy
from pathlib import Path

import pytest
import torch

from headfields.avatar.avatar import Avatar
from headfields.data import load_capture
from headfields.decoders import NeRFDecoder
from headfields.deformers import HyperDeformer, SurfaceCanonicalizer
from headfields.encoders import FrameCode, HashGrid
from headfields.losses import CodePrior, HuberColor
from headfields.networks import Anchors, LatentTable, head_anchors
from headfields.records import HeadState
from headfields.renderers import UniformSampler, VolumeRenderer
from headfields.synthetic import write_head_capture
from headfields.training import Trainer, evaluate
from headfields.training.frames import render_frame
from headfields.training.refinement import refine_frame
from tests.training.ball import BallCapture
from tests.training.test_refinement import FACES, VERTICES, Painted, Place, Tracked
from tests.training.test_trainer import same, weights

CPU = torch.device("cpu")
UNSEEN = ("mean", "nearest", "zero", "given")


def hyper_avatar(unseen: str = "mean", count: int = 12) -> Avatar:
    """Hyper-coordinates, by a code of the person and one per frame, and a code of the light; the defaults' 4 axes."""
    torch.manual_seed(0)
    anchors = Anchors(torch.tensor([[0.1, 0, 0], [-0.1, 0, 0], [0, 0, 0.1]]), 1, 4, 2, hidden=6)
    deformer = HyperDeformer(anchors, expression_width=4, identity_width=2, hidden=8, layers=2, skip=1, radius=0.15)
    codes = {
        "geometry": LatentTable(1, deformer.code_widths["geometry"], by="identity"),
        "expression_code": LatentTable(count, 4, unseen=unseen),
        "light": LatentTable(count, 3, std=1.0, unseen=unseen),
    }
    grid = HashGrid(levels=2, log2_table_size=8, base_resolution=4, finest_resolution=8)
    renderer = VolumeRenderer(UniformSampler(6))
    return Avatar(deformer, grid, NeRFDecoder(8), renderer, FrameCode("light", 3), codes=codes)


def trainer(unseen: str = "mean", count: int = 12, **options) -> Trainer:
    losses = [HuberColor(region_weight=1), CodePrior("light", 1e-3), CodePrior("expression_code")]
    options = {
        "rays_per_step": 64,
        "frames_per_step": 3,
        "bar": False,
        "device": "cpu",
        "schedule": "constant",
        **options,
    }
    return Trainer(hyper_avatar(unseen, count), BallCapture(), losses, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """An avatar file after a few steps, in which every training frame (0 to 7) was drawn."""
    path = tmp_path_factory.mktemp("codes") / "avatar.safetensors"
    made = trainer()
    initial = made.avatar.codes["light"].table.detach().clone()
    made.fit(steps=8)
    table = made.avatar.codes["light"]
    assert table.trained.tolist() == [True] * 8 + [False] * 4 == made.avatar.codes["expression_code"].trained.tolist()
    moved = (table.table.detach() != initial).any(dim=1)
    assert bool(moved[:8].all()) and not bool(moved[8:].any()), "held-out frames learn nothing"
    made.avatar.save(path)
    return path


def test_held_out_frames_by_each_policy(trained, unchecked):
    capture, images = BallCapture(), {}
    for unseen in UNSEEN[:3]:
        avatar = Avatar.load(trained)
        for name in ("light", "expression_code"):
            avatar.codes[name].unseen = unseen
        images[unseen] = render_frame(avatar, capture, 10, 1.0, CPU).rgb
        assert evaluate(avatar, capture, "test")["frames"] == 4
    assert all(not torch.equal(images[a], images[b]) for a, b in (UNSEEN[:2], UNSEEN[1:3], UNSEEN[:3:2]))
    tables = Avatar.load(trained).codes
    rows = {name: tables[name].table.detach() for name in ("light", "expression_code")}
    for unseen, code_of in (
        ("nearest", lambda row: row[7]), ("mean", lambda row: row[:8].mean(0)), ("zero", lambda row: 0 * row[0]),
    ):  # fmt: skip
        avatar = Avatar.load(trained)
        own = {name: code_of(row)[None] for name, row in rows.items()}
        state = capture.state(torch.tensor([10])).replace(codes=own)
        image = avatar.render(capture.camera(torch.tensor([10]))[0], state).rgb
        torch.testing.assert_close(image, images[unseen], atol=1e-5, rtol=0)


def test_given_codes_are_an_error_without_one(trained, unchecked):
    avatar, capture = Avatar.load(trained), BallCapture()
    avatar.codes["light"].unseen = "given"
    render_frame(avatar, capture, 3, 1.0, CPU)  # a training frame
    with pytest.raises(ValueError, match=r"the code 'light' of frame_id \[10\] is not trained.*state.replace"):
        evaluate(avatar, capture, frames=[10])


def test_resuming_gives_the_same_bits(tmp_path):
    through, first = trainer(frames_per_step=1), trainer(out=tmp_path, frames_per_step=1)
    through.fit(steps=6)
    first.fit(steps=3)
    assert 0 < int(first.avatar.codes["light"].trained.sum()) <= 3
    second = trainer(out=tmp_path, frames_per_step=1)
    second.fit(steps=6, resume=True)
    assert same(weights(through), weights(second))
    assert int(second.avatar.codes["light"].trained.sum()) > 3


def test_rate_and_rows_of_the_tables(unchecked):
    made = trainer(learning_rate=0.1, network_learning_rate=1e-3, learning_rates={"codes": 1e-30})
    before = made.avatar.codes["light"].table.detach().clone()
    made.fit(steps=1)
    torch.testing.assert_close(made.avatar.codes["light"].table.detach(), before, atol=1e-7, rtol=0)
    (group,) = [group for group in made.optimizer.param_groups if group["name"] == "codes"]
    assert len(group["params"]) == 3 and group["weight_decay"] == 0
    assert trainer(network_learning_rate=1e-3).rates["codes"] == 1e-3
    with pytest.raises(
        ValueError, match=r"'expression_code' has 5 rows, and frame 7 .*'ball'.*count=len\(capture\), 12"
    ):
        trainer(count=5)
    assert trainer(count=8).fit(steps=2).step == 2, "rows for the training frames alone are legal"


class ByTable(Tracked):
    """States without the code of the light, which the avatar's table has; the images were made in a light of 0.8."""

    images: tuple = ()

    def __init__(self, avatar: Avatar) -> None:
        super().__init__(avatar, degrees=0.0, millimeters=0.0)

    def state(self, frames: torch.Tensor) -> HeadState:
        codes = {} if self.images else {"light": torch.full((len(frames), 1), 0.8)}
        return super().state(frames).replace(codes=codes, frame_id=frames)


def test_the_code_of_a_held_out_frame_is_fitted(unchecked):
    parts = SurfaceCanonicalizer(VERTICES, FACES), Place(), Painted(), VolumeRenderer(UniformSampler(24))
    avatar = Avatar(*parts, codes={"light": LatentTable(4, 1, std=0)}).train()
    capture, before = ByTable(avatar), copy.deepcopy(avatar.state_dict())
    refined = refine_frame(avatar, capture, 2, pose=False, steps=30, rays=200, code_rate=0.1)
    assert refined.psnr_after > refined.psnr_before + 10
    assert refined.state.codes["light"].item() == pytest.approx(0.8, abs=0.1)
    assert same(before, avatar.state_dict()) and avatar.training
    again = evaluate(avatar, capture, "test", refine={"pose": False, "steps": 5, "rays": 50, "code_rate": 0.1})
    assert again["psnr_refined"] > again["psnr"]


def test_the_code_of_the_person_stays_in_refinement(trained, unchecked):
    refined = refine_frame(Avatar.load(trained), BallCapture(), 10, steps=2, rays=50, code_rate=0.1)
    assert set(refined.state.codes) == {"expression_code", "light"}
    again = Avatar.load(trained).render(refined.camera, refined.state)
    assert torch.equal(again.rgb, refined.rendering.rgb)


@pytest.mark.slow
def test_default_sizes_on_a_synthetic_capture(tmp_path):
    """`HyperDeformer` and `HashGrid` with their defaults, on a capture: codes of the person and of the frames."""
    capture = load_capture(write_head_capture(tmp_path / "head", frames=8, size=24, samples=1, progress=False))
    template = capture.template
    deformer = HyperDeformer(Anchors(template.canonical_vertices[head_anchors(template, 8, 3)], 8))
    codes = {
        "geometry": LatentTable(1, deformer.code_widths["geometry"], by="identity"),
        "expression_code": LatentTable(len(capture), 100, unseen="nearest"),
    }
    torch.manual_seed(0)
    avatar = Avatar(deformer, HashGrid(), NeRFDecoder(), VolumeRenderer(UniformSampler(16)), codes=codes)
    options = {"rays_per_step": 64, "frames_per_step": 6, "bar": False, "device": "cpu", "out": tmp_path / "run"}
    made = Trainer(avatar, capture, [HuberColor(region_weight=1), CodePrior("expression_code")], **options)
    before = {name: value.clone() for name, value in avatar.state_dict().items()}
    made.fit(steps=2)
    moved = {name for name, value in avatar.state_dict().items() if not torch.equal(value, before[name])}
    assert {"encoder.table", "codes.geometry.table", "codes.expression_code.table", "deformer.out.weight"} <= moved
    assert evaluate(avatar, capture, "test")["psnr"] > 3
