"""A head that moves together with its camera is the same picture; where it is not, the deformer says so."""

import pytest
import torch

import headfields as hf
from headfields.data.head_frame import motion_in_vertices
from headfields.deformers import Blendfield, Chain, HyperDeformer, NearSurface, Static, SurfaceCanonicalizer
from headfields.networks.field_basis import BlendCoefficients
from headfields.ops.rotations import rotation_matrices
from headfields.records import HeadState
from tests.models.test_models import FACES, SMALL, TEMPLATE, VERTICES, camera
from tests.training.ball import BallCapture

SPLATS = {"count": 80}
NO_BORDER = TEMPLATE.replace(regions=TEMPLATE.regions | {"mouth": torch.ones_like(TEMPLATE.regions["mouth"])})


def displaced_first() -> hf.Avatar:
    """INSTA behind a blendfield that moves posed points."""
    surface = SurfaceCanonicalizer(VERTICES, FACES)
    blend = Blendfield(surface.bounds(), BlendCoefficients({"expression": 3}, fields=2), scale=5e-4)
    for parameter in blend.parameters():
        torch.nn.init.normal_(parameter)
    return hf.models.insta(TEMPLATE, 3, **SMALL).replace(deformer=Chain(NearSurface(VERTICES, FACES), blend, surface))


MAKERS = {
    "insta": lambda: hf.models.insta(TEMPLATE, 3, **SMALL),
    "insta without a border": lambda: hf.models.insta(NO_BORDER, 3, **SMALL),
    "vp360": lambda: hf.models.vp360(TEMPLATE, 3, fields=2, **SMALL),
    "monoavatar": lambda: hf.models.monoavatar(TEMPLATE, frames=2, sizes="cpu-0.3"),
    "gaussian_avatars": lambda: hf.models.gaussian_avatars(TEMPLATE, **SPLATS),
    "flash_avatar": lambda: hf.models.flash_avatar(TEMPLATE, expression_width=3, **SPLATS),
    "moved before its surface": displaced_first,
    "rgb_avatar": lambda: hf.models.rgb_avatar(TEMPLATE, expression_width=3, **SPLATS),
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
    state = HeadState(VERTICES[None], expression=torch.rand(1, 3), frame_id=torch.zeros(1, dtype=torch.long))
    turned = state.replace(vertices=VERTICES[None] @ moved[:3, :3].T + moved[:3, 3])
    image = avatar.render(view, state).rgb
    other = avatar.render(view.replace(world_to_camera=view.world_to_camera @ moved.inverse()), turned).rgb
    difference = (image - other).abs().flatten().quantile(0.99)
    assert image.std() > 1e-3, "a picture of something"
    if name == "insta without a border":  # what the region's border leaves to rounding (`RegionGate`)
        assert float((image - other).abs().max()) < 2e-6
    assert (float(difference) < 2e-3) == avatar.deformer.follows_head, f"{float(difference):.1e}"


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
