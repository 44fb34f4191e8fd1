"""Blendfields: what they mix, where they start, the Jacobian behind a coarse deformer, saving, colors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from headfields.avatar.avatar import Avatar
from headfields.decoders import BlendedColor, NeRFDecoder, RadianceHead
from headfields.deformers import Blendfield, Chain, ErrorWarp, InverseSkinning, Static, SurfaceCanonicalizer, jacobian
from headfields.encoders import ColorFields, HashGrid
from headfields.networks.field_basis import BlendCoefficients
from headfields.parts import Deformer
from headfields.records import Features, HeadState
from headfields.renderers import UniformSampler, VolumeRenderer
from tests.deformers.skeleton import bend, posed, tube
from tests.shapes import uv_sphere

VERTICES, FACES = uv_sphere(8, 12, radius=0.1)
BOX = torch.tensor([[-0.15, -0.15, -0.15], [0.15, 0.15, 0.15]])
SMALL: dict[str, dict[str, int]] = {
    "grid": {"levels": 2, "features": 2, "base_resolution": 2, "finest_resolution": 4},
    "mlp": {"bands": 2, "hidden": 8, "layers": 2},
}


def blendfield(kind: str = "grid", joints: tuple[int, ...] = (), fields: int = 3, **options: Any) -> Blendfield:
    torch.manual_seed(0)
    coefficients = BlendCoefficients({"expression": 2}, joints, fields, hidden=8)
    made = Blendfield(BOX, coefficients, kind, options=SMALL[kind], **options)  # type: ignore[arg-type]
    with torch.no_grad():  # as if it had learned something
        coefficients.trunk[0].weight.normal_(std=2**0.5)
        if kind == "grid":
            made.basis.table.normal_()
        else:
            made.basis.network[-1].weight.normal_()  # type: ignore[union-attr,operator]
    return made


def state(frames: int = 2, pose: Tensor | None = None) -> HeadState:
    expression = torch.linspace(-1, 1, frames * 2).reshape(frames, 2)
    return HeadState(vertices=VERTICES.expand(frames, -1, -1), expression=expression, pose=pose)


def cloud(count: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return 0.1 * torch.randn(count, 3, generator=generator).clamp(-1, 1), torch.arange(count) % 2


@pytest.mark.parametrize("kind", ["grid", "mlp"])
def test_displacements_are_the_fields_mixed(kind: str) -> None:
    blend = blendfield(kind, scale=0.02)
    points, frame = cloud()
    coefficients = blend.coefficients(state())
    fields = blend.fields_at(points)
    assert coefficients.shape == (2, 3) and fields.shape == (8, 3, 3)
    wanted = torch.stack([sum(coefficients[frame[m], k] * fields[m, k] for k in range(3)) for m in range(8)])
    out = blend(points, points, frame, blend.prepare(state()))
    torch.testing.assert_close(out.points, points + wanted)
    assert torch.equal(out.directions, points) and bool(out.valid.all()) and float(wanted.detach().abs().max()) > 1e-3
    (correction,) = blend.corrections(points, frame, blend.prepare(state()))
    torch.testing.assert_close(correction.after, out.points)
    torch.testing.assert_close(fields, 0.02 * blend.basis(points))


@pytest.mark.parametrize("kind", ["grid", "mlp"])
def test_a_neutral_face_is_left_alone_and_a_new_blendfield_moves_nothing(kind: str) -> None:
    points, frame = cloud()
    blend = blendfield(kind, joints=(0,))
    still = HeadState(VERTICES[None], expression=torch.zeros(1, 2), pose=torch.zeros(1, 1, 3))
    out = blend(points, points, torch.zeros_like(frame), blend.prepare(still))
    torch.testing.assert_close(out.points, points, atol=1e-8, rtol=0)
    opened = still.replace(pose=torch.tensor([[[0.3, 0.0, 0.0]]]))
    moved = blend(points, points, torch.zeros_like(frame), blend.prepare(opened))
    assert float((moved.points - points).detach().abs().max()) > 1e-4  # the jaw alone moves it
    torch.manual_seed(0)
    new = Blendfield(BOX, BlendCoefficients({"expression": 2}, fields=3), kind, options=SMALL[kind])  # type: ignore[arg-type]
    assert float(new(points, points, frame, new.prepare(state())).points.sub(points).detach().abs().max()) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("layers", [1, *(pytest.param(layers, marks=pytest.mark.slow) for layers in (0, 2))])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_inputs_that_never_occur_do_nothing_and_the_others_learn(layers: int, seed: int) -> None:
    """Displacements that depend on two of four expressions and on the jaw's turn about x are learned."""
    torch.manual_seed(seed)
    coefficients = BlendCoefficients({"expression": 4}, (1,), fields=4, layers=layers)
    fine = Blendfield(BOX, coefficients)
    tables = [parameter for name, parameter in fine.named_parameters() if "table" in name]
    others = [parameter for name, parameter in fine.named_parameters() if "table" not in name]
    optimizer = torch.optim.Adam([{"params": tables, "lr": 0.02}, {"params": others, "lr": 1e-3}], eps=1e-15)
    relative: list[float] = []
    for _ in range(150):
        expression, pose = torch.zeros(6, 4), torch.zeros(6, 2, 3)
        expression[:, :2], pose[:, 1, 0] = torch.rand(6, 2), 0.3 * torch.rand(6)
        frames = HeadState(VERTICES.expand(6, -1, -1), expression=expression, pose=pose)
        points, frame = 0.2 * torch.rand(256, 3) - 0.1, torch.randint(6, (256,))
        near = (-(points / 0.05).square().sum(-1)).exp()
        amount = expression @ torch.tensor([0.004, -0.006, 0, 0]) + 0.02 * pose[:, 1, 0]
        target = (amount[frame] * near)[:, None] * torch.tensor([0.2, 1.0, 0.4])
        error = (fine.displacement(points, frame, coefficients(frames)) - target).square().mean()
        relative.append(float(error.detach() / target.square().mean()))
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    assert relative[0] > 0.9 and sum(relative[-10:]) / 10 < 0.5, (seed, relative[-1])
    other = HeadState(VERTICES.expand(2, -1, -1), expression=torch.zeros(2, 4), pose=torch.zeros(2, 2, 3))
    other.expression[0, 2], other.expression[1, 3], other.pose[1, 0] = 3.0, -2.0, 0.4
    assert not bool(coefficients(other).any()), "nothing of what training never showed"
    if layers:
        hidden = torch.relu(coefficients.trunk[0](coefficients.inputs(frames)))
        assert float((hidden.detach().amax(dim=0) > 0).float().mean()) > 0.9, "hidden units are alive"


