"""Indices and offsets out of range, on every backend of the CPU: an error before anything is read."""

import pytest
import torch

import headfields as hf
from headfields.ops.antialias import mesh_edges
from headfields.ops.dispatch import checks_indices, use_cpu_backend
from headfields.ops.interpolate_rows import scatter_rows
from headfields.ops.mesh_topology import edge_neighbors
from headfields.ops.triangle_frames import deformation_gradients
from tests.backends import BACKENDS
from tests.tables import table

CPU = [backend for backend in BACKENDS if backend != BACKENDS[-1]]


@pytest.fixture(params=CPU)
def backend(request):
    with use_cpu_backend(request.param):
        yield request.param


def calls(index: int):
    """Calls that hold one index, of which 0 and 1 are legal."""
    at = torch.tensor([0, index, 1])
    table, weights, points = torch.rand(2, 3), torch.ones(3, 1), torch.rand(3, 3)
    faces = torch.tensor([[0, 1, 2], [2, 1, 3]])
    meshes = torch.rand(2, 4, 3)
    tree, cloud = hf.ops.TriangleBVH(faces, meshes), hf.ops.VertexTree(meshes)
    zeros, ring = torch.zeros(3, dtype=torch.long), torch.tensor([[0, 1], [1, 0]])
    maps, centroids = torch.rand(2, 2, 3, 4), torch.rand(2, 2, 3)
    layers = [torch.rand(4, 5), torch.rand(1, 4)]
    raster = hf.ops.UVRasterizer(faces, torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]]), faces, 4)
    blended = hf.ops.blended_map
    return {
        "skin_points": lambda: hf.ops.affine.skin_points(points, torch.ones(3, 1), torch.eye(4).repeat(2, 1, 1, 1), at),
        "mlp": lambda: hf.ops.mlp(points, layers, condition=table[:, :2], index=at),
        "mlp double": lambda: hf.ops.mlp(
            points.double(), [w.double() for w in layers], condition=table[:, :2].double(), index=at
        ),
        "mlp operation": lambda: torch.ops.headfields.mlp(points, [torch.rand(4, 3)], [torch.rand(2, 4)], at),
        "blended face": lambda: blended(points, points, at, zeros, maps, centroids, ring),
        "blended mesh": lambda: blended(points, points, zeros, at, maps, centroids, ring),
        "blended with a graph": lambda: blended(
            points.clone().requires_grad_(), points, at, zeros, maps, centroids, ring
        ),
        "sample": lambda: raster.sample(torch.rand(2, 1, 4, 4), zeros, points, at),
        "triangle_frames": lambda: torch.ops.headfields.triangle_frames(meshes[:, :2], at[None]),
        "deformation_gradients": lambda: torch.ops.headfields.deformation_gradients(
            meshes[:, :2], meshes[0, :2], at[None], "none"
        ),
        "faces of frames": lambda: hf.ops.triangle_frames(meshes[:, :2], at[None]),
        "faces of maps": lambda: deformation_gradients(meshes[:, :2], meshes[0, :2], at[None]),
        "faces of affine maps": lambda: deformation_gradients(meshes[:, :2], meshes[0, :2], at[None], "affine"),
        "faces of vertex normals": lambda: hf.ops.vertex_normals(meshes[:, :2], at[None]),
        "faces of face normals": lambda: hf.ops.face_normals(meshes[:, :2], at[None]),
        "faces of areas": lambda: hf.ops.vertex_geometry.triangle_areas(meshes[:, :2], at[None]),
        "faces of vertices": lambda: hf.ops.vertex_geometry.vertex_areas(meshes[0, :2], at[None]),
        "closest": lambda: tree.closest(points, at),
        "raycast": lambda: tree.raycast(points, points, at),
        "interval": lambda: tree.interval(points, points, 0.1, at),
        "nearest": lambda: cloud.nearest(points, 1, at),
        "interpolate_rows": lambda: hf.ops.interpolate_rows(table, at[:, None], weights),
        "scatter_rows": lambda: scatter_rows(points, at[:, None], weights, 2),
        "dot_rows": lambda: torch.ops.headfields.dot_rows(table, at[:, None], points),
    }


@pytest.mark.parametrize("index", [-1, 2, 2**31 - 1, 2**32, 2**32 + 1, -(2**32)])  # kernels of trees see 32 bits
def test_an_index_out_of_range_is_an_error(backend, index):
    for call in calls(1).values():
        call()
    for name, call in calls(index).items():
        if index < 0 and name in ("interpolate_rows", "scatter_rows", "dot_rows"):
            call()  # left out
            continue
        with pytest.raises(IndexError):
            call()
            pytest.fail(name)


def test_vertices_without_an_end_are_an_error():
    for bad in (-1, 2**31, 2**62):
        faces = torch.tensor([[0, 1, 2], [2, 1, bad]])
        for call in (edge_neighbors, mesh_edges):
            with pytest.raises(IndexError, match=f"faces holds {bad}"):
                call(faces)
        with pytest.raises(ValueError, match="UVRasterizer: faces"):
            hf.ops.UVRasterizer(faces, torch.rand(4, 2), torch.tensor([[0, 1, 2], [2, 1, 3]]), 4)


