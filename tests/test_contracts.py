"""Parts that do not keep what their noun promises: the error names the part, when it is composed or at first use."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from headfields.avatar.avatar import Avatar
from headfields.decoders import BlendedColor, NeRFDecoder
from headfields.deformers import Chain, NearSurface, Static, SurfaceCanonicalizer
from headfields.deformers.skinning_weights import SkinningWeights
from headfields.encoders import Frequency, HashGrid, RegionGate, StaticFeatures, SurfaceFeatures
from headfields.parts import Decoder, Deformer, Encoder, Field, Renderer, Sampler
from headfields.records import Camera, Canonical, FieldValues, HeadState, Template
from headfields.renderers import UniformSampler, VolumeRenderer
from tests.shapes import uv_sphere
from tests.tables import table

VERTICES, FACES = uv_sphere(5, 6, radius=0.1)
BOX = torch.tensor([[-0.15, -0.15, -0.15], [0.15, 0.15, 0.15]])
STATE = HeadState(VERTICES[None], expression=torch.ones(1, 3))
CAMERA = Camera(
    torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 0.5], [0, 0, 0, 1]]),
    torch.tensor([[12.0, 0, 4], [0, 12, 4], [0, 0, 1]]),
    (8, 8),
)


def avatar(**parts: Any) -> Avatar:
    fitting: dict[str, Any] = {
        "deformer": Static(BOX), "encoder": Frequency(2), "decoder": NeRFDecoder(hidden=4),
        "renderer": VolumeRenderer(UniformSampler(4)),
    }  # fmt: skip
    return Avatar(**(fitting | parts))


class Faceless(Static):
    gives_faces = True


class Wide(Static):
    ambient_width = 2


class Short(Static):
    def forward(self, points, directions, frame, prepared):  # type: ignore[no-untyped-def]
        return super().forward(points[1:], directions[1:], frame[1:], prepared)


class Tuple(Static):
    def forward(self, points, directions, frame, prepared):  # type: ignore[no-untyped-def]
        return points, directions


class Narrow(Frequency):
    def forward(self, canonical, prepared):  # type: ignore[no-untyped-def]
        return super().forward(canonical, prepared)[:, 1:]


class Column(Frequency):
    width = 1

    def build(self, bounds: Tensor, ambient_width: int) -> None:
        pass

    def forward(self, canonical, prepared):  # type: ignore[no-untyped-def]
        return canonical.points[:, 0]


class Empty(NeRFDecoder):
    def forward(self, features, canonical, prepared, color=True):  # type: ignore[no-untyped-def]
        return FieldValues(distance=canonical.points[:, 0], rgb=canonical.points)


class Colorless(NeRFDecoder):
    def forward(self, features, canonical, prepared, color=True):  # type: ignore[no-untyped-def]
        return FieldValues(density=features.own[:, 0])


class Plain(NeRFDecoder):
    def forward(self, features, canonical, prepared, color=True):  # type: ignore[no-untyped-def]
        return features.own


class Pair(VolumeRenderer):
    def forward(self, rays, field, background):  # type: ignore[no-untyped-def]
        return background, background


@table(
    ("parts", "error", "message"),
    [
        ({"deformer": Faceless(BOX)}, ValueError, r"Faceless\.gives_faces is True, and the Canonical .* has no face"),
        ({"deformer": Wide(BOX)}, ValueError, r"Wide\.ambient_width is 2, and the Canonical .* has 0 hyper-coord"),
        ({"deformer": Short(BOX)}, ValueError, r"Short\.forward has returned \d+ canonical points for \d+ posed ones"),
        ({"deformer": Tuple(BOX)}, TypeError, r"Tuple\.forward has returned a tuple; expected a headfields\.Canonical"),
        ({"encoder": Narrow(2)}, ValueError, r"Narrow\.forward has returned shape \(\d+, 14\); .* \(\d+, 15\)"),
        ({"encoder": Column(2)}, ValueError, r"Column\.forward has returned shape \(\d+,\); .* \(\d+, 1\)"),
        ({"decoder": Empty(4)}, ValueError, r"Empty\.gives is 'density', and the FieldValues .* have no density"),
        ({"decoder": Colorless(4)}, ValueError, r"Colorless\.forward has returned no rgb although color is True"),
        ({"decoder": Plain(4)}, TypeError, r"Plain\.forward has returned a Tensor; expected headfields\.FieldValues"),
        ({"renderer": Pair(UniformSampler(4))}, TypeError, r"Pair\.forward has returned a tuple"),
    ],
)  # fmt: skip
def test_what_forward_returns_is_checked_by_name(
    parts: dict[str, Any], error: type[Exception], message: str, unchecked: None
) -> None:
    made = avatar(**parts)
    rays = CAMERA.rays()
    with pytest.raises(error, match=message):
        made(rays, STATE, torch.ones(len(rays), 3))
    with pytest.raises(error, match=message):
        made.render(CAMERA, STATE)


class NoForward(Encoder):
    width = 3


class NoBounds(Deformer):
    def forward(self, points, directions, frame, prepared):  # type: ignore[no-untyped-def]
        return None


class NoWidth(Frequency):
    def build(self, bounds: Tensor, ambient_width: int) -> None:
        pass


class Letters(Frequency):
    needs = "expression"  # type: ignore[assignment]


class Elsewhere(NeRFDecoder):
    gives = "occupancy"


class Nowhere(Sampler):
    pass


@table(
    ("parts", "error", "message"),
    [
        ({"encoder": NoForward()}, TypeError, r"Avatar: encoder: NoForward does not define forward; .*parts\.Encoder"),
        ({"deformer": NoBounds()}, TypeError, r"deformer: NoBounds does not define bounds or posed_bounds or near_far"),
        ({"renderer": VolumeRenderer(Nowhere())}, TypeError, r"renderer: Nowhere does not define forward; .*Sampler"),
        ({"encoder": NoWidth(2)}, ValueError, r"NoWidth\.width is None; expected the number of its features"),
        ({"encoder": Letters(2)}, TypeError, r"Letters\.needs is the string 'expression'; .*\('expression',\)"),
        ({"decoder": Elsewhere(4)}, ValueError, r"Elsewhere\.gives is 'occupancy'; expected .* or 'offsets'"),
        ({"renderer": VolumeRenderer}, TypeError, r"renderer is the class VolumeRenderer; .* VolumeRenderer\("),
        ({"encoder": None}, TypeError, r"encoder is None; expected a headfields Encoder"),
        ({"decoder": Frequency(2)}, TypeError, r"decoder is a Frequency; expected a headfields Decoder"),
        ({"condition": NeRFDecoder(4)}, TypeError, r"condition is a NeRFDecoder; expected a headfields Encoder"),
        ({"condition": [Frequency]}, TypeError, r"condition is the class Frequency"),
        ({"template": FACES}, TypeError, r"template is a Tensor; expected a headfields Template"),
    ],
)  # fmt: skip
def test_what_does_not_fit_fails_when_it_is_composed(
    parts: dict[str, Any], error: type[Exception], message: str, unchecked: None
) -> None:
    with pytest.raises(error, match=message):
        avatar(**parts)


def test_parts_within_parts(unchecked: None) -> None:
    with pytest.raises(TypeError, match=r"VolumeRenderer: sampler is the class UniformSampler; .* UniformSampler\("):
        VolumeRenderer(UniformSampler)
    with pytest.raises(TypeError, match=r"Chain: deformers\[1\] is a Frequency; expected a headfields Deformer"):
        Chain(Static(BOX), Frequency(2))
    with pytest.raises(TypeError, match=r"BlendedColor: decoder is None; expected a headfields Decoder"):
        BlendedColor(None)


def test_masks_of_another_mesh(unchecked: None) -> None:
    surface = SurfaceCanonicalizer(VERTICES, FACES)
    mask = torch.zeros(len(FACES) + 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=rf"RegionGate is made for {len(mask)} faces, and Surface.* has {len(FACES)}"):
        avatar(deformer=surface, condition=RegionGate("expression", mask, width=2))
    with pytest.raises(ValueError, match=r"SurfaceFeatures is made for 3 faces, and Chain has"):
        avatar(
            deformer=Chain(surface, Static(BOX)),
            condition=SurfaceFeatures(StaticFeatures(len(VERTICES), 2), FACES[:3]),
        )
    with pytest.raises(ValueError, match=r"RegionGate: faces is torch\.int64 and holds other numbers than 0 and 1"):
        RegionGate("expression", torch.tensor([3, 7]), width=2)
    with pytest.raises(ValueError, match=r"RegionGate: faces has shape \(30, 3\); expected \(F\)"):
        RegionGate("expression", torch.ones(30, 3), width=2)

    class Unknown(SurfaceCanonicalizer):
        def __init__(self) -> None:
            super().__init__(VERTICES, FACES)
            self.face_count = None

    made = avatar(deformer=Unknown(), condition=RegionGate("expression", mask[:2], width=2))
    with pytest.raises(IndexError, match="RegionGate: faces is a mask of 2 faces, and the deformer's face"):
        made.render(CAMERA, STATE)


@pytest.mark.parametrize("made", [SurfaceCanonicalizer, NearSurface])
def test_meshes_that_are_none(made: Any, unchecked: None) -> None:
    name = made.__name__
    nan = VERTICES.clone()
    nan[2] = torch.nan
    with pytest.raises(TypeError, match=rf"{name}: canonical_vertices is torch\.int64 and faces .*: they are swapped"):
        made(FACES, VERTICES)
    with pytest.raises(TypeError, match=rf"{name}: faces has dtype torch\.float32"):
        made(VERTICES, FACES.float())
    with pytest.raises(TypeError, match=rf"{name}: canonical_vertices is a ndarray"):
        made(VERTICES.numpy(), FACES)
    with pytest.raises(ValueError, match=rf"{name}: canonical_vertices holds 1 of .* not finite"):
        made(nan, FACES)
    with pytest.raises(ValueError, match=rf"{name}: canonical_vertices extends over 200 m; it looks like millimeters"):
        made(1000 * VERTICES, FACES)
    with pytest.raises(ValueError, match=rf"{name}: faces has indices from 0 to \d+, and there are 9 vertices"):
        made(VERTICES[:9], FACES)
    with pytest.raises(ValueError, match=rf"{name}: faces has shape \(0, 4\); expected \(F, 3\)"):
        made(VERTICES, FACES.new_zeros(0, 4))


def test_meshes_of_other_parts(unchecked: None) -> None:
    weights = torch.ones(len(VERTICES), 1)
    with pytest.raises(TypeError, match=r"SkinningWeights: .* they are swapped"):
        SkinningWeights(FACES, VERTICES, weights)
    with pytest.raises(ValueError, match=r"SkinningWeights: .* millimeters"):
        SkinningWeights(1000 * VERTICES, FACES, weights)
    with pytest.raises(ValueError, match=r"Template: canonical_vertices .* millimeters"):
        Template(1000 * VERTICES, FACES)


def test_methods_that_are_not_defined_are_named(unchecked: None) -> None:
    for noun, method in ((Encoder, "forward"), (Decoder, "forward"), (Renderer, "forward"), (Sampler, "forward")):
        part = type("Mine", (noun,), {})()
        with pytest.raises(NotImplementedError, match=rf"Mine\.{method} is not defined"):
            getattr(noun, method)(part, *[None] * (2 if noun in (Encoder, Sampler) else 3))
    with pytest.raises(NotImplementedError, match=r"Mine\.bounds is not defined"):
        type("Mine", (Deformer,), {})().bounds()
    with pytest.raises(TypeError, match="abstract"):
        type("Half", (Field,), {"near_far": lambda self, rays: None})()


def test_a_hash_grid_without_a_canonical_face() -> None:
    gate = RegionGate("expression", torch.ones(3, dtype=torch.bool), width=2)
    points = torch.zeros(2, 3)
    canonical = Canonical(points, points, points, torch.zeros(2, dtype=torch.long), torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match="Canonical: face is None"):
        gate(canonical, torch.zeros(1, 2))
    assert HashGrid(2, 2, 6, 4, 8).face_count is None


@pytest.mark.parametrize("box", [[[0, 0, 0], [1, 1, 1]], np.array([[0.0, 0, 0], [1, 1, 1]])])
def test_a_box_that_is_no_tensor(box: Any, unchecked: None) -> None:
    with pytest.raises(TypeError, match=r"Static: box is a (list|ndarray); pass a torch.Tensor"):
        Static(box)
