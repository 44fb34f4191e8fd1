"""Sources of vertex features, and their place behind a surface deformer."""

import math
from pathlib import Path

import pytest
import torch

import headfields as hf
from headfields.encoders import (
    BlendedTableFeatures,
    CodeFeatures,
    CodeMLPFeatures,
    StaticFeatures,
    SubdividedFeatures,
    SurfaceFeatures,
    UVCodeFeatures,
    UVDisplacementFeatures,
    VertexSource,
)
from headfields.encoders.vertex_source import cached_vertex_features
from headfields.ops import rotation_matrices
from headfields.records import Canonical, HeadState, Template
from tests.shapes import uv_sphere
from tests.tables import table

VERTICES, FACES = uv_sphere(8, 12, radius=0.1)
TEMPLATE = hf.mesh.unwrap_template(Template(VERTICES, FACES))
COUNT = len(VERTICES)
SMALL = {"width": 6, "channels": (4, 6, 8), "resolution": 32}
FIELDS = {"expression": 3, "pose": 6}
FINE = hf.mesh.subdivide(TEMPLATE, TEMPLATE.canonical_vertices[FACES].mean(1)[:, 2] > 0.05, longest=0.03)


def on_the_subdivided_mesh() -> SubdividedFeatures:
    mixer = UVDisplacementFeatures(FINE.template, width=6 + 2, channels=(4, 6, 8), resolution=32)
    return SubdividedFeatures(BlendedTableFeatures(mixer, 6, tables=2), FINE.index, FINE.weights)


SOURCES = {
    "displacement": lambda: UVDisplacementFeatures(TEMPLATE, **SMALL),
    "displacement alone": lambda: UVDisplacementFeatures(TEMPLATE, **SMALL, position_bands=None),
    "displacement aligned": lambda: UVDisplacementFeatures(TEMPLATE, **SMALL, rigid=torch.arange(0, COUNT, 3)),
    "code": lambda: UVCodeFeatures(TEMPLATE, FIELDS, width=6, channels=(8, 6, 4), resolution=(32, 16)),
    "code and position": lambda: UVCodeFeatures(
        TEMPLATE, FIELDS, width=6, channels=(8, 6, 4), resolution=(32, 16), position_bands=2
    ),
    "displacement blends tables": lambda: BlendedTableFeatures(UVDisplacementFeatures(TEMPLATE, **SMALL), 4, tables=2),
    "displacement, subdivided": on_the_subdivided_mesh,
    "static": lambda: StaticFeatures(COUNT, 6),
    "codes": lambda: CodeFeatures(COUNT, FIELDS, 6),
    "codes MLP": lambda: CodeMLPFeatures(COUNT, FIELDS, 6, hidden=8),
}


def state(frames: int = 2, seed: int = 0) -> HeadState:
    generator = torch.Generator().manual_seed(seed)
    return HeadState(
        vertices=VERTICES + 0.005 * torch.randn(frames, COUNT, 3, generator=generator),
        expression=torch.randn(frames, 3, generator=generator),
        pose=torch.randn(frames, 2, 3, generator=generator),
    )


@pytest.mark.parametrize("name", SOURCES)
def test_shape_determinism_frames_and_gradients(name: str) -> None:
    torch.manual_seed(0)
    source = SOURCES[name]()
    count = source.vertex_count
    assert isinstance(source, VertexSource) and (count == COUNT) != (name == "displacement, subdivided")
    frames = state(3)
    features = source(frames)
    assert features.shape == (3, count, source.width)
    anchors = source.anchors(frames)
    assert anchors.shape == (3, count, 3) and torch.equal(anchors[:, :COUNT], frames.vertices)
    torch.testing.assert_close(source(frames[1]), features[1:2], atol=1e-5, rtol=1e-5)  # frames do not mix
    assert torch.equal(source(frames), features)
    features.square().sum().backward()
    for key, parameter in source.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()) and bool(parameter.grad.any()), key
    none = source(frames[:0])
    assert none.shape == (0, count, source.width)
    none.sum().backward()


