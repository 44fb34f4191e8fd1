"""kaolin's objects, both ways, against kaolin itself; skipped without it."""

import pytest
import torch

import headfields as hf
from tests.interop.conftest import sampled
from tests.interop.test_cameras import SIZE, project, tilted

pytestmark = pytest.mark.usefixtures("kaolin")
adapter = hf.interop.kaolin


@pytest.fixture(scope="module")
def points() -> torch.Tensor:
    return 0.15 * torch.randn(400, 3, generator=torch.Generator().manual_seed(0))


def pixels_of(camera, points):
    """Pixels (C, N, 2) by kaolin's projection: normalized device coordinates, y up."""
    ndc = camera.transform(points).reshape(len(camera), -1, 3)
    return torch.stack([(ndc[..., 0] + 1) * camera.width / 2, (1 - ndc[..., 1]) * camera.height / 2], dim=-1)


@pytest.mark.parametrize("up", [(0.0, 1.0, 0.0), (0.0, -1.0, 0.0)])
def test_pixels_agree(points, up):
    """Worlds with y up and y down, cameras with an off-center principal point, several at once."""
    eye = torch.tensor([[0.3, 0.2, 1.2], [-0.9, 0.1, 0.7], [0.2, -0.6, 1.0]])
    camera = hf.Camera.look_at(eye, torch.zeros_like(eye), up, size=SIZE, focal=80)
    camera = camera.replace(intrinsics=tilted(3, torch.float32).intrinsics)
    ours = project(camera, points)
    theirs = adapter.to_camera(camera)
    assert (pixels_of(theirs, points) - ours).abs().max() < 1e-3
    back = adapter.from_camera(theirs)
    assert back.size == camera.size and (project(back, points) - ours).abs().max() < 1e-3


def test_cameras_of_kaolin(kaolin, points):
    theirs = kaolin.render.camera.Camera.from_args(
        eye=torch.tensor([0.4, 0.3, 1.0]), at=torch.zeros(3), up=torch.tensor([0.0, 1.0, 0.0]), fov=0.6, width=60,
        height=40, x0=3.0, y0=-2.0,
    )  # fmt: skip
    ours = adapter.from_camera(theirs)
    assert (project(ours, points) - pixels_of(theirs, points)).abs().max() < 1e-3
    origins, directions = theirs.generate_rays()  # and its rays pass our pixels' centers
    expected = ours[0].rays()
    middle = 20 * 60 + 30
    assert torch.allclose(origins[middle], expected.origins[middle], atol=1e-5)
    principal = theirs.intrinsics.params[0, :2].abs().max()
    assert principal > 0 and (directions * expected.directions).sum(-1).min() > 0.99999
    theirs.change_coordinate_system(kaolin.render.camera.blender_coords())
    assert (project(adapter.from_camera(theirs), points) - pixels_of(theirs, points)).abs().max() < 1e-3
    flat = kaolin.render.camera.Camera.from_args(
        eye=torch.tensor([0.4, 0.3, 1.0]), at=torch.zeros(3), up=torch.tensor([0.0, 1.0, 0.0]), fov_distance=1.0,
        width=60, height=40,
    )  # fmt: skip
    with pytest.raises(TypeError, match="with a pinhole"):
        adapter.from_camera(flat)


def test_gsplat_cameras_agree_with_kaolins_own_conversion(kaolin, points):
    camera = hf.Camera.orbit((0, 0, 0), 1.2, yaw=torch.tensor([0, 40]), size=SIZE, focal=80)
    views, lens, width, height = hf.interop.to_gsplat(camera)
    theirs = kaolin.render.camera.gsplat_nerfstudio_camera_to_kaolin(lens, views, width, height)
    assert (project(adapter.from_camera(theirs), points) - project(camera, points)).abs().max() < 1e-3


def test_meshes(quad, tmp_path):
    made = adapter.to_mesh(quad)
    assert made.check_sanity() and made.materials[0].diffuse_texture.shape == (3, 6, 8)
    back = adapter.from_mesh(made)
    for name in ("vertices", "faces", "uv_faces", "normals", "texture"):
        assert torch.equal(getattr(back, name), getattr(quad, name)), name
    assert torch.allclose(back.uv, quad.uv) and torch.allclose(sampled(back), sampled(quad))
    colored = quad.replace(uv=None, uv_faces=None, texture=None, colors=torch.rand(4, 3))
    assert torch.equal(adapter.from_mesh(adapter.to_mesh(colored)).colors, colored.colors)