@pytest.mark.parametrize("kind", ["grid", "mlp"])
def test_derivatives(kind: str) -> None:
    blend = blendfield(kind).double()
    points, frame = cloud(3)
    expression = torch.tensor([[0.4, -0.7], [-0.9, 0.2]], dtype=torch.float64)

    def function(points: Tensor, expression: Tensor) -> Tensor:
        prepared = blend.prepare(HeadState(VERTICES.expand(2, -1, -1), expression=expression))
        return blend(points, points, frame, prepared).points

    leaves = [points.double().requires_grad_(), expression.requires_grad_()]
    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


def chains() -> dict[str, tuple[Deformer, HeadState, Tensor]]:
    """A chain, a state for it, and posed points off the kinks."""
    vertices, faces, weights = tube()
    bent = posed(bend(2, 0.3), torch.tensor([[1.0], [-0.5]]))
    bent = bent.replace(expression=torch.tensor([[0.5, 0.1], [-0.4, 0.8]]), frame_id=torch.arange(2))
    box = torch.tensor([[-0.1, -0.25, -0.1], [0.1, 0.25, 0.1]])
    torch.manual_seed(0)
    skinning = InverseSkinning(vertices, faces, weights)
    surface = SurfaceCanonicalizer(vertices, faces)
    warp = ErrorWarp(box, frames=2, hidden=8, layers=2, head_layers=1, start=0, coarse_to_fine=0)
    with torch.no_grad():
        for head in warp.heads.values():
            head[-1].weight.normal_(std=0.05)  # type: ignore[index]
    on = bent.vertices[:, FACES_TUBE].mean(dim=2)  # centers of triangles
    points = torch.cat([on[0, ::40], on[1, 7::40]]) + 0.002
    return {
        "skinning, blendfield": (Chain(skinning, blendfield("mlp")), bent, points),
        "surface, blendfield": (Chain(surface, blendfield("mlp")), bent, points),
        "surface, warp, blendfield": (Chain(surface, warp, blendfield("grid")), bent, points),
    }


