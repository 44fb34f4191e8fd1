"""Folders of registered meshes of many people, as `generate_scans` or a user writes them.

scans.json          format, names of people and expressions, each person's neutral expression, and the set's origin
topology.npz        faces (F, 3) int32, kind (F,) uint8 (0 face, 1 rest of the front, 2 back, 3 inside of the mouth, 4
                    never sampled); optional anchor_vertices (A,) and landmark_vertices (68,), iBUG's order, -1 where
                    unknown
<person>/person.npz rgb (V, 3), sRGB of the vertices, float32 in [0, 1] or uint8
<person>/<expression>.npz  vertices (V, 3) float32, meters; seen (F,) bool, whether a scanner saw the face. Missing
                    kind and seen are computed. Synthetic sets also hold the coefficients: identity, expression, gaze.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headfields.apps.priors.scans.meshes import HIDDEN, MeshScans, visible_faces
from headfields.data.errors import CaptureError
from headfields.files.arrays import load_numbers, save_arrays
from headfields.files.atomic import replacing_folder, write_text
from headfields.files.reading import brief, read_json, reading
from headfields.files.versions import FileFormat
from headfields.records import check_meters

__all__ = ["load_scans", "made_from", "save_scans"]

_FORMAT = FileFormat(
    "headfields.scans", "a set of scans", 1, 'write it again with save_scans; scans.json of your own needs "format": 1'
)
_INDEX = "scans.json"


def save_scans(
    scans: MeshScans,
    out: str | Path,
    record: Mapping[str, Any] | None = None,
    coefficients: Mapping[str, Tensor] | None = None,
) -> Path:
    """Writes a set that `load_scans` reads; `headfields/apps/priors/scans/store.py` describes the files.

    Args:
        scans: the set.
        out: a folder that does not exist, is empty, or holds such a set, which is replaced once the new one is whole.
        record: origin of the set, any JSON values; stored with it.
        coefficients: further arrays by name, S rows each; stored with the scans.

    Returns:
        The folder.

    Raises:
        FileExistsError: `out` is a file, or a folder with other contents.
        OSError: a file cannot be written; an older set at `out` stays.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / _INDEX).is_file())):
        raise FileExistsError(f"save_scans: {folder} exists and holds no scans ({_INDEX}); choose another folder")
    extra = {name: values.detach().cpu().numpy() for name, values in (coefficients or {}).items()}
    topology = {"faces": scans.faces.int().numpy(), "kind": scans.kind.to(torch.uint8).numpy()}
    if len(scans.anchor_vertices):
        topology["anchor_vertices"] = scans.anchor_vertices.numpy()
    if scans.landmark_vertices is not None:
        topology["landmark_vertices"] = scans.landmark_vertices.numpy()
    index = {
        "people": {
            person: {
                "neutral": scans.expressions[int(scans.neutral[p])],
                "expressions": [scans.expressions[s] for s in (scans.person == p).nonzero()[:, 0].tolist()],
            }
            for p, person in enumerate(scans.people)
        },
        "made_from": dict(record or {}),
    }
    with replacing_folder(folder) as new:
        for p, person in enumerate(scans.people):
            save_arrays(new / person / "person.npz", {"rgb": scans.rgb[p].clamp(0, 1).numpy()})
            for s in (scans.person == p).nonzero()[:, 0].tolist():
                scan = {"vertices": scans.vertices[s].numpy(), "seen": scans.visible[s].numpy()}
                further = {name: values[s] for name, values in extra.items()}
                save_arrays(new / f"{scans.scans[s]}.npz", scan | further)
        save_arrays(new / "topology.npz", topology)
        write_text(new / _INDEX, json.dumps(_FORMAT.stamp(index), indent=1) + "\n")
    return folder


