"""Differentiable images of a mesh."""

import math

import pytest
import torch

from headfields.losses.silhouette import observe_silhouette, silhouette_distance
from headfields.ops import TriangleBVH
from headfields.ops.render_mesh import render_mesh
from headfields.ops.texture import mip_pyramid
from headfields.records import Camera
from headfields.renderers import MeshRenderer
from headfields.renderers.lighting import SHLighting
from tests.backends import BACKENDS, running_on
from tests.ops.test_antialias import camera, two_spheres
from tests.shapes import grid_sheet, uv_sphere


@pytest.fixture(params=BACKENDS)
def device(request):
    with running_on(request.param) as chosen:
        yield chosen


def test_the_center_of_each_pixel_agrees_with_render_mesh(device):
    vertices, faces = (x.to(device) for x in two_spheres())
    view = camera((40, 30)).to(device)
    attributes = torch.randn(len(vertices), 2, device=device)
    mine = MeshRenderer(faces)(vertices, view, attributes)
    its = render_mesh(TriangleBVH(faces, vertices), view, attributes)
    assert mine.face.equal(its.face) and 100 < its.mask.sum() < 900
    for name in ("depth", "barycentric", "attributes"):
        torch.testing.assert_close(getattr(mine, name), getattr(its, name), rtol=1e-4, atol=2e-4)
    away = (mine.normal * its.normal).sum(-1)[its.mask]
    assert away.min() > 0.8  # smooth and flat normals
    assert mine.alpha.gt(0).sum() > its.mask.sum()
    torch.testing.assert_close(mine.color, mine.alpha[..., None].expand(-1, -1, 3))
    torch.testing.assert_close(mine.over(0.25), 0.25 + 0.75 * mine.color)
    with pytest.raises(ValueError, match=r"MeshRendering.over: background is 255; .* divide 8-bit values by 255"):
        mine.over(255)
    image = torch.rand(40, 30, 3, device=device)
    torch.testing.assert_close(mine.over(image), mine.color + (1 - mine.alpha[..., None]) * image)


def test_gradients_to_vertices_camera_texture_light_and_attributes():
    vertices, faces = two_spheres()
    vertices = vertices.double()
    view = camera((9, 8), focal=9.0, dtype=torch.float64)
    uv = torch.rand(len(vertices), 2, dtype=torch.float64)
    renderer = MeshRenderer(faces, uv, faces)
    texture, light = torch.rand(3, 4, 3, dtype=torch.float64), torch.randn(9, 3, dtype=torch.float64)
    attributes = torch.randn(len(vertices), 1, dtype=torch.float64)

    def run(moved, pose, lens, texture, light, attributes):
        seen = renderer(vertices + moved, Camera(pose, lens, view.size), attributes, light, texture)
        return seen.color.square().sum() + seen.alpha.square().sum(), seen.depth.sum() + (seen.attributes**2).sum()

    moved = torch.zeros(3, dtype=torch.float64)
    inputs = [moved, view.world_to_camera, view.intrinsics, texture, light, attributes]
    inputs = tuple(x.clone().requires_grad_() for x in inputs)
    renderer.bias = -50.0  # the level has no derivative, so it must not move
    assert torch.autograd.gradcheck(run, inputs, eps=1e-7, atol=1e-3, rtol=1e-3, fast_mode=True)
    assert torch.autograd.gradgradcheck(
        lambda moved, texture: run(moved, *inputs[1:3], texture, *inputs[4:])[0], (inputs[0], inputs[3]), eps=1e-7,
        atol=1e-2, rtol=1e-3, fast_mode=True,
    )  # fmt: skip


def test_autocast_leaves_an_image_as_it_is():
    vertices, faces = two_spheres()
    renderer, light = MeshRenderer(faces, torch.rand(len(vertices), 2), faces, torch.rand(8, 8, 3)), torch.randn(9, 3)
    sharp = renderer(vertices, camera((40, 30)), light=light)
    with torch.autocast("cpu", torch.bfloat16):
        image = renderer(vertices, camera((40, 30)), light=light)
        view = camera((40, 30)).orbited(torch.ones(3), 30)
    for name in ("color", "depth", "normal"):
        torch.testing.assert_close(getattr(image, name), getattr(sharp, name), rtol=0, atol=0)
    assert view.world_to_camera.equal(camera((40, 30)).orbited(torch.ones(3), 30).world_to_camera)


