"""Files of another version of their format are refused by name, whatever their kind."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import headfields
from headfields.apps.capturing.recording_files import load_untracked
from headfields.apps.priors import load_prior
from headfields.apps.priors.scans import load_scans
from headfields.apps.priors.sequence import FittedSequence
from headfields.apps.rigging.rigged_template import RiggedTemplate
from headfields.apps.tracking.folder import TrackingFolder
from headfields.apps.tracking.head.identity import HeadIdentity
from headfields.apps.tracking.head.recording import check_run
from headfields.apps.tracking.prior.fit import PriorFit
from headfields.apps.tracking.prior.landmarks import LandmarkPoints
from headfields.apps.tracking.prior.stage2 import JointFit
from headfields.apps.tracking.rig.adapted import AdaptedTemplate
from headfields.apps.tracking.rig.fit import RigFit
from headfields.avatar.splat_avatar import load_avatar
from headfields.compare import cells
from headfields.files import reading
from headfields.files.arrays import load_numbers
from headfields.files.versions import FileVersionError
from headfields.heads import FlameHead
from headfields.runs import checkpoint
from headfields.runs.folder import RunFolder
from headfields.synthetic.tracking_error import TRUTH_FORMAT
from tests.files.readers import skinned
from tests.tables import table


def read_cell(path: Path) -> Any:
    """The result of a study's cell, as `Cell.done` reads it."""
    content = reading.read_json(path)
    cells.FORMAT.check(path, content)
    return content


KINDS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "adapted_template": ("adapted.safetensors", AdaptedTemplate.load),
    "avatar": ("avatar.safetensors", load_avatar),
    "capture_run": ("tracking/capture.json", lambda path: check_run(path.parent.parent, {}, True)),
    "cell": ("result.json", read_cell),
    "checkpoint": ("last.safetensors", lambda path: checkpoint.load_weights(path, torch.nn.Linear(1, 1))),
    "head": ("head.npz", FlameHead.from_file),
    "head_identity": ("identity.safetensors", HeadIdentity.load),
    "fitted_sequence": ("sequence.safetensors", FittedSequence.load),
    "joint_fit": ("stage2.safetensors", lambda path: JointFit._load(JointFit.__new__(JointFit), path)),
    "landmark_points": ("points.npz", LandmarkPoints.load),
    "prior": ("prior.safetensors", load_prior),
    "recording": ("recording.json", lambda path: load_untracked(path.parent)),
    "run": ("config.json", lambda path: RunFolder(path.parent).config()),
    "scans": ("scans.json", lambda path: load_scans(path.parent)),
    "tracked_frame": ("00000.safetensors", PriorFit.load),
    "tracked_template": ("00000.safetensors", RigFit.load),
    "tracking_run": ("config.json", lambda path: TrackingFolder(path.parent).open({}, True)),
    "truth": ("truth.npz", lambda path: load_numbers(path, kind=TRUTH_FORMAT)),
}
"""A file of each kind, by the name of its format, and how it is read."""


def write(path: Path, kind: str, content: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({"x": torch.zeros(1)}, path, {f"headfields.{kind}": json.dumps(content)})
    elif path.suffix == ".npz":
        np.savez(path, **(skinned(5) if kind == "head" else {}), **content)
    else:
        path.write_text(json.dumps(content))


def test_the_table_has_every_format_of_the_library() -> None:
    sources = [path.read_text(encoding="utf-8") for path in Path(headfields.__file__).parent.rglob("*.py")]
    written = {name for text in sources for name in re.findall(r'FileFormat\(\s*"headfields\.(\w+)"', text)}
    written |= {name for text in sources for name in re.findall(r'= _format\("(\w+)"', text)}
    assert written - {"knot"} == KINDS.keys()


@table("version", [0, 7, "1", True, None])
@table("kind", KINDS)
def test_another_version_is_refused_by_name(kind: str, version: Any, tmp_path: Path) -> None:
    name, read = KINDS[kind]
    path = tmp_path / name
    write(path, kind, {} if version is None else {"format": version})
    if version is None and kind == "head":
        read(path)  # a published file has none
        return
    number = "without a format version" if version is None else f"of format {version!r}"
    with pytest.raises(FileVersionError, match=rf"{re.escape(str(path))} is \w.* {number}; .* reads format \d: \w+"):
        read(path)


def test_a_rig_of_another_version(tmp_path: Path) -> None:
    write(tmp_path / "rig.npz", "head", {"format": 7})
    with pytest.raises(FileVersionError, match=r"rig\.npz is a head of this library of format 7"):
        RiggedTemplate.from_file(tmp_path / "rig.npz")
