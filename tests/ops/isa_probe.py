"""Runs every kernel of a compiled module with NumPy alone: `python isa_probe.py MODULE RESULTS.npz`.

Without torch it starts in a fraction of a second, so that the tests can afford a process for each instruction set.
"""

import importlib.machinery
import importlib.util
import sys
from types import ModuleType

import numpy as np

THREADS = 2


def load(path: str) -> ModuleType:
    """The extension module at a path, not as a part of the package."""
    loader = importlib.machinery.ExtensionFileLoader("_native", path)
    spec = importlib.util.spec_from_loader("_native", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def soup(faces: int, meshes: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Small triangles about a sphere; every ninth is a segment, every ninth a point, and a few corners are NaN."""
    center = rng.normal(size=(meshes, faces, 1, 3))
    corners = center / np.linalg.norm(center, axis=-1, keepdims=True) + 0.05 * rng.normal(size=(meshes, faces, 3, 3))
    corners[:, 0::9, 1] = corners[:, 0::9, 0]
    corners[:, 3::9] = corners[:, 3::9, :1]
    corners[:, 5::100, 2] = np.nan
    index = np.arange(3 * faces, dtype=np.int32).reshape(faces, 3)
    return index, corners.reshape(meshes, 3 * faces, 3).astype(np.float32)


def triangles(native: ModuleType, rng: np.random.Generator, out: dict[str, np.ndarray]) -> None:
    faces, vertices = soup(500, 2, rng)
    children, order, slot, _ = native.bvh_build(faces, vertices[0])
    children = children.reshape(-1, 8)
    bounds = np.zeros((2, len(children), native.bvh_node_floats), np.float32)
    rows = np.zeros((2, len(slot), native.bvh_leaf_floats), np.float32)
    native.bvh_refit(children, order, slot, faces, vertices, bounds, rows, THREADS)
    tree = (children, order, slot, faces, vertices, bounds, rows)
    n = 700
    points = (1.2 * rng.normal(size=(n, 3))).astype(np.float32)
    points[::50, 1] = (np.nan, np.inf, -np.inf, 1e30, -1e20, 3e38, 2e18)[: len(points[::50])] * 2
    directions = rng.normal(size=(n, 3)) - points.clip(-3, 3)
    directions = (directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32)
    mesh = rng.integers(0, 2, n).astype(np.int32)
    out |= {"faces": faces, "vertices": vertices, "points": points, "mesh": mesh}
    for name, limit in (("closest", np.inf), ("within", 0.3)):
        face, weights, distance = np.zeros(n, np.int64), np.zeros((n, 3), np.float32), np.zeros(n, np.float32)
        nearest = np.zeros((n, 3), np.float32)
        native.bvh_closest(*tree, points, mesh, limit, face, weights, distance, nearest, THREADS)
        out |= {
            f"{name}_face": face,
            f"{name}_distance": distance,
            f"{name}_weights": weights,
            f"{name}_point": nearest,
        }
    face, weights, distance = np.zeros(n, np.int64), np.zeros((n, 3), np.float32), np.zeros(n, np.float32)
    native.bvh_raycast(*tree, points, directions, mesh, 5.0, face, weights, distance, THREADS)
    near, far = np.zeros(n, np.float32), np.zeros(n, np.float32)
    native.bvh_interval(*tree, points, directions, mesh, 0.1, near, far, THREADS)
    out |= {"hit_face": face, "hit_distance": distance, "near": near, "far": far}


def vertices(native: ModuleType, rng: np.random.Generator, out: dict[str, np.ndarray]) -> None:
    cloud = rng.uniform(size=(2, 900, 3)).astype(np.float32)
    cloud[:, ::5], cloud[:, 3], cloud[1, 7] = cloud[:, 1::5], np.nan, 1e25
    same = np.repeat(np.arange(900, dtype=np.int32)[:, None], 3, axis=1)
    children, order, slot, _ = native.bvh_build(same, cloud[0])
    children = children.reshape(-1, 8)
    bounds = np.zeros((2, len(children), native.bvh_node_floats), np.float32)
    positions = np.zeros((2, len(slot), native.vertex_leaf_floats), np.float32)
    native.vertex_refit(children, order, slot, cloud, bounds, positions, THREADS)
    points = rng.uniform(-0.2, 1.2, (701, 3)).astype(np.float32)
    points[::50, 1] = np.nan
    mesh = np.sort(rng.integers(0, 2, 701)).astype(np.int32)
    for k, limit in ((4, np.inf), (16, 0.1)):
        index, distance = np.zeros((701, k), np.int64), np.zeros((701, k), np.float32)
        native.nearest_vertices(
            children, order, slot, cloud, bounds, positions, points, mesh, limit, index, distance, THREADS
        )
        out |= {f"vertices_{k}": index, f"vertices_{k}_distance": distance}


def grid(native: ModuleType, rng: np.random.Generator, out: dict[str, np.ndarray]) -> None:
    resolution, log2_size = [2, 5, 40], 9
    for dimensions, features, table_type in (
        (3, 8, "f4"),
        (3, 4, "f4"),
        (3, 2, "f2"),
        (3, 8, "f2"),
        (2, 3, "f4"),
        (3, 2, "f8"),
    ):
        real = np.float64 if table_type == "f8" else np.float32
        offset = [0]
        for cells in resolution:
            offset.append(offset[-1] + min((cells + 1) ** dimensions, 2**log2_size))
        layout = (resolution, offset, log2_size, dimensions == 2)
        points = rng.uniform(-0.1, 1.1, (301, dimensions)).astype(real)
        points[::90, 0] = np.array([np.nan, np.inf, -np.inf, 3e38])
        table = rng.normal(size=(offset[-1], features)).astype(table_type)
        value, to_points, to_table = (
            np.zeros((301, 3 * features), real),
            np.zeros_like(points),
            np.zeros(table.shape, real),
        )
        native.hash_grid(points, table, value, *layout, THREADS)
        grad = rng.normal(size=value.shape).astype(real)
        native.hash_grid_backward(grad, points, table, to_points, to_table, *layout, THREADS)
        rows = np.zeros((301, 3, 2**dimensions), np.int64)
        native.hash_grid_rows(points, rows, resolution, offset, log2_size, THREADS)
        name = f"grid_{dimensions}_{features}_{table_type}"
        out |= {name: value, f"{name}_points": to_points, f"{name}_table": to_table, f"{name}_rows": rows}


def harmonics(native: ModuleType, rng: np.random.Generator, out: dict[str, np.ndarray]) -> None:
    for real in (np.float32, np.float64):
        directions = rng.normal(size=(131, 3)).astype(real)
        value, back = np.zeros((131, 16), real), np.zeros((131, 3), real)
        recurrence = (list(rng.normal(size=4)), list(rng.normal(size=16)), list(rng.normal(size=16)))
        native.spherical_harmonics(directions, value, *recurrence, THREADS)
        native.spherical_harmonics_backward(value, directions, back, *recurrence, THREADS)
        out |= {f"harmonics_{real.__name__}": value, f"harmonics_back_{real.__name__}": back}


def packed(native: ModuleType, rng: np.random.Generator, out: dict[str, np.ndarray]) -> None:
    for real in (np.float32, np.float64):
        offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 30, 40))]).astype(np.int64)
        n = int(offsets[-1])
        depth, grad = rng.exponential(0.1, n).astype(real), rng.normal(size=n).astype(real)
        depth[7], depth[9] = 200.0, np.inf
        colors = rng.uniform(size=(n, 3)).astype(real).reshape(-1)
        weights, back, sums, image = np.zeros(n, real), np.zeros(n, real), np.zeros(n, real), np.zeros(40 * 4, real)
        native.ray_weights(depth, offsets, False, weights, THREADS)
        native.ray_weights_backward(grad, depth, offsets, False, back, THREADS)
        native.exclusive_sum(grad, offsets, True, sums, THREADS)
        native.weighted_sum(weights, colors, offsets, 3, True, image, THREADS)
        edges = np.arange(n + 1).astype(real) / n
        placed = np.zeros(40 * 5, real)
        expected = np.sort(rng.uniform(size=(40, 5)), axis=1).astype(real).reshape(-1)
        native.inverse_cdf(edges[:-1].copy(), edges[1:].copy(), np.abs(grad), offsets, expected, 5, placed, THREADS)
        name = real.__name__
        out |= {f"weights_{name}": weights, f"back_{name}": back, f"sums_{name}": sums, f"image_{name}": image}
        out[f"placed_{name}"] = placed


def occupancy(native: ModuleType, rng: np.random.Generator, out: dict[str, np.ndarray]) -> None:
    cells, box = (rng.uniform(size=(6, 4, 5)) < 0.4).astype(np.uint8), np.array([[-1.0, -1, -1], [1, 1, 1]])
    origins, directions = rng.normal(size=(64, 3)), rng.normal(size=(64, 3))
    origins[3] = np.nan
    near, far = np.zeros(64), np.full(64, 4.0)
    far[5:8] = (np.inf, np.nan, -1.0)
    for real in (np.float32, np.float64):
        counts = np.zeros(64, np.int64)
        ray = [x.astype(real) for x in (origins, directions, near, far)]
        native.march_count(*ray, None, cells, box.astype(real), 0.043, 0.0, counts, THREADS)
        inside = np.zeros(64, np.uint8)
        native.lookup(ray[0], cells, box.astype(real), inside, THREADS)
        out |= {f"counts_{real.__name__}": counts, f"inside_{real.__name__}": inside}


def marching(native: ModuleType, rng: np.random.Generator, out: dict[str, np.ndarray]) -> None:
    values = rng.uniform(size=(7, 6, 90))
    ends = [(axis, corner) for axis in range(3) for corner in range(8) if not corner >> (2 - axis) & 1]
    count, triangles = np.zeros(256, np.uint8), np.zeros((256, 5, 3), np.uint8)
    for case in range(256):  # not the real table, but one that names cut edges
        cut = [k for k, (axis, a) in enumerate(ends) if (case >> a ^ case >> (a | 4 >> axis)) & 1]
        count[case] = min(len(cut), 5)
        triangles[case, : count[case]] = np.resize(np.array(cut, np.uint8), (count[case], 3))
    for real in (np.float32, np.float64):
        bits, first = np.zeros((7, 6, 2), np.int64), np.zeros((2, 43), np.int64)
        native.marching_scan(values.astype(real), 0.4, count, bits, *first, THREADS)
        edge, corners = np.zeros(first[0, -1], np.int64), np.zeros((first[1, -1], 3), np.int64)
        native.marching_emit(bits, 90, count, triangles, *first, edge, corners, THREADS)
        found = {"bits": bits, "edges": edge, "corners": corners}
        out |= {f"marching_{name}_{real.__name__}": array for name, array in found.items()}


def softplus(native: ModuleType, rng: np.random.Generator, out: dict[str, np.ndarray]) -> None:
    x, grad = (rng.normal(size=203) * 0.3).astype(np.float32), rng.normal(size=203).astype(np.float32)
    x[:4] = (np.nan, np.inf, -np.inf, 0.0)
    value, slope, curve = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    native.softplus(x, 100.0, value, THREADS)
    native.softplus_derivative(grad, x, 100.0, False, slope, THREADS)
    native.softplus_derivative(grad, x, 100.0, True, curve, THREADS)
    out |= {"softplus": value, "softplus_slope": slope, "softplus_curve": curve}


def gaussians(native: ModuleType, rng: np.random.Generator, out: dict[str, np.ndarray]) -> None:
    n, height, width = 203, 37, 50
    means, turns = 0.4 * rng.normal(size=(1, n, 3)), rng.normal(size=(2, n, 4))
    scales, opacities = 0.03 * np.exp(0.7 * rng.normal(size=(1, n, 3))), rng.uniform(size=(1, n))
    means[0, :6, 0] = (np.nan, np.inf, 1e30, 0, 0, 0)
    means[0, 3:5, 2], scales[0, 5] = (-5.0, -9.0), 1e4
    pose, lens = np.tile(np.eye(4), (2, 1, 1)), np.tile([[60.0, 0, 25], [0, 60, 18], [0, 0, 1]], (2, 1, 1))
    pose[:, 2, 3], pose[1, 0, 3] = 2.0, 0.3
    inputs = [x.astype(np.float32) for x in (means, turns, scales, opacities, pose, lens)]
    options = (height, width, 0.01, 0.3, True)
    rows, radii = np.zeros((2, n, 10), np.float32), np.zeros((2, n), np.float32)
    native.splat_project(*inputs, *options, rows, radii, THREADS)
    colors = rng.uniform(size=(1, n, 11)).astype(np.float32)
    image = (2, height, width)
    color, through, depth = (np.zeros(shape, np.float32) for shape in ((*image, 11), image, image))
    normal, median = np.zeros((*image, 3), np.float32), np.zeros(image, np.float32)
    last, counts = np.zeros(image, np.int32), np.zeros((2, n), np.int32)
    native.splat_rasterize(
        rows, colors, None, height, width, color, through, depth, normal, median, last, counts, THREADS
    )
    grads = [rng.normal(size=x.shape).astype(np.float32) for x in (color, through, depth, normal)]
    to_rows, to_colors, sizes = np.zeros_like(rows), np.zeros_like(colors), np.zeros((2, n, 2), np.float32)
    native.splat_rasterize_backward(
        *grads, rows, colors, None, height, width, through, last, to_rows, to_colors, sizes, THREADS
    )
    found = [np.zeros_like(x) for x in inputs]
    # Of the same gradient in every process: that of rows differs by its rounding, which scales enlarge.
    native.splat_project_backward(rng.normal(size=rows.shape).astype(np.float32), *inputs, *options, *found, THREADS)
    out |= {
        "splat_rows": rows, "splat_radii": radii, "splat_color": color, "splat_light": through, "splat_depth": depth,
        "splat_normal": normal, "splat_median": median, "splat_counts": counts, "splat_to_colors": to_colors,
        "splat_to_opacity": to_rows[..., 5], "splat_to_center": to_rows[..., :2], "splat_sizes": sizes,
    }  # fmt: skip
    out |= {f"splat_to_{k}": each for k, each in enumerate(found)}


def run(native: ModuleType) -> dict[str, np.ndarray]:
    """What each kernel gives for inputs that are the same in every process."""
    out: dict[str, np.ndarray] = {}
    for part in (triangles, vertices, grid, harmonics, packed, occupancy, marching, softplus, gaussians):
        part(native, np.random.default_rng(7), out)
    return out


if __name__ == "__main__":
    module = load(sys.argv[1])
    np.savez(sys.argv[2], isa=module.isa(), **run(module))
