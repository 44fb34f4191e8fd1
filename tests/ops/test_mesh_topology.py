"""Edges, neighbors, components and the Laplacian of small meshes, against what they are defined to be."""

import numpy as np
import torch

from headfields.ops.mesh_topology import (
    directed_edges,
    edge_neighbors,
    edges_as_arrays,
    face_neighbors,
    uniform_laplacian,
    unique_edges,
    vertex_components,
)

TETRAHEDRON = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])


def test_edges_of_faces_are_listed_once() -> None:
    ends, edge = unique_edges(TETRAHEDRON)
    assert ends.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert torch.equal(ends[edge], directed_edges(TETRAHEDRON).sort(dim=-1).values)
    assert np.array_equal(edges_as_arrays(TETRAHEDRON.int().numpy()[:, ::-1])[0], ends.numpy())
    none, nowhere = unique_edges(TETRAHEDRON[:0])
    assert none.shape == (0, 2) and nowhere.shape == (0, 3)


def test_edges_are_those_of_pairs_made_unique() -> None:
    faces = torch.randint(0, 50, (300, 3), generator=torch.Generator().manual_seed(0))
    pairs = directed_edges(faces).reshape(-1, 2).sort(dim=-1).values
    ends, edge = pairs.unique(dim=0, return_inverse=True)
    assert torch.equal(unique_edges(faces)[0], ends) and torch.equal(unique_edges(faces)[1], edge.reshape(-1, 3))


def test_components_are_numbered_by_their_lowest_vertex() -> None:
    faces = torch.tensor([[5, 6, 4], [0, 3, 2]])
    assert vertex_components(faces, 7).tolist() == [0, 1, 0, 0, 2, 2, 2]  # vertex 1 is alone


def test_laplacian_counts_neighbors() -> None:
    laplacian = uniform_laplacian(TETRAHEDRON, 5).toarray()
    assert (laplacian[:4, :4] == 4 * torch.eye(4).numpy() - 1).all() and not laplacian[4].any()
    merged = uniform_laplacian(torch.tensor([[0, 0, 1]]), 2).toarray()
    assert merged.tolist() == [[1, -1], [-1, 1]]


def test_neighbors_share_the_edge_and_boundaries_have_none() -> None:
    neighbors = edge_neighbors(TETRAHEDRON)
    for face in range(4):
        for edge in range(3):
            other = int(neighbors[face, edge])
            ends = {int(TETRAHEDRON[face, edge]), int(TETRAHEDRON[face, (edge + 1) % 3])}
            assert other != face and ends <= set(TETRAHEDRON[other].tolist())
    assert edge_neighbors(TETRAHEDRON[:0]).shape == (0, 3)
    assert edge_neighbors(TETRAHEDRON[:1]).tolist() == [[-1, -1, -1]]


def test_face_neighbors_share_an_edge() -> None:
    one, other = face_neighbors(torch.tensor([[0, 1, 2], [2, 1, 3], [3, 4, 5]]))
    assert sorted(zip(one.tolist(), other.tolist(), strict=True)) == [(0, 1), (1, 0)]


def test_a_degenerate_face_is_not_its_own_neighbor():
    faces = torch.tensor([[0, 0, 1], [1, 0, 2], [2, 3, 2], [4, 4, 4]])
    neighbors = edge_neighbors(faces)
    assert (neighbors != torch.arange(4)[:, None]).all()
    assert neighbors.tolist() == [[-1, 1, -1], [0, -1, -1], [-1, -1, -1], [-1, -1, -1]]