@table("name", SOURCES)
def test_what_it_reads_is_what_it_says(name: str) -> None:
    """Features change with the fields of `needs`, with the vertices for the displacement, and with nothing else."""
    torch.manual_seed(0)
    source, frames, other = SOURCES[name](), state(), state(seed=1)
    for field in ("vertices", "expression", "pose"):
        changed = source(frames.replace(**{field: getattr(other, field)}))
        reads = field in source.needs or (field == "vertices" and "displacement" in name)
        assert torch.equal(changed, source(frames)) != reads, field


@pytest.mark.parametrize("name", SOURCES)
def test_behind_a_surface_canonicalizer(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    avatar = hf.Avatar(
        hf.deformers.SurfaceCanonicalizer(VERTICES, FACES),
        hf.encoders.Frequency(bands=2),
        hf.decoders.NeRFDecoder(hidden=16, density_bias=3.0),
        hf.renderers.VolumeRenderer(hf.renderers.UniformSampler(8)),
        condition=SurfaceFeatures(SOURCES[name](), FACES),
        template=TEMPLATE,
    )
    camera = hf.Camera(
        world_to_camera=torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 0.6], [0, 0, 0, 1]]),
        intrinsics=torch.tensor([[24.0, 0, 6], [0, 24, 6], [0, 0, 1]]), size=(12, 12),
    )  # fmt: skip
    rays = camera.rays()
    rays = rays.replace(frame=torch.arange(len(rays)) % 2)
    result = avatar(rays, state(), torch.ones(len(rays), 3))
    assert float(result.opacity.detach().max()) > 0.05
    result.rgb.square().mean().backward()
    for key, parameter in avatar.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()), key
    image = avatar.render(camera, state()[1])
    avatar.save(tmp_path / "avatar.safetensors")
    again = hf.Avatar.load(tmp_path / "avatar.safetensors").render(camera, state()[1])
    torch.testing.assert_close(again.rgb, image.rgb, atol=1e-5, rtol=0)


def test_the_displacement_is_in_the_map_at_its_place_and_scale() -> None:
    source = UVDisplacementFeatures(TEMPLATE, **SMALL, unit=0.002)
    frames = HeadState(vertices=(VERTICES + torch.tensor([0.001, 0, -0.004]))[None])
    seen: list[torch.Tensor] = []
    source.network.register_forward_pre_hook(lambda _, arguments: seen.append(torch.cat(arguments, dim=1)))
    source(frames)
    assert seen[0].shape == (1, 3 + 3 * 13, 32, 32)  # displacement; place and six octaves of it
    for channel, value in enumerate((0.5, 0.0, -2.0)):
        torch.testing.assert_close(seen[0][0, channel], torch.full((32, 32), value), atol=1e-4, rtol=0)
    assert float(seen[0][0, 3:].abs().max()) <= 1 and float(seen[0][0, 3:].std()) > 0.2
    torch.testing.assert_close(source.displacement(frames)[0, 5], torch.tensor([0.001, 0, -0.004]), atol=1e-7, rtol=0)


def test_a_head_pose_is_taken_out_by_vertices_that_move_with_it() -> None:
    torch.manual_seed(0)
    skull = (VERTICES[:, 1] > 0).nonzero()[:, 0]
    source, plain = (UVDisplacementFeatures(TEMPLATE, **SMALL, rigid=r) for r in (skull, None))
    local = VERTICES + torch.where(VERTICES[:, 1:2] > 0, 0.0, 0.01)
    turn = rotation_matrices(torch.tensor([0.2, 0.5, -0.1]))
    posed = local @ turn.T + torch.tensor([0.1, 0.0, 0.3])
    for vertices in (local, posed):
        moved = source.displacement(HeadState(vertices=vertices[None]))[0]
        torch.testing.assert_close(moved, local - VERTICES, atol=1e-6, rtol=0)
    assert float(plain.displacement(HeadState(vertices=posed[None])).abs().max()) > 0.1
    frames = HeadState(vertices=posed[None].clone().requires_grad_())
    source.displacement(frames).square().sum().backward()
    assert frames.vertices.grad is not None and bool(frames.vertices.grad.isfinite().all())
    # A further motion of the whole changes nothing, so no gradient adds up to one.
    torch.testing.assert_close(frames.vertices.grad.sum(1), torch.zeros(1, 3), atol=1e-5, rtol=0)


