"""Any deformer that poses with any encoder, condition and Gaussians: built, rendered, differentiated, saved, loaded."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from headfields.avatar.splat_avatar import SplatAvatar, load_avatar
from headfields.decoders import NeRFDecoder, SplatDecoder
from headfields.deformers import Chain, EmbeddedBinding, InverseSkinning, TriangleBinding
from headfields.encoders import FrameCode, Frequency
from headfields.networks import BlendCoefficients, Gaussians, LatentTable, surface_splats
from headfields.parts import Deformer
from headfields.records import Template
from headfields.renderers import SplatRenderer
from tests.avatar.test_composition import (
    CAMERA,
    CONDITIONS,
    ENCODERS,
    FACES,
    MOUTH,
    VERTICES,
    WEIGHTS,
    blendfield,
    state,
)
from tests.covering import covering

CAMERAS = type(CAMERA).stack([CAMERA, CAMERA])
DEFORMERS: dict[str, Callable[[], Deformer]] = {
    "triangles": lambda: TriangleBinding(VERTICES, FACES),
    "triangles without size": lambda: TriangleBinding(VERTICES, FACES, follows="rotation"),
    "embedded": lambda: EmbeddedBinding(VERTICES, FACES),
    "skinning": lambda: InverseSkinning(VERTICES, FACES, WEIGHTS),
    "skinning, blendfield": lambda: Chain(InverseSkinning(VERTICES, FACES, WEIGHTS), blendfield()),
    "triangles, blendfield": lambda: Chain(TriangleBinding(VERTICES, FACES), blendfield()),
}
MORE_CONDITIONS = {**CONDITIONS, "expression": lambda: FrameCode("expression", 3)}
RENDERERS = {"plain": lambda: SplatRenderer(), "antialiased": lambda: SplatRenderer(antialiased=True)}


def coefficients() -> BlendCoefficients:
    made = BlendCoefficients({"expression": 3}, fields=2, hidden=8)
    torch.nn.init.normal_(made.trunk[0].weight)  # it starts at zero, and biases have no gradient there
    return made


def seeds(deformer: Deformer, blendshapes: int = 0) -> Gaussians:
    start, face = surface_splats(VERTICES, FACES, 60, height=0.02)
    made = Gaussians.of(*deformer.attach(start, face), degree=1, blendshapes=blendshapes)
    for name in ("position", "quaternion", "color") if blendshapes else ():
        torch.nn.init.normal_(getattr(made, f"blend_{name}"), std=0.1)
    return made


def check(avatar: SplatAvatar, folder: Path) -> None:
    result = avatar(CAMERAS, state(), torch.ones(2, 3))
    assert result.rgb.shape == (2, 12, 12, 3) and bool(result.rgb.isfinite().all())
    assert float(result.opacity.detach().max()) > 0.3, "nothing was hit"
    assert not torch.equal(result.rgb[0], result.rgb[1]), "the frames differ"
    (result.rgb.square() * torch.linspace(0, 1, 144).view(12, 12, 1)).mean().backward()
    for name, parameter in avatar.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
        assert bool(parameter.grad.any()), f"{name} has no gradient"
    image = avatar.render(CAMERA, state()[1])
    assert image.rgb.shape == (12, 12, 3)
    torch.testing.assert_close(avatar.eval()(CAMERAS, state(), torch.ones(2, 3)).rgb[1], image.rgb, atol=1e-5, rtol=0)
    avatar.save(folder / "avatar.safetensors")
    torch.testing.assert_close(load_avatar(folder / "avatar.safetensors").render(CAMERA, state()[1]).rgb, image.rgb)


MATRIX = list(itertools.product(DEFORMERS, ENCODERS, MORE_CONDITIONS, RENDERERS))
TESTED = covering(MATRIX, [(0, 2), (1, 2), (3,)])


@pytest.mark.parametrize(("deformer", "encoder", "condition", "renderer"), TESTED)
def test_every_composition(deformer: str, encoder: str, condition: str, renderer: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = DEFORMERS[deformer]()
    avatar = SplatAvatar(
        seeds(made), made, RENDERERS[renderer](), ENCODERS[encoder](), SplatDecoder(hidden=16),
        condition=MORE_CONDITIONS[condition](), template=Template(VERTICES, FACES, {"mouth": MOUTH}),
    )  # fmt: skip
    check(avatar, tmp_path)


@pytest.mark.parametrize("deformer", DEFORMERS)
@pytest.mark.parametrize("decoded", [False, True])
def test_blendshapes_alone_and_with_a_decoder_of_codes(deformer: str, decoded: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = DEFORMERS[deformer]()
    parts: dict[str, Any] = {}
    if decoded:
        parts = {
            "encoder": Frequency(bands=2), "condition": FrameCode("light", 3),
            "decoder": SplatDecoder(("color",), 8, 1),
            "codes": {"light": LatentTable(2, 3, std=1.0)},
        }  # fmt: skip
    check(SplatAvatar(seeds(made, 2), made, blendshapes=coefficients(), **parts), tmp_path)


def test_offsets_are_what_the_decoder_says() -> None:
    made = DEFORMERS["triangles"]()
    decoder = SplatDecoder(("position", "opacity_logit"), hidden=4, layers=1, gains={"position": 0.5})
    avatar = SplatAvatar(seeds(made), made, encoder=Frequency(bands=1), decoder=decoder)
    before = seeds(made)()
    with torch.no_grad():
        decoder.network[-1].weight.zero_()
        decoder.network[-1].bias.copy_(torch.tensor([1.0, 2.0, 3.0, 100.0]))
    attached = avatar.train()(CAMERAS, state(), torch.ones(2, 3)).attached
    torch.testing.assert_close(attached.means, (before.means + torch.tensor([0.5, 1.0, 1.5])).expand(2, -1, -1))
    assert bool((attached.opacities == 1).all())
    torch.testing.assert_close(attached.scales, before.scales.expand(2, -1, -1))


def test_decoders_of_another_kind_are_refused(unchecked: None) -> None:
    made = DEFORMERS["triangles"]()
    with pytest.raises(ValueError, match="NeRFDecoder gives density; Gaussians take offsets"):
        SplatAvatar(seeds(made), made, encoder=Frequency(2), decoder=NeRFDecoder())
    with pytest.raises(ValueError, match=r"attributes is \['size'\]"):
        SplatDecoder(("size",))
    with pytest.raises(ValueError, match=r"gains=\{'color': 0\}"):
        SplatDecoder(gains={"color": 0})
