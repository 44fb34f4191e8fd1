"""`headfields export` of runs, captures and rigs."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import headfields as hf
from headfields.apps.export import textures
from headfields.cli import main
from headfields.data.formats.insta_writer import CapturedFrame, write_insta
from headfields.mesh import split_at_seams
from tests.apps.export.readers import Posed
from tests.cli.test_cli import fails
from tests.data.tiny import blob, camera, tiny_frames


@pytest.fixture(scope="module")
def run(tiny_folder, tmp_path_factory):
    """A run with an avatar of 150 Gaussians on the capture's head."""
    template = hf.data.load_capture(tiny_folder).template
    generator = torch.Generator().manual_seed(0)
    face = torch.randint(0, len(template.faces), (150,), generator=generator)
    means = template.canonical_vertices[template.faces[face]].mean(1)
    turns = torch.nn.functional.normalize(torch.randn(150, 4, generator=generator), dim=-1)
    splats = hf.Splats(means, turns, torch.full((150, 3), 0.012), torch.full((150,), 0.95), colors=torch.rand(150, 3))
    deformer = hf.deformers.TriangleBinding(template.canonical_vertices, template.faces)
    avatar = hf.SplatAvatar(hf.networks.Gaussians.of(*deformer.attach(splats, face)), deformer, template=template)
    folder = tmp_path_factory.mktemp("export") / "run"
    avatar.save(folder / "avatar.safetensors")
    config = {"format": 1, "model": "gaussian_avatars", "arguments": {}, "capture": str(tiny_folder), "mouth": "close"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_run_becomes_an_animated_mesh(run, tiny_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(textures, "_VIEWS", ((0, 0), (90, 0), (180, 0)))
    out = tmp_path / "head.glb"
    assert main(["export", str(run), "--out", str(out), "--motion", str(tiny_folder), "--texture", "32"]) == 0
    printed = capsys.readouterr()
    opened = hf.data.load_capture(tiny_folder)
    assert f"1 joints, {len(opened)} frames" in printed.out and "mm from the meshes" in printed.err
    data = out.read_bytes()
    made = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])
    assert [each["mimeType"] for each in made["images"]] == ["image/png"] and len(made["animations"]) == 1
    names = made["meshes"][0]["extras"]["targetNames"]
    assert names and all(name.startswith(("expression_", "motion_")) for name in names)
    mesh = hf.mesh.load_mesh(out)
    assert torch.isfinite(mesh.vertices).all() and mesh.colors is not None and mesh.colors.std() > 0.02


def test_the_fitted_motion_is_the_captures(tiny_folder):
    opened = hf.data.load_capture(tiny_folder)
    lines = []
    rig = hf.export.rig_of_capture(opened, progress=lines.append)
    vertices = opened.state(range(len(opened))).vertices[:, : len(rig.mesh.vertices)]
    motion, error = hf.export.captures.fit_motion(rig, vertices)
    assert float(error.max()) < 5e-4 and len(lines) == 1
    assert (rig.posed(motion) - vertices).norm(dim=-1).max() < 5e-3
    views = opened.camera(range(len(opened))).world_to_camera
    moved = hf.export.captures.head_poses(opened, list(range(len(opened))))
    assert torch.allclose(views[0] @ moved, views, atol=1e-5)


