"""Rigged meshes in glTF, read back by pygltflib and trimesh and compared vertex for vertex."""

import json
import struct

import numpy as np
import pytest
import torch

import headfields as hf
from headfields.apps.export import save_rigged_gltf
from headfields.apps.export.gltf import SPLATTING, save_gltf_splats
from headfields.apps.export.rigged_mesh import RiggedMesh, RigMotion
from headfields.mesh import split_at_seams
from tests.apps.export.readers import Posed


def document(path) -> dict:
    data = path.read_bytes()
    size = struct.unpack("<I", data[12:16])[0]
    return json.loads(data[20 : 20 + size])


@pytest.fixture(scope="module")
def file(rig, motion, tmp_path_factory):
    return save_rigged_gltf(tmp_path_factory.mktemp("gltf") / "head.glb", rig, motion)


def test_every_frame_is_posed_as_here(file, rig, motion):
    pygltflib = pytest.importorskip("pygltflib", reason="pygltflib is not installed")
    posed = Posed(pygltflib.GLTF2().load(str(file)))
    split = split_at_seams(rig.mesh)
    expected = rig.posed(motion)[:, split.vertex].numpy()
    for frame in range(len(motion)):
        assert np.abs(posed.vertices(frame) - expected[frame]).max() < 2e-6  # meters
    assert posed.mesh.extras["targetNames"] == list(rig.target_names)
    assert np.abs(posed.targets - rig.targets[:, split.vertex].numpy()).max() < 1e-7
    names = [posed.gltf.nodes[j].name for j in posed.skin.joints]
    assert names == list(rig.joint_names)
    assert np.abs(posed.attribute("WEIGHTS_0").sum(1) - 1).max() < 1e-6


def test_trimesh_reads_the_same_surface_and_texture(file, rig):
    import trimesh

    scene = trimesh.load_scene(str(file), process=False)
    read = hf.interop.trimesh.from_mesh(next(iter(scene.geometry.values())))
    split = split_at_seams(rig.mesh)
    assert torch.equal(read.vertices, rig.mesh.vertices[split.vertex]) and torch.equal(read.faces, split.faces)
    assert torch.allclose(read.uv, split.uv, atol=1e-6)
    assert torch.equal((read.texture * 255).round(), (rig.mesh.texture * 255).round())
    assert len(hf.mesh.load_mesh(file).faces) == len(rig.mesh.faces)  # and our own reader takes it


def test_between_key_frames_rotations_go_the_short_way(file, motion):
    pygltflib = pytest.importorskip("pygltflib", reason="pygltflib is not installed")
    posed = Posed(pygltflib.GLTF2().load(str(file)))
    for animation in posed.gltf.animations:
        for channel in animation.channels:
            if channel.target.path == "rotation":
                turns = posed.array(animation.samplers[channel.sampler].output)
                assert bool(((turns[1:] * turns[:-1]).sum(1) >= 0).all())
                assert np.abs(np.linalg.norm(turns, axis=1) - 1).max() < 1e-6


def test_a_rig_without_targets_motion_or_texture(rig, tmp_path):
    plain = RiggedMesh(
        rig.mesh.replace(uv=None, uv_faces=None, texture=None), rig.targets[:0], (), rig.joint_names, rig.parents,
        rig.joints, rig.weights,
    )  # fmt: skip
    made = document(save_rigged_gltf(tmp_path / "plain.glb", plain))
    assert "animations" not in made and "images" not in made and "targets" not in made["meshes"][0]["primitives"][0]
    none = RigMotion(torch.zeros(0), torch.zeros(0, 0), torch.zeros(0, len(rig.joints), 4, 4))
    assert "animations" not in document(save_rigged_gltf(tmp_path / "none.glb", plain, none))


def test_what_is_refused(rig, motion, tmp_path):
    with pytest.raises(ValueError, match=r"ends in '\.gltf'; expected \.glb"):
        save_rigged_gltf(tmp_path / "head.gltf", rig)
    broken = rig.targets.clone()
    broken[1, 5, 2] = torch.nan
    with pytest.raises(ValueError, match="targets has numbers that are not finite"):
        save_rigged_gltf(tmp_path / "head.glb", rig.with_targets(broken, rig.target_names))
    with pytest.raises(ValueError, match="no faces"):
        save_rigged_gltf(tmp_path / "head.glb", rig.replace(mesh=hf.Mesh(rig.mesh.vertices, rig.mesh.faces[:0])))
    with pytest.raises(ValueError, match=r"motion has 2 targets and .* joints; the mesh 3"):
        save_rigged_gltf(tmp_path / "head.glb", rig, motion.replace(target_weights=motion.target_weights[:, :2]))
    with pytest.raises(ValueError, match="not increasing"):
        motion.replace(times=motion.times.flip(0))
    with pytest.raises(ValueError, match="all different"):
        rig.with_targets(rig.targets, ["a", "a", "b"])
    with pytest.raises(ValueError, match="expected one before it"):
        rig.replace(parents=(-1, 2, *rig.parents[2:]))
    assert list(tmp_path.iterdir()) == []


