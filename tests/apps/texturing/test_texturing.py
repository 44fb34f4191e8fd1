"""Templates from posed images."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from headfields.apps.texturing import read_posed_images, texture_proxy
from headfields.apps.texturing.bake import bake_texture
from headfields.apps.texturing.exposure import even_out, view_gains
from headfields.apps.texturing.images import PosedImages
from headfields.apps.texturing.proxy import texture_pictures
from headfields.apps.texturing.refine import RefineOptions, refine_mesh
from headfields.cli import main
from headfields.data.errors import CaptureError
from headfields.mesh import Mesh, load_mesh, save_mesh
from headfields.ops.srgb import linear_from_srgb, srgb_from_linear
from tests.apps.texturing.room import bumpy, likeness, photographs, poor_mesh, surface_error, views


def test_a_texture_is_found_on_views_that_it_was_not_made_from():
    vertices, faces, uv, uv_faces = bumpy()
    gains = torch.linspace(-0.25, 0.25, 12)[torch.randperm(12)].exp()
    images, held = photographs(views(12, 112), gains), views(4, 96, offset=13.0)
    baked = bake_texture(images, vertices, faces, uv, uv_faces, 128)
    assert likeness(vertices, baked.texture, held) > 32
    torch.testing.assert_close(baked.gains, gains / gains.log().mean().exp(), rtol=0.02, atol=0)
    uneven = bake_texture(images, vertices, faces, uv, uv_faces, 128, even_exposure=False)
    assert likeness(vertices, uneven.texture, held) < likeness(vertices, baked.texture, held) - 3
    assert uneven.gains.eq(1).all()
    inside = baked.confidence > 0
    assert inside.equal(baked.visible) and 0.2 < float(inside.float().mean()) < 0.5
    assert baked.texture.min() >= 0 and baked.texture.max() <= 1 and baked.texture.std() > 0.1


def test_what_one_view_shows_wrongly_is_left_out():
    vertices, faces, uv, uv_faces = bumpy()
    cameras, held = views(12, 96), views(4, 96, offset=13.0)
    images = photographs(cameras)
    pixels = images.pixels.clone()
    pixels[4, 30:66, 30:66, :3] = torch.tensor([255, 0, 255], dtype=torch.uint8)  # something before the lens
    spoilt = PosedImages(images.camera, pixels, images.names)
    dirty = bake_texture(spoilt, vertices, faces, uv, uv_faces, 96)
    assert likeness(vertices, dirty.texture, held) > 27
    naive = bake_texture(spoilt, vertices, faces, uv, uv_faces, 96, keep=1)
    assert likeness(vertices, naive.texture, held) < likeness(vertices, dirty.texture, held) - 5


def test_what_nobody_sees_is_filled_from_around():
    vertices, faces, uv, uv_faces = bumpy()
    images = photographs(views(12, 64)).subset([0, 1, 11])  # from the front alone
    baked = bake_texture(images, vertices, faces, uv, uv_faces, 64)
    unseen = ~baked.visible
    assert 0.5 < float(unseen.float().mean()) < 0.95 and float(baked.texture[unseen].std()) > 0.01
    assert float(baked.texture.min()) > 0.01  # no black holes
    nothing = PosedImages(images.camera, images.pixels * 0, images.names)
    gray = bake_texture(nothing, vertices, faces, uv, uv_faces, 16)
    assert not gray.visible.any() and float(gray.texture.std()) < 1e-6


@pytest.mark.slow
def test_refinement_brings_the_proxy_nearer_to_the_truth():
    _, faces, uv, uv_faces = bumpy()
    proxy, images, held = poor_mesh(), photographs(views(10, 96)), views(4, 96, offset=13.0)
    made = texture_proxy(images, Mesh(proxy, faces, uv=uv, uv_faces=uv_faces), 96)
    options = RefineOptions(size=96, texture=96, bakes=2)
    found = refine_mesh(images, proxy, faces, uv, uv_faces, 40, options)
    assert surface_error(found.vertices) < 0.35 * surface_error(proxy)
    assert found.loss[-10:].mean() < 0.4 * found.loss[:10].mean()
    better = bake_texture(images, found.vertices, faces, uv, uv_faces, 96)
    assert likeness(found.vertices, better.texture, held) > likeness(proxy, made.mesh.texture, held) + 0.5
    again = refine_mesh(images, proxy, faces, uv, uv_faces, 2, options)
    torch.testing.assert_close(refine_mesh(images, proxy, faces, uv, uv_faces, 2, options).vertices, again.vertices)
    assert refine_mesh(images, proxy, faces, uv, uv_faces, 0).vertices.equal(proxy)


def test_light_and_back():
    color = torch.linspace(0, 1, 50)
    torch.testing.assert_close(srgb_from_linear(linear_from_srgb(color)), color, rtol=0, atol=1e-5)
    assert float(linear_from_srgb(torch.tensor(0.5))) == pytest.approx(0.2140, abs=1e-4)
    bright = srgb_from_linear(2 * linear_from_srgb(torch.full((1, 3), 0.4)))
    torch.testing.assert_close(even_out(bright, 2.0), torch.full((1, 3), 0.4))


def test_gains_of_views_that_share_nothing_stay_near_one():
    light, weight = torch.rand(40, 2, 3), torch.ones(40, 2)
    apart = torch.tensor([[0, 1]]).expand(40, 2).clone()
    apart[20:] += 2
    gains = view_gains(light, weight * 0, apart, 5)
    assert gains.eq(1).all()
    torch.testing.assert_close(view_gains(torch.zeros(0, 2, 3), torch.zeros(0, 2), apart[:0], 3), torch.ones(3))
    one = torch.full((40, 2, 3), 0.3)
    one[:, 1] *= 0.5
    gains = view_gains(one, weight, apart, 4)
    assert float(gains[0] / gains[1]) == pytest.approx(2, rel=0.3) and 1.2 < float(gains[2] / gains[3]) < 2


def written(folder, images, masks=False, axes="opengl"):
    """The images as a folder in Nerfstudio's layout."""
    (folder / "images").mkdir(parents=True)
    flip = np.diag([1.0, -1, -1, 1]) if axes == "opengl" else np.eye(4)
    frames = []
    for index, name in enumerate(images.names):
        camera, _, _ = images.view(index)
        matrix = np.linalg.inv(camera.world_to_camera[0].double().numpy()) @ flip
        rgba = images.pixels[index].numpy()
        frame = {"file_path": name, "transform_matrix": matrix.tolist()}
        if masks:
            frame["mask_path"] = f"masks/{index}.png"
            (folder / "masks").mkdir(exist_ok=True)
            Image.fromarray(rgba[..., 3]).save(folder / frame["mask_path"])
            rgba = rgba[..., :3]
        Image.fromarray(rgba).save(folder / name)
        frames.append(frame)
    lens = images.camera.intrinsics[0]
    numbers = {"fl_x": float(lens[0, 0]), "fl_y": float(lens[1, 1]), "cx": float(lens[0, 2]), "cy": float(lens[1, 2])}
    (folder / "transforms.json").write_text(json.dumps({**numbers, "frames": frames}))
    return folder


