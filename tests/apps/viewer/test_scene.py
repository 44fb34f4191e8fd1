"""The viewer's scene, without a browser: what sliders do to a head, and what is drawn for a view."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from headfields.apps.viewer.articulation import HeadArticulation, Rigid
from headfields.apps.viewer.looks import FAR, LOOKS, face_colors
from headfields.apps.viewer.mesh_painter import MeshPainter
from headfields.apps.viewer.motion import Motion, neutral_frame
from headfields.apps.viewer.recording import encoded_video, video_views
from headfields.apps.viewer.scene import Scene, _arrays
from headfields.apps.viewer.subjects import capture_scene, head_scene, mesh_scene
from headfields.heads.blendshapes import BlendshapeHead
from headfields.mesh.mesh import Mesh
from headfields.models.gaussian_avatars import gaussian_avatars
from headfields.ops.rasterize_gaussians import rasterize_gaussians
from headfields.ops.rotations import quaternion_from_rotation
from headfields.records import Camera, HeadState, Splats

GRID = torch.cartesian_prod(torch.linspace(-0.1, 0.1, 5), torch.linspace(-0.1, 0.1, 5))


@pytest.fixture(scope="module")
def square() -> BlendshapeHead:
    """A square of 5 x 5 vertices whose middle comes out."""
    vertices = torch.cat([GRID, torch.zeros(25, 1)], 1)
    faces = []
    for x in range(4):
        for y in range(4):
            a, b, c, d = (5 * (x + i) + y + j for i, j in ((0, 0), (1, 0), (0, 1), (1, 1)))
            faces += [[a, b, c], [b, d, c]]
    shift = torch.zeros(2, 25, 3)
    shift[0, 12, 2] = 0.05
    return BlendshapeHead(vertices, torch.tensor(faces), shift, expression_names=("middle_out", "nothing"))


def test_a_slider_moves_what_it_names(square) -> None:
    scene = head_scene(square)
    assert [control.name for control in scene.controls] == ["middle_out", "neck pitch", "neck yaw", "neck roll"]
    view = scene.first_view()
    moved = replace(view, values={"middle_out": 0.5})
    change = np.abs(scene.vertices(moved) - scene.vertices(view)).max(-1)
    assert change.argmax() == 12 and change[12] == pytest.approx(0.025) and (change[:12] == 0).all()
    looks = (replace(each, look="normals") for each in (view, moved))
    before, after = (scene.picture(each, scene.first_camera((40, 40))) for each in looks)
    changed = np.abs(before.rgb.astype(int) - after.rgb.astype(int)).max(-1) > 8
    rows, columns = changed.nonzero()
    assert 10 < changed.sum() < 800  # the middle, not the rest
    assert min(rows.min(), columns.min()) > 7 and max(rows.max(), columns.max()) < 32


def test_no_offset_is_no_change(square) -> None:
    scene = head_scene(square)
    state = scene.state(scene.first_view())
    assert scene.state(replace(scene.first_view(), values={"middle_out": 0.0})).vertices is state.vertices


def test_the_neck_turns_the_head_and_its_joints() -> None:
    vertices = torch.tensor([[[0.0, 0, 0], [0, 1, 0], [0.1, 1, 0]]])
    rigid = Rigid(torch.zeros(3))
    joints = torch.eye(4).expand(1, 2, 4, 4)
    turned = rigid.apply(HeadState(vertices, joint_transforms=joints), {"neck yaw": 90.0})
    assert torch.allclose(turned.vertices[0, 2], torch.tensor([0.0, 1.0, -0.1]), atol=1e-6)
    point = torch.cat([vertices[0, 2], torch.ones(1)])
    assert torch.allclose((turned.joint_transforms[0, 1] @ point)[:3], turned.vertices[0, 2], atol=1e-6)


def test_another_heads_state_is_refused(square) -> None:
    with pytest.raises(ValueError, match="7 vertices and the head 25; pass the head model"):
        HeadArticulation(square).apply(HeadState(torch.zeros(1, 7, 3)), {"middle_out": 1.0})


def test_looks(square) -> None:
    scene, camera = head_scene(square), head_scene(square).first_camera((24, 32))
    for look in LOOKS:
        picture = scene.picture(replace(scene.first_view(), look=look), camera)
        assert picture.rgb.shape == (24, 32, 3) and picture.depth.shape == (24, 32)
        assert (picture.rgb[0, 0] == 255).all() and picture.depth[0, 0] == FAR
        distance = float((camera.center - scene.center).norm())
        assert picture.depth[12, 16] == pytest.approx(distance, abs=1e-3)
    normals = scene.picture(replace(scene.first_view(), look="normals"), camera).rgb[12, 16]
    assert np.abs(normals.astype(int) - [128, 128, 255]).max() <= 1  # toward the camera
    colors = scene.picture(replace(scene.first_view(), look="nearest triangle"), camera).rgb
    known = {tuple(color) for color in (face_colors(32) * 255).round().int().tolist()}
    assert {tuple(color) for color in colors[8:16, 12:20].reshape(-1, 3).tolist()} <= known


def test_the_avatar_can_be_hidden(square) -> None:
    scene = head_scene(square)
    picture = scene.picture(replace(scene.first_view(), layers=frozenset()), scene.first_camera((8, 8)))
    assert (picture.rgb == 255).all() and (picture.depth == FAR).all()


def test_a_snapshot_has_every_layer(capture) -> None:
    template = capture.template
    blue = Mesh(
        template.canonical_vertices,
        template.faces,
        torch.tensor([[0.0, 0, 1]]).expand(len(template.canonical_vertices), 3),
    )
    scene = capture_scene(capture, MeshPainter(blue))
    assert set(scene.layers) >= {"avatar", "mesh", "wireframe", "cameras"}
    view, camera = scene.first_view(), scene.first_camera((48, 48))
    plain = scene.snapshot(view, camera)
    for layer in scene.layers[1:]:
        if layer == "landmarks" and not len(scene.points(view)):
            continue
        other = replace(view, layers=view.layers | {layer})
        # Cameras stand beside the view: looking from behind shows them.
        seen = camera.orbited(scene.center, 180) if layer == "cameras" else camera
        before = plain if seen is camera else scene.snapshot(view, seen)
        assert (scene.snapshot(other, seen) != before).any(), layer


def test_a_capture_plays_and_is_compared_with_its_images(capture) -> None:
    scene = capture_scene(capture)
    assert list(scene.motions) == ["recorded", "neutral"] and scene.motions["recorded"].count == 6
    view = replace(scene.first_view(), frame=2)
    assert torch.equal(scene.state(view).vertices, capture.state([2]).vertices)
    row, psnr = scene.error(view)
    height, width = capture.size
    assert row.shape == (height, 3 * width, 3) and 0 < psnr < 60
    rgba = capture.image(2)
    truth = rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]
    assert np.abs(row[:, :width] / 255 - truth.numpy()).max() < 0.01
    assert scene.error(replace(view, motion="neutral", frame=0)) is None
    views = scene.cameras(most=2)
    assert [each.frame for each in views] == [0, 5] and max(views[0].thumbnail.shape) <= 96


def test_canonical_space(capture) -> None:
    scene = capture_scene(capture)
    shown = scene.vertices(replace(scene.first_view(), canonical=True))
    assert np.array_equal(shown, capture.template.canonical_vertices.numpy())


def test_a_head_of_another_topology_is_refused_for_a_capture(capture, square) -> None:
    with pytest.raises(ValueError, match="the head has 25 vertices and the capture's mesh"):
        capture_scene(capture, head=square)


def test_another_captures_motion(capture) -> None:
    scene = capture_scene(capture, drivers=[capture])
    driven = replace(scene.first_view(), motion=list(scene.motions)[2], frame=1)
    assert np.abs(scene.vertices(driven) - capture.state([1]).vertices[0].numpy()).max() < 1e-3


def test_the_neutral_frame_has_the_weakest_expression(capture) -> None:
    expression = capture.state(slice(None)).expression
    frame = neutral_frame(capture)
    train = capture.splits["train"].tolist()
    assert frame in train and float(expression[frame].norm()) == min(float(expression[each].norm()) for each in train)


def test_gaussians_for_the_browser() -> None:
    half = 0.5**0.5
    splats = Splats(
        means=torch.tensor([[[0.0, 0, 0], [0.0, 0, 1.0]]]),
        quaternions=torch.tensor([[[1.0, 0, 0, 0], [half, 0, 0, half]]]),
        scales=torch.tensor([[[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]]), opacities=torch.tensor([[0.5, 1.0]]),
        harmonics=torch.zeros(1, 2, 4, 3),
    )  # fmt: skip
    arrays = _arrays(splats, torch.tensor([0.0, 0.0, 5.0]))
    assert np.allclose(arrays.covariances[0], np.diag([1, 4, 9])) and np.allclose(arrays.colors, 0.5)
    assert np.allclose(arrays.covariances[1], np.diag([4, 1, 9]), atol=1e-6)  # a quarter turn about z
    assert arrays.opacities.tolist() == [[0.5], [1.0]]


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_gaussians_for_the_browser_are_those_that_the_library_draws(capture, degree: int) -> None:
    torch.manual_seed(degree)
    avatar = gaussian_avatars(capture.template, count=40, degree=degree, low_pass=0.3)  # as viser has it
    with torch.no_grad():
        avatar.gaussians.color.normal_(std=0.4)
        avatar.gaussians.harmonics.normal_(std=0.1)
        avatar.gaussians.quaternion.normal_()
    scene = capture_scene(capture, avatar)
    view = replace(scene.first_view(), frame=1)
    camera = scene.first_camera((40, 40)).orbited(scene.center, 30)
    arrays = scene.splats(view, camera.center.reshape(3))
    assert arrays is not None and len(arrays.centers) == 40
    tensors = [torch.from_numpy(array) for array in (arrays.centers, arrays.covariances, arrays.colors)]
    variances, axes = torch.linalg.eigh(tensors[1])
    axes = axes * torch.linalg.det(axes)[:, None, None].sign()
    drawn = rasterize_gaussians(
        tensors[0], quaternion_from_rotation(axes), variances.clamp_min(0).sqrt(),
        torch.from_numpy(arrays.opacities)[:, 0], tensors[2], camera, torch.ones(3),
    ).color  # fmt: skip
    expected = avatar.render(camera, scene.state(view), 1.0).rgb
    assert float((expected - 1).abs().max()) > 0.3  # something is there
    assert float((drawn.reshape(expected.shape) - expected).abs().max()) < 2e-3


def test_a_mesh_and_its_colors() -> None:
    corners = torch.tensor([[-0.1, -0.1, 0.0], [0.1, -0.1, 0.0], [0.0, 0.1, 0.0]])
    mesh = Mesh(corners, torch.tensor([[0, 1, 2]]), colors=torch.tensor([[1.0, 0, 0]]).expand(3, 3))
    scene = mesh_scene(mesh, "triangle")
    red = scene.picture(scene.first_view(), scene.first_camera((16, 16))).rgb[8, 8]
    assert red[0] > 200 and red[1] == red[2] == 0
    with pytest.raises(ValueError, match="3 vertices and no faces"):
        mesh_scene(Mesh(corners, torch.zeros(0, 3, dtype=torch.long)))


def test_a_texture_is_drawn_unlit() -> None:
    corners = torch.tensor([[-0.1, -0.1, 0.0], [0.1, -0.1, 0.0], [0.0, 0.1, 0.0]])
    texture = torch.full((4, 4, 3), 0.25)
    mesh = Mesh(corners, torch.tensor([[0, 1, 2]]), uv=torch.tensor([[0.0, 0], [1, 0], [0.5, 1]]), texture=texture)
    camera = Camera.look_at((0.5, 0, 0.5), (0, 0, 0), size=(8, 8), fov=10)
    rendering = MeshPainter(mesh).render(camera, HeadState(corners[None]))
    assert torch.allclose(rendering.rgb[4, 4], torch.full((3,), 0.25), atol=1e-5)
    assert float(rendering.depth[4, 4]) == pytest.approx(0.5**0.5, abs=0.02)


def test_a_scene_needs_a_motion(square) -> None:
    state = square()
    with pytest.raises(ValueError, match="motions is empty"):
        Scene("none", None, [])
    with pytest.raises(ValueError, match="have one name"):
        Scene("twice", None, [Motion.still("rest", state), Motion.still("rest", state)])
    with pytest.raises(ValueError, match="has 0 frames"):
        Motion("empty", 0, lambda frame: state)


def test_videos(square) -> None:
    scene = head_scene(square)
    camera = scene.first_camera((16, 16))
    turn = video_views(scene, scene.first_view(), camera, "a turntable", 0.2, 25)
    assert len(turn) == 5 and turn[0][1].world_to_camera.equal(camera.world_to_camera)
    assert len(video_views(scene, scene.first_view(), camera, "the motion", 9, 25)) == 1
    shares: list[float] = []
    content = encoded_video((scene.snapshot(*each) for each in turn), len(turn), 25, shares.append)
    assert b"ftyp" in content[:16] and shares == [0.0, 0.2, 0.4, 0.6, 0.8]


def test_what_is_not_finite_is_left_out(square) -> None:
    """The browser makes one sphere around all vertices; the rasterizer draws no such Gaussian."""
    state = square()
    lost = int(square.faces[0, 0])
    vertices = state.vertices.index_fill(1, torch.tensor([lost]), torch.nan)
    rest, landmarks = Motion.still("rest", state.replace(vertices=vertices)), torch.tensor([lost, 1, -1])
    painter = MeshPainter(Mesh(vertices[0], square.faces))
    scene = Scene("broken", painter, [rest], faces=square.faces, landmarks=landmarks)
    shown, faces = scene.mesh(scene.first_view())
    assert np.isfinite(shown).all() and len(faces) == int((square.faces != lost).all(-1).sum()) < len(square.faces)
    assert len(scene.points(scene.first_view())) == 1
    means = torch.zeros(1, 3, 3)
    means[0, 1] = torch.nan
    splats = Splats(means, torch.ones(1, 3, 4), torch.ones(1, 3, 3), torch.ones(1, 3), torch.rand(1, 3, 3))
    arrays = _arrays(splats, torch.ones(3))
    assert len(arrays.centers) == len(arrays.covariances) == len(arrays.colors) == len(arrays.opacities) == 2
