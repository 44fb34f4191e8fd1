"""What the tests of other libraries share: a mesh with everything on it, and those libraries where they are."""

from types import ModuleType

import pytest
import torch

import headfields as hf


@pytest.fixture(scope="session")
def quad() -> hf.Mesh:
    """Two triangles with a seam between them: six texture coordinates for four vertices; normals and a texture."""
    vertices = torch.tensor([[0.0, 0, 0], [0.1, 0, 0.02], [0, 0.1, 0], [0.1, 0.1, 0]])
    uv = torch.tensor([[0.05, 0.1], [0.45, 0.1], [0.05, 0.8], [0.55, 0.8], [0.95, 0.2], [0.9, 0.85]])
    texture = torch.randint(0, 256, (6, 8, 3), generator=torch.Generator().manual_seed(1)).float() / 255
    mesh = hf.Mesh(
        vertices, torch.tensor([[0, 1, 2], [2, 1, 3]]), uv=uv, uv_faces=torch.tensor([[0, 1, 2], [3, 4, 5]]),
        texture=texture,
    )  # fmt: skip
    return mesh.with_normals()


def sampled(mesh: hf.Mesh) -> torch.Tensor:
    """Texture colors (F, 3) at the middle of each face: what coordinates and image together mean."""
    assert mesh.uv is not None and mesh.texture is not None
    middle = mesh.uv[mesh.faces if mesh.uv_faces is None else mesh.uv_faces].mean(1)
    return hf.ops.sample_texture(mesh.texture, middle)


@pytest.fixture(scope="session")
def kaolin() -> ModuleType:
    try:
        import kaolin
        import kaolin.io
        import kaolin.render.camera
        import kaolin.rep
    except (ImportError, OSError) as error:
        pytest.skip(f"kaolin cannot be imported: {error}")
    return kaolin


@pytest.fixture(scope="session")
def open3d() -> ModuleType:
    try:
        import open3d
    except (ImportError, OSError) as error:
        pytest.skip(f"Open3D cannot be imported: {error}")
    return open3d
