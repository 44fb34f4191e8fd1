"""Images of a mesh."""

import numpy as np
import pytest
import torch
import trimesh

from headfields.ops.render_mesh import render_mesh
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.records import Camera


def camera(size=(20, 24), distance=1.0, dtype=torch.float32):
    """On the +z axis looking at the origin, upright."""
    pose = torch.diag(torch.tensor([1.0, -1, -1, 1])).to(dtype)
    pose[2, 3] = distance
    intrinsics = torch.tensor([[90.0, 0, size[1] / 2], [0, 90, size[0] / 2], [0, 0, 1]], dtype=dtype)
    return Camera(pose, intrinsics, size)


def square(z=0.0, half=0.05, dtype=torch.float32):
    vertices = torch.tensor([[-half, -half, z], [half, -half, z], [half, half, z], [-half, half, z]], dtype=dtype)
    return torch.tensor([[0, 1, 2], [0, 2, 3]]), vertices


def test_a_square_has_its_depth_its_place_and_its_normal():
    faces, vertices = square(0.1)
    view = camera()
    image = render_mesh(TriangleBVH(faces, vertices), view, attributes=vertices)
    assert 60 < image.mask.sum() < 140
    torch.testing.assert_close(image.depth, torch.where(image.mask, 0.9, 0.0))
    torch.testing.assert_close(image.normal[image.mask], torch.tensor([0.0, 0, 1]).expand(int(image.mask.sum()), 3))
    # The attributes are positions: projecting them gives back the pixel centers they were seen through.
    pixels, depth = view.project(image.attributes[image.mask])
    rows, columns = torch.nonzero(image.mask, as_tuple=True)
    torch.testing.assert_close(pixels, torch.stack((columns, rows), dim=-1) + 0.5, atol=2e-4, rtol=0)
    torch.testing.assert_close(depth, image.depth[image.mask])
    outside = ~image.mask
    for name in ("depth", "attributes", "normal", "barycentric"):
        assert getattr(image, name)[outside].eq(0).all()
    assert image.face[outside].eq(-1).all()


def test_the_nearer_surface_and_the_asked_mesh_are_seen():
    faces, near = square(0.2)
    _, far = square(-0.2)
    both = TriangleBVH(torch.cat([faces, faces + 4]), torch.cat([far, near]))
    assert set(render_mesh(both, camera()).face.unique().tolist()) == {-1, 2, 3}
    batch = TriangleBVH(faces, torch.stack([near, far]))
    depths = [render_mesh(batch, camera(), mesh_index=k).depth.max().item() for k in (0, 1)]
    assert depths == pytest.approx([0.8, 1.2])


def test_a_ball_matches_its_equation():
    mesh = trimesh.creation.icosphere(subdivisions=4, radius=0.1)
    bvh = TriangleBVH(torch.tensor(np.array(mesh.faces)), torch.tensor(np.array(mesh.vertices), dtype=torch.float32))
    view = camera((40, 40))
    image, rays = render_mesh(bvh, view), view.rays()
    b = (rays.origins * rays.directions).sum(-1)
    discriminant = b.square() - (rays.origins.square().sum(-1) - 0.01)
    clear = discriminant.abs() > 5e-5  # the outline of the mesh lies a little inside that of the ball
    assert image.mask.reshape(-1)[clear].equal(discriminant[clear] > 0)
    seen = clear & (discriminant > 0)
    depth = (-b - discriminant.clamp(min=0).sqrt()) * -rays.directions[:, 2]
    torch.testing.assert_close(image.depth.reshape(-1)[seen], depth[seen], atol=1e-3, rtol=0)


def test_corner_attributes_may_differ_across_a_seam():
    faces, vertices = square()
    values = torch.tensor([0.0, 1.0]).view(2, 1, 1).expand(2, 3, 1)
    image = render_mesh(TriangleBVH(faces, vertices), camera(), attributes=values)
    torch.testing.assert_close(image.attributes[..., 0], (image.face == 1).float())


def test_gradients_to_vertices_and_attributes():
    faces, vertices = square(dtype=torch.float64)
    vertices = (vertices + torch.tensor([[0.0, 0, 0.01], [0, 0, 0], [0, 0, 0.02], [0, 0, 0]])).requires_grad_()
    attributes = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    view = camera((5, 6), dtype=torch.float64)
    bvh = TriangleBVH(faces, vertices)
    mask = render_mesh(bvh, view).mask
    # Away from the outline and the diagonal, where a step of the finite differences would change the face.
    mask &= (render_mesh(bvh, view).barycentric > 0.02).all(-1)

    def run(vertices, attributes):
        image = render_mesh(bvh.refit(vertices), view, attributes)
        return image.depth[mask], image.attributes[mask], image.normal[mask]

    assert mask.any() and torch.autograd.gradcheck(run, (vertices, attributes))


def test_nothing_to_see():
    faces, vertices = square()
    vertices.requires_grad_()
    for bvh in (TriangleBVH(faces[:0], vertices), TriangleBVH(faces, vertices + 5)):
        image = render_mesh(bvh, camera((3, 4)), attributes=vertices)
        assert not image.mask.any() and image.attributes.shape == (3, 4, 3)
        (image.depth.sum() + image.attributes.sum() + image.normal.sum()).backward()
        assert vertices.grad.eq(0).all()
    empty = render_mesh(TriangleBVH(faces, vertices), camera((0, 4)))
    assert empty.depth.shape == (0, 4) and empty.attributes.shape == (0, 4, 0)


def test_errors_name_the_argument(unchecked):
    faces, vertices = square()
    bvh = TriangleBVH(faces, vertices)
    with pytest.raises(ValueError, match=r"attributes has shape \(3, 2\)"):
        render_mesh(bvh, camera(), torch.zeros(3, 2))
    with pytest.raises(IndexError, match="mesh_index is 1"):
        render_mesh(bvh, camera(), mesh_index=1)
    views = Camera(torch.eye(4).expand(2, 4, 4), torch.eye(3).expand(2, 3, 3), (4, 4))
    with pytest.raises(ValueError, match="camera is a batch of 2"):
        render_mesh(bvh, views)
