"""The measured operations, one file each. `cases(settings)` of each yields `Case`s, or finished `Row`s."""

OPERATIONS = (
    "closest_triangle", "nearest_vertices", "ray_mesh", "hash_grid", "compositing", "sampling", "skinning",
    "inverse_skinning", "mlp", "uv", "vertex_features", "anchored", "marching_cubes", "mesh_rendering", "splat",
    "insta_training",
)  # fmt: skip
