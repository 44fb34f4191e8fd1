import copy
import pickle

import pytest
import torch

from headfields.apps.retargeting.deformation_gradients import pose_gradients
from headfields.apps.retargeting.deformation_transfer import Correspondence, DeformationTransfer
from headfields.ops.sparse_system import SymmetricSystem, _solve
from tests.shapes import grid_sheet, rotation

METHODS = ["least_squares", "released"]


def bent_sheet(cells: int = 4, dtype=torch.float64):
    """A sheet, and three poses of it."""
    vertices, faces = grid_sheet(cells)
    vertices = vertices.to(dtype) * 0.1
    turned = vertices @ rotation(3).to(dtype).T + torch.tensor([0.02, -0.01, 0.3], dtype=dtype)
    wavy = vertices + torch.stack([0 * vertices[:, 0], 0 * vertices[:, 0], 0.02 * (20 * vertices[:, 0]).sin()], -1)
    return vertices, faces, torch.stack([turned, wavy, vertices * torch.tensor([1.5, 0.8, 1.0], dtype=dtype)])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mesh_transferred_to_itself_moves_as_it_does(method, dtype):
    vertices, faces, posed = bent_sheet(dtype=dtype)
    moved = DeformationTransfer(vertices, faces, vertices, faces, method=method)(posed)
    assert moved.dtype == dtype
    torch.testing.assert_close(moved, posed, atol=1e-12 if dtype == torch.float64 else 1e-6, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_the_heads_own_motion_is_reproduced(head, motion, method):
    neutral = head().vertices[0]
    moved = DeformationTransfer(neutral, head.faces, neutral, head.faces, method=method)(motion.vertices)
    torch.testing.assert_close(moved, motion.vertices, atol=1e-6, rtol=0)


def test_another_identity_does_what_the_first_does(head, motion):
    """The truth is the head model's own: its expressions are the same displacements for every identity."""
    shape = torch.zeros(1, head.shape_count)
    shape[0, :6] = 1.0
    neutral, other = head().vertices[0], head(shape=shape).vertices[0]
    # Expressions add to shapes; only the jaw's joint and the correctives make the truth more than a sum.
    truth = motion.vertices[1:4] - neutral + other
    transfer = DeformationTransfer(neutral, head.faces, other, head.faces)
    error = (transfer(motion.vertices[1:4]) - truth).norm(dim=-1)
    assert (other - neutral).norm(dim=-1).mean() > 4e-3  # meters: the heads do differ
    assert error.mean() < 2e-4 and error.max() < 4e-3
    released = DeformationTransfer(neutral, head.faces, other, head.faces, method="released")
    assert (released(motion.vertices[1:4]) - truth).norm(dim=-1).mean() > error.mean()


@pytest.mark.parametrize("method", METHODS)
def test_a_turned_target_of_another_place_needs_alignment_only(method):
    """Rigid motion of the source is rigid motion of the target, whatever the target's shape."""
    vertices, faces, _ = bent_sheet()
    target = vertices * torch.tensor([1.2, 0.7, 1.0]).double() + 0.01 * torch.randn(
        len(vertices), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    turn = rotation(5)
    moved = DeformationTransfer(vertices, faces, target, faces, method=method)((vertices @ turn.T)[None])[0]
    lengths = torch.cdist(moved, moved)
    torch.testing.assert_close(lengths, torch.cdist(target, target), atol=2e-2, rtol=0.2)


def test_flat_faces_of_either_mesh_are_left_out():
    vertices, faces, posed = bent_sheet()
    flat = torch.tensor([[0, 0, 1], [2, 2, 2], [0, 1, 0]])
    faces = torch.cat([faces, flat])
    for method in METHODS:
        moved = DeformationTransfer(vertices, faces, vertices, faces, method=method)(posed)
        torch.testing.assert_close(moved, posed, atol=1e-12, rtol=0)
    broken = vertices.clone()
    broken[7] = broken[6]  # on the target alone
    moved = DeformationTransfer(vertices, faces, broken, faces)(posed)
    assert moved.isfinite().all()
    assert (moved[0] - posed[0]).norm(dim=-1).median() < 0.02


def test_vertices_without_faces_follow_their_counterparts():
    vertices, faces, posed = bent_sheet()
    lonely = torch.cat([vertices, torch.ones(2, 3).double()])
    posed = torch.cat([posed, torch.full((3, 2, 3), 1.5).double()], dim=1)
    moved = DeformationTransfer(lonely, faces, lonely, faces)(posed)
    torch.testing.assert_close(moved, posed, atol=1e-9, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_no_frames_and_no_faces(method):
    vertices, faces, posed = bent_sheet()
    none = posed[:0].clone().requires_grad_()
    moved = DeformationTransfer(vertices, faces, vertices, faces, method=method)(none)
    assert moved.shape == (0, len(vertices), 3)
    moved.sum().backward()
    assert none.grad is not None and none.grad.shape == none.shape
    moved = DeformationTransfer(vertices, faces[:0], vertices, faces[:0], method=method)(posed)
    if method == "least_squares":
        torch.testing.assert_close(moved, posed)  # by the second term alone
    else:
        torch.testing.assert_close(moved, vertices.expand(3, -1, -1))  # nothing to average


@pytest.mark.parametrize("method", METHODS)
def test_gradients_to_second_order(method):
    vertices, faces, posed = bent_sheet(2)
    vertices = vertices + 0.01 * torch.randn(
        vertices.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    transfer = DeformationTransfer(vertices, faces, vertices.flip(-1) * 1.1, faces, method=method)
    pose = posed[1:2].clone().requires_grad_()
    assert torch.autograd.gradcheck(transfer, (pose,))
    assert torch.autograd.gradgradcheck(transfer, (pose,), fast_mode=True)


def test_the_solver_is_a_registered_operation():
    import scipy.sparse

    system = SymmetricSystem(scipy.sparse.diags([2.0, 4.0]))
    right = torch.tensor([[2.0, 1.0], [4.0, 2.0]], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(system.solve(right), torch.tensor([[1.0, 0.5], [1.0, 0.5]]).double())
    torch.library.opcheck(_solve, (right, system.key))
    solved = system.solve(right)
    key = system.key
    del system
    solved.sum().backward()  # the graph keeps the system
    torch.testing.assert_close(right.grad, torch.tensor([[0.5, 0.5], [0.25, 0.25]]).double())
    del solved
    with pytest.raises(KeyError):
        _solve(right.detach(), key)
    with pytest.raises(ValueError, match="2 equations do not determine"):
        SymmetricSystem(scipy.sparse.csc_matrix((2, 2)))


def test_copies_and_pickles_solve_too():
    vertices, faces, posed = bent_sheet()
    transfer = DeformationTransfer(vertices, faces, vertices, faces)
    for other in (copy.deepcopy(transfer), pickle.loads(pickle.dumps(transfer))):
        torch.testing.assert_close(other(posed), posed, atol=1e-12, rtol=0)


def test_pose_gradients_are_what_they_say():
    vertices, faces, _ = bent_sheet()
    linear = torch.tensor([[1.5, 0.2, 0.0], [0.1, 0.9, 0.3], [0.0, -0.2, 1.1]]).double()
    gradients = pose_gradients(vertices @ linear.T + 1.0, vertices, faces)
    edges = vertices[faces[:, 1]] - vertices[faces[:, 0]]
    torch.testing.assert_close((gradients @ edges[..., None])[..., 0], edges @ linear.T)
    turned = pose_gradients(vertices @ rotation(1).T, vertices, faces)
    torch.testing.assert_close(turned, rotation(1).expand_as(turned))


def test_errors_name_the_argument(unchecked):
    vertices, faces, posed = bent_sheet()
    make = DeformationTransfer
    with pytest.raises(ValueError, match=r"different topology.*pass a correspondence"):
        make(vertices, faces, vertices[:-1], faces[:4])
    with pytest.raises(ValueError, match=r"target_faces holds 0 to 24, but there are 3 vertices"):
        make(vertices, faces, vertices[:3], faces)
    with pytest.raises(TypeError, match=r"source_neutral has dtype torch\.int64"):
        make(vertices.long(), faces, vertices, faces)
    with pytest.raises(ValueError, match="method is 'best'"):
        make(vertices, faces, vertices, faces, method="best")
    with pytest.raises(ValueError, match="position_weight is 0"):
        make(vertices, faces, vertices, faces, position_weight=0)
    wrong = Correspondence.same(faces[:2], 5)
    with pytest.raises(ValueError, match="correspondence is for 2 faces and 5 vertices; the target has 32 and 25"):
        make(vertices, faces, vertices, faces, wrong)
    with pytest.raises(ValueError, match=r"posed has shape \(25, 3\); expected \(B, 25, 3\)"):
        make(vertices, faces, vertices, faces)(vertices)
    with pytest.raises(ValueError, match="hold the same V vertices"):
        pose_gradients(posed, vertices[:-1], faces)
