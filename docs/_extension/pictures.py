"""Pictures of parts that a few seconds draw: `python docs/_extension/pictures.py [NAME ...]` writes docs/images/parts.

`viewer` needs Chromium, and is drawn only where it is named. Parts that learn first are in `learned_pictures.py`.
"""

import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image

import headfields as hf
from headfields.apps.viewer.looks import face_colors
from headfields.networks import head_anchors
from headfields.networks.surface_splats import surface_splats
from headfields.viz.heat import heat_legend
from headfields.viz.images import to_uint8
from headfields.viz.mesh import Side, view_camera

FOLDER = Path(__file__).resolve().parents[1] / "images" / "parts"
COLORS = torch.tensor([[0.75, 0.75, 0.75], [0.25, 0.5, 0.85], [0.9, 0.45, 0.2], [0.3, 0.7, 0.4], [0.3, 0.7, 0.4]])
"""Of the joints: root, neck, jaw, eyes."""
SIDES: tuple[Side, ...] = ("front", "left")
Point = tuple[float, float, float]
FRAMES: list[Point] = [(0.35, 0.55, 0.9), (0.9, 0.6, 0.3), (0.4, 0.7, 0.45)]
GRAY: Point = (0.3, 0.3, 0.3)
Drawing = Callable[[hf.heads.FlameHead], list[torch.Tensor]]


def main() -> None:
    drawings = (
        skinning,
        uv,
        anchored,
        vertex_features,
        signed_distance,
        meshing,
        geometry_metrics,
        splatting,
        retargeting,
        hyper,
        mesh_rendering,
        head_frame,
        texturing,
    )
    draw(drawings, [viewer])


def draw(drawings: Sequence[Drawing], on_request: Sequence[Drawing] = ()) -> None:
    """Saves the pictures that the command line names, or all but those that are drawn on request."""
    head, by_name = hf.synthetic.procedural_head(), {each.__name__: each for each in (*drawings, *on_request)}
    for name in sys.argv[1:] or [each.__name__ for each in drawings]:
        save(name, by_name[name](head))


def skinning(head: hf.heads.FlameHead) -> list[torch.Tensor]:
    """The weights of the joints as colors, at rest, with the jaw open, and with the neck turned."""
    pose = torch.zeros(3, 5, 3)
    pose[1:, 2, 0] = math.radians(18)
    pose[2, 1, 1] = math.radians(35)
    look = head.weights @ COLORS
    return [hf.viz.draw_mesh(hf.Mesh(each, head.faces), "front", look, size=240) for each in head(pose=pose).vertices]


def uv(head: hf.heads.FlameHead) -> list[torch.Tensor]:
    """A posed head by its displacement from rest, the same in its map, and the head from the map."""
    rasterizer = hf.ops.UVRasterizer(head.faces, head.uv, head.uv_faces, resolution=(240, 240))
    pose = torch.zeros(1, 5, 3)
    pose[0, 2, 0] = math.radians(18)
    posed = head(pose=pose).vertices
    colors = 0.5 + (posed - head.template_vertices) / 0.08
    maps = rasterizer.vertices_to_map(colors)
    mesh = hf.Mesh(posed[0], head.faces)
    back = rasterizer.map_to_vertices(maps)[0]
    drawn = [hf.viz.draw_mesh(mesh, "front", look.clamp(0, 1), size=240) for look in (colors[0], back)]
    return [drawn[0], maps[0].permute(1, 2, 0).clamp(0, 1), drawn[1]]


def anchored(head: hf.heads.FlameHead) -> list[torch.Tensor]:
    """The anchors of a head as dots, and each point's color blended from those of the nearest ones."""
    vertices = head().vertices[0]
    index = head_anchors(hf.Template(vertices, head.faces), pairs=14, middle=5)
    distance = torch.cdist(vertices, vertices[index])
    look = (-((distance / 0.012) ** 2)).softmax(-1) @ face_colors(len(index))
    look[distance.amin(-1) < 0.003] = 0.1
    return [hf.viz.draw_mesh(hf.Mesh(vertices, head.faces), side, look, size=240, samples=2) for side in SIDES]