def test_polygons_and_materials(kaolin):
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    normals = torch.tensor([[0.0, 0, 1]]).expand(1, 3)
    quads = kaolin.rep.SurfaceMesh(
        vertices, torch.tensor([[0, 1, 2, 3]]), normals=normals, face_normals_idx=torch.zeros(1, 4, dtype=torch.long)
    )
    mesh = adapter.from_mesh(quads)
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3]] and torch.allclose(mesh.normals, normals.expand(4, 3))
    material = kaolin.render.materials.PBRMaterial
    plain = [material(diffuse_color=(1.0, 0, 0)), material(diffuse_color=(0.0, 0, 1))]
    triangles = kaolin.rep.SurfaceMesh(
        vertices, torch.tensor([[0, 1, 2], [0, 2, 3]]), materials=plain,
        material_assignments=torch.tensor([0, 1], dtype=torch.short),
    )  # fmt: skip
    assert adapter.from_mesh(triangles).colors.tolist() == [[0.5, 0, 0.5], [1, 0, 0], [0.5, 0, 0.5], [0, 0, 1]]
    image = torch.rand(3, 4, 4)
    triangles.materials = [material(diffuse_texture=image), material(diffuse_texture=image)]
    with pytest.raises(ValueError, match="2 textures"):
        adapter.from_mesh(triangles)
    batch = kaolin.rep.SurfaceMesh(vertices.expand(2, 4, 3), torch.tensor([[0, 1, 2]]))
    with pytest.raises(ValueError, match="batch of 2"):
        adapter.from_mesh(batch)
    with pytest.raises(TypeError, match="mesh is Mesh"):
        adapter.from_mesh(hf.Mesh(vertices, torch.tensor([[0, 1, 2]])))


def test_importers_of_files(kaolin, quad, tmp_path):
    pytest.importorskip("pxr", reason="usd-core is not installed")
    made = adapter.to_mesh(quad)
    kaolin.io.usd.export_mesh(
        str(tmp_path / "quad.usda"), vertices=made.vertices, faces=made.faces, uvs=made.uvs,
        face_uvs_idx=made.face_uvs_idx, materials=made.materials, material_assignments=made.material_assignments,
    )  # fmt: skip
    hf.mesh.save_mesh(tmp_path / "quad.obj", quad)
    (tmp_path / "quad.glb").write_bytes(hf.interop.trimesh.to_mesh(quad).export(file_type="glb"))
    for name in ("quad.obj", "quad.glb", "quad.usda"):
        mesh = adapter.import_mesh(tmp_path / name, scale=2.0)
        assert torch.allclose(mesh.vertices[mesh.faces], 2 * quad.vertices[quad.faces], atol=1e-6), name
        assert mesh.texture is not None and torch.allclose(sampled(mesh), sampled(quad), atol=1e-5), name
    with pytest.raises(FileNotFoundError, match="no file"):
        adapter.import_mesh(tmp_path / "none.obj")
    (tmp_path / "bad.glb").write_bytes(b"glTF")
    with pytest.raises(ValueError, match="kaolin cannot read"):
        adapter.import_mesh(tmp_path / "bad.glb")
    with pytest.raises(ValueError, match="scale is 0"):
        adapter.import_mesh(tmp_path / "quad.obj", scale=0)