def test_a_capture_by_itself(tiny_folder, tmp_path, capsys):
    out = tmp_path / "head.glb"
    assert main(["export", str(tiny_folder), "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "0 frames" in printed.out and out.exists()
    assert "texture of 256 x 256 texels from the capture's images" in printed.err  # of 48 pixels
    assert "need the folder of a run" in fails(capsys, "export", str(tiny_folder), "--out", str(tmp_path / "a.webm"))


def test_gaussians(run, tmp_path, capsys):
    for name, more in (("a.ply", []), ("b.ply", ["--space", "canonical"]), ("c.ply", ["--frames", "2:3"])):
        assert main(["export", str(run), "--out", str(tmp_path / name), *more]) == 0
    assert "150 Gaussians, 1 frame" in capsys.readouterr().out
    read = [hf.data.load_gaussians(tmp_path / name)().means for name in ("a.ply", "b.ply", "c.ply")]
    assert read[0].shape == (150, 3) and not torch.allclose(read[1], read[2])
    avatar = hf.load_avatar(run / "avatar.safetensors")
    opened = hf.data.load_capture(json.loads((run / "config.json").read_text())["capture"])
    assert torch.allclose(read[2], avatar.splats(opened.state([2])).means[0], atol=1e-6)
    assert main(["export", str(run), "--out", str(tmp_path / "frames"), "--gaussians", "--frames", "0:4:2"]) == 0
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == ["00000.ply", "00002.ply"]
    assert main(["export", str(run), "--out", str(tmp_path / "d.glb"), "--gaussians"]) == 0
    assert b"KHR_gaussian_splatting" in (tmp_path / "d.glb").read_bytes()
    capsys.readouterr()
    assert "for several frames it is a folder" in fails(
        capsys, "export", str(run), "--out", str(tmp_path / "e.ply"), "--frames", "0:3"
    )


def test_pictures_and_a_video_with_transparency(run, tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="there is no ffmpeg")
    assert main(["export", str(run), "--out", str(tmp_path / "pictures"), "--limit", "2"]) == 0
    with Image.open(tmp_path / "pictures" / "00000.png") as image:
        pixels = np.asarray(image)
    assert pixels.shape[2] == 4 and pixels[0, 0, 3] == 0 and pixels[..., 3].max() > 200
    for name, codec in (("a.webm", b"V_VP9"), ("a.mov", b"ap4h")):
        path = tmp_path / name
        assert main(["export", str(run), "--out", str(path), "--limit", "2"]) == 0
        decode = ["-c:v", "libvpx-vp9"] if name == "a.webm" else []  # ffmpeg's own decoder of VP9 drops alpha
        reader = ffmpeg.read_frames(str(path), pix_fmt="rgba", bits_per_pixel=32, input_params=decode)
        width, height = next(reader)["size"]
        frame = np.frombuffer(next(reader), np.uint8).reshape(height, width, 4)
        reader.close()
        assert frame.shape == pixels.shape and codec in path.read_bytes()
        seen = pixels[..., 3] > 250
        assert frame[0, 0, 3] < 10 and frame[seen][:, 3].mean() > 240
        assert np.abs(frame[seen][:, :3].astype(int) - pixels[seen][:, :3]).mean() < 14


def test_a_rig_with_arkits_names(tmp_path, capsys):
    generator = torch.Generator().manual_seed(0)
    template, faces = blob()
    basis = 0.01 * torch.rand(2, len(template), 3, generator=generator)
    np.savez(
        tmp_path / "rig.npz", template=template.numpy(), faces=faces.numpy(), expression=basis.numpy(),
        expression_names=np.array(["jawopen", "tongueOut"]),
    )  # fmt: skip
    (tmp_path / "arkit.json").write_text("{}")
    options = ["--out", str(tmp_path / "rig.glb"), "--arkit", str(tmp_path / "arkit.json")]
    assert main(["export", str(tmp_path / "rig.npz"), *options]) == 0
    printed = capsys.readouterr()
    assert "52 targets" in printed.out and "50 of ARKit's 52 do nothing" in printed.err


def test_a_rig_driven_by_a_face(tmp_path):
    """Two frames of JSON lines, half a second apart, become 13 key frames at 25 a second, by the shapes' names."""
    template, faces = blob()
    basis = 0.01 * torch.rand(2, len(template), 3, generator=torch.Generator().manual_seed(0))
    np.savez(
        tmp_path / "rig.npz", template=template.numpy(), faces=faces.numpy(), expression=basis.numpy(),
        expression_names=np.array(["jawOpen", "eyeBlink_L"]),
    )  # fmt: skip
    lines = ['{"time": 7.0, "shapes": {"jawOpen": 1}}', '{"time": 7.48, "shapes": {"EyeBlinkLeft": 1}}']
    (tmp_path / "face.jsonl").write_text("\n".join(lines))
    options = ["--out", str(tmp_path / "a.glb"), "--motion", str(tmp_path / "face.jsonl")]
    assert main(["export", str(tmp_path / "rig.npz"), *options]) == 0
    frames = read_frames(tmp_path / "a.glb")
    assert len(frames) == 13
    for frame, weights in ((0, (1, 0)), (6, (0.5, 0.5)), (12, (0, 1))):
        expected = template + torch.einsum("e,evk->vk", torch.tensor(weights, dtype=torch.float32), basis)
        assert np.abs(frames[frame] - expected.numpy()).max() < 1e-5


def read_frames(path) -> np.ndarray:
    """The vertices (T, N, 3) at the key frames of an animated .glb, by pygltflib and the specification's formulas."""
    pygltflib = pytest.importorskip("pygltflib", reason="pygltflib is not installed")
    posed = Posed(pygltflib.GLTF2().load(str(path)))
    count = len(posed.array(posed.gltf.animations[0].samplers[0].input))
    return np.stack([posed.vertices(frame) for frame in range(count)])


def test_a_head_file_and_the_motion_of_its_capture(tmp_path, capsys):
    arrays = hf.synthetic.head.model.procedural_head_arrays()
    arrays["posedirs"] = np.zeros_like(arrays["posedirs"])  # glTF has no pose correctives
    np.savez(tmp_path / "flame.npz", **arrays)
    head = hf.heads.FlameHead.from_file(tmp_path / "flame.npz")
    generator = torch.Generator().manual_seed(1)
    expression = torch.zeros(3, head.expression_count)
    expression[:, :5] = torch.rand(3, 5, generator=generator)
    with torch.no_grad():
        states = head(expression=expression, pose=0.2 * torch.randn(3, 5, 3, generator=generator))
        rest = head().vertices[0]
    image = np.full((8, 8, 4), 255, np.uint8)
    views = [camera(0.5 * i - 0.3, 0.2 * i).scaled(8 / 48).replace(size=(8, 8)) for i in range(3)]
    frames = [
        CapturedFrame(
            image, states.vertices[i], views[i], states.expression[i],
            pose=states.pose[i], joint_transforms=states.joint_transforms[i],
        )
        for i in range(3)
    ]  # fmt: skip
    write_insta(tmp_path / "capture", frames, rest, head.faces)
    out = tmp_path / "head.glb"
    options = ["--motion", str(tmp_path / "capture"), "--in-place"]
    assert main(["export", str(tmp_path / "flame.npz"), "--out", str(out), *options]) == 0
    printed = capsys.readouterr()
    assert "5 joints, 3 frames" in printed.out and "0.00 mm from the meshes" in printed.err
    split = split_at_seams(hf.export.rig_of_head(head).mesh)
    recorded = hf.data.load_capture(tmp_path / "capture").state(range(3)).vertices  # before cameras that move
    assert float((recorded - rest).norm(dim=-1).max()) > 0.01
    assert np.abs(read_frames(out) - recorded[:, split.vertex].numpy()).max() < 1e-5
    trimesh = pytest.importorskip("trimesh", reason="trimesh is not installed")
    (read,) = trimesh.load_scene(str(out), process=False).geometry.values()
    assert np.abs(read.vertices - rest[split.vertex].numpy()).max() < 1e-6
    assert np.array_equal(read.faces, split.faces.numpy())


def test_another_captures_motion_is_retargeted(tiny_folder, tmp_path, capsys):
    vertices, faces = blob()
    wide = torch.tensor([1.1, 0.95, 1.0])
    frames = [replace(frame, vertices=frame.vertices * wide) for frame in tiny_frames(4)]
    write_insta(tmp_path / "other", frames, vertices * wide, faces)
    out = tmp_path / "head.glb"
    options = ["--motion", str(tmp_path / "other"), "--texture", "0", "--in-place"]
    assert main(["export", str(tiny_folder), "--out", str(out), *options]) == 0
    assert "4 frames" in capsys.readouterr().out
    target, other = hf.data.load_capture(tiny_folder), hf.data.load_capture(tmp_path / "other")
    with torch.no_grad():
        carried = hf.retargeting.Retargeter.from_captures(other, target)(other.state(range(4))).vertices
    rig = hf.export.rig_of_capture(target)
    motion, _ = hf.export.captures.fit_motion(rig, carried[:, : len(rig.mesh.vertices)])
    shown = read_frames(out)
    split = split_at_seams(rig.mesh)
    assert np.abs(shown - rig.posed(motion)[:, split.vertex].numpy()).max() < 1e-5
    assert np.abs(shown - carried[:, split.vertex].numpy()).max() < 5e-3
    assert np.abs(shown - other.state(range(4)).vertices[:, split.vertex].numpy()).max() > 5e-3  # its own head


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--out", "a.fbx"], "expected a folder, or one of .glb"),
        (["--out", "a.glb", "--fps", "0"], "--fps is 0"),
        (["--out", "a.webm", "--gaussians"], "--gaussians goes with"),
        (["--out", "a.ply", "--arkit", "x.json"], "--arkit x.json does nothing for gaussians (a.ply)"),
        (["--out", "a.glb", "--motion", "nowhere"], "nowhere"),
        (["--out", "a.ply", "--frames", "90:91"], "has none of them"),
    ],
)
def test_impossible_exports(run, capsys, options, reason):
    assert reason in fails(capsys, "export", str(run), *options)


