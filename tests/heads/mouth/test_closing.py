from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headfields.heads.mouth.border import mouth_loop
from headfields.heads.mouth.closing import close_mouth
from headfields.ops.mesh_topology import boundary_loops


def tube(rows, around):
    """An open cylinder, counter-clockwise from outside."""
    index = torch.arange(rows * around).reshape(rows, around)
    after = index.roll(-1, 1)
    a, b, c, d = index[:-1], after[:-1], after[1:], index[1:]
    faces = torch.cat([torch.stack([a, b, c], -1).reshape(-1, 3), torch.stack([a, c, d], -1).reshape(-1, 3)])
    angle = torch.arange(around) * 2 * torch.pi / around
    points = torch.stack(
        [angle.cos().expand(rows, -1), torch.arange(rows)[:, None].expand(-1, around), -angle.sin().expand(rows, -1)],
        -1,
    )
    return points.reshape(-1, 3).float(), faces


def assert_manifold(faces):
    directed = Counter(edge for a, b, c in faces.tolist() for edge in ((a, b), (b, c), (c, a)))
    assert max(directed.values()) == 1, "an edge is used twice in one direction"


@given(st.integers(3, 20), st.booleans())
def test_closing_gives_l_minus_2_consistent_faces(around, positions):
    points, faces = tube(3, around)
    loops = boundary_loops(faces)
    assert [len(loop) for loop in loops] == [around, around]
    closed, new = close_mouth(faces, loops[0], points if positions else None)
    assert int(new.sum()) == around - 2 and torch.equal(closed[: len(faces)], faces)
    assert_manifold(closed)
    rest = boundary_loops(closed)
    assert len(rest) == 1 and torch.equal(rest[0], loops[1])


def test_a_tetrahedron_has_no_border_and_a_triangle_has_one():
    tetrahedron = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])
    assert boundary_loops(tetrahedron) == []
    assert [loop.tolist() for loop in boundary_loops(torch.tensor([[4, 7, 5]]))] == [[4, 7, 5]]
    assert boundary_loops(torch.zeros(0, 3, dtype=torch.int64)) == []


def test_borders_that_touch_in_a_vertex_are_borders_of_their_own():
    two_triangles = torch.tensor([[0, 1, 2], [0, 3, 4]])
    assert [loop.tolist() for loop in boundary_loops(two_triangles)] == [[0, 1, 2], [0, 3, 4]]
    row, column = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    corner = 5 * row + column  # a grid of 4 x 4 squares, without the two that share vertex 12 alone
    corner = corner[(row != column) | (row == 0) | (row == 3)]
    squares = torch.stack([corner, corner + 1, corner + 6, corner + 5], dim=1)
    outer, *holes = (
        loop.tolist() for loop in boundary_loops(torch.cat([squares[:, [0, 1, 2]], squares[:, [0, 2, 3]]]))
    )
    assert len(outer) == 16 and holes == [[6, 11, 12, 7], [12, 17, 18, 13]]


def test_bad_topology_is_named():
    with pytest.raises(ValueError, match=r"directed edge \(0, 1\)"):
        boundary_loops(torch.tensor([[0, 1, 2], [0, 1, 3]]))
    _, faces = tube(3, 6)
    with pytest.raises(ValueError, match="not an open border"):
        close_mouth(faces, torch.arange(6, 12))
    with pytest.raises(ValueError, match="pass loop"):
        close_mouth(faces)


def test_the_mouth_is_found_with_weights_and_without(head):
    by_weights = mouth_loop(head.faces, head.template_vertices, head.weights[:, 2])
    by_place = mouth_loop(head.faces, head.template_vertices)
    assert torch.equal(by_weights, by_place) and len(by_weights) == 48
    at = head.template_vertices[by_weights]
    assert (at[:, 1] + 0.068).abs().max() < 0.01 and at[:, 2].min() > 0.06
    closed, new = close_mouth(head.faces, vertices=head.template_vertices)
    assert int(new.sum()) == 46
    assert_manifold(closed)
    with pytest.raises(ValueError, match="pass loop"):
        mouth_loop(closed, head.template_vertices, head.weights[:, 2])


def test_a_chord_that_the_mesh_has_is_not_used_again():
    # the diagonal 0-2 of a square hole is an edge of a tetrahedron that hangs behind it
    points, faces = tube(3, 4)
    points = torch.cat([points, torch.tensor([[0.0, -3, 0.1], [0.0, -3, -0.1]])])
    behind = torch.tensor([[0, 2, 12], [2, 0, 13], [0, 12, 13], [2, 13, 12]])
    faces = torch.cat([faces, behind])
    closed, new = close_mouth(faces, torch.tensor([0, 1, 2, 3]), points)
    assert int(new.sum()) == 2
    edges = Counter(frozenset(edge) for a, b, c in closed.tolist() for edge in ((a, b), (b, c), (c, a)))
    assert max(edges.values()) <= 2
    assert_manifold(closed)