def vertex_features(head: hf.heads.FlameHead) -> list[torch.Tensor]:
    """A slice through a head at rest and with its jaw open: the mean of four vertices' features, here colors."""
    pose = torch.zeros(2, 5, 3)
    pose[1, 2, 0] = math.radians(18)
    points, colors = slice_points(), 0.5 + 0.5 * torch.sin(60 * head.template_vertices + torch.tensor([0.0, 2.0, 4.0]))
    pictures = []
    for vertices in head(pose=pose).vertices:
        nearest = hf.ops.VertexTree(vertices).nearest(points, k=4)
        weights = hf.ops.nearest_vertices.inverse_distance_weights(nearest.distance)
        mean = (weights[..., None] * colors[nearest.index]).sum(-2)
        fade = ((nearest.distance[:, :1] - 0.01) / 0.02).clamp(0, 1)
        pictures.append((mean + fade * (1 - mean)).reshape(240, 240, 3))
    return pictures


def signed_distance(head: hf.heads.FlameHead) -> list[torch.Tensor]:
    """The distance on a slice through a bust in steps of 10 mm, and the density of NeuS for two sharpnesses."""
    distance = bust(slice_points())
    stripes = 0.75 + 0.25 * ((distance / 0.01).floor() % 2)[:, None]
    inside, outside = torch.tensor([0.35, 0.55, 0.9]), torch.tensor([0.98, 0.75, 0.45])
    pictures = [stripes * torch.where((distance < 0)[:, None], inside, outside)]
    for sharpness in (150.0, 600.0):
        share = torch.sigmoid(-sharpness * distance)
        pictures.append((1 - 4 * share * (1 - share))[:, None].expand(-1, 3))
    return [each.reshape(240, 240, 3) for each in pictures]


def extracted(resolution: int) -> hf.Mesh:
    """The surface of the bust."""
    box = torch.tensor([[-0.13, -0.16, -0.13], [0.13, 0.13, 0.13]])
    return hf.mesh.extract(bust, box, resolution, lipschitz=1.2)


def meshing(head: hf.heads.FlameHead) -> list[torch.Tensor]:
    """The surface of a signed distance on grids of 8, 16 and 96 cells."""
    return [hf.viz.draw_mesh(extracted(cells), camera(35), size=240, samples=2) for cells in (8, 16, 96)]


def hyper(head: hf.heads.FlameHead) -> list[torch.Tensor]:
    """Three slices of one shape of more dimensions: the mouth opens along the one that is not drawn."""
    points, pictures = slice_points(), []
    for ambient in (0.0, 0.5, 1.0):
        mouth = capsule(points, (0.0, -0.052, 0.045), (0.0, -0.06, 0.11), 0.018 * ambient - 0.006)
        distance = 0.004 * torch.stack([bust(points) / 0.004, -mouth / 0.004]).logsumexp(0)
        share = torch.sigmoid(-distance / 0.0006)[:, None]
        stripes = 0.85 + 0.15 * ((distance / 0.01).floor() % 2)[:, None]
        pictures.append((1 - share + share * stripes * torch.tensor([0.4, 0.6, 0.9])).reshape(240, 240, 3))
    return pictures


def mesh_rendering(head: hf.heads.FlameHead) -> list[torch.Tensor]:
    """A textured head, its normals, and an ear's silhouette: by pixels' centers, and antialiased."""
    vertices = head().vertices[0]
    assert head.uv is not None and head.uv_faces is not None
    texture = hf.ops.texture.pad_charts(
        torch.from_numpy(hf.synthetic.head.texture.procedural_head_texture(256)).float(), head.uv, head.uv_faces
    )
    view = view_camera(vertices, yaw=30, size=200)
    rendering = hf.renderers.MeshRenderer(head.faces, head.uv, head.uv_faces, texture)(vertices, view)
    normal = rendering.normal @ view.world_to_camera[:3, :3].T * torch.tensor([1.0, -1.0, -1.0])
    mask = (rendering.face >= 0).float()
    edges = [
        (1 - 0.7 * each)[70:95, 140:165].repeat_interleave(8, 0).repeat_interleave(8, 1)[..., None].expand(-1, -1, 3)
        for each in (mask, rendering.alpha)
    ]
    solid = torch.where(mask[..., None] > 0, 0.5 + 0.5 * normal, 1.0)
    return [rendering.over(torch.ones(3)).clamp(0, 1), solid, *edges]