@pytest.mark.parametrize(("masks", "axes"), [(False, "opengl"), (True, "opencv")])
def test_a_folder_of_posed_images_is_read(tmp_path, masks, axes):
    _, faces, _, _ = bumpy()
    images = photographs(views(6, 48))
    folder = written(tmp_path / "set", images, masks, axes)
    found = read_posed_images(folder, poor_mesh(), faces)
    torch.testing.assert_close(found.camera.world_to_camera, images.camera.world_to_camera, rtol=0, atol=1e-5)
    assert found.pixels[..., 3].equal(images.pixels[..., 3]) and found.names == images.names
    opaque = images.pixels[..., 3] > 0
    assert found.pixels[opaque].equal(images.pixels[opaque])
    assert any("OpenGL" in line if axes == "opengl" else "OpenCV" in line for line in found.report)
    some = read_posed_images(folder, poor_mesh(), faces, limit=3, convention=axes)
    assert some.names == images.names[::2]
    content = json.loads((folder / "transforms.json").read_text())
    (folder / "transforms.json").write_text(json.dumps({**content, "k1": 0.2}))
    bent = read_posed_images(folder, poor_mesh(), faces)
    assert any("lens distortion (radial-tangential)" in line for line in bent.report)
    assert not bent.pixels.equal(found.pixels)