FACES_TUBE = tube()[1]


@pytest.mark.parametrize("name", ["skinning, blendfield", "surface, blendfield", "surface, warp, blendfield"])
def test_a_chains_jacobian_is_the_product_of_its_links(name: str) -> None:
    """Against one backward pass through the whole chain, and against finite differences, in float64."""
    chain, bent, points = chains()[name]
    chain, bent, points = (
        chain.double(),
        bent.map(lambda x: x.double() if x.is_floating_point() else x),
        points.double(),
    )
    half = len(points) // 2
    frame = torch.arange(len(points)) // half
    prepared = chain.prepare(bent)
    value, slope = jacobian(chain, points, frame, prepared)
    directions = torch.zeros_like(points) + torch.tensor([0.0, 0.0, -1.0]).double()

    def whole(x: Tensor) -> Tensor:
        return chain(x, directions, frame, prepared).points

    torch.testing.assert_close(value, whole(points))
    x = points.clone().requires_grad_()
    moved = whole(x)
    rows = [torch.autograd.grad(moved[:, axis].sum(), x, retain_graph=True)[0] for axis in range(3)]
    torch.testing.assert_close(slope, torch.stack(rows, dim=1), atol=1e-9, rtol=1e-7)
    step = 1e-6 * torch.eye(3).double()
    numeric = torch.stack([(whole(points + h) - whole(points - h)) / 2e-6 for h in step], dim=-1)
    close = (numeric - slope).abs().amax(dim=(1, 2)) < 1e-5
    assert float(close.double().mean()) > 0.8, "all but those whose nearest triangle changes within a micrometer"
    with torch.no_grad():
        quiet = jacobian(chain, points, frame, prepared)
    assert not quiet[1].requires_grad and slope.requires_grad
    torch.testing.assert_close(quiet[1], slope.detach())
    assert jacobian(chain, points[:0], frame[:0], prepared)[1].shape == (0, 3, 3)


def test_a_chain_is_valid_where_all_its_links_are() -> None:
    vertices, faces, weights = tube()
    narrow = torch.tensor([[-0.2, -0.2, -0.2], [0.2, 0.0, 0.2]])
    chain = Chain(InverseSkinning(vertices, faces, weights, shell=0.02), blendfield(), Static(narrow))
    still = posed(torch.zeros(1, 3, 3)).replace(expression=torch.zeros(1, 2))
    points = torch.tensor([[0.055, -0.1, 0.0], [0.055, 0.1, 0.0], [0.1, -0.1, 0.0]])
    out = chain(points, points, torch.zeros(3, dtype=torch.long), chain.prepare(still))
    assert out.valid.tolist() == [True, False, False]
    assert out.face is not None and (out.face >= 0).tolist() == [True, True, False]
    assert chain.needs == ("joint_transforms", "expression") and chain.corrects and chain.gives_faces


def test_no_points_keep_a_gradient() -> None:
    blend = blendfield()
    expression = torch.zeros(2, 2, requires_grad=True)
    empty, frame = torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)
    prepared = blend.prepare(HeadState(VERTICES.expand(2, -1, -1), expression=expression))
    blend(empty, empty, frame, prepared).points.sum().backward()
    assert expression.grad is not None and not bool(expression.grad.any())
    nobody = blend.prepare(HeadState(VERTICES.expand(0, -1, -1), expression=torch.zeros(0, 2)))
    assert nobody.coefficients.shape == (0, 3)


def color_avatar(decoder: Any) -> Avatar:
    torch.manual_seed(0)
    coefficients = BlendCoefficients({"expression": 2}, fields=3, hidden=8)
    avatar = Avatar(
        SurfaceCanonicalizer(VERTICES, FACES), HashGrid(2, 2, 8, 4, 16), BlendedColor(decoder),
        VolumeRenderer(UniformSampler(8)), condition=ColorFields(coefficients, options=SMALL["grid"]),
    )  # fmt: skip
    with torch.no_grad():
        avatar.conditions[0].coefficients.trunk[0].weight.normal_()  # type: ignore[union-attr,index]
        avatar.conditions[0].basis.table.normal_()  # type: ignore[union-attr,operator]
    return avatar


