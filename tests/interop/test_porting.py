"""What docs/porting.md says of other libraries' calls, against those that are installed."""

import pytest
import torch

import headfields as hf


@pytest.fixture(scope="module")
def samples():
    """Packed samples of 6 rays with 5 intervals each, densities and colors."""
    generator = torch.Generator().manual_seed(0)
    edges = torch.rand(6, 6, generator=generator).cumsum(1)
    density, rgb = 3 * torch.rand(6, 5, generator=generator), torch.rand(6, 5, 3, generator=generator)
    return edges[:, :-1], edges[:, 1:], density, rgb


def test_nerfacc_weights_and_sums(samples):
    nerfacc = pytest.importorskip("nerfacc.volrend", reason="nerfacc is not installed")
    start, end, density, rgb = samples
    ray = torch.arange(6).repeat_interleave(5)
    theirs, transmittance, _ = nerfacc.render_weight_from_density(start, end, density)  # PyTorch where it is dense
    packed = hf.Samples(ray, start.flatten(), end.flatten())
    ours = hf.ops.weights_from_density(density.flatten(), packed.start, packed.end, packed.ray, 6)
    assert torch.allclose(ours, theirs.flatten(), atol=1e-6)
    sums = nerfacc.accumulate_along_rays(theirs.flatten(), rgb.flatten(0, 1), ray, 6)
    assert torch.allclose(hf.ops.accumulate(ours, rgb.flatten(0, 1), packed.ray, 6), sums, atol=1e-6)
    # opacity has a last axis there, and none here
    opacity = nerfacc.accumulate_along_rays(theirs.flatten(), None, ray, 6)
    assert opacity.shape == (6, 1)
    assert torch.allclose(hf.ops.accumulate(ours, None, packed.ray, 6), opacity[:, 0], atol=1e-6)
    alpha = 1 - torch.exp(-density * (end - start))
    assert torch.allclose(hf.ops.weights_from_alpha(alpha.flatten(), packed.ray, 6), theirs.flatten(), atol=1e-6)
    assert transmittance.shape == start.shape


def test_grid_vertices_lie_on_the_ends_of_the_unit_interval():
    """Where tiny-cuda-nn shifts a level by half a cell, ours has its vertices at 0, 1 / N, ..., 1."""
    line = hf.ops.HashGridLayout(levels=1, features=1, log2_table_size=12, base_resolution=8, finest_resolution=8)
    x = torch.arange(9).float()[:, None] / 8
    table = x.repeat(81, 1)  # row x + 9 y + 81 z
    points = torch.rand(20, 3)
    assert torch.allclose(hf.ops.hash_grid(points, table, line)[:, 0], points[:, 0], atol=1e-6)


def test_textures_have_row_0_at_the_top():
    """pytorch3d's TexturesUV as here; nvdiffrast's texture has row 0 at v = 0, so its texture is ours flipped."""
    texture = torch.rand(4, 4, 3)
    top = hf.ops.sample_texture(texture, torch.tensor([[0.125, 0.875]]))  # the middle of the first texel
    assert torch.allclose(top[0], texture[0, 0])


def test_barycentrics_of_nvdiffrast():
    """Its (u, v) are weights of the first and second corner; ours are all three."""
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    tree = hf.ops.TriangleBVH(torch.tensor([[0, 1, 2]]), vertices)
    hit = tree.raycast(torch.tensor([[0.2, 0.3, 1.0]]), torch.tensor([[0.0, 0, -1]]))
    assert torch.allclose(hit.barycentric, torch.tensor([[0.5, 0.2, 0.3]])) and hit.face.item() == 0