def made_from(path: str | Path) -> dict[str, Any] | None:
    """The record of the set at `path`; None if there is no set, or it is broken or of another version."""
    try:
        index = read_json(Path(path) / _INDEX)
        _FORMAT.check(path, index)
        record = index["made_from"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if isinstance(record, dict) else None


def load_scans(path: str | Path) -> MeshScans:
    """Reads a folder of registered meshes in the layout of `save_scans`.

    Args:
        path: the folder; `headfields/apps/priors/scans/store.py` describes its files.

    Raises:
        FileNotFoundError: there is no scans.json.
        FileVersionError: the set has another version of the format, or none.
        CaptureError: a file is missing or broken, or an array has the wrong shape; the message names person, expression
            and file.
    """
    folder = Path(path)
    if not (folder / _INDEX).is_file():
        raise FileNotFoundError(f"load_scans: {folder / _INDEX} does not exist; pass a folder that save_scans wrote")
    with reading(folder, "a set of scans", CaptureError):
        return _load(folder)


def _load(folder: Path) -> MeshScans:
    index = read_json(folder / _INDEX, CaptureError)
    _FORMAT.check(folder / _INDEX, index)
    try:
        people = {name: (entry["neutral"], list(entry["expressions"])) for name, entry in index["people"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise CaptureError(
            f"{folder / _INDEX}: cannot be read ({error!r}); it needs people, each with neutral and expressions"
        ) from error
    if not people:
        raise CaptureError(f"{folder / _INDEX}: has no people; it needs at least one")
    for name, (_, names) in people.items():
        _check_file_names([name], folder / _INDEX)
        _check_file_names(names, folder / _INDEX)
    topology = _arrays(folder / "topology.npz", "the topology")
    faces = _array(topology, folder / "topology.npz", "faces", "i", (None, 3))
    count = len(faces)
    rgb: list[Tensor] = []
    vertices: list[Tensor] = []
    visible: list[Tensor] = []
    person, neutral, expressions = [], [], []
    for p, (name, (neutral_name, names)) in enumerate(people.items()):
        file = folder / name / "person.npz"
        colors = _colors(_array(_arrays(file, f"person {name}"), file, "rgb", "uf", (None, 3)), file)
        if rgb and len(colors) != len(rgb[0]):
            raise CaptureError(f"{file}: rgb has {len(colors)} vertices; {next(iter(people))}'s has {len(rgb[0])}")
        if neutral_name not in names:
            raise CaptureError(
                f"{folder / _INDEX}: person {name}: the neutral expression {neutral_name!r} is not among {names}"
            )
        neutral.append(len(vertices) + names.index(neutral_name))
        rgb.append(torch.from_numpy(colors))
        for expression in names:
            file = folder / name / f"{expression}.npz"
            arrays = _arrays(file, f"person {name}, expression {expression}")
            places = _array(arrays, file, "vertices", "f", (len(colors), 3))
            if not np.isfinite(places).all():
                raise CaptureError(f"{file}: vertices are not all finite; register person {name} {expression} again")
            try:
                check_meters(str(file), "vertices", torch.from_numpy(places.astype(np.float32)))
            except ValueError as error:
                raise CaptureError(str(error)) from None
            vertices.append(torch.from_numpy(places.astype(np.float32)))
            if "seen" in arrays:
                visible.append(torch.from_numpy(_array(arrays, file, "seen", "b", (count,))))
            else:
                visible.append(visible_faces(vertices[-1][None], torch.from_numpy(faces.astype(np.int64)))[0])
            person.append(p)
            expressions.append(expression)
    kind = None
    if "kind" in topology:
        kind = torch.from_numpy(_array(topology, folder / "topology.npz", "kind", "iu", (count,)).astype(np.int64))
        if int(kind.max()) > HIDDEN or int(kind.min()) < 0:
            raise CaptureError(f"{folder / 'topology.npz'}: kind holds {int(kind.max())}; expected 0 to {HIDDEN}")
    anchors = None
    if "anchor_vertices" in topology:
        indices = _array(topology, folder / "topology.npz", "anchor_vertices", "i", (None,))
        anchors = torch.from_numpy(indices.astype(np.int64))
        if len(anchors.unique()) < len(anchors):
            raise CaptureError(f"{folder / 'topology.npz'}: anchor_vertices names a vertex twice; name each once")
    landmarks = None
    if "landmark_vertices" in topology:
        array = _array(topology, folder / "topology.npz", "landmark_vertices", "i", (68,))
        landmarks = torch.from_numpy(array.astype(np.int64))
    try:
        return MeshScans(
            torch.stack(vertices), torch.from_numpy(faces.astype(np.int64)), torch.tensor(person), torch.stack(rgb),
            neutral=torch.tensor(neutral), kind=kind, visible=torch.stack(visible), people=list(people),
            expressions=expressions, anchor_vertices=anchors, landmark_vertices=landmarks,
        )  # fmt: skip
    except (ValueError, RuntimeError) as error:
        raise CaptureError(f"{folder}: {error}") from error


def _check_file_names(names: list[Any], path: Path) -> None:
    """Refuses names that are not those of files in the set: others lead out of its folder."""
    for name in names:
        if not isinstance(name, str) or not name or name in (".", "..") or set(name) & set("/\\:\0"):
            raise CaptureError(f"{path}: {brief(name)} is no name of a person or an expression, which is a file's name")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CaptureError(f"{path}: the expression {twice[0]!r} is listed twice; remove one of the two")


def _colors(rgb: np.ndarray, path: Path) -> np.ndarray:
    """Colors as float32 in [0, 1]."""
    if rgb.dtype.kind == "u":
        return rgb.astype(np.float32) / np.float32(np.iinfo(rgb.dtype).max)
    if len(rgb) and not (rgb.min() >= 0 and rgb.max() <= 1):  # also if one is NaN
        raise CaptureError(
            f"{path}: rgb ranges from {rgb.min():g} to {rgb.max():g}; expected uint8, uint16, or floats in [0, 1]"
        )
    return rgb.astype(np.float32)


def _arrays(path: Path, whose: str) -> dict[str, np.ndarray]:
    try:
        return load_numbers(path, CaptureError)
    except FileNotFoundError as error:
        raise CaptureError(f"{path}: does not exist; {whose} needs it (scans.json lists it)") from error
    except (OSError, CaptureError) as error:
        raise CaptureError(f"{path}: cannot be read ({error}); {whose} is broken, write it again") from error


def _array(
    arrays: Mapping[str, np.ndarray], path: Path, name: str, kinds: str, shape: tuple[int | None, ...]
) -> np.ndarray:
    if name not in arrays:
        raise CaptureError(f"{path}: has no {name}; it has {', '.join(arrays) or 'nothing'}")
    array = arrays[name]
    fits = array.ndim == len(shape) and all(s is None or s == n for s, n in zip(shape, array.shape, strict=True))
    if array.dtype.kind not in kinds or not fits:
        expected = ", ".join("N" if s is None else str(s) for s in shape)
        raise CaptureError(f"{path}: {name} has dtype {array.dtype} and shape {array.shape}; expected ({expected})")
    return array