@pytest.mark.parametrize(
    "decoder", [lambda: NeRFDecoder(16, density_bias=3.0), lambda: RadianceHead(8, density_bias=3.0)]
)
def test_colors_blended_in_place_of_points(decoder: Any, tmp_path: Path) -> None:
    """The expression changes the color by its fields, in logits, and leaves the density; both ways to ask agree."""
    avatar = color_avatar(decoder())
    field = avatar.field(state())
    points, frame = VERTICES[:8] * 1.01, torch.arange(8) % 2
    canonical = field.canonicalize(points, torch.nn.functional.normalize(points, dim=-1), frame)
    values = field.decode(canonical)
    later = field.color(field.decode(canonical, color=False), canonical)
    torch.testing.assert_close(later.rgb, values.rgb)
    features = avatar.encoder(canonical, None)
    plain = avatar.decoder.decoder(Features(features), canonical, None)  # type: ignore[operator,union-attr]
    residual = avatar.conditions[0](canonical, avatar.conditions[0].prepare(state()))  # type: ignore[operator,union-attr]
    torch.testing.assert_close(values.density, plain.density)
    torch.testing.assert_close(values.rgb, (plain.rgb.logit() + residual).sigmoid())
    assert float(residual.detach().abs().max()) > 0.05
    assert values.rgb is not None and values.density is not None
    (values.rgb.sum() + values.density.log().sum()).backward()
    for name, parameter in avatar.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
    avatar.save(tmp_path / "avatar.safetensors")
    again = Avatar.load(tmp_path / "avatar.safetensors").field(state()).decode(canonical)
    torch.testing.assert_close(again.rgb, values.rgb)


def test_one_mapping_network_for_both_is_one_when_loaded(tmp_path: Path) -> None:
    coefficients = BlendCoefficients({"expression": 2}, fields=3, hidden=8)
    surface = SurfaceCanonicalizer(VERTICES, FACES)
    avatar = Avatar(
        Chain(surface, Blendfield(surface.bounds(), coefficients, options=SMALL["grid"])), HashGrid(2, 2, 8, 4, 16),
        BlendedColor(NeRFDecoder(16)), VolumeRenderer(UniformSampler(4)),
        condition=ColorFields(coefficients, options=SMALL["grid"]),
    )  # fmt: skip
    avatar.save(tmp_path / "avatar.safetensors")
    again = Avatar.load(tmp_path / "avatar.safetensors")
    assert again.conditions[0].coefficients is again.deformer.deformers[1].coefficients  # type: ignore[union-attr,index]


def test_errors(unchecked: None) -> None:
    with pytest.raises(ValueError, match="condition and joints are empty"):
        BlendCoefficients({})
    with pytest.raises(ValueError, match=r"condition\['expression'\] is 0"):
        BlendCoefficients({"expression": 0})
    with pytest.raises(ValueError, match="none may be negative"):
        BlendCoefficients({}, joints=(-1,))
    with pytest.raises(ValueError, match="scale is 0"):
        Blendfield(BOX, BlendCoefficients({"expression": 2}), scale=0)
    with pytest.raises(ValueError, match="kind is 'cube'"):
        Blendfield(BOX, BlendCoefficients({"expression": 2}), "cube")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="color"):
        Blendfield(BOX, BlendCoefficients({"expression": 2}), options={"color": 3})
    wide = Blendfield(BOX, BlendCoefficients({"expression": 9}), options=SMALL["grid"])
    with pytest.raises(ValueError, match=r"condition has 9 values of 'expression'.*\(2, 2\)"):
        wide.prepare(state())
    jaw = Blendfield(BOX, BlendCoefficients({}, joints=(2,)), options=SMALL["grid"])
    with pytest.raises(ValueError, match="BlendCoefficients needs 'pose'"):
        jaw.prepare(state())
    with pytest.raises(ValueError, match="pose has 1 joints"):
        jaw.prepare(state(pose=torch.zeros(2, 1, 3)))
    with pytest.raises(ValueError, match="features are 2 wide"):
        BlendedColor(NeRFDecoder()).build(2)
