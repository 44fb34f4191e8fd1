"""A head that moves together with its camera is the same picture; where it is not, the deformer says so."""

import pytest
import torch

import headfields as hf
from headfields.data.head_frame import motion_in_vertices
from headfields.decoders import NeRFDecoder
from headfields.deformers import (
    Blendfield,
    Chain,
    EmbeddedBinding,
    HyperDeformer,
    InverseSkinning,
    NearSurface,
    SkinningRoots,
    SkinningWeights,
    Static,
    SurfaceCanonicalizer,
    TriangleBinding,
    WeightFieldSkinning,
)
from headfields.encoders import HashGrid
from headfields.networks import Gaussians, surface_splats
from headfields.networks.field_basis import BlendCoefficients
from headfields.ops.rotations import rotation_matrices
from headfields.parts import Deformer
from headfields.records import HeadState
from headfields.renderers import SplatRenderer, UniformSampler, VolumeRenderer
from tests.avatar.test_composition import hyper, warp
from tests.models.test_models import FACES, SMALL, TEMPLATE, VERTICES, camera
from tests.training.ball import BallCapture

SPLATS = {"count": 80}
BOX = torch.tensor([[-0.15] * 3, [0.15] * 3])
HALVES = torch.stack([VERTICES[:, 1] * 5 + 0.5, 0.5 - VERTICES[:, 1] * 5], dim=-1)
NO_BORDER = TEMPLATE.replace(regions=TEMPLATE.regions | {"mouth": torch.ones_like(TEMPLATE.regions["mouth"])})


def displaced_first() -> hf.Avatar:
    """INSTA behind a blendfield that moves posed points."""
    surface = SurfaceCanonicalizer(VERTICES, FACES)
    blend = Blendfield(surface.bounds(), BlendCoefficients({"expression": 3}, fields=2), scale=5e-4)
    for parameter in blend.parameters():
        torch.nn.init.normal_(parameter)
    return hf.models.insta(TEMPLATE, 3, **SMALL).replace(deformer=Chain(NearSurface(VERTICES, FACES), blend, surface))


def deformed(deformer: Deformer) -> hf.Avatar:
    """A field behind a deformer."""
    grid = HashGrid(levels=2, features=2, log2_table_size=10, base_resolution=8, finest_resolution=32)
    avatar = hf.Avatar(deformer, grid, NeRFDecoder(hidden=16, density_bias=3.0), VolumeRenderer(UniformSampler(16)))
    torch.nn.init.normal_(grid.table)
    return avatar


def embedded() -> hf.SplatAvatar:
    binding = EmbeddedBinding(VERTICES, FACES)
    start, face = surface_splats(VERTICES, FACES, 80)
    gaussians = Gaussians.of(*binding.attach(start, face), degree=1)
    torch.nn.init.normal_(gaussians.color)
    return hf.SplatAvatar(gaussians, binding, SplatRenderer())


def skinning_weights() -> SkinningWeights:
    return SkinningWeights(VERTICES, FACES, HALVES, cell=0.05)


MAKERS = {
    "insta": lambda: hf.models.insta(TEMPLATE, 3, **SMALL),
    "insta without a border": lambda: hf.models.insta(NO_BORDER, 3, **SMALL),
    "vp360": lambda: hf.models.vp360(TEMPLATE, 3, fields=2, **SMALL),
    "monoavatar": lambda: hf.models.monoavatar(TEMPLATE, frames=2, sizes="cpu-0.3"),
    "gaussian_avatars": lambda: hf.models.gaussian_avatars(TEMPLATE, **SPLATS),
    "flash_avatar": lambda: hf.models.flash_avatar(TEMPLATE, expression_width=3, **SPLATS),
    "moved before its surface": displaced_first,
    "rgb_avatar": lambda: hf.models.rgb_avatar(TEMPLATE, expression_width=3, **SPLATS),
    "flash_avatar, points alone": lambda: hf.models.flash_avatar(
        TEMPLATE, expression_width=3, follows="translation", **SPLATS
    ),
    "embedded": embedded,
    "static": lambda: deformed(Static(BOX)),
    "near surface": lambda: deformed(NearSurface(VERTICES, FACES)),
    "released formula": lambda: deformed(SurfaceCanonicalizer(VERTICES, FACES, formula="released")),
    "bound points": lambda: deformed(TriangleBinding(VERTICES, FACES)),
    "embedded points": lambda: deformed(EmbeddedBinding(VERTICES, FACES)),
    "hyper": lambda: deformed(hyper(ambient=0)),
    "blendfield alone": lambda: deformed(Blendfield(BOX, BlendCoefficients({"expression": 3}, fields=2))),
    "error warp behind a surface": lambda: deformed(Chain(SurfaceCanonicalizer(VERTICES, FACES), warp())),
    "skinning": lambda: deformed(InverseSkinning(VERTICES, FACES, HALVES)),
    "skinning by a field": lambda: deformed(WeightFieldSkinning(skinning_weights())),
    "skinning roots": lambda: deformed(SkinningRoots(skinning_weights())),
}


