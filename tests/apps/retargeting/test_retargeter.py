"""Between topologies that differ. The truth is the procedural head itself, cut differently."""

import pytest
import torch

from headfields.apps.retargeting import Retargeter
from headfields.apps.retargeting.binding import bind
from headfields.apps.retargeting.head_surface import HeadSurface
from headfields.apps.retargeting.retargeter import rest_camera
from headfields.apps.retargeting.sources import surface_of_head
from headfields.apps.retargeting.thin_plate import ThinPlateWarp
from headfields.ops.rigid import fit_rigid
from headfields.ops.similarity import Similarity, fit_similarity
from headfields.records import Camera, HeadState
from tests.shapes import grid_sheet, rotation


def split(vertices, surface):
    """Every triangle of the face in three, about its centroid: vertices of (..., V, 3), and faces."""
    faces = surface.faces
    chosen = surface.neutral[faces][..., 2].mean(dim=-1) > 0.035
    a, b, c = faces[chosen].T
    center = vertices.shape[-2] + torch.arange(len(a))
    finer = [torch.stack(t, dim=-1) for t in ((a, b, center), (b, c, center), (c, a, center))]
    middle = vertices[..., faces[chosen], :].mean(dim=-2)
    return torch.cat([vertices, middle], dim=-2), torch.cat([faces[~chosen], *finer])


@pytest.fixture(scope="module")
def coarse(head):
    return surface_of_head(head)


@pytest.fixture(scope="module")
def fine(coarse):
    """The same surface cut finer, its vertices in another order."""
    count = split(coarse.neutral, coarse)[0].shape[0]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    place = order.argsort()
    neutral, faces = split(coarse.neutral, coarse)
    opened, _ = split(coarse.opened, coarse)
    surface = HeadSurface(neutral[order], place[faces], opened[order], place[coarse.landmarks])
    return surface, order


@pytest.fixture(scope="module")
def to_fine(coarse, fine):
    return Retargeter(coarse, fine[0])


@pytest.fixture(scope="module")
def to_coarse(coarse, fine):
    return Retargeter(fine[0], coarse)


def own_skin(surface):
    """Vertices of faces that are not across the mouth."""
    return surface.faces[surface.skin].unique()


def test_what_is_found_on_a_head(coarse):
    assert len(coarse.eyeballs) == 2
    assert sorted(float(ball.center[0].sign()) for ball in coarse.eyeballs) == [-1, 1]
    assert all(abs(ball.radius - 0.0132) < 2e-4 for ball in coarse.eyeballs)
    assert coarse.cavity[coarse.closing].all() and coarse.cavity.sum() < 1.5 * coarse.closing.sum()
    inner = coarse.landmarks[[61, 62, 63]], coarse.landmarks[[65, 66, 67]]
    assert (coarse.lip[inner[0]] == 1).all() and (coarse.lip[inner[1]] == -1).all()
    assert (coarse.lip[coarse.landmarks[:48]] <= 0).all() and (coarse.lip[coarse.landmarks[17:48]] == 0).all()


@pytest.mark.parametrize("direction", ["finer", pytest.param("coarser", marks=pytest.mark.slow)])
def test_another_topology_reproduces_the_motion(motion, coarse, fine, to_fine, to_coarse, direction):
    truth = split(motion.vertices, coarse)[0][:, fine[1]]
    if direction == "finer":
        moved, wanted, surface = to_fine(motion).vertices, truth, fine[0]
    else:
        moved, wanted, surface = to_coarse(HeadState(truth)).vertices, motion.vertices, coarse
    error = (moved - wanted).norm(dim=-1)[:, own_skin(surface)]
    assert (wanted - surface.neutral).norm(dim=-1).amax() > 0.01  # meters: there is a motion
    assert error.mean() < 1e-4 and error.mean(dim=1).amax() < 3e-4
    assert error.flatten().quantile(0.99) < 2e-3