def test_a_texture_is_read_where_it_should_be_and_averaged_from_afar(device):
    vertices, faces = grid_sheet(3)
    uv = 0.5 + 0.5 * vertices[:, :2]
    stripes = (torch.arange(64) % 2).float()[None, :, None].expand(64, 64, 3).contiguous()
    ramp = ((torch.arange(64) + 0.5) / 64)[None, :, None].expand(64, 64, 3).contiguous()
    vertices, faces, uv, stripes, ramp = (x.to(device) for x in (vertices, faces, uv, stripes, ramp))
    near = MeshRenderer(faces, uv, faces, ramp)(vertices, camera((16, 16), focal=50.0).to(device))
    columns = (torch.arange(16, device=device) + 0.5 - 8) / 50 * 4
    torch.testing.assert_close(near.color[..., 1], (0.5 + 0.5 * columns).expand(16, 16), rtol=0, atol=1e-4)
    far = MeshRenderer(faces, uv, faces, mip_pyramid(stripes))(vertices, camera((16, 16), focal=24.0).to(device))
    inner = far.color[4:12, 4:12]
    torch.testing.assert_close(inner, torch.full_like(inner, 0.5), rtol=0, atol=0.01)


def test_light_stays_with_the_camera():
    vertices, faces = uv_sphere(20, 30)
    lighting = SHLighting()
    with torch.no_grad():
        lighting.coefficients[1] = -1.5  # from the left
    seen = MeshRenderer(faces)(vertices, camera((30, 30)), light=lighting.coefficients)
    left, right = seen.color[13:17, 9:12].mean(), seen.color[13:17, 18:21].mean()
    assert left > right + 0.3
    plain = MeshRenderer(faces)(vertices, camera((30, 30)), light=SHLighting().coefficients)
    torch.testing.assert_close(plain.color, MeshRenderer(faces)(vertices, camera((30, 30))).color)


def test_the_inside_of_an_open_mesh_is_hidden_if_asked():
    vertices, faces = uv_sphere(20, 30)
    front = vertices[faces].mean(1)[:, 2] > 0.5  # the part toward the camera is missing
    opened = faces[~front]
    shown = MeshRenderer(opened)(vertices, camera((30, 30)))
    hidden = MeshRenderer(opened, backfaces="hide")(vertices, camera((30, 30)))
    assert shown.alpha[15, 15] == 1 and hidden.alpha[15, 15] == 0 and hidden.face[15, 15] == -1
    assert 0 < hidden.alpha.sum() < 0.5 * shown.alpha.sum()
    rim = hidden.face >= 0
    assert rim.any() and shown.face[rim].equal(hidden.face[rim])


def test_a_sphere_finds_its_place_from_far_away():
    vertices, faces = uv_sphere(16, 24)
    renderer, view = MeshRenderer(faces), camera((32, 32), focal=30.0)
    pad = lambda place: torch.nn.functional.pad(place, (0, 1))  # noqa: E731
    truth = torch.tensor([0.55, -0.35])
    with torch.no_grad():
        matte = renderer(0.8 * vertices + pad(truth), view).alpha
    observed = observe_silhouette(matte)
    outside = observed.signed_distance[matte == 0]
    assert outside.min() > 0 and observed.signed_distance[matte == 1].max() < 0
    place = torch.tensor([-0.7, 0.6], requires_grad=True)  # 15 pixels away, half of it outside
    size = torch.tensor(0.5, requires_grad=True)
    optimizer = torch.optim.Adam([place, size], lr=0.1)
    for step in range(80):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * 0.95**step
        seen = renderer(size * vertices + pad(place), view)
        loss = 0.02 * silhouette_distance(seen.crossings, observed) + (seen.alpha - matte).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (place - truth).norm() < 0.03 and abs(float(size) - 0.8) < 0.02  # a pixel is 0.13


