"""Files of heads that are wrong: each is an error that names the file and the key, or a tolerance of docs/files.md."""

import numpy as np
import pytest

from headfields.apps.rigging.rigged_template import RiggedTemplate
from headfields.files.arrays import save_arrays
from headfields.heads import BlendshapeHead, FlameHead
from headfields.heads.landmarks import Landmarks
from tests.heads.flame.test_model import small
from tests.tables import table

TREE = [[-1, 0, 1, 1, 1], [0, 1, 2, 3, 4]]


def changed(array, place, value, dtype=np.float64):
    array = np.array(array, dtype)
    array[place] = value
    return array


def with_row(key: str, place, value):
    return {key: changed(small()[key], place, value)}


def embedding(**entries):
    return {"lmk_face_idx": np.arange(3), "lmk_b_coords": np.full((3, 3), 1 / 3), **entries}


FLAME = {
    "a negative weight": (with_row("weights", 0, [1.2, -0.2, 0, 0, 0]), r"weights at \(0, 1\) is -0.2"),
    "weights of 0": (with_row("weights", 3, 0.0), "weights: row 3 adds up to 0"),
    "weights of 2": (with_row("weights", 3, 0.4), "weights: row 3 adds up to 2"),
    "a regressor of 2": (with_row("J_regressor", 1, 2 / 12), "J_regressor: row 1 adds up to 2"),
    "fractional faces": (with_row("f", (1, 2), 3.5), r"f at \(1, 2\) is 3.5; expected whole numbers"),
    "a negative face": ({"f": np.array([[0, 1, -1]])}, r"f has indices in \[-1, 1\]"),
    "a face out of range": ({"f": np.array([[0, 1, 12]])}, r"f has indices in \[0, 12\]"),
    "NaN in a direction": (with_row("shapedirs", (0, 0, 0), np.nan), "shapedirs at"),
    "infinity in a corrective": (with_row("posedirs", (2, 1, 5), np.inf), "posedirs at"),
    "correctives of another pose": ({"posedirs": np.zeros((12, 3, 35))}, "posedirs has shape"),
    "directions of another mesh": ({"shapedirs": np.zeros((11, 3, 400))}, "shapedirs has shape"),
    "a template in millimeters": ({"v_template": small()["v_template"] * 60}, "extends over .*by 0.001"),
    "a joint that is its own parent": ({"kintree_table": changed(TREE, (0, 2), 2, int)}, "2 for the parent of joint 2"),
    "a joint after its child": ({"kintree_table": changed(TREE, (0, 1), 3, int)}, "3 for the parent of joint 1"),
    "a second root": ({"kintree_table": changed(TREE, (0, 3), -1, int)}, "-1 for the parent of joint 3"),
    "a root with a parent": ({"kintree_table": changed(TREE, (0, 0), 3, int)}, "3 for the parent of joint 0"),
    "a fractional parent": ({"kintree_table": changed(TREE, (0, 2), 0.5)}, "kintree_table at .* is 0.5"),
    "joints in another order": ({"kintree_table": changed(TREE, 1, [0, 2, 1, 3, 4], int)}, "numbers the joints"),
    "a fractional number of expressions": ({"expression_count": np.array(99.5)}, "expression_count .*is 99.5"),
    "a list of numbers of expressions": ({"expression_count": np.array([9, 9])}, "expected one finite number"),
    "a name twice": ({"expression_names": np.array(["a", "b", "a"])}, "expression_names has the name 'a' twice"),
    "names as Python objects": ({"expression_names": np.array(["a", 1], object)}, "expression_names is an array of Py"),
    "a shape name twice": ({"shape_names": np.array(["a", "a"])}, "shape_names has the name 'a' twice"),
    "more shape names than shapes": ({"shape_names": np.arange(301).astype(str)}, "301 names for 300 shape"),
    "a region of fractions": ({"region_lips": np.array([0.5, 1.0])}, "region_lips at 0?.*is 0.5"),
    "a region of another mesh": ({"region_lips": np.array([99])}, "region_lips has indices"),
    "NaN in texture coordinates": (
        {"uv": np.full((3, 2), np.nan), "uv_faces": np.zeros((3, 3), int)}, "uv at .* is nan"
    ),
    "fractional texture corners": ({"uv": np.zeros((3, 2)), "uv_faces": np.full((3, 3), 0.5)}, "uv_faces at .* is 0.5"),
    "texture corners out of range": ({"uv": np.zeros((3, 2)), "uv_faces": np.full((3, 3), 3)}, "uv_faces has indices"),
    "landmarks beside their triangles": (
        embedding(lmk_b_coords=np.array([[1.5, -0.5, 0], [1, 0, 0], [1, 0, 0]])), r"at \(0, 1\) is -0.5"
    ),
    "landmarks that do not add up": (embedding(lmk_b_coords=np.full((3, 3), 0.5)), "adds up to 1.5"),
    "a landmark on no face": (embedding(lmk_face_idx=np.array([0, 1, 3])), r"name faces in \[0, 3\]"),
    "a landmark on half a face": (embedding(lmk_face_idx=np.array([0, 1, 1.5])), "whole and real numbers"),
}  # fmt: skip