def test_mouths_open_lids_close_and_eyes_turn(head, motion, coarse, fine, to_fine):
    moved = to_fine(motion).vertices
    marks = fine[0].landmarks
    gap = (moved[:, marks[62]] - moved[:, marks[66]]).norm(dim=-1)
    truth = motion.vertices[:, coarse.landmarks]
    wanted = (truth[:, 62] - truth[:, 66]).norm(dim=-1)
    assert wanted[0] > 0.02 and wanted[2] < 0.003
    torch.testing.assert_close(gap, wanted, atol=1e-3, rtol=0.05)
    for upper, lower in ((37, 41), (44, 46)):
        lids = (moved[:, marks[upper]] - moved[:, marks[lower]]).norm(dim=-1)
        assert lids[2] < 0.25 * lids[0]
    for ball in fine[0].eyeballs:
        shape, _ = fit_rigid(fine[0].neutral[ball.vertices].double(), moved[:, ball.vertices].double())
        rigid = (fine[0].neutral[ball.vertices].double() - ball.center) @ shape.transpose(1, 2) + ball.center
        torch.testing.assert_close(moved[:, ball.vertices].double(), rigid, atol=2e-5, rtol=0)
        ahead = shape[:, :, 2]  # where +z goes
        torch.testing.assert_close(ahead[5, 0].asin(), torch.tensor(0.3).double(), atol=0.01, rtol=0)
        torch.testing.assert_close(ahead[4, 1].asin(), torch.tensor(0.15).double(), atol=0.02, rtol=0)
        assert (shape[:4] - torch.eye(3)).abs().max() < 1e-3


def test_the_back_of_the_head_is_still(motion, coarse, fine, to_fine):
    truth = split(motion.vertices, coarse)[0][:, fine[1]]
    still = (truth - fine[0].neutral).norm(dim=-1).amax(0) < 1e-6
    back = still & (fine[0].neutral[:, 2] < 0) & (fine[0].neutral[:, 1] > -0.05)
    assert back.sum() > 500
    assert (to_fine(motion).vertices - fine[0].neutral)[:, back].norm(dim=-1).amax() < 3e-4


@pytest.mark.slow
def test_place_size_and_turn_of_the_source_do_not_matter(motion, coarse, fine, to_fine):
    """A source in decimeters, turned and elsewhere, moves the target just so."""
    c, s = 0.966, 0.259  # 15 degrees
    turn = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ torch.tensor([[1, 0, 0], [0, c, -s], [0, s, c]])

    def elsewhere(points):
        return 10 * points @ turn.T + torch.tensor([3.0, -2.0, 1.0])

    source = HeadSurface(
        elsewhere(coarse.neutral), coarse.faces, elsewhere(coarse.opened), coarse.landmarks, coarse.closing
    )
    moved = Retargeter(source, fine[0])(HeadState(elsewhere(motion.vertices))).vertices
    error = (moved - to_fine(motion).vertices).norm(dim=-1)[:, own_skin(fine[0])]
    assert error.mean() < 2e-4


@pytest.mark.parametrize("opened", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_heads_without_landmarks(motion, coarse, fine, opened):
    source = HeadSurface(coarse.neutral, coarse.faces, *([coarse.opened, None, coarse.closing] if opened else []))
    target = HeadSurface(fine[0].neutral, fine[0].faces, *([fine[0].opened] if opened else []))
    truth = split(motion.vertices, coarse)[0][:, fine[1]]
    error = (Retargeter(source, target)(motion).vertices - truth).norm(dim=-1)[:, own_skin(fine[0])]
    assert error.mean() < (3e-4 if opened else 5e-4)


def test_states_of_no_frames_and_gradients(motion, fine, to_fine):
    none = to_fine(motion[0:0])
    assert none.vertices.shape == (0, len(fine[0].neutral), 3)
    posed = motion.vertices[[5]].clone().requires_grad_()
    to_fine(HeadState(posed)).vertices[0, fine[0].landmarks[8]].sum().backward()
    assert posed.grad is not None and posed.grad.isfinite().all() and posed.grad.abs().sum() > 0.5


def test_one_topology_is_transferred_as_it_is(head, motion, coarse):
    retargeter = Retargeter(coarse, coarse)
    torch.testing.assert_close(retargeter(motion).vertices, motion.vertices, atol=1e-6, rtol=0)


def test_heads_of_one_topology_whose_mouths_are_closed_otherwise(motion, coarse):
    closing = coarse.faces[coarse.closing].roll(1, dims=1).flip(0)[2:]
    faces = torch.cat([coarse.faces[~coarse.closing], closing])
    other = HeadSurface(
        coarse.neutral, faces, coarse.opened, None, torch.arange(len(faces)) >= len(faces) - len(closing)
    )
    retargeter = Retargeter(coarse, other)
    assert retargeter.binding.registered is None
    torch.testing.assert_close(retargeter(motion).vertices, motion.vertices, atol=1e-6, rtol=0)


def test_errors(motion, coarse, unchecked):
    with pytest.raises(ValueError, match=r"state.vertices has shape .*; the source head has \d+ vertices"):
        Retargeter(coarse, coarse)(HeadState(motion.vertices[:, :5]))
    empty = HeadSurface(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]))
    with pytest.raises(ValueError, match="target has 1 faces, none of them with an area"):
        bind(coarse, empty)
    sheet, faces = grid_sheet(3)
    away = HeadSurface(sheet * 1e-3 + 5.0, faces.flip(-1))
    with pytest.raises(ValueError, match="none finds a counterpart"):
        bind(HeadSurface(sheet, faces), away)
    with pytest.raises(ValueError, match=r"landmarks has shape \(5,\); expected \(68,\)"):
        HeadSurface(sheet, faces, landmarks=torch.zeros(5, dtype=torch.long))
    with pytest.raises(ValueError, match="faces holds 0 to 15; there are 4 vertices"):
        HeadSurface(sheet[:4], faces)
    with pytest.raises(ValueError, match="not finite"):
        HeadSurface(sheet * torch.nan, faces)
    with pytest.raises(ValueError, match="they must be one topology"):
        HeadSurface(sheet, faces, opened=sheet[1:])


