"""FLAME's companion files in their published layouts, for the procedural head."""

import pickle

import numpy as np
import torch

MASKS = (
    "face", "neck", "scalp", "boundary", "right_eyeball", "left_eyeball", "right_ear", "left_ear", "forehead",
    "eye_region", "nose", "lips", "right_eye_region", "left_eye_region",
)  # fmt: skip


def embedding(arrays, *shape, seed=0):
    generator = np.random.default_rng(seed)
    weights = generator.random((*shape, 3))
    return generator.integers(0, len(arrays["f"]), shape), weights / weights.sum(-1, keepdims=True)


def write_landmark_files(folder, arrays):
    """Every landmark file in its own layout."""
    faces, weights = embedding(arrays, 51)
    static = {"lmk_face_idx": faces.astype(np.uint32), "lmk_b_coords": weights}
    (folder / "flame_static_embedding.pkl").write_bytes(pickle.dumps(static, protocol=2))
    rows, row_weights = embedding(arrays, 79, 17, seed=1)
    table = {"lmk_face_idx": rows.tolist(), "lmk_b_coords": row_weights}
    np.save(folder / "flame_dynamic_embedding.npy", np.array(table, dtype=object))
    mediapipe, mediapipe_weights = embedding(arrays, 105, seed=2)
    np.savez(
        folder / "mediapipe_landmark_embedding.npz",
        lmk_face_idx=mediapipe.astype(np.uint32),
        lmk_b_coords=mediapipe_weights,
        landmark_indices=np.arange(105) * 4,
    )
    full, full_weights = embedding(arrays, 1, 68, seed=3)
    deca = {
        "static_lmk_faces_idx": faces,
        "static_lmk_bary_coords": weights,
        "dynamic_lmk_faces_idx": torch.from_numpy(rows),
        "dynamic_lmk_bary_coords": torch.from_numpy(row_weights),
        "full_lmk_faces_idx": full,
        "full_lmk_bary_coords": full_weights,
    }
    np.save(folder / "landmark_embedding.npy", np.array(deca, dtype=object))


def write_masks(folder, arrays):
    """FLAME_masks.pkl: vertex ids, overlapping, as Python 2 pickled them."""
    count, generator = len(arrays["v_template"]), np.random.default_rng(0)
    ids = {name: generator.permutation(count)[: count // 2].astype(np.int64) for name in MASKS}
    ids["lips"] = np.unique(arrays["f"][arrays["region_lips"]])
    path = folder / "FLAME_masks.pkl"
    path.write_bytes(pickle.dumps(ids, protocol=2))
    return path


def write_template(folder, arrays):
    """The template OBJ: more vt than v, faces in another order and starting at another corner."""
    generator = np.random.default_rng(0)
    order, turn = generator.permutation(len(arrays["f"])), generator.integers(0, 3, len(arrays["f"]))
    lines = [f"v {x} {y} {z}" for x, y, z in arrays["v_template"]] + [f"vt {u:.9g} {v:.9g}" for u, v in arrays["uv"]]
    for row in order:
        corners = [f"{v + 1}/{t + 1}" for v, t in zip(arrays["f"][row], arrays["uv_faces"][row], strict=True)]
        lines.append("f " + " ".join(np.roll(corners, turn[row])))
    path = folder / "head_template_mesh.obj"
    path.write_text("\n".join(lines) + "\n")
    return path
