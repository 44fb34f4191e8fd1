"""Meshes of trimesh and Open3D, both ways."""

import io

import pytest
import torch

import headfields as hf
from tests.interop.conftest import sampled


def test_split_at_seams(quad):
    split = hf.mesh.split_at_seams(quad)
    assert split.vertex.tolist() == [0, 1, 2, 3, 1, 2]  # the mesh's own first, in order
    assert torch.equal(quad.vertices[split.vertex][split.faces], quad.vertices[quad.faces])
    assert torch.equal(split.uv[split.faces], quad.uv[quad.uv_faces])
    loose = hf.Mesh(
        torch.rand(3, 3),
        torch.zeros(0, 3, dtype=torch.long),
        uv=torch.rand(2, 2),
        uv_faces=torch.zeros(0, 3, dtype=torch.long),
    )
    assert hf.mesh.split_at_seams(loose).uv.tolist() == [[0.0, 0.0]] * 3
    with pytest.raises(ValueError, match="no texture coordinates"):
        hf.mesh.split_at_seams(quad.replace(uv=None, uv_faces=None))
    with pytest.raises(ValueError, match="0 to 5, but there are 4"):
        hf.mesh.split_at_seams(quad.replace(uv=quad.uv[:4]))


def test_trimesh_keeps_shape_normals_and_texture(quad):
    made = hf.interop.trimesh.to_mesh(quad)
    assert len(made.vertices) == 6 and made.visual.kind == "texture"
    back = hf.interop.trimesh.from_mesh(made)
    assert torch.equal(back.vertices[back.faces], quad.vertices[quad.faces])
    assert torch.allclose(back.normals[:4], quad.normals) and torch.allclose(sampled(back), sampled(quad))


def test_trimesh_reads_what_it_wrote_itself(quad):
    """The texture is on the same place in a file that trimesh writes of it (v is down in glTF)."""
    import trimesh

    file = io.BytesIO(hf.interop.trimesh.to_mesh(quad).export(file_type="glb"))
    scene = trimesh.load_scene(file, file_type="glb")
    back = hf.interop.trimesh.from_mesh(next(iter(scene.geometry.values())))
    assert torch.allclose(sampled(back), sampled(quad), atol=1e-6)


def test_trimesh_colors_points_and_refusals(quad):
    colored = quad.replace(uv=None, uv_faces=None, texture=None, colors=torch.rand(4, 3))
    back = hf.interop.trimesh.from_mesh(hf.interop.trimesh.to_mesh(colored))
    assert back.uv is None and (back.colors - colored.colors).abs().max() < 0.51 / 255
    cloud = hf.Mesh(torch.rand(5, 3), torch.zeros(0, 3, dtype=torch.long), colors=torch.rand(5, 3))
    made = hf.interop.trimesh.to_mesh(cloud)
    assert type(made).__name__ == "PointCloud"
    assert (hf.interop.trimesh.from_mesh(made).colors - cloud.colors).abs().max() < 0.51 / 255
    with pytest.raises(TypeError, match=r"mesh is str; expected trimesh\.Trimesh"):
        hf.interop.trimesh.from_mesh("head.obj")
    empty = hf.Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long))
    assert len(hf.interop.trimesh.from_mesh(hf.interop.trimesh.to_mesh(empty)).vertices) == 0


def test_open3d_meshes(open3d, quad):
    made = hf.interop.open3d.to_mesh(quad.replace(colors=torch.rand(4, 3)))
    back = hf.interop.open3d.from_mesh(made)
    assert torch.equal(back.faces, quad.faces) and torch.allclose(back.vertices, quad.vertices)
    assert torch.allclose(back.normals, quad.normals) and torch.allclose(sampled(back), sampled(quad))
    cloud = hf.Mesh(torch.rand(5, 3), torch.zeros(0, 3, dtype=torch.long), colors=torch.rand(5, 3))
    again = hf.interop.open3d.from_mesh(hf.interop.open3d.to_mesh(cloud))
    assert torch.allclose(again.colors, cloud.colors) and not len(again.faces)
    with pytest.raises(TypeError, match="to_legacy"):
        hf.interop.open3d.from_mesh(open3d.t.geometry.TriangleMesh.from_legacy(made))
    made.textures = [made.textures[0], made.textures[0]]
    with pytest.raises(ValueError, match="2 textures"):
        hf.interop.open3d.from_mesh(made)


def test_open3d_rays_pass_our_pixels(open3d):
    camera = hf.Camera.orbit((0, 0, 0), 1.2, yaw=30, pitch=20, size=(20, 30), focal=50)
    camera = camera.replace(intrinsics=camera.intrinsics + torch.tensor([[0.0, 0, 2.5], [0, 3, -1], [0, 0, 0]]))
    made = hf.interop.open3d.to_camera(camera)
    rays = open3d.t.geometry.RaycastingScene.create_rays_pinhole(
        made.intrinsic.intrinsic_matrix, made.extrinsic, 30, 20
    ).numpy()
    directions = torch.nn.functional.normalize(torch.from_numpy(rays[..., 3:]).reshape(-1, 3), dim=-1)
    assert torch.allclose(directions, camera.rays().directions, atol=1e-5)
    # a depth map with a single value at pixel (row 7, column 11): its point is on the ray of that pixel's center
    depth = torch.zeros(20, 30)
    depth[7, 11] = 1.0
    integer = hf.interop.open3d.to_camera(camera, "integer")
    cloud = open3d.geometry.PointCloud.create_from_depth_image(
        open3d.geometry.Image(depth.numpy()), integer.intrinsic, integer.extrinsic, depth_scale=1.0
    )
    pixel = camera.project(hf.interop.open3d.from_mesh(cloud).vertices)[0]
    assert torch.allclose(pixel, torch.tensor([[11.5, 7.5]]), atol=1e-3)
    for centers in ("half", "integer"):
        back = hf.interop.open3d.from_camera(hf.interop.open3d.to_camera(camera, centers), centers)
        assert torch.allclose(back.intrinsics, camera.intrinsics) and back.size == camera.size
