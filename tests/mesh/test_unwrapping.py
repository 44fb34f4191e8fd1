"""How much of free vertex features a map can hold: against dense projections, and for the CPU sizes of MonoAvatar."""

import pytest
import torch

import headfields as hf
from headfields.mesh.unwrapping import FEATURE_WEIGHTS, unwrap_template, variance_lost
from headfields.models.monoavatar import vertex_source
from headfields.ops import UVRasterizer
from headfields.records import Template
from tests.shapes import grid_sheet, uv_sphere
from tests.shared_data import shared


def test_it_is_what_a_projection_onto_the_map_leaves() -> None:
    """The expectation of the residual of normal numbers is the diagonal of one minus the projection."""
    vertices, faces = uv_sphere(9, 12)
    template = unwrap_template(Template(vertices, faces))
    assert template.uv is not None and template.uv_faces is not None
    for resolution in (6, (9, 12)):
        rasterizer = UVRasterizer(faces, template.uv, template.uv_faces, resolution)
        height, width = rasterizer.resolution
        texels = torch.eye(height * width).reshape(-1, 1, height, width)
        lookup = rasterizer.map_to_vertices(texels)[..., 0].T.double()  # (V, texels), through the map itself
        kept = (lookup @ torch.linalg.pinv(lookup, atol=1e-3)).diagonal()
        lost = variance_lost(template, resolution)
        torch.testing.assert_close(lost.double().mean(), 1 - kept.mean(), atol=0.02, rtol=0)
        assert float(lost.mean()) > 0.1


def test_texels_of_their_own_lose_nothing_and_one_texel_all_but_the_mean() -> None:
    vertices, faces = grid_sheet(4)
    count = len(vertices)
    span = vertices[:, :2] - vertices[:, :2].amin(0)
    cell = span / span.amax()
    own = Template(vertices, faces, uv=(cell * 15 + 0.5) / 16, uv_faces=faces)  # at centers of texels
    assert float(variance_lost(own, 16).max()) < 1e-6
    one = own.replace(uv=torch.full((count, 2), 0.5))
    assert float(variance_lost(one, 1).mean()) == pytest.approx(1 - 1 / count, abs=0.05)
    with pytest.raises(ValueError, match="variance_lost: the template has no texture coordinates"):
        variance_lost(Template(vertices, faces), 16)


def test_weights_are_by_region_and_names_that_are_missing_have_no_effect() -> None:
    vertices, faces = uv_sphere(9, 12)
    front = vertices[faces].mean(1)[:, 2] > 0
    bare = Template(vertices, faces, regions={"eyes": front})
    plain, weighted = unwrap_template(bare), unwrap_template(bare, weights=FEATURE_WEIGHTS)
    shares = []
    for template in (plain, weighted):
        assert template.uv is not None and template.uv_faces is not None
        a, b, c = template.uv[template.uv_faces].unbind(1)
        area = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]).abs()
        shares.append(float(area[front].sum() / area.sum()))
    assert shares[1] > 1.3 * shares[0]
    assert unwrap_template(plain, weights={"mouth": 3}) is plain
    nowhere = unwrap_template(bare, weights={"mouth": 3})
    assert nowhere.uv is not None and plain.uv is not None and torch.equal(nowhere.uv, plain.uv)


@pytest.mark.parametrize(
    "head",
    ["procedural", *(pytest.param(head, marks=pytest.mark.slow) for head in ("procedural, unwrapped", "ict_a"))],
)
def test_the_map_of_the_cpu_sizes_holds_mouth_and_eyes(head: str) -> None:
    """At most 15 % of what free features of the anchors could be, anchors between tracked vertices included."""
    if head == "ict_a":
        template = hf.data.load_capture(shared("captures/ict_a"), mouth="auto").template
    else:
        template = hf.synthetic.procedural_head().template()
    if head != "procedural":
        template = template.replace(uv=None, uv_faces=None)
    avatar = hf.models.monoavatar(template, frames=1, sizes="cpu")
    assert avatar.template is not None
    network = vertex_source(avatar.template, "D", {}, "cpu").source.mixer  # type: ignore[union-attr]
    region = template.regions["mouth"] | template.regions["eyes"]
    fine = hf.mesh.subdivide(avatar.template, region, longest=0.004, rounds=2).template
    assert network.vertex_count == len(fine.canonical_vertices)
    lost = variance_lost(fine, network.rasterizer.resolution)
    for name in ("mouth", "eyes"):
        assert float(lost[fine.faces[fine.regions[name]].unique()].mean()) <= 0.15, name