def test_gaussians(kaolin):
    splats = hf.Splats(
        torch.randn(6, 3), torch.randn(6, 4), torch.rand(6, 3), torch.rand(6), harmonics=torch.randn(6, 9, 3)
    )
    model = adapter.to_splats(splats)
    assert model.check_sanity() and model.sh_degree == 2
    back = adapter.from_splats(model)
    assert torch.equal(back.means, splats.means) and torch.equal(back.harmonics, splats.harmonics)
    assert torch.equal(back.opacities, splats.opacities) and torch.equal(back.scales, splats.scales)
    unit = torch.nn.functional.normalize(splats.quaternions, dim=-1)
    assert torch.allclose(back.quaternions, unit)
    plain = hf.Splats(splats.means, unit, splats.scales, splats.opacities, colors=torch.rand(6, 3))
    shown = hf.Camera.look_at((0, 0, 8), (0, 0, 0), size=(16, 16), fov=40)
    renderer, again = hf.renderers.SplatRenderer(), adapter.from_splats(adapter.to_splats(plain))
    images = [renderer(each.map(lambda t: t[None]), shown, torch.zeros(3)).rgb for each in (plain, again)]
    assert images[0].std() > 0.05 and torch.allclose(images[0], images[1], atol=1e-5)
    model.transform = torch.tensor([[2.0, 0, 0, 1], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
    moved = adapter.from_splats(model)
    assert torch.allclose(moved.means, 2 * splats.means + torch.tensor([1.0, 0, 0]), atol=1e-5)
    assert torch.allclose(moved.scales, 2 * splats.scales, rtol=1e-4)
    with pytest.raises(ValueError, match="one frame"):
        adapter.to_splats(splats.map(lambda tensor: tensor.expand(2, *tensor.shape)))
    with pytest.raises(TypeError, match="model is Splats"):
        adapter.from_splats(splats)


def test_structured_point_clouds(kaolin):
    generator = torch.Generator().manual_seed(0)
    occupied = torch.rand(5, 8, 6, generator=generator) > 0.8
    box = torch.tensor([[-0.1, -0.2, -0.15], [0.1, 0.2, 0.15]])
    cells = adapter.to_spc(occupied, box)
    assert torch.equal(adapter.from_spc(cells, (5, 8, 6)), occupied)
    cube = torch.zeros(8, 8, 8, dtype=torch.bool)
    cube[:5, :, :6] = occupied
    own = kaolin.rep.Spc.from_features(cube[None, None].float(), cube[None])  # kaolin's own octree of the grid
    assert torch.equal(own.octrees, cells.spc.octrees) and torch.equal(own.lengths, cells.spc.lengths)
    assert torch.allclose(cells.box[1] - cells.box[0], torch.tensor([0.32, 0.4, 0.4]))
    assert torch.equal(adapter.from_spc(cells), cube)
    one = torch.zeros(1, 1, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match="is occupied"):
        adapter.to_spc(one, box)
    assert adapter.from_spc(adapter.to_spc(~one, box), (1, 1, 1)).all()
    with pytest.raises(ValueError, match="expected within"):
        adapter.from_spc(cells, (4, 8, 6))
    cells.spc.octrees = cells.spc.octrees[:-1]
    cells.spc.lengths = cells.spc.lengths - 1
    with pytest.raises(ValueError, match="octree has"):
        adapter.from_spc(cells)


def test_turntable(kaolin):
    pytest.importorskip("ipycanvas", reason="kaolin's viewer needs ipycanvas")
    kaolin_visualize = pytest.importorskip("kaolin.visualize", reason="kaolin's viewer cannot be imported")
    head = hf.synthetic.procedural_head()
    face = torch.arange(0, len(head.faces), 60)
    means = head.template_vertices[head.faces[face]].mean(1)
    ones, quaternions = torch.ones_like(means), torch.tensor([1.0, 0, 0, 0]).expand(len(means), 4)
    deformer = hf.deformers.TriangleBinding(head.template_vertices, head.faces)
    attached = deformer.attach(hf.Splats(means, quaternions, 0.01 * ones, ones[:, 0], colors=0.2 * ones), face)
    avatar = hf.SplatAvatar(hf.networks.Gaussians.of(*attached), deformer)
    state = head(expression=torch.zeros(1, head.expression_count))
    camera = hf.Camera.look_at((0.5, 0.1, 1.0), (0, 0, 0), size=(32, 40), fov=30)
    viewer = adapter.turntable(avatar, state, camera)
    assert isinstance(viewer, kaolin_visualize.IpyTurntableVisualizer)
    viewer.render_update()
    image = viewer.current_output["img"]
    assert image.shape == (32, 40, 3) and image.dtype == torch.uint8
    expected = avatar.render(adapter.from_camera(viewer.camera)[0], state).rgb
    assert (image.float() / 255 - expected).abs().max() < 0.51 / 255 and image.min() < 200
    assert viewer.fast_render(viewer.camera).shape == (8, 10, 3)
    with pytest.raises(ValueError, match="scale is -1"):
        adapter.render_function(avatar, state, scale=-1)
