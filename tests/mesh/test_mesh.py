"""The mesh record, its files, and distances to it."""

import json
import struct

import numpy as np
import pytest
import torch

from headfields.mesh import Mesh, extract, load_mesh, save_mesh
from headfields.mesh.distances import SurfaceTree
from tests.ops.test_marching_cubes import BOX
from tests.tables import table

NONE = torch.zeros(0, 3, dtype=torch.long)


def ball(radius: float = 0.7, resolution: int = 24, **options) -> Mesh:
    return extract(
        lambda points: points.norm(dim=-1) - radius, BOX, resolution, colors=lambda points, normals: 0.5 + normals / 2,
        progress=False, **options,
    )  # fmt: skip


def test_normals():
    mesh = ball()
    outward = torch.nn.functional.normalize(mesh.vertices, dim=-1)
    torch.testing.assert_close(mesh.normals, outward, atol=1e-5, rtol=0)
    assert (mesh.vertex_normals() * outward).sum(-1).min() > 0.95
    assert mesh.replace(normals=None).with_normals().normals.equal(mesh.vertex_normals())
    flat = Mesh(torch.zeros(3, 3, requires_grad=True), torch.tensor([[0, 1, 2]]))
    (gradient,) = torch.autograd.grad(flat.vertex_normals().sum() + flat.face_normals().sum(), flat.vertices)
    assert gradient.eq(0).all()


def test_normals_gradcheck():
    vertices = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    faces = torch.tensor([[0, 1, 2], [2, 1, 3]])
    assert torch.autograd.gradcheck(lambda v: Mesh(v, faces).vertex_normals(), (vertices,))
    assert torch.autograd.gradcheck(lambda v: Mesh(v, faces).face_normals(), (vertices,))


def test_pieces():
    one, other = ball(0.5), ball(0.2)
    both = Mesh(
        torch.cat([other.vertices, one.vertices]), torch.cat([other.faces, one.faces + len(other.vertices)]),
        torch.cat([other.colors, one.colors]), torch.cat([other.normals, one.normals]),
    )  # fmt: skip
    piece = both.components()
    assert (piece[: len(other.faces)] == 1).all() and (piece[len(other.faces) :] == 0).all()
    largest = both.largest_component()
    for name in ("vertices", "faces", "colors", "normals"):
        assert getattr(largest, name).equal(getattr(one, name))
    empty = Mesh(torch.zeros(0, 3), NONE)
    assert len(empty.largest_component().faces) == 0 and empty.components().shape == (0,)


def test_sample_is_even_and_seeded():
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [3, 3, 3]])
    square = Mesh(torch.tensor([[0.0, 0, 0], [3, 0, 0], [3, 1, 0], [0, 1, 0]]), faces)
    drawn = square.sample(20_000, seed=4)
    assert drawn.points.equal(square.sample(20_000, seed=4).points)
    assert not drawn.points.equal(square.sample(20_000, seed=5).points)
    torch.testing.assert_close(drawn.points.mean(0), torch.tensor([1.5, 0.5, 0.0]), atol=0.03, rtol=0)
    third = (drawn.points[:, 0] < 1).float().mean()
    assert abs(float(third) - 1 / 3) < 0.01 and (drawn.face < 2).all()
    torch.testing.assert_close(drawn.normals, torch.tensor([[0.0, 0, 1]]).expand(20_000, 3))
    rebuilt = (drawn.barycentric[..., None] * square.vertices[square.faces[drawn.face]]).sum(1)
    torch.testing.assert_close(rebuilt, drawn.points)
    assert len(square.sample(0).points) == 0
    with pytest.raises(ValueError, match=r"Mesh\.sample: the 0 faces have no area"):
        Mesh(square.vertices, NONE).sample(1)


