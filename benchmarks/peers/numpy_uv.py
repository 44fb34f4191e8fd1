"""UV rasterization by a loop over faces in NumPy, the usual implementation and a reference for the tests."""

import numpy as np

Texels = tuple[np.ndarray, np.ndarray]


def rasterize(uv: np.ndarray, uv_faces: np.ndarray, height: int, width: int) -> Texels:
    """Face (H, W), -1 for none, and barycentrics (H, W, 3) at the centers of texels; row 0 at v = 1.

    A center in several faces belongs to the lowest.
    """
    face = np.full((height, width), -1, np.int64)
    barycentric = np.zeros((height, width, 3))
    texel = np.stack([uv[:, 0] * width - 0.5, (1 - uv[:, 1]) * height - 0.5], 1).astype(np.float64)
    for index, (a, b, c) in enumerate(texel[uv_faces]):
        area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        if abs(area) < 1e-9:
            continue
        low = np.maximum(np.ceil(np.minimum(np.minimum(a, b), c)), 0).astype(int)
        high = np.minimum(np.floor(np.maximum(np.maximum(a, b), c)), [width - 1, height - 1]).astype(int)
        if (high < low).any():
            continue
        x, y = np.meshgrid(np.arange(low[0], high[0] + 1), np.arange(low[1], high[1] + 1))
        first = ((b[0] - x) * (c[1] - y) - (b[1] - y) * (c[0] - x)) / area
        second = ((c[0] - x) * (a[1] - y) - (c[1] - y) * (a[0] - x)) / area
        weights = np.stack([first, second, 1 - first - second], -1)
        inside = (weights >= -1e-12).all(-1)
        rows, columns = y[inside], x[inside]
        new = face[rows, columns] < 0
        face[rows[new], columns[new]] = index
        barycentric[rows[new], columns[new]] = weights[inside][new]
    return face, barycentric


def draw(attributes: np.ndarray, faces: np.ndarray, texels: Texels) -> np.ndarray:
    """Vertex attributes (V, C) as a map (H, W, C), 0 outside of faces."""
    face, barycentric = texels
    drawn = (attributes[faces[face]] * barycentric[..., None]).sum(2)
    drawn[face < 0] = 0
    return drawn
