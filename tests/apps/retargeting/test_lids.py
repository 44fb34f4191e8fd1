"""Lids that shut on the source shut on the target, whatever the eyes' shapes. The procedural head is cut differently,
and its eyes at rest are wide on the one head and narrow on the other."""

import pytest
import torch

from headfields.apps.retargeting import Retargeter
from headfields.apps.retargeting.expression_fit import ExpressionFit
from headfields.apps.retargeting.head_surface import HeadSurface
from headfields.apps.retargeting.lids import find_lids
from headfields.apps.retargeting.sources import surface_of_head
from headfields.ops.similarity import Similarity
from headfields.records import HeadState
from tests.apps.retargeting.test_retargeter import split


def moved_by(head, **weights):
    with torch.no_grad():
        return head(expression=head.expression(**weights)).vertices[0]


@pytest.fixture(scope="module")
def narrow(head):
    """A head whose eyes are half shut at rest, and what a blink does to it."""
    rest = surface_of_head(head)
    neutral = moved_by(head, squint_left=0.6, squint_right=0.6, blink_left=0.25, blink_right=0.25)
    blink = moved_by(head, blink_left=1.0, blink_right=1.0)
    half = 0.5 * (neutral + blink)
    surface = HeadSurface(neutral, rest.faces, None, rest.landmarks, rest.closing)
    return surface, torch.stack([neutral, half, blink])


@pytest.fixture(scope="module")
def wide(head):
    """A head whose eyes are wide open at rest, cut finer, its own blink, and its basis: wide open, and a blink."""
    rest = surface_of_head(head)
    neutral = moved_by(head, eye_wide_left=1.0, eye_wide_right=1.0)
    blink = moved_by(head, blink_left=1.0, blink_right=1.0)
    brows = moved_by(head, brow_raise_left=1.0, brow_raise_right=1.0)
    (neutral, faces), (blink, _), (brows, _) = (split(mesh, rest) for mesh in (neutral, blink, brows))
    surface = HeadSurface(neutral, faces, None, rest.landmarks, None, blink)
    still = split(rest.neutral, rest)[0]
    return surface, blink, torch.stack([blink - neutral, brows - still])


def lowest(retargeter, moved):
    """Least distance of the lids' skin from each eyeball's surface, over that at rest, meters (negative: sunk)."""
    out = []
    for eye in retargeter._eyes:
        distance = (moved[:, eye.skin] - eye.target.center).norm(dim=-1)
        rest = (retargeter.target.neutral[eye.skin] - eye.target.center).norm(dim=-1)
        out.append((distance - rest.clamp_max(eye.target.radius)).amin(dim=1))
    return torch.stack(out, dim=-1)


def test_lids_are_found_and_measured(head, narrow, wide):
    rest = surface_of_head(head)
    eyes = find_lids(rest)
    assert [round(float(lids.eye.center[0]), 3) for lids in eyes] == [-0.032, 0.032]
    for lids in eyes:
        torch.testing.assert_close(lids.openness(rest.neutral.double()), torch.ones(9).double())
        assert lids.rest.min() > 0.004 and lids.rest.max() < 0.012
        assert (lids.elevation[0] > lids.elevation[1]).all()
        side = "left" if lids.eye.center[0] > 0 else "right"
        shut = lids.openness(moved_by(head, **{f"blink_{side}": 1.0}).double())
        assert shut.abs().max() < 0.1
        other = lids.openness(moved_by(head, **{f"blink_{'right' if side == 'left' else 'left'}": 1.0}).double())
        torch.testing.assert_close(other, torch.ones(9).double(), atol=1e-3, rtol=0)
        assert lids.openness(moved_by(head, **{f"eye_wide_{side}": 1.0}).double()).mean() > 1.1
    for mine, yours in zip(find_lids(narrow[0]), find_lids(wide[0]), strict=True):
        assert mine.rest.mean() < 0.6 * yours.rest.mean()  # the eyes do differ
        assert abs(float(yours.openness(wide[1].double()).mean())) < 1e-6  # `closed` is what it was told


def test_lids_are_the_same_on_another_place_and_cut(head):
    rest = surface_of_head(head)
    neutral, faces = split(rest.neutral, rest)
    away = Similarity(torch.eye(3).double(), torch.tensor([0.3, -2.0, 1.0]).double(), torch.tensor(10.0).double())
    for one, other in zip(find_lids(rest), find_lids(HeadSurface(neutral, faces), away), strict=True):
        torch.testing.assert_close(other.rest, 10 * one.rest, atol=4e-3, rtol=0)
        torch.testing.assert_close(other.elevation, one.elevation, atol=0.02, rtol=0)


def test_heads_without_an_open_eye_have_no_lids(head):
    rest = surface_of_head(head)
    shut = HeadSurface(moved_by(head, blink_left=1.0, blink_right=1.0), rest.faces)
    eyeless = HeadSurface(rest.neutral, rest.faces[rest.skin])
    assert find_lids(shut) == () and find_lids(eyeless) == ()
    assert find_lids(HeadSurface(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long))) == ()


@pytest.mark.parametrize("own", [pytest.param(False, marks=pytest.mark.slow), True], ids=["sliding", "own_basis"])
def test_a_blink_shuts_eyes_of_another_shape(narrow, wide, own):
    source, meshes = narrow
    target, blink, basis = wide
    fit = ExpressionFit(target.neutral, basis) if own else None
    retargeter = Retargeter(source, target, fit)
    assert len(retargeter.lids) == 2
    moved = retargeter(HeadState(meshes)).vertices
    plain = retargeter.transfer(meshes.double())
    for lids in retargeter.lids:
        was, now = lids.target.openness(plain).mean(-1), lids.target.openness(moved.double())
        assert was[2] > 0.25  # what transfer of triangles leaves open
        torch.testing.assert_close(now[0], torch.ones(9).double(), atol=0.02, rtol=0)
        assert abs(float(now[1].mean()) - float(lids.source.openness(meshes[1].double()).mean())) < 0.05
        assert now[2].abs().max() < 0.05
    assert lowest(retargeter, moved).amin() > -2e-4
    if own:  # then they are where this head's own blink has them
        skin = retargeter._eyes[0].skin
        away = (moved[2] - blink)[skin].norm(dim=-1)
        assert (blink - target.neutral)[skin].norm(dim=-1).max() > 0.008
        assert away.mean() < 5e-4 and away.max() < 2e-3


@pytest.mark.slow
def test_gradients_go_through_lids(narrow, wide):
    source, meshes = narrow
    target, _, basis = wide
    retargeter = Retargeter(source, target, ExpressionFit(target.neutral, basis))
    seen = retargeter.lids[0].sliding[:5]
    way = meshes[2].double() - meshes[0].double()

    def shut(amount):
        return retargeter(HeadState((meshes[0].double() + amount * way)[None])).vertices[0, seen]

    assert torch.autograd.gradcheck(shut, (torch.tensor(0.4).double().requires_grad_(),), atol=1e-5)
    none = retargeter(HeadState(meshes[:0]))
    assert none.vertices.shape == (0, len(target.neutral), 3) and none.expression.shape == (0, 2)


def test_errors(narrow, unchecked):
    with pytest.raises(ValueError, match=r"closed has shape .* they must be one topology"):
        HeadSurface(narrow[0].neutral, narrow[0].faces, closed=narrow[0].neutral[1:])