def test_a_code_with_positions_distinguishes_texels() -> None:
    """A decoder of a map that is the same everywhere repeats it, but for its border; with positions it need not."""
    torch.manual_seed(0)
    for bands in (None, 2):
        source = UVCodeFeatures(TEMPLATE, FIELDS, width=6, channels=(8, 6, 4), resolution=64, position_bands=bands)
        maps: list[torch.Tensor] = []
        source.network.register_forward_hook(lambda *arguments, maps=maps: maps.append(arguments[2].detach()))
        with torch.no_grad():
            source.first.weight.zero_()
            source.first.bias.fill_(1.0)
            source(state(1))
        inner = maps[0][0, :, 24:40, 24:40]
        cells = inner.unflatten(1, (4, 4)).unflatten(3, (4, 4))  # transposed convolutions repeat with period 4
        assert (float(cells.std(dim=(1, 3)).mean()) > 0.05) == (bands is not None)


def test_a_code_is_the_expression_and_the_pose() -> None:
    """A jaw that opens by its joint alone changes the features, as the paper's code [psi, theta] says."""
    source = UVCodeFeatures(TEMPLATE, FIELDS, width=6, channels=(8, 6, 4), resolution=32, position_bands=2)
    closed = state(1)
    opened = closed.replace(pose=closed.pose + torch.tensor([[[0.0, 0, 0], [0.3, 0, 0]]]))
    assert float((source(opened) - source(closed)).detach().abs().max()) > 1e-3


def test_blended_tables_are_the_sum_that_the_mixer_weighs() -> None:
    class Mixer(VertexSource):
        vertex_count, width = COUNT, 5

        def forward(self, state: HeadState) -> torch.Tensor:
            return torch.tensor([1.0, 2.0, 3.0, 0.5, -2.0]).expand(len(state), COUNT, 5)

    source = BlendedTableFeatures(Mixer(), 3, tables=2)
    mean, one, other = source.table.detach()
    expected = torch.tensor([1.0, 2.0, 3.0]) + mean + 0.5 * one - 2 * other
    torch.testing.assert_close(source(state(1))[0].detach(), expected)


def test_anchors_of_a_subdivided_mesh_ride_on_the_posed_one() -> None:
    source = on_the_subdivided_mesh()
    posed = state(2)
    torch.testing.assert_close(source.anchors(posed), FINE.extend(posed.vertices))
    encoder = hf.encoders.VertexFeatures(source, neighbors=1, bands=1, hidden=4, layers=1, merged_layers=0)
    assert encoder.prepare(posed).tree.vertices.shape == (2, COUNT + len(FINE.index), 3)


def test_surface_features_are_interpolated_and_zero_without_a_face() -> None:
    source = StaticFeatures(COUNT, 3)
    encoder = SurfaceFeatures(source, FACES)
    assert encoder.needs_faces and encoder.width == 3
    with torch.no_grad():
        source.table.copy_(VERTICES)
    face = torch.tensor([0, 7, -1, 20])
    weights = torch.tensor([[0.2, 0.3, 0.5]]).repeat(4, 1).requires_grad_()
    points = torch.zeros(4, 3)
    canonical = Canonical(
        points=points, directions=points, posed_points=points, frame=torch.tensor([0, 1, 1, 0]),
        valid=torch.ones(4, dtype=torch.bool), face=face, barycentric=weights,
    )  # fmt: skip
    out = encoder(canonical, encoder.prepare(state()))
    wanted = (VERTICES[FACES[face]] * weights[..., None]).sum(1) * (face >= 0)[:, None]
    torch.testing.assert_close(out, wanted)
    out.square().sum().backward()
    assert weights.grad is not None and source.table.grad is not None and not bool(weights.grad[2].any())
    assert encoder(canonical[:0], encoder.prepare(state())).shape == (0, 3)


def test_second_derivatives_reach_the_vertices() -> None:
    """As a normal penalty on a field of such features needs them."""
    torch.manual_seed(0)
    template = TEMPLATE.map(lambda x: x.double() if x.is_floating_point() else x)
    source = UVDisplacementFeatures(template, width=2, channels=(2, 3), resolution=8).double()
    pick = torch.tensor([0, 17, 40])

    def features(moved: torch.Tensor) -> torch.Tensor:
        vertices = template.canonical_vertices[None].index_add(1, pick, 0.01 * moved[None])
        return source(HeadState(vertices=vertices))[:, ::9]

    moved = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(features, (moved,))
    assert torch.autograd.gradgradcheck(features, (moved,), fast_mode=True)