def geometry_metrics(head: hf.heads.FlameHead) -> list[torch.Tensor]:
    """Distances of a coarse surface from the truth as colors, and their scale."""
    surface, truth = extracted(16), hf.mesh.distances.SurfaceTree(extracted(160))
    look = hf.viz.heat(truth.distances(surface.vertices).distance, 0.003)
    drawn = [hf.viz.draw_mesh(surface, camera(yaw), look, size=240, samples=2) for yaw in (0, 35)]
    return [*drawn, torch.from_numpy(heat_legend(240, 0.003)).float() / 255]


def camera(yaw: float) -> hf.Camera:
    """A camera that sees the bust."""
    return view_camera(torch.tensor([[-0.13, -0.16, -0.1], [0.13, 0.13, 0.13]]), yaw=yaw, size=240, zoom=1.5)


def splatting(head: hf.heads.FlameHead) -> list[torch.Tensor]:
    """4,000 Gaussians on a head: at a third of their size, whole, their depth, their normals."""
    vertices = head().vertices[0]
    splats, _ = surface_splats(vertices, head.faces, 4000, opacity=0.95)
    view, places = view_camera(vertices, yaw=30, size=180), splats.means.reshape(-1, 3)
    colors = 0.5 + 0.3 * torch.sin(40 * places + torch.tensor([0.0, 2.0, 4.0]))
    shape = [each.reshape(len(places), -1) for each in (splats.quaternions, splats.scales, splats.opacities)]
    images = [
        hf.ops.rasterize_gaussians(places, shape[0], size * shape[1], shape[2][:, 0], colors, view, torch.ones(3))
        for size in (1 / 3, 1)
    ]
    whole, near = images[1], float((view.center - places.mean(0)).norm())
    depth = whole.depth[0] / whole.opacity[0].clamp_min(1e-6)
    shade = (0.5 - (depth - near) / 0.25).clamp(0, 1)[..., None].expand(-1, -1, 3)
    local = torch.nn.functional.normalize(whole.normal[0], dim=-1) @ view.world_to_camera[:3, :3].T
    looks = [shade, 0.5 + 0.5 * local * torch.tensor([1.0, -1.0, -1.0])]
    solid = (whole.opacity[0] > 0.5)[..., None]
    return [*(each.color[0].clamp(0, 1) for each in images), *(torch.where(solid, look, 1.0) for look in looks)]


def retargeting(head: hf.heads.FlameHead) -> list[torch.Tensor]:
    """A head at rest and in two poses, and another head that makes them."""
    shapes = [torch.zeros(1, 6), torch.zeros(1, 6)]
    shapes[0][0, :3], shapes[1][0, :3] = torch.tensor([-2.0, 1.5, 2.0]), torch.tensor([2.5, -2.0, -1.0])
    source, target = (hf.retargeting.sources.surface_of_head(head, shape=shape) for shape in shapes)
    pose, expression = torch.zeros(3, 5, 3), torch.zeros(3, 10)
    pose[1, 2, 0] = math.radians(20)
    expression[2, 0] = 2.0
    pose[2, 1, 1] = math.radians(25)
    driver = head(shape=shapes[0], expression=expression, pose=pose)
    made = hf.retargeting.Retargeter(source, target)(hf.HeadState(driver.vertices))
    rows = [
        torch.cat([hf.viz.draw_mesh(hf.Mesh(each, source.faces), "front", size=170) for each in vertices], dim=1)
        for vertices in (driver.vertices, made.vertices)
    ]
    return [torch.cat(rows, dim=0)]