def test_four_joints_a_vertex_and_still_targets():
    index, weights = hf.export.rigged_mesh.strongest_joints(
        torch.tensor([[0.3, 0.1, 0.2, 0.05, 0.35], [0.0, 0, 0, 0, 0]])
    )
    assert index[0].tolist() == [4, 0, 2, 1] and torch.allclose(weights[0], torch.tensor([0.35, 0.3, 0.2, 0.1]) / 0.95)
    assert weights[1].tolist() == [1, 0, 0, 0]
    mesh = hf.Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]))
    targets = torch.zeros(3, 3, 3)
    targets[1, 0, 0] = 0.01
    rig = RiggedMesh(mesh, targets, ("a", "b", "c"), ("head",), (-1,), torch.zeros(1, 3), torch.ones(3, 1))
    moving, kept = rig.without_still_targets()
    assert moving.target_names == ("b",) and kept.tolist() == [1]


def test_gaussians_in_gltf(tmp_path):
    pygltflib = pytest.importorskip("pygltflib", reason="pygltflib is not installed")
    generator = torch.Generator().manual_seed(0)
    splats = hf.Splats(
        torch.randn(7, 3, generator=generator), torch.randn(7, 4, generator=generator),
        torch.rand(7, 3, generator=generator), torch.rand(7, generator=generator),
        harmonics=torch.randn(7, 9, 3, generator=generator),
    )  # fmt: skip
    path = save_gltf_splats(tmp_path / "splats.glb", splats.map(lambda tensor: tensor[None]))
    made = document(path)
    primitive = made["meshes"][0]["primitives"][0]
    assert made["extensionsUsed"] == [SPLATTING] and "extensionsRequired" not in made and primitive["mode"] == 0
    assert primitive["extensions"][SPLATTING] == {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}
    reader = Posed.__new__(Posed)
    reader.gltf = pygltflib.GLTF2().load(str(path))
    reader.blob = reader.gltf.binary_blob()

    def stored(name: str) -> torch.Tensor:
        return torch.from_numpy(reader.array(primitive["attributes"][name]).copy())

    assert torch.equal(stored("POSITION"), splats.means) and torch.equal(stored(f"{SPLATTING}:SCALE"), splats.scales)
    assert torch.equal(stored(f"{SPLATTING}:OPACITY"), splats.opacities)
    unit = torch.nn.functional.normalize(splats.quaternions, dim=-1)
    assert torch.allclose(stored(f"{SPLATTING}:ROTATION"), unit[:, [1, 2, 3, 0]])  # x, y, z, w
    names = [(degree, i) for degree in range(3) for i in range(2 * degree + 1)]
    for row, (degree, i) in enumerate(names):
        assert torch.equal(stored(f"{SPLATTING}:SH_DEGREE_{degree}_COEF_{i}"), splats.harmonics[:, row])
    shown = stored("COLOR_0")
    assert bool((shown >= 0).all() and (shown <= 1).all())


def test_gaussians_that_gltf_cannot_hold(tmp_path):
    one = hf.Splats(torch.zeros(2, 3), torch.eye(4)[:2], torch.ones(2, 3), torch.ones(2), colors=torch.ones(2, 3))
    with pytest.raises(ValueError, match="one frame"):
        save_gltf_splats(tmp_path / "a.glb", one.map(lambda tensor: tensor.expand(2, *tensor.shape)))
    with pytest.raises(ValueError, match="no Gaussian"):
        save_gltf_splats(tmp_path / "a.glb", one.map(lambda tensor: tensor[:0]))
    with pytest.raises(ValueError, match="quaternions of Gaussian 1 is not finite; a rotation of length 0"):
        save_gltf_splats(tmp_path / "a.glb", one.replace(quaternions=torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]])))
    assert list(tmp_path.iterdir()) == []