def motion() -> torch.Tensor:
    """40 degrees about a slanted axis, and half a meter to a side."""
    axis = torch.nn.functional.normalize(torch.tensor([0.3, 1.0, -0.4]), dim=0)
    moved = torch.eye(4)
    moved[:3, :3] = rotation_matrices(axis * 0.7)
    moved[:3, 3] = torch.tensor([0.5, -0.1, 0.2])
    return moved


@pytest.mark.parametrize("name", MAKERS)
def test_moved_with_its_camera(name: str) -> None:
    torch.manual_seed(0)
    avatar = MAKERS[name]()
    moved, view = motion(), camera()
    code, joints = torch.rand(1, 16), torch.eye(4).repeat(1, 2, 1, 1)
    state = HeadState(
        VERTICES[None], expression=torch.rand(1, 3), joint_transforms=joints, frame_id=torch.zeros(1, dtype=torch.long),
        codes={"geometry": code, "expression_code": code[:, :3]},
    )  # fmt: skip
    turned = state.replace(vertices=VERTICES[None] @ moved[:3, :3].T + moved[:3, 3], joint_transforms=moved @ joints)
    image = avatar.render(view, state).rgb
    other = avatar.render(view.replace(world_to_camera=view.world_to_camera @ moved.inverse()), turned).rgb
    difference = (image - other).abs().flatten().quantile(0.99)
    assert image.std() > 1e-3, "a picture of something"
    if name == "insta without a border":  # what the region's border leaves to rounding (`RegionGate`)
        assert float((image - other).abs().max()) < 2e-6
    assert (float(difference) < 2e-3) == avatar.deformer.follows_head, f"{float(difference):.1e}"


def test_every_deformer_is_moved() -> None:
    made = [make() for name, make in MAKERS.items() if not hasattr(hf.models, name)]
    moved = {type(part) for avatar in made for part in avatar.modules()}
    parts = [getattr(hf.deformers, name) for name in hf.deformers.__all__]
    assert {part for part in parts if isinstance(part, type) and issubclass(part, Deformer)} <= moved


def test_deformers_say_whether_they_follow() -> None:
    surface, near = SurfaceCanonicalizer(VERTICES, FACES), NearSurface(VERTICES, FACES)
    blend = Blendfield(surface.bounds(), BlendCoefficients({"expression": 3}, fields=2))
    static = Static(surface.bounds())
    assert surface.follows_head and Chain(surface, blend).follows_head and Chain(static, near, surface).follows_head
    assert not (near.follows_head or blend.follows_head or static.follows_head or HyperDeformer.follows_head)
    assert not (Chain(blend, surface).follows_head or Chain(near, static).follows_head or Chain(near).moves_points)
    assert not Chain(Chain(near, blend), surface).follows_head, "moved along the axes of posed space before"


def test_the_trainer_warns_of_a_head_that_the_avatar_does_not_follow() -> None:
    class Turning(BallCapture):
        def state(self, frames):
            state = super().state(frames)
            turn = rotation_matrices(torch.as_tensor(frames)[:, None] * torch.tensor([0.0, 0.05, 0.0]))
            return state.replace(vertices=state.vertices @ turn.transpose(1, 2))

    capture = Turning()
    assert motion_in_vertices(capture, list(range(12))).rotation == pytest.approx(0.05 * 11 * 57.3, abs=1)
    static = hf.models.baselines.static_field(capture.template, **SMALL)
    follows = hf.models.insta(capture.template, 1, **SMALL)
    with pytest.warns(UserWarning, match=r"head moves by .* degrees .* head_frame='normalize'"):
        hf.training.Trainer(static, capture, hf.training.insta_losses(), bar=False, device="cpu")
    hf.training.Trainer(
        follows, capture, hf.training.insta_losses(), bar=False, device="cpu"
    )  # warnings are errors in the tests
