"""Textures with mip levels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headfields.ops import sample_texture
from headfields.ops.reference import texture as reference
from headfields.ops.texture import fill_texels, mip_pyramid, pad_charts
from tests.tables import table


@settings(max_examples=20)
@given(height=st.integers(1, 23), width=st.integers(1, 23))
def test_levels_are_means_over_equal_areas(height, width):
    texture = torch.rand(height, width, 2, dtype=torch.float64)
    pyramid = mip_pyramid(texture)
    for index, expected in enumerate(reference.mip_levels(texture)):
        torch.testing.assert_close(pyramid.level(index), expected)
        torch.testing.assert_close(expected.mean((0, 1)), texture.mean((0, 1)))
    assert pyramid.sizes[-1] == (1, 1) and pyramid.sizes[0] == (height, width)
    assert mip_pyramid(texture, 2).sizes == pyramid.sizes[:2]


def inputs(device="cpu", dtype=torch.float32, count=40):
    generator = torch.Generator().manual_seed(0)
    texture = torch.rand(13, 18, 3, generator=generator, dtype=torch.float64)
    uv = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 1.2 - 0.1
    size = torch.rand(count, 1, 1, generator=generator, dtype=torch.float64)
    footprint = torch.randn(count, 2, 2, generator=generator, dtype=torch.float64) * 10 ** (3 * size - 2.5)
    return [x.to(device, dtype) for x in (texture, uv, footprint)]


@table("bias", [0.0, -0.7])
def test_values_and_derivatives_agree_with_the_definition(device, bias):
    texture, uv, footprint = inputs(device)
    leaves = [x.requires_grad_() for x in (texture, uv)]
    weight = torch.randn(40, 3, device=device)
    answers = []
    for run in (lambda t, x: sample_texture(mip_pyramid(t), x, footprint, bias),
                lambda t, x: reference.sample_texture(t, x, footprint, bias)):  # fmt: skip
        out = run(*leaves)
        answers.append((out, *torch.autograd.grad((out * weight).sum(), leaves)))
    for mine, its in zip(*answers, strict=True):
        torch.testing.assert_close(mine, its, rtol=2e-4, atol=2e-5)


def test_derivatives_to_second_order():
    texture, uv, footprint = inputs(dtype=torch.float64, count=5)
    leaves = tuple(x.requires_grad_() for x in (texture[:5, :4, :2].detach().clone(), uv))
    run = lambda t, x: sample_texture(mip_pyramid(t), x, footprint)  # noqa: E731
    assert torch.autograd.gradcheck(run, leaves, eps=1e-7)
    assert torch.autograd.gradgradcheck(run, leaves, eps=1e-7, fast_mode=True)


def test_a_chequerboard_seen_from_afar_is_gray_and_from_near_sharp():
    texture = ((torch.arange(64)[:, None] + torch.arange(64)) % 2).float()[..., None]
    uv = torch.rand(200, 2)
    step = lambda texels: (torch.eye(2) * texels / 64).expand(200, 2, 2)  # noqa: E731
    far = sample_texture(mip_pyramid(texture), uv, step(2.0))
    torch.testing.assert_close(far, torch.full_like(far, 0.5))
    near = sample_texture(mip_pyramid(texture), uv, step(0.5))
    torch.testing.assert_close(near, sample_texture(texture, uv))
    assert near.std() > 0.15
    long = step(1.0).clone()
    long[:, :, 0] *= 4  # a slanted face: four texels along x
    torch.testing.assert_close(sample_texture(mip_pyramid(texture), uv, long), far)


def test_shapes_nothing_and_what_is_not_finite():
    pyramid = mip_pyramid(torch.rand(4, 6, 3))
    for batch in ((), (2,), (1, 2), (0,)):
        assert sample_texture(pyramid, torch.rand(*batch, 2), torch.rand(*batch, 2, 2)).shape == (*batch, 3)
    one = mip_pyramid(torch.ones(1, 1, 2))
    torch.testing.assert_close(sample_texture(one, torch.rand(3, 2), torch.rand(3, 2, 2)), torch.ones(3, 2))
    odd = torch.tensor([torch.nan, torch.inf, 0.0, 1e-20])[:, None, None].expand(4, 2, 2)
    assert sample_texture(pyramid, torch.rand(4, 2), odd).isfinite().all()
    assert mip_pyramid(torch.rand(3, 3, 0)).table.shape[1] == 0


def test_it_compiles(unchecked):
    texture, uv, footprint = inputs()
    pyramid = mip_pyramid(texture)
    compiled = torch.compile(lambda x, f: sample_texture(pyramid, x, f), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(uv, footprint), sample_texture(pyramid, uv, footprint))


def test_charts_are_padded_with_their_own_color():
    uv = torch.tensor([[0.1, 0.1], [0.4, 0.1], [0.1, 0.9], [0.6, 0.1], [0.9, 0.1], [0.9, 0.9]])
    uv_faces = torch.tensor([[0, 1, 2], [3, 4, 5]])
    texture = torch.zeros(32, 32, 1)
    texture[:, :16], texture[:, 16:] = 0.2, 0.8
    left = torch.arange(32)[None, :] < 16
    holes = texture.clone()
    holes[0], holes[-1] = 1.0, 1.0  # what no chart covers
    padded = pad_charts(holes, uv, uv_faces)
    assert set(padded.unique().tolist()) == {texture[0, 0].item(), texture[0, -1].item()}
    assert padded[..., 0][left.expand(32, 32)].eq(0.2).float().mean() > 0.85
    assert pad_charts(holes, uv, uv_faces[:0]).equal(holes)
    known = torch.zeros(4, 4) > 0
    image = torch.rand(4, 4, 1, requires_grad=True)
    assert fill_texels(image, known).equal(image)
    known[1, 2] = True
    filled = fill_texels(image, known)
    assert filled.eq(image[1, 2]).all()
    filled.sum().backward()
    assert image.grad.sum() == 16 and image.grad[1, 2] == 16


def test_errors_name_the_argument(unchecked):
    with pytest.raises(ValueError, match=r"mip_pyramid: texture has shape \(0, 4, 3\)"):
        mip_pyramid(torch.zeros(0, 4, 3))
    with pytest.raises(ValueError, match="levels is 0"):
        mip_pyramid(torch.zeros(2, 2, 3), 0)
    with pytest.raises(TypeError, match="texture has dtype"):
        mip_pyramid(torch.zeros(2, 2, 3, dtype=torch.uint8))
    pyramid = mip_pyramid(torch.zeros(2, 2, 3))
    with pytest.raises(ValueError, match=r"footprint has shape \(4, 2\)"):
        sample_texture(pyramid, torch.zeros(4, 2), torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"uv has shape \(4, 3\)"):
        sample_texture(pyramid, torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"fill_texels: known has shape \(2, 3\)"):
        fill_texels(torch.zeros(2, 2, 3), torch.zeros(2, 3) > 0)
