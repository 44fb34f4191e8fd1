"""vp360: its parts, the variants of the ablations, training, saving, the recipe and the command line."""

from pathlib import Path
from typing import Any

import pytest
import torch

from headfields.avatar.avatar import Avatar
from headfields.decoders import BlendedColor, NeRFDecoder
from headfields.deformers import Blendfield, Chain, InverseSkinning, SurfaceCanonicalizer
from headfields.encoders import ColorFields
from headfields.models import vp360
from headfields.records import Template
from headfields.training import Trainer
from headfields.training.recipes import INSTA, VP360, recipe_of
from tests.deformers.skeleton import tube
from tests.shapes import uv_sphere
from tests.training.ball import BallCapture

VERTICES, FACES = uv_sphere(8, 12, radius=0.1)
TEMPLATE = Template(VERTICES, FACES, {"face": VERTICES[FACES].mean(dim=1)[:, 1] > 0})
SMALL: dict[str, Any] = {
    "levels": 2,
    "features": 2,
    "log2_table_size": 8,
    "finest_resolution": 32,
    "grid_resolution": 16,
}


def test_parts(unchecked: None) -> None:
    avatar = vp360(TEMPLATE, expression_width=3, joints=(2,), fields=5, **SMALL)
    assert isinstance(avatar.deformer, Chain)
    coarse, fine = avatar.deformer.deformers
    assert isinstance(coarse, SurfaceCanonicalizer) and isinstance(fine, Blendfield)
    assert fine.coefficients.fields == 5 and avatar.needs == ("expression", "pose") and not avatar.conditions
    torch.testing.assert_close(avatar.deformer.bounds(), coarse.bounds())
    vertices, faces, weights = tube()
    skinned = vp360(Template(vertices, faces), weights=weights, fields=0, **SMALL)
    assert isinstance(skinned.deformer, InverseSkinning) and skinned.needs == ("joint_transforms",)
    colors = vp360(TEMPLATE, 3, blend="color", **SMALL)
    assert isinstance(colors.decoder, BlendedColor) and isinstance(colors.deformer, SurfaceCanonicalizer)
    assert [type(part) for part in colors.conditions] == [ColorFields]
    assert isinstance(vp360(TEMPLATE, fields=0, **SMALL).decoder, NeRFDecoder)
    with pytest.raises(ValueError, match="blend is 'hair'"):
        vp360(TEMPLATE, blend="hair")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="condition and joints are empty"):
        vp360(TEMPLATE, expression_width=0)


@pytest.mark.parametrize(
    "variant",
    [
        {},
        *(pytest.param(each, marks=pytest.mark.slow) for each in ({"kind": "mlp"}, {"blend": "color"}, {"fields": 0})),
    ],
)
def test_each_variant_trains_with_its_recipe(variant: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    capture = BallCapture()
    avatar = vp360(capture.template, expression_width=1, step=0.01, **SMALL, **variant)
    losses = VP360.losses_for({"depth": 0.1, "opacity": 0.1}, avatar)
    names = [loss.name for loss in losses]
    fine = variant != {"fields": 0}
    assert ("sparsity" in names) == fine and names[:2] == ["color", "depth"] and names[-1] == "opacity"
    trainer = Trainer(
        avatar, capture, losses, rays_per_step=256, frames_per_step=3, learning_rate=1e-2, network_learning_rate=1e-3,
        bar=False, device="cpu", **VP360.trainer, **VP360.sampling(capture),
    )  # fmt: skip
    before = {name: parameter.detach().clone() for name, parameter in avatar.named_parameters()}
    early = trainer.fit(steps=6).psnr
    assert trainer.fit(steps=24).psnr > early
    still = [name for name, parameter in avatar.named_parameters() if torch.equal(before[name], parameter)]
    # α(c) = net(c) − net(0): this bias cancels until a unit is active in one of the two alone.
    assert all(name.endswith("coefficients.trunk.2.bias") for name in still), still
    camera, state = capture.camera(torch.tensor([2]))[0], capture.state(torch.tensor([2]))
    image = avatar.render(camera, state)
    avatar.save(tmp_path / "avatar.safetensors")
    again = Avatar.load(tmp_path / "avatar.safetensors").render(camera, state)
    torch.testing.assert_close(again.rgb, image.rgb, atol=1e-6, rtol=0)


def test_recipe() -> None:
    assert recipe_of("vp360", "cpu") is VP360 and VP360.options == INSTA.options
    share = VP360.sampling(BallCapture())["frame_weights"]
    assert share.shape == (12,) and torch.equal(share, torch.ones(12)), "a ball that does not turn is balanced"
    assert not INSTA.sampling(BallCapture()) and [
        loss.name for loss in INSTA.losses_for({"depth": 0, "opacity": 0})
    ] == ["color"]