def head_frame(head: hf.heads.FlameHead) -> list[torch.Tensor]:
    """Three frames of a head that moves before a camera, and the same in the head's frame, where the camera moves."""
    pose = torch.zeros(3, 5, 3)
    pose[:, 0, :2] = torch.tensor([[0.15, -0.35], [-0.1, 0.1], [0.2, 0.45]])
    pose[:, 2, 0] = torch.tensor([0.0, 0.15, 0.35])
    places = torch.tensor([[-0.24, 0.0, -0.02], [0.0, 0.02, 0.0], [0.24, -0.03, -0.04]])
    vertices = head(pose=pose, translation=places).vertices
    eye = hf.Camera.orbit((0.0, 0.0, 0.0), 0.6, size=(64, 64), fov=30)
    canonical = head.template_vertices
    motion = hf.data.head_frame.head_pose(vertices, canonical, hf.data.head_frame.rigid_vertices(vertices, canonical))
    still, eyes = hf.data.head_frame.to_head_frame(hf.HeadState(vertices), eye, motion)
    return [
        drawn_together(
            [(each, head.faces) for each in state.vertices] + [camera_mesh(each) for each in cameras], colors
        )
        for state, cameras, colors in (
            (hf.HeadState(vertices), [eye], [*FRAMES, GRAY]),
            (still, [eyes[frame] for frame in range(3)], 2 * FRAMES),
        )
    ]


def texturing(head: hf.heads.FlameHead) -> list[torch.Tensor]:
    """Images of unequal exposure, the texture that is baked from ten, its texels that none saw, and the result."""
    vertices = head().vertices[0]
    cameras = hf.Camera.orbit((0.0, 0.0, 0.0), 0.9, torch.arange(-90, 91, 20), 8, size=(130, 130), fov=18)
    pixels = photographs(head, cameras)
    for index in range(len(cameras)):
        pixels[index, ..., :3] = hf.texturing.exposure.even_out(pixels[index, ..., :3], 1 / (1 + 0.3 * (-1) ** index))
    images = hf.texturing.images.PosedImages(
        cameras, to_8_bits(pixels), tuple(f"image {index}" for index in range(len(cameras)))
    )
    made = hf.texturing.texture_proxy(images, hf.Mesh(vertices, head.faces, uv=head.uv, uv_faces=head.uv_faces), 130)
    seen = torch.where(made.baked.visible[..., None], made.baked.texture, 0.15)
    view = cameras[4].orbited(torch.zeros(3), 35)
    look = hf.viz.draw_mesh(made.mesh, view, "texture", None, samples=2)
    shown = [each[..., :3] * each[..., 3:] + 1 - each[..., 3:] for each in pixels[2:6:3]]
    return [*shown, seen, look]