def test_the_distance_of_outlines():
    x, y = torch.meshgrid(torch.arange(40) + 0.5, torch.arange(40) + 0.5, indexing="xy")
    radius = ((x - 20) ** 2 + (y - 18) ** 2).sqrt()
    observed = observe_silhouette((10 - radius + 0.5).clamp(0, 1))
    assert (observed.outline - torch.tensor([20.0, 18])).norm(dim=-1).sub(10).abs().max() < 0.1
    torch.testing.assert_close(observed.signed_distance, radius - 10, rtol=0, atol=0.3)
    vertices, faces = uv_sphere(30, 40)
    view = camera((40, 40), focal=30.0, shift=(0.0, -2.0))
    seen = MeshRenderer(faces)(vertices, view)
    disc = 30 / math.sqrt(16 - 1)
    value = silhouette_distance(seen.crossings, observed)
    assert float(value) == pytest.approx((10 - disc) ** 2, rel=0.1)  # half of the square, both ways
    far = silhouette_distance(seen.crossings, observed, scale=0.5)
    assert float(far) == pytest.approx(2 * 0.5 * (10 - disc - 0.25), rel=0.1)
    one = silhouette_distance(seen.crossings, observed, both_ways=False)
    assert float(one) == pytest.approx((10 - disc) ** 2 / 2, rel=0.15)
    half = observe_silhouette((10 - radius + 0.5).clamp(0, 1), ignore=y > 18)
    assert 0.4 < len(half.outline) / len(observed.outline) < 0.6 and half.outline[:, 1].max() < 19
    empty = observe_silhouette(torch.zeros(40, 40))
    leaf = vertices.clone().requires_grad_()
    nothing = silhouette_distance(MeshRenderer(faces)(leaf, view).crossings, empty)
    nothing.backward()
    assert nothing == 0 and leaf.grad.eq(0).all()


def test_nothing_to_see_keeps_a_gradient():
    vertices, faces = uv_sphere(4, 5)
    leaf = vertices.clone().requires_grad_()
    texture = torch.rand(4, 4, 3, requires_grad=True)
    uv = torch.rand(len(vertices), 2)
    for mesh, place, size in ((faces[:0], 0.0, (6, 7)), (faces, 50.0, (6, 7)), (faces, 0.0, (0, 7))):
        renderer = MeshRenderer(mesh, uv, mesh, texture)
        seen = renderer(leaf + place, camera(size), leaf, torch.zeros(9, 1))
        assert seen.color.shape == (*size, 3) and seen.attributes.shape == (*size, 3) and not seen.alpha.any()
        total = seen.color.sum() + seen.alpha.sum() + seen.depth.sum() + seen.attributes.sum() + seen.normal.sum()
        leaf.grad = None
        total.backward()
        assert leaf.grad.eq(0).all()
    broken = vertices.clone()
    broken[3] = torch.nan
    seen = MeshRenderer(faces)(broken, camera((20, 20)))
    assert seen.alpha.isfinite().all() and seen.alpha.sum() > 20
    inside = MeshRenderer(faces)(vertices, camera((6, 6), distance=0.0))
    assert inside.alpha.eq(1).all()


def test_another_number_of_vertices_builds_another_tree():
    vertices, faces = uv_sphere(4, 5)
    renderer = MeshRenderer(faces)
    first = renderer(vertices, camera((8, 8)))
    more = torch.cat([vertices, torch.zeros(2, 3)])
    assert renderer(more, camera((8, 8))).alpha.equal(first.alpha)


def test_errors_name_the_argument(unchecked):
    vertices, faces = uv_sphere(4, 5)
    uv, texture = torch.rand(len(vertices), 2), torch.rand(4, 4, 3)
    with pytest.raises(ValueError, match="uv and uv_faces belong together"):
        MeshRenderer(faces, uv)
    with pytest.raises(ValueError, match="a texture, but no uv"):
        MeshRenderer(faces, texture=texture)
    with pytest.raises(ValueError, match="texture has 4 channels"):
        MeshRenderer(faces, uv, faces, torch.rand(4, 4, 4))
    with pytest.raises(ValueError, match="backfaces is 'cull'"):
        MeshRenderer(faces, backfaces="cull")
    with pytest.raises(ValueError, match="uv_faces holds indices from"):
        MeshRenderer(faces, uv[:3], faces)
    renderer, view = MeshRenderer(faces), camera((8, 8))
    with pytest.raises(ValueError, match=r"vertices has shape \(1, 22, 3\)|vertices has shape \(1, 17, 3\)"):
        renderer(vertices[None], view)
    with pytest.raises(ValueError, match="faces name vertex"):
        renderer(vertices[:4], view)
    with pytest.raises(ValueError, match=r"attributes has shape \(3, 2\)"):
        renderer(vertices, view, torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"light has shape \(9,\)"):
        renderer(vertices, view, light=torch.zeros(9))
    both = Camera(view.world_to_camera.expand(2, 4, 4), view.intrinsics.expand(2, 3, 3), view.size)
    with pytest.raises(ValueError, match="camera is a batch of 2"):
        renderer(vertices, both)
    with pytest.raises(ValueError, match="level is 1"):
        observe_silhouette(torch.zeros(3, 3), level=1.0)
    with pytest.raises(ValueError, match="scale is 0"):
        silhouette_distance(renderer(vertices, view).crossings, observe_silhouette(torch.zeros(8, 8)), scale=0.0)
