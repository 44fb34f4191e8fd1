"""Pictures of meshes."""

import pytest
import torch

from headfields.mesh import Mesh
from headfields.viz import draw_mesh, heat, view_camera
from headfields.viz.heat import heat_legend
from tests.shapes import uv_sphere

VERTICES, FACES = uv_sphere(16, 24, radius=0.1)
BALL = Mesh(VERTICES + torch.tensor([1.0, 2.0, 3.0]), FACES)


def test_the_view_camera_shows_all_of_it_from_the_side_asked_for():
    for turn, toward in ((0.0, [0.0, 0.0, 1.0]), (90.0, [1.0, 0.0, 0.0])):
        camera = view_camera(BALL.vertices, turn, size=64)
        pixels, depth = camera.project(BALL.vertices)
        assert pixels.min() > 0 and pixels.max() < 64 and depth.min() > 0
        assert pixels.amax(0).sub(pixels.amin(0)).min() > 55
        direction = torch.nn.functional.normalize(camera.center - torch.tensor([1.0, 2.0, 3.0]), dim=-1)
        torch.testing.assert_close(direction, torch.tensor(toward), atol=1e-5, rtol=0)
        top = camera.project(torch.tensor([[1.0, 2.1, 3.0]]))[0][0, 1]
        assert top < 32  # up is up
    torch.testing.assert_close(torch.linalg.det(view_camera(BALL.vertices, 30.0).world_to_camera), torch.tensor(1.0))
    with pytest.raises(ValueError, match="0 of 1 points are finite"):
        view_camera(torch.full((1, 3), torch.nan))


def test_looks(unchecked):
    camera = view_camera(BALL.vertices, size=33)
    clay = draw_mesh(BALL, camera)
    assert clay[0, 0].eq(1).all() and 0.7 < clay[16, 16, 0] < 0.85 and clay[16, 16].unique().numel() == 1
    normals = draw_mesh(BALL, camera, "normals", background=0.0)
    torch.testing.assert_close(normals[16, 16], torch.tensor([0.5, 0.5, 1.0]), atol=0.08, rtol=0)
    assert normals[16, 26, 0] > 0.7 and normals[6, 16, 1] > 0.7 and normals[0, 0].eq(0).all()
    red = torch.tensor([[1.0, 0.0, 0.0]]).expand_as(VERTICES)
    flat = draw_mesh(BALL.replace(colors=red), camera, "colors", light=None)
    torch.testing.assert_close(flat[16, 16], red[0])
    torch.testing.assert_close(draw_mesh(BALL, camera, red, light=None), flat)
    with pytest.raises(ValueError, match="the mesh has none"):
        draw_mesh(BALL, camera, "colors")
    with pytest.raises(ValueError, match="look is 'wire'"):
        draw_mesh(BALL, camera, "wire")


def test_heat():
    colors = heat(torch.tensor([0.0, 0.5, 1.0, 7.0, torch.nan]), 1.0)
    assert colors[0, 2] > colors[0, 0] and colors[2, 0] > colors[2, 2]
    assert colors[3].equal(colors[2]) and colors[4].eq(0.6).all()
    legend = heat_legend(100, 0.005)
    assert legend.shape == (100, 76, 3) and legend.min() < 50


def test_textures_sides_and_backfaces(unchecked):
    quad = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    texture = torch.zeros(2, 2, 3)
    texture[0] = 1.0  # the upper half is white
    mesh = Mesh(
        quad, torch.tensor([[0, 1, 2], [0, 2, 3]]), uv=torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]]), texture=texture
    )
    picture = draw_mesh(mesh, "front", "texture", light=None, samples=2, size=32, background=0.5)
    assert picture.shape == (32, 32, 3) and picture[8, 16].eq(1).all() and picture[23, 16].eq(0).all()
    behind = draw_mesh(mesh, "back", "texture", mark_backfaces=True, size=32)
    assert behind[16, 16, 2] > 0.7 and behind[16, 16, 0] < 0.3
    with pytest.raises(ValueError, match="lacks a texture"):
        draw_mesh(BALL, "front", "texture")
    with pytest.raises(ValueError, match="expected a Camera or one of front, left, back, right"):
        draw_mesh(BALL, "top")