def viewer(head: hf.heads.FlameHead) -> list[torch.Tensor]:
    """A page of the viewer."""
    import io

    from benchmarks.browser import chromium
    from headfields.apps.viewer import Viewer
    from headfields.apps.viewer.subjects import head_scene

    running = Viewer(head_scene(head, "head"), port=8765)
    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile), (900, 640)) as browser:
        browser.get(running.url)
        time.sleep(4)
        running._handles["slider jaw pitch"].value = 16.0
        running._handles["layer wireframe"].value = True
        time.sleep(1)
        running.idle(60)
        browser.execute_script("""for (const each of document.querySelectorAll("[class*=Notification-root]"))
            each.style.display = "none";""")
        time.sleep(2)
        page = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    running.close()
    page = page.resize((page.width * 11 // 20, page.height * 11 // 20), Image.Resampling.LANCZOS)
    return [torch.frombuffer(bytearray(page.tobytes()), dtype=torch.uint8).reshape(page.height, page.width, 3) / 255]


def photographs(head: hf.heads.FlameHead, cameras: hf.Camera) -> torch.Tensor:
    """Images (N, H, W, 4) of the textured head, with their mattes."""
    assert head.uv is not None and head.uv_faces is not None
    texture = hf.ops.texture.pad_charts(
        torch.from_numpy(hf.synthetic.head.texture.procedural_head_texture(512)).float(), head.uv, head.uv_faces
    )
    renderer, images = hf.renderers.MeshRenderer(head.faces, head.uv, head.uv_faces, texture), []
    for index in range(len(cameras)):
        rendering = renderer(head().vertices[0], cameras[index])
        images.append(torch.cat([rendering.over(torch.ones(3)), rendering.alpha[..., None]], -1).clamp(0, 1))
    return torch.stack(images)


def to_8_bits(images: torch.Tensor) -> torch.Tensor:
    """Images in [0, 1] as bytes."""
    return (255 * images).round().to(torch.uint8)


def camera_mesh(camera: hf.Camera) -> tuple[torch.Tensor, torch.Tensor]:
    """A pyramid, its vertices (5, 3) and faces (6, 3), with its tip in the camera's center and open to its view."""
    local = 0.09 * torch.tensor([[0.0, 0, 0], [-0.5, -0.5, 1], [0.5, -0.5, 1], [0.5, 0.5, 1], [-0.5, 0.5, 1]])
    turn = camera.world_to_camera.reshape(4, 4)[:3, :3]
    faces = torch.tensor([[0, 2, 1], [0, 3, 2], [0, 4, 3], [0, 1, 4], [1, 2, 3], [1, 3, 4]])
    return local @ turn + camera.center.reshape(3), faces


def drawn_together(shapes: list[tuple[torch.Tensor, torch.Tensor]], colors: Sequence[Point]) -> torch.Tensor:
    """Meshes in one picture, seen from above, each in its color."""
    count = torch.tensor([len(vertices) for vertices, _ in shapes])
    mesh = hf.Mesh(
        torch.cat([vertices for vertices, _ in shapes]),
        torch.cat([faces + start for (_, faces), start in zip(shapes, count.cumsum(0) - count, strict=True)]),
    )
    look = torch.tensor(colors).repeat_interleave(count, 0)
    view = view_camera(mesh.vertices, 0, 40, 280, 1.0, torch.tensor([0.0, -0.02, 0.2]), 1.1)
    return hf.viz.draw_mesh(mesh, view, look, samples=2)[65:235]


def slice_points() -> torch.Tensor:
    """The points (240 * 240, 3) of a picture of the plane x = 0 through the head, y up, face to the right."""
    step = torch.linspace(-0.5, 0.5, 240) * 0.3
    y, z = torch.meshgrid(-step + 0.0, step, indexing="ij")
    return torch.stack([torch.zeros_like(y), y, z], -1).reshape(-1, 3) + torch.tensor([1e-4, 0.0, 0.0])


def bust(points: torch.Tensor) -> torch.Tensor:
    """The distance (N,) of points from balls and capsules that blend to a bust, negative inside, meters."""
    ears = [((side * 0.088, -0.005, -0.005), (side * 0.096, 0.02, -0.012), 0.012) for side in (-1, 1)]
    solids = [
        ((0.0, 0.02, 0.0), (0.0, 0.03, -0.02), 0.085),
        ((0.0, -0.05, 0.03), (0.0, -0.03, 0.03), 0.052),
        ((0.0, -0.05, -0.01), (0.0, -0.25, -0.03), 0.042),
        ((0.0, 0.015, 0.083), (0.0, -0.02, 0.098), 0.009),
        *ears,
    ]
    distance = -0.008 * torch.stack([-capsule(points, *each) / 0.008 for each in solids]).logsumexp(0)
    for side in (-1, 1):
        socket = capsule(points, (side * 0.028, 0.015, 0.1), (side * 0.034, 0.015, 0.098), 0.013)
        distance = 0.004 * torch.stack([distance / 0.004, -socket / 0.004]).logsumexp(0)
    return distance


def capsule(points: torch.Tensor, first: Point, last: Point, radius: float) -> torch.Tensor:
    """The distance (N,) of points from a ball whose center moves from one point to another."""
    start, way = points.new_tensor(first), points.new_tensor(last) - points.new_tensor(first)
    share = (((points - start) @ way) / way.dot(way)).clamp(0, 1)[:, None]
    return (points - start - share * way).norm(dim=-1) - radius


def save(name: str, pictures: list[torch.Tensor], quality: int = 65) -> None:
    Image.fromarray(to_uint8(torch.cat(pictures, dim=1))).save(FOLDER / f"{name}.webp", quality=quality, method=6)


if __name__ == "__main__":
    main()