@table("name", FLAME)
def test_a_wrong_model_is_an_error_with_its_name(tmp_path, name):
    changes, reason = FLAME[name]
    path = tmp_path / "model.npz"
    np.savez(path, **small(**changes))
    with pytest.raises(ValueError, match=rf"model\.npz.*(?:{reason})") as caught:
        FlameHead.from_file(path)
    assert "\n" not in str(caught.value)


@table(
    "changes",
    [
        {"weights": small()["weights"].astype(np.float16)},
        {"weights": small()["weights"].astype(np.float32)},
        {"J_regressor": small()["J_regressor"].astype(np.float16)},
        {"f": small()["f"].astype(np.float64)},
        {"f": np.array([[0, 0, 1]])},
        {"uv": np.array([[-3.0, 7.0]]), "uv_faces": np.zeros((3, 3), int)},
        embedding(lmk_b_coords=np.array([[1.004, -0.004, 0], [1, 0, 0], [0.5, 0.25, 0.25]])),
    ],
)
def test_tolerances(tmp_path, changes):
    FlameHead.from_file(save_arrays(tmp_path / "model.npz", small(**changes)))


def rig(**changes):
    entries = small(components=4) | {"expression_count": np.array(4), "scale": np.array(1.0)}
    return entries | changes


@table(
    ("changes", "reason"),
    [
        ({"scale": np.array(0.0)}, "scale is 0.0; expected a positive number"),
        ({"scale": np.array(np.nan)}, "scale .*expected one finite number"),
        ({"expression_count": np.array(2.5)}, "expression_count"),
        ({"expression_names": np.array(["a", "a"])}, "'a' twice"),
        ({"expression_names": np.arange(9).astype(str)}, "9 names for 4 expressions"),
        ({"texture": np.zeros((2, 2, 3), np.uint16)}, "texture has shape"),
        ({"weights": np.zeros((12, 5))}, "weights: row 0 adds up to 0"),
        ({"v_template": small()["v_template"] * 60}, "multiply by 0.001"),
    ],
)
def test_wrong_rigs(tmp_path, changes, reason):
    RiggedTemplate.from_file(save_arrays(tmp_path / "whole.npz", rig()))
    with pytest.raises(ValueError, match=rf"rig\.npz.*{reason}"):
        RiggedTemplate.from_file(save_arrays(tmp_path / "rig.npz", rig(**changes)))


def blendshapes(**changes):
    random = np.random.default_rng(0)
    return {
        "template": random.random((6, 3)), "faces": np.array([[0, 1, 2], [3, 4, 5]]),
        "expression": random.random((2, 6, 3)), "expression_names": np.array(["open", "smile"]), **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"template": np.full((6, 3), np.nan)}, "template at .* is nan"),
        ({"expression": np.full((2, 6, 3), np.inf)}, "expression at .* is inf"),
        ({"identity": np.full((1, 6, 3), np.nan)}, "identity at .* is nan"),
        ({"identity": np.zeros((1, 5, 3))}, "identity has shape"),
        ({"expression": np.zeros((2, 5, 3))}, "expression has shape"),
        ({"faces": np.array([[0, 1, 2.5]])}, "faces at .* is 2.5"),
        ({"faces": np.array([[0, 1, -2]])}, "faces has indices"),
        ({"faces": np.array([[0, 1, 6]])}, "faces has indices"),
        ({"landmarks": np.array([1.5])}, "landmarks at"),
        ({"landmarks": np.array([6])}, "landmarks has indices"),
        ({"expression_names": np.array(["open", "open"])}, "'open' twice"),
        ({"expression_names": np.array(["open"])}, "1 expression_names for 2 expressions"),
        ({"expression_names": np.array(["a", "b", "c"])}, "3 names for 2 expressions"),
        ({"template": np.random.default_rng(0).random((6, 3)) * 200}, "template extends over .*multiply by 0.00?1"),
    ],
)
def test_wrong_blendshapes(tmp_path, changes, reason):
    BlendshapeHead.from_file(save_arrays(tmp_path / "whole.npz", blendshapes()))
    with pytest.raises(ValueError, match=rf"head\.npz.*{reason}"):
        BlendshapeHead.from_file(save_arrays(tmp_path / "head.npz", blendshapes(**changes)))


@pytest.mark.parametrize(
    ("indices", "reason"), [([0, 1, 1], "repeated"), ([0, 1, -1], "negative"), ([0, 1, 0.5], "is 0.5"), ([0], "shape")]
)
def test_wrong_indices_of_a_detector(tmp_path, indices, reason):
    path = save_arrays(tmp_path / "mediapipe.npz", embedding(landmark_indices=np.array(indices)))
    with pytest.raises(ValueError, match=rf"mediapipe\.npz: landmark_indices.*{reason}"):
        Landmarks.from_file(path)