def test_a_run_becomes_a_page(run, tiny_folder, tmp_path, capsys):
    out = tmp_path / "page" / "head.html"
    arkit = tmp_path / "arkit.json"
    arkit.write_text('{"jawOpen": {"expression_000": 0.5}}')
    options = ["--frames", "0:4", "--fps", "10", "--arkit", str(arkit), "--link", "https://lab.org/paper"]
    assert main(["export", str(run), "--out", str(out), *options]) == 0
    printed = capsys.readouterr()
    assert "150 Gaussians, 4 frames" in printed.out and "the mesh is fitted within" in printed.err
    text = out.read_text()
    info = json.loads(text.partition('id="info" type="application/json">')[2].partition("</script>")[0])
    assert info["clip"] == {"frames": 4, "fps": 10.0, "moves": info["clip"]["moves"]} and info["title"] == "run"
    assert info["face"] == {"jawOpen": [[0, 0.5]]} and '<a href="https://lab.org/paper"' in text
    assert "expected an address" in fails(capsys, "export", str(run), "--out", str(out), "--link", "lab.org")
    assert "--link" in fails(capsys, "export", str(run), "--out", str(tmp_path / "a.ply"), "--link", "https://lab.org")
    assert "x.json is not a file" in fails(capsys, "export", str(run), "--out", str(out), "--arkit", "x.json")
    assert "pages need the folder of a run" in fails(capsys, "export", str(tiny_folder), "--out", str(out))
    assert out.read_text() == text


def test_a_field_of_rays_is_no_page_and_the_command_says_how_to_make_one(run, tmp_path, capsys, monkeypatch):
    template = hf.data.load_capture(json.loads((run / "config.json").read_text())["capture"]).template
    monkeypatch.setattr("headfields.cli.open_run.open_avatar", lambda *_: hf.models.insta(template, log2_table_size=8))
    said = fails(capsys, "export", str(run), "--out", str(tmp_path / "head.html"))
    assert f"headfields distill {run} --out FAST" in said