@table("points", [False, True])
@table("ending", ["ply", "obj", "glb"])
@table("what", ["all", "bare"])
def test_files(tmp_path, ending, points, what):
    mesh = ball(resolution=12)
    if points:
        mesh = mesh.replace(faces=NONE)
    if what == "bare":
        mesh = mesh.replace(colors=None, normals=None)
    path = save_mesh(tmp_path / "folder" / f"mesh.{ending}", mesh)
    read = load_mesh(path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    torch.testing.assert_close(read.vertices, mesh.vertices, atol=1e-7, rtol=0)
    assert read.faces.equal(mesh.faces)
    if what == "bare":
        assert read.colors is None and read.normals is None
    else:
        # 8 bits; trimesh rounds the linear light of points to 8 bits as well, which is coarse in the dark
        torch.testing.assert_close(read.colors, mesh.colors, atol=0.03 if points and ending == "glb" else 0.003, rtol=0)
        if ending == "ply" or not points:
            torch.testing.assert_close(read.normals, mesh.normals, atol=1e-5, rtol=0)


def test_gltf_is_what_the_format_says(tmp_path):
    mesh = ball(resolution=8)
    data = save_mesh(tmp_path / "mesh.glb", mesh).read_bytes()
    magic, version, length, size, kind = struct.unpack("<4sIII4s", data[:20])
    assert (magic, version, length, kind) == (b"glTF", 2, len(data), b"JSON") and size % 4 == 0
    document = json.loads(data[20 : 20 + size])
    binary = data[28 + size :]
    assert len(binary) == document["buffers"][0]["byteLength"]
    attributes = document["meshes"][0]["primitives"][0]["attributes"]
    accessor = document["accessors"][attributes["POSITION"]]
    assert accessor["min"] == mesh.vertices.amin(0).tolist() and accessor["count"] == len(mesh.vertices)
    view = document["bufferViews"][document["accessors"][attributes["COLOR_0"]]["bufferView"]]
    light = np.frombuffer(binary[view["byteOffset"] :][: view["byteLength"]], "<f4").reshape(-1, 3)
    np.testing.assert_allclose(light, ((mesh.colors.numpy() + 0.055) / 1.055) ** 2.4, atol=0.02)


def test_scenes_and_placements_are_joined(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    scene = trimesh.Scene()
    box = trimesh.creation.box()
    scene.add_geometry(box, transform=trimesh.transformations.translation_matrix([2, 0, 0]))
    scene.add_geometry(box, transform=np.diag([-1.0, 1, 1, 1]))
    scene.export(tmp_path / "scene.glb")
    mesh = load_mesh(tmp_path / "scene.glb")
    assert len(mesh.faces) == 24 and float(mesh.vertices[:, 0].max()) == 2.5
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    assert float((a * torch.linalg.cross(b, c)).sum() / 6) == pytest.approx(2.0)  # a mirrored box is turned again


def test_file_errors(tmp_path):
    with pytest.raises(ValueError, match=r"save_mesh: mesh.stl ends in '.stl'"):
        save_mesh(tmp_path / "mesh.stl", ball(resolution=8))
    with pytest.raises(ValueError, match="save_mesh: vertex 1 is"):
        save_mesh(tmp_path / "mesh.ply", Mesh(torch.tensor([[0.0, 0, 0], [0, torch.nan, 0]]), NONE))
    with pytest.raises(ValueError, match="no vertices"):
        save_mesh(tmp_path / "mesh.glb", Mesh(torch.zeros(0, 3), NONE))
    with pytest.raises(FileNotFoundError, match="load_mesh: there is no file"):
        load_mesh(tmp_path / "mesh.ply")
    (tmp_path / "broken.ply").write_bytes(b"ply\nnonsense")
    with pytest.raises(ValueError, match=r"load_mesh: .*broken\.ply"):
        load_mesh(tmp_path / "broken.ply")
    assert not (tmp_path / "mesh.ply").exists()


def test_record_errors(unchecked):
    with pytest.raises(ValueError, match="Mesh: faces holds indices from 0 to 3, but there are 3"):
        Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 3]]))
    with pytest.raises(ValueError, match="Mesh: colors has shape"):
        Mesh(torch.zeros(3, 3), NONE, colors=torch.zeros(2, 3))
    with pytest.raises(TypeError, match="Mesh: a mesh has no rows"):
        ball(resolution=8)[0]


def test_distances_to_a_sphere():
    mesh = ball(resolution=48)
    points = torch.nn.functional.normalize(torch.randn(100, 3), dim=-1) * torch.linspace(0.2, 1.5, 100)[:, None]
    points[3] = torch.nan
    found = SurfaceTree(mesh).distances(points)
    good = torch.arange(100) != 3
    torch.testing.assert_close(found.distance[good], (points.norm(dim=-1) - 0.7).abs()[good], atol=2e-3, rtol=0)
    torch.testing.assert_close(found.offset[good].norm(dim=-1), found.distance[good])
    assert found.distance[3].isnan() and found.offset[3].isnan().all() and found.normal[3].eq(0).all()
    x = mesh.vertices[:, 0]
    torch.testing.assert_close(found.interpolate(x)[good], (points + found.offset)[good, 0], atol=1e-5, rtol=0)


def test_distances_to_points_and_gradients():
    cloud = Mesh(torch.randn(9, 3, dtype=torch.float64, requires_grad=True), NONE)
    points = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    found = SurfaceTree(cloud).distances(points)
    torch.testing.assert_close(found.distance, torch.cdist(points, cloud.vertices).amin(1))
    assert not SurfaceTree(cloud).has_normals and found.normal.eq(0).all()

    def distance(points, vertices):
        return SurfaceTree(Mesh(vertices, NONE)).distances(points).distance

    assert torch.autograd.gradcheck(distance, (points, cloud.vertices))
    assert torch.autograd.gradgradcheck(distance, (points, cloud.vertices), fast_mode=True)
    assert SurfaceTree(cloud).distances(points[:0]).distance.shape == (0,)
    with pytest.raises(ValueError, match="SurfaceTree: the surface has no vertices"):
        SurfaceTree(Mesh(torch.zeros(0, 3), NONE))