def test_folders_that_cannot_be_read_say_why(tmp_path, unchecked):
    _, faces, _, _ = bumpy()
    proxy, images = poor_mesh(), photographs(views(3, 32))
    with pytest.raises(CaptureError, match="is not a folder"):
        read_posed_images(tmp_path / "none", proxy, faces)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CaptureError, match=r"no transforms\.json with a transform_matrix"):
        read_posed_images(tmp_path / "empty", proxy, faces)
    folder = written(tmp_path / "set", images)
    with pytest.raises(CaptureError, match="sees 2 % of the proxy"):
        read_posed_images(folder, proxy + 5, faces, convention="opengl")
    with pytest.raises(CaptureError, match="limit is 0"):
        read_posed_images(folder, proxy, faces, limit=0)
    (folder / images.names[1]).unlink()
    with pytest.raises(CaptureError, match=r"file_path .*001\.png.* is no file"):
        read_posed_images(folder, proxy, faces)
    vertices, faces, uv, uv_faces = bumpy()
    with pytest.raises(ValueError, match="resolution is 0"):
        bake_texture(images, vertices, faces, uv, uv_faces, 0)
    with pytest.raises(ValueError, match="steps is -1"):
        refine_mesh(images, vertices, faces, uv, uv_faces, -1)
    with pytest.raises(ValueError, match="the proxy has no faces"):
        texture_proxy(images, Mesh(vertices, faces[:0]))


def test_the_command_bakes_what_can_be_read_again(tmp_path, capsys):
    _, faces, _, _ = bumpy()
    folder = written(tmp_path / "set", photographs(views(6, 48)))
    save_mesh(tmp_path / "proxy.obj", Mesh(poor_mesh(), faces))
    out = tmp_path / "made" / "template.obj"
    arguments = ["template", "--capture", str(folder), "--proxy", str(tmp_path / "proxy.obj"), "--out", str(out)]
    assert main([*arguments, "--refine", "2", "--resolution", "64", "--size", "48"]) == 0
    said = capsys.readouterr().out
    assert "new ones are made" in said and "of the texture was seen" in said and "vertices moved" in said
    mesh = load_mesh(out)
    assert mesh.texture is not None and mesh.texture.shape == (64, 64, 3) and mesh.faces.equal(faces)
    for name in ("views.png", "turntable.png", "texture.png", "seen.png"):
        assert (out.parent / "template_pictures" / name).is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "t.npz"], "headfields rig takes a textured scan"),
        (["--out", "t.npz", "--proxy", "p.obj"], "pass both --capture"),
        (["--out", "t.ply", "--capture", "c", "--proxy", "p.obj"], "ending in .npz"),
        (["--out", "t.obj", "--capture", "c", "--proxy", "p.obj", "--resolution", "4"], "--resolution is 4"),
    ],
)
def test_the_command_says_what_does_not_go_together(arguments, message, capsys):
    assert main(["template", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_textured_mesh_survives_its_file(tmp_path):
    vertices, faces, uv, uv_faces = bumpy()
    texture = (torch.rand(8, 8, 3) * 255).round() / 255
    path = save_mesh(tmp_path / "deep" / "mesh.obj", Mesh(vertices, faces, uv=uv, uv_faces=uv_faces, texture=texture))
    again = load_mesh(path)
    assert again.vertices.equal(vertices) and again.uv.equal(uv) and again.uv_faces.equal(uv_faces)
    torch.testing.assert_close(again.texture, texture)
    plain = load_mesh(save_mesh(tmp_path / "plain.obj", Mesh(vertices, faces)))
    assert plain.uv is None and plain.texture is None


def test_pictures_show_captured_baked_and_difference(tmp_path):
    vertices, faces, uv, uv_faces = bumpy()
    images = photographs(views(3, 32))
    made = texture_proxy(images, Mesh(vertices, faces, uv=uv, uv_faces=uv_faces), 32)
    sheet = texture_pictures(made, images, tmp_path, views=2, size=40)
    assert sheet.shape[1] == 80 and sheet.shape[0] >= 120