def test_faces_of_another_kind_are_an_error(backend, unchecked):
    vertices = torch.rand(4, 3)
    for call in (hf.ops.triangle_frames, lambda v, f: deformation_gradients(v, v, f),
    hf.ops.vertex_geometry.triangle_areas,
                 hf.ops.vertex_geometry.vertex_areas, hf.ops.vertex_normals, hf.ops.face_normals):  # fmt: skip
        for faces in (torch.rand(2, 3), torch.ones(2, 3, dtype=torch.bool), [[0, 1, 2]]):
            with pytest.raises(TypeError, match=r"faces (is a list|has dtype)"):
                call(vertices, faces)
        for faces in (torch.tensor([0, 1, 2]), torch.zeros(1, 2, 3, dtype=torch.long),
                      torch.zeros(2, 3, dtype=torch.long, device="meta")):  # fmt: skip
            with pytest.raises(ValueError, match="faces"):
                call(vertices, faces)


def test_one_row_of_transforms_has_one_index():
    with pytest.raises(IndexError, match="frame"):
        hf.ops.affine.skin_points(torch.rand(1, 3), torch.ones(1, 1), torch.eye(4)[None, None], torch.tensor([7]))


def test_a_map_of_one_frame_has_one_index():
    faces = torch.tensor([[0, 1, 2]])
    raster = hf.ops.UVRasterizer(faces, torch.tensor([[0.0, 0], [1, 0], [0, 1]]), faces, 4)
    for bad in (-1, 1):
        with pytest.raises(IndexError, match=f"frame holds {bad}"):
            raster.sample(torch.rand(1, 1, 4, 4), torch.tensor([0]), torch.ones(1, 3) / 3, torch.tensor([bad]))


def test_a_ring_out_of_range_is_an_error(backend):
    points, zeros = torch.rand(2, 3), torch.zeros(2, dtype=torch.long)
    for x in (points, points.clone().requires_grad_()):
        with pytest.raises(IndexError, match="ring"):
            hf.ops.blended_map(
                x, points, zeros, zeros, torch.rand(1, 1, 3, 4), torch.rand(1, 1, 3), torch.tensor([[0, 5]])
            )


@table("offsets", [[0, 5, 3], [0, 2, 4], [1, 2, 3], [-1, 2, 3], [0, 2**40, 3], []])
def test_offsets_that_do_not_fit_are_an_error(backend, offsets):
    offsets, three = torch.tensor(offsets, dtype=torch.long), torch.rand(3)
    samples = hf.Samples(torch.tensor([0, 0, 1]), three, three + 1)
    for call in (
        lambda: hf.ops.weights_from_alpha(three, offsets=offsets),
        lambda: hf.ops.compositing.exclusive_sum(three, offsets=offsets),
        lambda: hf.ops.accumulate(three, three[:, None], offsets=offsets),
        lambda: hf.ops.inverse_cdf(three, samples, 2, offsets=offsets),
    ):
        with pytest.raises((ValueError, RuntimeError)):
            call()


def test_offsets_of_other_rays_are_an_error(backend, unchecked):
    weights, samples = torch.rand(3), hf.Samples(torch.tensor([0, 0, 1]), torch.rand(3), 1 + torch.rand(3))
    with pytest.raises(ValueError, match=r"composite: offsets has shape \(3,\); expected \(6,\) of 5 rays"):
        hf.ops.composite(weights, torch.rand(3, 3), samples, 5, offsets=torch.tensor([0, 2, 3]))
    with pytest.raises(ValueError, match=r"accumulate: offsets has shape \(0,\)"):
        hf.ops.accumulate(weights, offsets=torch.zeros(0, dtype=torch.long))
    with pytest.raises(TypeError, match="accumulate: ray is a list"):
        hf.ops.accumulate(weights, ray=[0, 0, 1], rays=2)


def test_offsets_may_be_strided(backend):
    offsets, weights = torch.tensor([[0, 7], [2, 7], [3, 7]])[:, 0], torch.rand(3)
    dense = offsets.contiguous()
    samples = hf.Samples(torch.tensor([0, 0, 1]), torch.rand(3), 1 + torch.rand(3))
    for call in (
        lambda o: hf.ops.compositing.exclusive_sum(weights, offsets=o),
        lambda o: hf.ops.weights_from_alpha(weights, offsets=o),
        lambda o: hf.ops.weights_from_density(weights, samples.start, samples.end, offsets=o),
        lambda o: hf.ops.composite(weights, torch.ones(3, 3), samples, 2, offsets=o)[2],
        lambda o: hf.ops.inverse_cdf(weights, samples, 2, jitter=False, offsets=o).start,
    ):
        assert call(offsets).equal(call(dense))


def test_int32_indices_are_as_good(backend):
    points, face = torch.rand(2, 3), torch.zeros(2, dtype=torch.int32)
    ring = torch.tensor([[0, -1]], dtype=torch.int32)
    maps, centroids = torch.rand(1, 1, 3, 4), torch.rand(1, 1, 3)
    for x in (points, points.clone().requires_grad_()):
        result = hf.ops.blended_map(x, points, face, face, maps, centroids, ring)
        expected = hf.ops.blended_map(x, points, face.long(), face.long(), maps, centroids, ring.long())
        torch.testing.assert_close(result, expected, rtol=0, atol=0)
    offsets, three = torch.tensor([0, 1, 3], dtype=torch.int32), torch.rand(3)
    samples = hf.Samples(torch.tensor([0, 1, 1]), three, three + 1)
    assert hf.ops.weights_from_alpha(three, offsets=offsets).equal(
        hf.ops.weights_from_alpha(three, offsets=offsets.long())
    )
    assert len(hf.ops.inverse_cdf(three, samples, 2, jitter=False, offsets=offsets)) == 4


def test_indices_on_other_devices_are_not_waited_for(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.delenv("HEADFIELDS_CHECK_INDICES", raising=False)
    assert not checks_indices(cuda)
    monkeypatch.setenv("HEADFIELDS_CHECK_INDICES", "1")
    assert checks_indices(cuda)
