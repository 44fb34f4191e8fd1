"""Transfer from the head to a retessellated scan of itself, so the expected values are known."""

import torch

from headfields.apps.retargeting.head_surface import HeadSurface
from headfields.apps.retargeting.sources import surface_of_head
from headfields.apps.rigging.attribute_transfer import (
    correspond,
    transfer_displacements,
    transfer_regions,
    transfer_uv,
    transfer_values,
    weld_groups,
)
from headfields.heads.mouth.border import mouth_loop
from tests.apps.rigging.test_registration import shuffled


def scan_of(head):
    """The head, its surface with finer triangles, and the side of the mouth of each vertex."""
    source = surface_of_head(head)
    vertices, faces = shuffled(head.template_vertices.double(), head.faces)
    sides = source.lip[head.faces].double().mean(1)
    sides = torch.cat([source.lip, torch.where(sides.abs() > 0.6, sides.sign(), 0.0).long()])
    return source, vertices, faces, HeadSurface(vertices, faces, sides=sides)


def test_weights_expressions_and_regions_of_the_head_itself(head):
    source, vertices, faces, target = scan_of(head)
    correspondence = correspond(source, head.template_vertices, target)
    skin = head.weights[:, 3:].sum(1) < 0.5
    outside = torch.cat([skin, skin[head.faces].all(1)])

    def at_scan(values):
        return torch.cat([values, values[head.faces].mean(1)])

    truth = at_scan(head.weights.double())
    for smoothing in (0, 1.0):
        mine = transfer_values(head.weights, correspondence, faces, weld_groups(vertices), smoothing)
        assert (mine.sum(1) - 1).abs().max() < 1e-6 and mine.min() > -1e-9
        error = (mine - truth).abs().amax(1)[outside]
        assert error.mean() < 0.01 and error.quantile(0.99) < 0.1

    names = ["smile_left", "mouth_open", "brow_raise_right"]
    picked = [head.expression_names.index(name) for name in names]
    basis = head.expression_basis[picked]
    moved = transfer_displacements(head.template_vertices, basis, source.faces, target, correspondence)
    for index in range(len(names)):
        expected = at_scan(basis[index].double())
        off = (moved[index] - expected).norm(dim=1)[outside]
        assert off.mean() < 0.05 * expected.norm(dim=1).max() and off.quantile(0.98) < 0.2 * expected.norm(dim=1).max()
    still = transfer_displacements(
        head.template_vertices, torch.zeros(2, *basis.shape[1:]), source.faces, target, correspondence
    )
    assert still.abs().max() == 0

    regions = head.template().regions
    transferred = transfer_regions({name: regions[name] for name in ("nose", "left_ear", "neck")}, correspondence)
    for name, mask in transferred.items():
        expected = regions[name][: len(head.faces)].repeat(3)
        assert (mask & expected).sum() > 0.9 * (mask | expected).sum(), name


def test_texture_coordinates_stay_within_a_chart(head):
    source, vertices, faces, target = scan_of(head)
    correspondence = correspond(source, head.template_vertices, target)
    padded = torch.cat([head.uv_faces, head.uv_faces[:1].expand(len(source.faces) - len(head.faces), -1)])
    uv, uv_faces = transfer_uv(head.uv, padded, source.faces, head.template_vertices, vertices, faces, correspondence)
    assert uv.min() >= 0 and uv.max() <= 1 and uv_faces.shape == faces.shape
    extent = uv[uv_faces].amax(1) - uv[uv_faces].amin(1)
    crown = uv[uv_faces][..., 1].amin(1) > 0.95  # the chart has a pole there, around which triangles are wide
    assert extent[~crown].max() < 0.15
    front = (vertices[faces].mean(1)[:, 2] > 0.06) & (vertices[faces].mean(1)[:, 1] > 0.02)
    mine = uv[uv_faces][front].mean(1)
    expected = torch.cat([head.uv[head.uv_faces]] * 3).mean(1)[front]
    assert (mine - expected).norm(dim=1).quantile(0.95) < 0.02


def test_seams_with_doubled_vertices_do_not_open(head):
    """Exporters write a vertex twice along a seam of the texture; both get one weight and one displacement."""
    source = surface_of_head(head)
    left = head.template_vertices[head.faces].mean(1)[:, 0] > 0.003
    loop = set(mouth_loop(head.faces, head.template_vertices, head.weights[:, 2]).tolist())
    shared = torch.tensor(
        sorted(set(head.faces[left].flatten().tolist()) & set(head.faces[~left].flatten().tolist()) - loop)
    )
    number = torch.arange(len(head.template_vertices))
    number[shared] = len(number) + torch.arange(len(shared))
    faces = head.faces.clone()
    faces[left] = number[faces[left]]
    vertices = torch.cat([head.template_vertices, head.template_vertices[shared]]).double()
    sides = torch.cat([source.lip, source.lip[shared]])
    target = HeadSurface(vertices, faces, sides=sides)
    places = weld_groups(vertices)
    assert torch.equal(places[shared], places[len(head.template_vertices) :])
    correspondence = correspond(source, head.template_vertices, target)
    mine = transfer_values(head.weights, correspondence, faces, places)
    assert torch.equal(mine[shared], mine[len(head.template_vertices) :])
    basis = head.expression_basis[[head.expression_names.index("mouth_open")]]
    moved = transfer_displacements(head.template_vertices, basis, source.faces, target, correspondence, places)[0]
    assert moved.abs().max() > 0.003 and torch.equal(moved[shared], moved[len(head.template_vertices) :])
    kept = weld_groups(vertices, shared)
    assert not (kept[shared] == kept[len(head.template_vertices) :]).any()
