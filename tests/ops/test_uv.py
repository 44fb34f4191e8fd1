"""Maps over texture coordinates: texels against two oracles, seams, padding, reading back, derivatives, bad input."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import headfields as hf
from benchmarks.peers import numpy_uv
from headfields.ops import UVRasterizer
from headfields.ops.reference import uv as reference
from tests.shapes import grid_sheet

SHEET, SHEET_FACES = grid_sheet(8)
SHEET_UV = 0.5 + 0.4 * SHEET[:, :2]  # inside the map, with a border of a tenth


def chart_points(result: UVRasterizer, uv: torch.Tensor, uv_faces: torch.Tensor) -> torch.Tensor:
    """(H, W, 2) where each texel's surface point lies in the map, in texels."""
    place = reference.texel_coordinates(uv.double(), *result.resolution)
    return (place[uv_faces[result.face.clamp(min=0)]] * result.barycentric.double()[..., None]).sum(-2)


def centers(height: int, width: int) -> torch.Tensor:
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([column, row], dim=-1).double()


def soup(seed: int, faces: int, dyadic: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping charts, some of them without an area. Dyadic ones have corners and edges through texel centers."""
    generator = torch.Generator().manual_seed(seed)
    uv = torch.rand(12, 2, generator=generator, dtype=torch.float64)
    return (uv * 16).round() / 16 if dyadic else uv, torch.randint(12, (faces, 3), generator=generator)


@given(
    seed=st.integers(0, 999), faces=st.integers(0, 12), height=st.integers(1, 20), width=st.integers(1, 20),
    padding=st.sampled_from([0.0, 1.5, torch.inf]), dyadic=st.booleans(),
)  # fmt: skip
def test_texels_are_what_trying_every_face_gives(
    seed: int, faces: int, height: int, width: int, padding: float, dyadic: bool
) -> None:
    if dyadic:  # so that nothing is rounded, and a center on an edge is on it
        height, width = 8, 16
    uv, uv_faces = soup(seed, faces, dyadic)
    result = UVRasterizer(torch.arange(3 * faces).reshape(-1, 3), uv, uv_faces, (height, width), padding)
    face, _, covered, distance = reference.find_texels(uv, uv_faces, height, width, padding)
    if dyadic:
        assert torch.equal(result.covered, covered)
        assert torch.equal(result.face[covered], face[covered])
    # To rounding: a center that is on an outline, and one as far from it as the padding reaches.
    sure = torch.isinf(distance) | ((distance - padding).abs() > 1e-3) & ((distance > 1e-3) | covered & result.covered)
    assert torch.equal((result.face >= 0)[sure], (face >= 0)[sure])
    shown = (result.face >= 0) & sure
    apart = (chart_points(result, uv, uv_faces) - centers(height, width)).norm(dim=-1) if faces else distance
    torch.testing.assert_close(apart[shown], distance[shown], atol=2e-4, rtol=0)
    torch.testing.assert_close(result.barycentric.sum(-1), (result.face >= 0).float(), atol=1e-5, rtol=0)
    assert bool((result.barycentric >= 0).all())


@pytest.mark.parametrize("resolution", [(64, 64), (50, 97)])
def test_a_head_against_a_loop_over_its_faces(resolution: tuple[int, int]) -> None:
    head = hf.synthetic.procedural_head()
    assert head.uv is not None and head.uv_faces is not None
    result = UVRasterizer(head.faces, head.uv, head.uv_faces, resolution, padding=0.0)
    face, barycentric = numpy_uv.rasterize(head.uv.double().clamp(0, 1).numpy(), head.uv_faces.numpy(), *resolution)
    same = result.face.numpy() == face
    assert same.mean() > 0.999  # a center within rounding of an edge may fall to either side
    np.testing.assert_allclose(result.barycentric.numpy()[same], barycentric[same], atol=1e-5)
    assert bool(torch.equal(result.covered, result.face >= 0))
    drawn = numpy_uv.draw(head.template_vertices.numpy(), head.faces.numpy(), (face, barycentric))
    ours = result.vertices_to_map(head.template_vertices[None])[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(ours[same], drawn[same], atol=1e-6)


def test_every_backend_finds_the_same_texels(device: torch.device) -> None:
    uv, uv_faces = soup(3, 9)
    faces = torch.arange(27).reshape(9, 3)
    result = UVRasterizer(faces.to(device), uv.to(device), uv_faces.to(device), (20, 30))
    face, barycentric, covered, distance = reference.find_texels(uv, uv_faces, 20, 30, torch.inf)
    assert torch.equal(result.covered.cpu(), covered) and torch.equal(result.face.cpu()[covered], face[covered])
    torch.testing.assert_close(result.barycentric.cpu()[covered], barycentric.float()[covered], atol=1e-5, rtol=0)
    apart = (chart_points(result.to("cpu"), uv, uv_faces) - centers(20, 30)).norm(dim=-1)
    torch.testing.assert_close(apart, distance, atol=1e-4, rtol=0)


def test_row_zero_lies_at_v_one_and_column_zero_at_u_zero() -> None:
    uv, faces = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]]), torch.tensor([[0, 1, 2], [0, 2, 3]])
    maps = UVRasterizer(faces, uv, faces, (4, 6)).vertices_to_map(uv[None])
    torch.testing.assert_close(maps[0, 0, 0], (torch.arange(6) + 0.5) / 6)
    torch.testing.assert_close(maps[0, 1, :, 0], 1 - (torch.arange(4) + 0.5) / 4)


@pytest.mark.parametrize("resolution", [(40, 40), (64, 37)])
def test_linear_functions_make_the_round_trip(resolution: tuple[int, int]) -> None:
    """What is linear over the chart comes back at vertices inside; at the chart's rim, within the texel it ends in."""
    result = UVRasterizer(SHEET_FACES, SHEET_UV, SHEET_FACES, resolution)
    values = torch.stack([SHEET_UV @ torch.tensor([3.0, -2.0]) + 1, SHEET_UV[:, 1]], dim=-1)[None]
    back = result.map_to_vertices(result.vertices_to_map(values))
    inner = (SHEET[:, :2].abs() < 0.99).all(-1)
    torch.testing.assert_close(back[:, inner], values[:, inner], atol=1e-5, rtol=0)
    torch.testing.assert_close(back[:, ~inner], values[:, ~inner], atol=5 / min(resolution), rtol=0)
    generator = torch.Generator().manual_seed(0)
    weights = torch.distributions.Dirichlet(torch.ones(3)).sample((500,))
    face = torch.randint(len(SHEET_FACES), (500,), generator=generator)
    expected = (values[0][SHEET_FACES[face]] * weights[..., None]).sum(1)
    point = (SHEET[SHEET_FACES[face]] * weights[..., None]).sum(1)
    inner = (point[:, :2].abs() < 0.9).all(-1)
    read = result.sample(result.vertices_to_map(values), face, weights)
    torch.testing.assert_close(read[inner], expected[inner], atol=1e-5, rtol=0)


def cylinder(segments: int = 24, rings: int = 7) -> tuple[torch.Tensor, ...]:
    """Vertices, faces, uv, uv_faces: closed around, unrolled with a seam, so the seam's vertices have two uv each."""
    angle = torch.arange(segments) * (2 * torch.pi / segments)
    rows = [torch.stack([angle.sin(), torch.full_like(angle, r / rings), angle.cos()], -1) for r in range(rings + 1)]
    u = 0.1 + 0.8 * torch.arange(segments + 1) / segments
    uv = [torch.stack([u, torch.full_like(u, 0.1 + 0.8 * r / rings)], -1) for r in range(rings + 1)]
    faces, uv_faces = [], []
    for r in range(rings):
        for s in range(segments):
            for build, width in ((faces, segments), (uv_faces, segments + 1)):
                a, b = r * width + s, r * width + (s + 1) % width
                build += [[a, b, b + width], [a, b + width, a + width]]
    return torch.cat(rows), torch.tensor(faces), torch.cat(uv), torch.tensor(uv_faces)


def test_a_seam_does_not_show() -> None:
    """A smooth function of place is read back at the seam's vertices as well as elsewhere, and from both sides."""
    vertices, faces, uv, uv_faces = cylinder()
    result = UVRasterizer(faces, uv, uv_faces, 128)
    seam = torch.arange(len(vertices)) % 24 == 0
    inner = (vertices[:, 1] > 0.01) & (vertices[:, 1] < 0.99)
    maps = result.vertices_to_map(vertices[None])
    error = (result.map_to_vertices(maps)[0] - vertices).norm(dim=-1)
    assert float(error[seam & inner].max()) < 2 * float(error[~seam & inner].max()) < 0.03
    left, right = (uv_faces == 25 * 3).nonzero()[0], (uv_faces == 25 * 3 + 24).nonzero()[0]
    corner = torch.eye(3)[torch.stack([left[1], right[1]])]
    sides = result.sample(maps, torch.stack([left[0], right[0]]), corner)
    torch.testing.assert_close(sides.mean(0), result.map_to_vertices(maps)[0, 72], atol=1e-6, rtol=0)
    assert float((sides[0] - sides[1]).norm()) < 0.06  # a texel of the circumference is 0.061
    bare = UVRasterizer(faces, uv, uv_faces, 128, padding=0.0)
    bled = bare.map_to_vertices(bare.vertices_to_map(torch.ones(1, len(vertices), 1)))[0, :, 0]
    assert float(bled[seam].max()) < 0.9, "without padding the seam reads black, so the test above sees the padding"
    whole = result.map_to_vertices(result.vertices_to_map(torch.ones(1, len(vertices), 1)))
    torch.testing.assert_close(whole, torch.ones_like(whole))


def test_padding_ends_where_it_is_said_to() -> None:
    result = UVRasterizer(SHEET_FACES, SHEET_UV, SHEET_FACES, 50, padding=2.0)
    apart = (chart_points(result, SHEET_UV, SHEET_FACES) - centers(50, 50)).norm(dim=-1)
    chart = (centers(50, 50) + 0.5 - 25).abs().amax(-1) - 20
    assert torch.equal(result.covered, chart <= 1e-6)
    assert bool((apart[(result.face >= 0) & ~result.covered] <= 2.001).all())
    assert bool((result.face[chart > 2.01] == -1).all()) and bool((result.face[25] >= 0)[3:47].all())


def test_a_vertex_of_several_coordinates_gets_their_mean_and_one_of_none_gets_zero() -> None:
    uv = torch.tensor([[0.1, 0.1], [0.4, 0.1], [0.1, 0.4], [0.9, 0.9], [0.6, 0.9], [0.9, 0.6]])
    faces, uv_faces = torch.tensor([[0, 1, 2], [0, 3, 4]]), torch.arange(6).reshape(2, 3)
    result = UVRasterizer(faces, uv, uv_faces, 64, vertex_count=6)
    u = torch.linspace(0.5 / 64, 1 - 0.5 / 64, 64).expand(1, 1, 64, 64)
    torch.testing.assert_close(result.map_to_vertices(u)[0, :, 0], torch.tensor([0.5, 0.4, 0.1, 0.6, 0.9, 0.0]))


def test_the_lower_face_has_the_texel_where_charts_overlap() -> None:
    uv, uv_faces = torch.tensor([[0.1, 0.1], [0.9, 0.1], [0.1, 0.9]]), torch.tensor([[0, 1, 2], [0, 1, 2]])
    result = UVRasterizer(torch.arange(6).reshape(2, 3), uv, uv_faces, 32)
    assert bool((result.face[result.covered] == 0).all()) and int(result.covered.sum()) > 200


def test_derivatives_to_second_order() -> None:
    vertices, faces, uv, uv_faces = cylinder(5, 2)
    result = UVRasterizer(faces, uv, uv_faces, (6, 5)).double()
    generator = torch.Generator().manual_seed(0)
    attributes = torch.randn(2, len(vertices), 2, generator=generator, dtype=torch.float64, requires_grad=True)
    maps = torch.randn(2, 2, 6, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    face = torch.tensor([0, 3, -1, 7])
    weights = torch.tensor([[0.3, 0.3, 0.4]], dtype=torch.float64).repeat(4, 1).requires_grad_()
    frame = torch.tensor([0, 1, 1, 0])
    for function, inputs in (
        (result.vertices_to_map, (attributes,)),
        (result.map_to_vertices, (maps,)),
        (lambda m, w: result.sample(m, face, w, frame), (maps, weights)),
        (lambda a: result.map_to_vertices(result.vertices_to_map(a).square()), (attributes,)),
    ):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


def test_reading_at_points_is_the_definitions(device: torch.device) -> None:
    _, faces, uv, uv_faces = cylinder()
    result = UVRasterizer(faces, uv, uv_faces, (33, 20)).to(device)
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(3, 4, 33, 20, generator=generator).to(device)
    face = torch.randint(len(faces), (200,), generator=generator).to(device)
    frame = torch.randint(3, (200,), generator=generator).to(device)
    weights = torch.distributions.Dirichlet(torch.ones(3)).sample((200,)).to(device)
    at = (uv.to(device)[uv_faces.to(device)[face]] * weights[..., None]).sum(1)
    torch.testing.assert_close(
        result.sample(maps, face, weights, frame), reference.bilinear(maps, at, frame), atol=1e-5, rtol=1e-5
    )
    assert not bool(result.sample(maps, torch.full_like(face, -1), weights, frame).any())
    torch.testing.assert_close(
        torch.nn.functional.grid_sample(
            maps[:1], (2 * at - 1)[None, None] * torch.tensor([1.0, -1]).to(device), align_corners=False,
            padding_mode="border",
        )[0, :, 0].T,
        result.sample(maps[:1], face, weights), atol=1e-4, rtol=1e-4,
    )  # fmt: skip


def test_nothing_keeps_a_gradient() -> None:
    none = torch.zeros(0, 3, dtype=torch.long)
    empty = UVRasterizer(none, torch.zeros(0, 2), none, 8)
    attributes = torch.zeros(1, 0, 2, requires_grad=True)
    maps = empty.vertices_to_map(attributes)
    assert maps.shape == (1, 2, 8, 8) and empty.map_to_vertices(maps).shape == (1, 0, 2)
    empty.map_to_vertices(maps).sum().backward()
    result = UVRasterizer(SHEET_FACES, SHEET_UV, SHEET_FACES, 8)
    maps = torch.zeros(1, 2, 8, 8, requires_grad=True)
    out = result.sample(maps, torch.zeros(0, dtype=torch.long), torch.zeros(0, 3))
    assert out.shape == (0, 2)
    out.sum().backward()
    assert maps.grad is not None
    assert result.vertices_to_map(torch.zeros(0, len(SHEET), 2)).shape == (0, 2, 8, 8)
    assert result.map_to_vertices(torch.zeros(0, 2, 8, 8)).shape == (0, len(SHEET), 2)


def test_faces_without_area_are_nearest_but_cover_nothing() -> None:
    uv, uv_faces = torch.tensor([[0.25, 0.25], [0.75, 0.75], [0.5, 0.5]]), torch.tensor([[0, 1, 2]])
    result = UVRasterizer(uv_faces, uv, uv_faces, 16)
    assert not bool(result.covered.any()) and bool((result.face == 0).all())
    values = result.vertices_to_map(torch.ones(1, 3, 1))
    torch.testing.assert_close(values, torch.ones_like(values))


def test_a_nan_stays_at_its_vertex() -> None:
    result = UVRasterizer(SHEET_FACES, SHEET_UV, SHEET_FACES, 40)
    values = torch.zeros(1, len(SHEET), 1)
    values[0, 0] = torch.nan  # the corner at u = v = 0.1
    maps = result.vertices_to_map(values)
    assert bool(maps[0, 0, 30:, :8].isnan().any()) and not bool(maps[0, 0, :20].isnan().any())


def test_compiles_whole(unchecked: None) -> None:
    result = UVRasterizer(SHEET_FACES, SHEET_UV, SHEET_FACES, 16)
    compiled = torch.compile(
        lambda a: result.map_to_vertices(result.vertices_to_map(a)), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(SHEET[None]), result.map_to_vertices(result.vertices_to_map(SHEET[None])))


def test_errors(unchecked: None) -> None:
    with pytest.raises(ValueError, match=r"uv spans \[0.1, 1.8\].*unwrap"):
        UVRasterizer(SHEET_FACES, SHEET_UV * torch.tensor([1.0, 2]), SHEET_FACES)
    with pytest.raises(ValueError, match="must be finite"):
        UVRasterizer(SHEET_FACES, SHEET_UV.clone().fill_(torch.nan), SHEET_FACES)
    with pytest.raises(ValueError, match="every corner of every face needs a texture coordinate"):
        UVRasterizer(SHEET_FACES, SHEET_UV, torch.full_like(SHEET_FACES, -1))
    with pytest.raises(ValueError, match=r"uv_faces has shape \(5, 3\)"):
        UVRasterizer(SHEET_FACES, SHEET_UV, SHEET_FACES[:5])
    with pytest.raises(ValueError, match="resolution is"):
        UVRasterizer(SHEET_FACES, SHEET_UV, SHEET_FACES, (0, 4))
    with pytest.raises(ValueError, match="padding is -1"):
        UVRasterizer(SHEET_FACES, SHEET_UV, SHEET_FACES, 8, padding=-1)
    with pytest.raises(ValueError, match="vertex_count is 3"):
        UVRasterizer(SHEET_FACES, SHEET_UV, SHEET_FACES, 8, vertex_count=3)
    result = UVRasterizer(SHEET_FACES, SHEET_UV, SHEET_FACES, 8)
    with pytest.raises(ValueError, match="vertices_to_map: attributes has shape"):
        result.vertices_to_map(SHEET)
    with pytest.raises(ValueError, match="map_to_vertices: maps has shape"):
        result.map_to_vertices(torch.zeros(1, 2, 8, 9))
    with pytest.raises(ValueError, match="frame is None, but maps holds 2 frames"):
        result.sample(torch.zeros(2, 1, 8, 8), torch.zeros(1, dtype=torch.long), torch.zeros(1, 3))