def test_the_paper_sizes_are_the_defaults() -> None:
    head = hf.synthetic.procedural_head()
    template = Template(head.template_vertices, head.faces, uv=head.uv, uv_faces=head.uv_faces)
    source = UVDisplacementFeatures(template, position_bands=None)
    assert source.rasterizer.resolution == (256, 256) and source.width == 64
    assert [block.first.out_channels for block in source.network.blocks] == [8, 16, 32, 64, 128, 256]
    with torch.no_grad():
        out = source(head(expression=torch.randn(1, 100, generator=torch.Generator().manual_seed(0))))
    assert out.shape == (1, len(head.template_vertices), 64) and bool(out.isfinite().all())
    assert 0.02 < float(out.std()) < 20 and math.isfinite(float(out.std()))


def test_errors(unchecked: None) -> None:
    bare = TEMPLATE.replace(uv=None, uv_faces=None)
    with pytest.raises(ValueError, match=r"no texture coordinates; headfields\.mesh\.unwrap_template"):
        UVDisplacementFeatures(bare)
    with pytest.raises(ValueError, match="choose multiples of 4"):
        UVDisplacementFeatures(TEMPLATE, channels=(4, 6, 8), resolution=30)
    with pytest.raises(ValueError, match="unit is 0"):
        UVDisplacementFeatures(TEMPLATE, **SMALL, unit=0)
    with pytest.raises(ValueError, match="neutral has shape"):
        UVDisplacementFeatures(TEMPLATE, neutral=VERTICES[:4], **SMALL)
    with pytest.raises(ValueError, match="on one line"):
        UVDisplacementFeatures(TEMPLATE, **SMALL, rigid=torch.tensor([0, 0, 1]))
    with pytest.raises(ValueError, match="three or more"):
        UVDisplacementFeatures(TEMPLATE, **SMALL, rigid=torch.tensor([COUNT]))
    with pytest.raises(ValueError, match=r"fields is \{\}"):
        UVCodeFeatures(TEMPLATE, {})
    with pytest.raises(ValueError, match="expected V >= 0"):
        StaticFeatures(COUNT, 0)
    with pytest.raises(ValueError, match="position_bands is -1"):
        UVCodeFeatures(TEMPLATE, FIELDS, channels=(4, 2), resolution=32, position_bands=-1)
    with pytest.raises(ValueError, match="mixer gives 6 features; expected 8, 6 features and 2 weights"):
        BlendedTableFeatures(StaticFeatures(COUNT, 6), 6, tables=2)
    with pytest.raises(TypeError, match="mixer is a Frequency"):
        BlendedTableFeatures(hf.encoders.Frequency(), 6)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="leave 81 tracked vertices"):
        SubdividedFeatures(StaticFeatures(COUNT), torch.full((5, 2), 81), torch.full((5, 2), 0.5))
    with pytest.raises(ValueError, match=f"made for {COUNT} vertices"):
        on_the_subdivided_mesh()(HeadState(vertices=VERTICES[None, :5]))
    source = CodeFeatures(COUNT, {"expression": 4})
    with pytest.raises(ValueError, match="'expression' has 3 coefficients per frame; it was built for 4"):
        source(state())
    with pytest.raises(ValueError, match="CodeFeatures needs 'expression'"):
        source(HeadState(vertices=VERTICES[None]))
    with pytest.raises(ValueError, match="made for 86 vertices"):
        source(HeadState(vertices=VERTICES[None, :5]))
    with pytest.raises(TypeError, match="expected a VertexSource"):
        SurfaceFeatures(hf.encoders.Frequency(), FACES)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gives features of 5 vertices"):
        SurfaceFeatures(StaticFeatures(5), FACES)


def test_answers_are_of_their_own_state() -> None:
    """Of states that are freed at once too, as those that `SubdividedFeatures` makes."""

    class Positions(VertexSource):
        width, needs, vertex_count = 3, (), 1

        def forward(self, state: HeadState) -> torch.Tensor:
            return state.vertices

    source = Positions()
    with cached_vertex_features():
        answers = [float(source(HeadState(torch.full((1, 1, 3), float(value))))[0, 0, 0]) for value in range(8)]
    assert answers == list(range(8))