def test_similarity_and_warp():
    random = torch.Generator().manual_seed(0)
    points = torch.randn(20, 3, generator=random, dtype=torch.float64)
    truth = Similarity(rotation(4), torch.tensor([0.1, -2.0, 0.3]).double(), torch.tensor(1.7).double())
    found = fit_similarity(points, truth.apply(points))
    torch.testing.assert_close(found.rotation, truth.rotation)
    torch.testing.assert_close(found.scale, truth.scale)
    torch.testing.assert_close(found.translation, truth.translation)
    assert float(fit_similarity(points, truth.apply(points), scaling=False).scale) == 1
    mirrored = fit_similarity(points, points * torch.tensor([-1.0, 1, 1]).double())
    torch.testing.assert_close(torch.linalg.det(mirrored.rotation), torch.tensor(1.0).double())
    with pytest.raises(ValueError, match="2 source and 2 target points"):
        fit_similarity(points[:2], points[:2])
    with pytest.raises(ValueError, match="target holds values that are not finite"):
        fit_similarity(points, points * torch.inf)

    places = points + 0.1 * torch.randn(20, 3, generator=random, dtype=torch.float64)
    warp = ThinPlateWarp(points, places)
    torch.testing.assert_close(warp(points), places)
    elsewhere = torch.randn(2, 5, 3, generator=random, dtype=torch.float64)
    torch.testing.assert_close(ThinPlateWarp(points, points)(elsewhere), elsewhere)
    torch.testing.assert_close(ThinPlateWarp(points, truth.apply(points))(elsewhere), truth.apply(elsewhere))
    assert torch.autograd.gradcheck(warp, (elsewhere.requires_grad_(),))
    missed = (ThinPlateWarp(points, places, smoothing=1.0)(points) - places).norm(dim=-1)
    assert 0 < missed.mean() < (points - places).norm(dim=-1).mean()
    with pytest.raises(ValueError, match="four pairs"):
        ThinPlateWarp(points[:3], points[:3])


def test_the_head_turns_from_its_own_rest(coarse, fine, to_fine):
    def camera(turn, shift):
        pose = torch.eye(4)
        pose[:3, :3] = torch.diag(torch.tensor([1.0, -1, -1])) @ turn
        pose[:3, 3] = shift
        return pose

    def about_y(angle):
        c, s = torch.tensor(angle).cos(), torch.tensor(angle).sin()
        return torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]])

    far = torch.tensor([0.0, 0, 1.2])
    intrinsics = torch.diag(torch.tensor([500.0, 500, 1])).expand(3, 3, 3)
    driving = Camera(torch.stack([camera(about_y(a), far) for a in (-0.3, 0.0, 0.3)]), intrinsics, (64, 64))
    rest = rest_camera(driving)
    torch.testing.assert_close(rest.world_to_camera[0], camera(torch.eye(3), far), atol=1e-6, rtol=0)
    own = Camera(camera(about_y(0.1), 2 * far)[None], torch.diag(torch.tensor([1000.0, 1000, 1]))[None], (32, 48))
    made = to_fine.camera(driving, rest, own)
    assert made.size == (32, 48) and len(made) == 3
    torch.testing.assert_close(made.world_to_camera[1], own.world_to_camera[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(made.world_to_camera[2, :3, :3], camera(about_y(0.4), far)[:3, :3], atol=2e-3, rtol=0)
    with pytest.raises(ValueError, match="holds no poses"):
        rest_camera(driving[0:0])
