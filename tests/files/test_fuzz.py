"""Damaged files: whatever bytes change, a reader returns or raises a documented error that names the file."""

import ast
import io
import random
import re
import shutil
import struct
import sys
import zipfile
from pathlib import Path

import pytest

import headfields
from tests.files.readers import READERS
from tests.files.sandbox import outcomes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")

QUICK = 8
"""Damaged files of each reader in the default run."""


def damage(data, chance):
    """The bytes with one to three kinds of damage."""
    data = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at, size = chance.randrange(len(data) + 1), chance.choice([1, 2, 4, 8, 30])
        kind = chance.choice(["flip", "cut", "insert", "remove", "splice", "zero", "ones", "number", "number", "digit"])
        if kind == "flip" and data:
            data[at % len(data)] ^= 1 << chance.randrange(8)
        elif kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = chance.randbytes(size)
        elif kind == "remove":
            del data[at : at + size]
        elif kind == "splice":
            start = chance.randrange(len(data) + 1)
            data[at : at + size] = data[start : start + size]
        elif kind == "zero":
            data[at : at + size] = bytes(len(data[at : at + size]))
        elif kind == "ones":
            value = chance.choice([2**32 - 1, 2**31 - 1, 2**28, 2**63 - 1, 65535])
            packed = struct.pack(chance.choice("<>") + "Q", value)
            data[at : at + 4] = packed[:4] if packed[0] else packed[4:]
        else:
            runs = [run.span() for run in re.finditer(rb"\d+" if kind == "number" else rb"\d", bytes(data[:100_000]))]
            if runs:
                first, last = chance.choice(runs)
                numbers = [
                    b"0",
                    b"-1",
                    b"99999999999",
                    b"1e400",
                    b"NaN",
                    b"2147483648",
                    b"9" * 5000,
                    "²".encode(),
                    b"null",
                ]
                data[first:last] = chance.choice(numbers) if kind == "number" else b"%d" % chance.randrange(10)
    return bytes(data)


def damaged(data, chance):
    """A damaged file. In an archive an entry is damaged, mostly, since a checksum guards the archive itself."""
    if data[:4] != b"PK\x03\x04" or chance.random() < 0.25:
        return damage(data, chance)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
        names = source.namelist()
        chosen = chance.choice(names)
        for name in names:
            entry = source.read(name)
            target.writestr(name, damage(entry, chance) if name == chosen else entry)
    return out.getvalue()


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def read_damaged(case):
    """Damages one file of a copy, reads it, and adds the files' names to an error without any of them."""
    name, seed, template = case
    chance = random.Random(f"{name} {seed}")
    folder = Path(template).with_name("work")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)
    path = chance.choice(files_of(folder))
    path.write_bytes(damaged(path.read_bytes(), chance))
    try:
        READERS[name].read(folder)
    except (ValueError, FileNotFoundError) as error:
        text = str(error)
        if str(folder) not in text and not any(file.name in text for file in files_of(folder)):
            raise AssertionError(f"without a file's name: {type(error).__name__}: {text[:300]}") from error
        raise


def fuzz(names, seeds, folder, seconds=60.0):
    """Faults of each reader over damaged files of its own, in one process as long as none crashes."""
    cases = []
    for place, name in enumerate(names):
        template = folder / str(place) / "template"
        template.mkdir(parents=True)
        READERS[name].make(template)
        READERS[name].read(template)
        cases += [(name, seed, str(template)) for seed in seeds]
    faults = {name: [] for name in names}
    for (name, seed, _), outcome in zip(cases, outcomes(read_damaged, cases, seconds=seconds), strict=True):
        documented = outcome.kind == "raised" and {"ValueError", "FileNotFoundError"} & set(outcome.errors)
        if outcome.out_of_memory or not (outcome.kind == "returned" or documented):
            faults[name].append(
                f"seed {seed}: {outcome.kind} {outcome.errors[:1]} {outcome.text[:400]}\n{outcome.trace[-800:]}"
            )
    return faults


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return fuzz(READERS, range(QUICK), tmp_path_factory.mktemp("damaged"))


@pytest.mark.parametrize("name", READERS)
def test_a_few_damaged_files(few, name):
    assert not few[name], "\n".join(few[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_damaged_files(name, tmp_path):
    seeds = range(1000, 1000 + (150 if name in ("capture", "posed images") else 2000))
    faults = fuzz([name], seeds, tmp_path)[name]
    assert not faults, f"{len(faults)} faults\n" + "\n".join(faults[:20])


NOT_OF_A_USER = {
    "apps.export.spz.load_spz": "by gsply, an extra; tests/apps/export/test_spz.py breaks it",
    "compare.study.Study.load": "TOML, by tomllib; tests/compare/test_study.py breaks it",
    "compare.study.Study.load_capture": "load_capture",
    "training.opened_run.load_run": "RunFolder.config and load_avatar",
    "training.opened_run.open_joined": "load_capture",
    "ops.mesh_topology.open_edges": "edges of a mesh, no file",
    "files.archive.Archive.read": "an entry of an archive, within load_arrays",
    "cli.open_run.open_capture": "load_capture",
    "cli.open_run.open_driver": "load_capture",
    "cli.open_run.open_frames": "load_mononphm and load_capture",
    "cli.streams.open_closed_descriptors": "standard streams",
    "cli.open_run.open_run": "RunFolder.config",
    "cli.open_run.open_avatar": "load_avatar and checkpoint.load_newest",
    "avatar.splat_avatar.load_avatar": "Composition.load of either kind of avatar",
    "data.formats.vhap.read_vhap": "load_numbers and images; tests/data/formats/test_vhap.py breaks it",
    "data.formats.imavatar.read_imavatar": "read_transforms and images; tests/data/formats/test_imavatar.py breaks it",
    "apps.priors.asynchronous_steps.AsynchronousPriorSteps.read": "metrics of steps, from the device",
    "apps.tracking.prior.asynchronous_fit.AsynchronousFit.read": "metrics of steps, from the device",
    "apps.priors.sequence.ScanFiles.read": "load_mesh of each file",
    "apps.tracking.prior.row_adam.RowAdam.load_state_dict": "numbers of a checkpoint",
    "cli.view.load_head": "calls readers of heads, rigs and meshes",
    "data.formats.eyelids.read_eyelids": "load_npy",
    "data.formats.insta.open_insta": "the reader of captures, before a convention is chosen",
    "apps.capturing.posed_images.read_posed_frames": "read_transforms and images; readers.py has it as posed images",
    "data.formats.metrical_folder.open_jaw": "a pose of a head",
    "data.formats.metrical_folder.read_metrical_folder": "load_arrays and images; test_metrical_folder.py breaks it",
    "data.formats.nerface.load_nerface": "read_transforms and images; tests/data/formats/test_nerface.py breaks it",
    "data.formats.nersemble.read_nersemble": "load_numbers, videos; tests/data/formats/test_nersemble.py breaks it",
    "data.formats.nersemble.read_nersemble_holdout": "as read_nersemble",
    "data.formats.pixel3dmm.read_pixel3dmm": "load_arrays and images; tests/data/formats/test_pixel3dmm.py breaks it",
    "data.formats.vhap_tracking.read_vhap_tracking": "load_numbers and images; test_vhap_tracking.py breaks it",
    "apps.capturing.recording_files.load_untracked": "images, and files that tests/apps/capturing/detectors breaks",
    "data.video_frames.open_stream": "a stream of ffmpeg's",
    "apps.capturing.video.open_video": "ffmpeg; tests/apps/capturing/test_video.py breaks it",
    "apps.export.arkit.read_mapping": "a JSON object; tests/apps/export breaks it",
    "apps.tracking.head.identity.HeadIdentity.load": "read_safetensors, of a run folder",
    "apps.tracking.rig.adapted.AdaptedTemplate.load": "read_safetensors, of a run folder",
    "apps.tracking.head.tracker.HeadTracker.load": "frames of a recording",
    "training.densification.DensityControl.load_state_dict": "numbers of a checkpoint",
    "compare.cells.Curve.load_state_dict": "numbers of a checkpoint",
    "runs.asynchronous.AsynchronousEngine.read": "metrics of steps, from the device",
    "runs.asynchronous.MetricTable.read": "tensors",
    "training.asynchronous_update.AsynchronousUpdate.read": "tensors",
    "training.run.TrainingRun.open": "calls readers of a run folder",
    "data.frame_cache.FrameCache.load": "frames of a capture",
    "data.frame_cache.FrameCache.load_ahead": "frames of a capture",
    "runs.checkpoint.load_newest": "calls a reader",
    "runs.ema.ExponentialMovingAverage.load": "tensors",
    "runs.nonfinite.SkippedSteps.load": "numbers of a checkpoint",
    "runs.randomness.RandomStream.load": "tensors",
    "metrics.image.load_lpips": "a package",
    "metrics.image.load_flip": "a package",
    "apps.tracking.loop.FrameTracker.load": "frames of a capture",
    "apps.tracking.prior.tracker.PriorTracker.load": "frames of a capture",
    "apps.tracking.rig.tracker.RigTracker.load": "frames of a capture",
    "avatar.saved_checks.load_state": "tensors",
    "training.callbacks.load_callback_states": "parts of a checkpoint",
    "training.loggers.Loggers.open": "opens loggers",
    "training.optimizers.Hyperparameters.load": "numbers of a checkpoint",
}
"""Functions that are named as readers are, and read no file of their own: why."""


READER = r"(?:(?:load|read|open)(?:_|\b)|from_file\b)"


def readers_of_the_library():
    root = Path(headfields.__file__).parent
    for path in sorted(root.rglob("*.py")):
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        if "kernels" in module:
            continue

        def visit(node, prefix, module=module):
            for child in node.body:
                if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
                    yield from visit(child, f"{prefix}{child.name}.")
                elif isinstance(child, ast.FunctionDef) and re.match(READER, child.name):
                    yield f"{module}.{prefix}{child.name}"

        text = path.read_text(encoding="utf-8")
        if re.search(rf"def {READER}", text):  # the others need not be parsed
            yield from visit(ast.parse(text), "")


def test_every_reader_of_the_library_is_in_the_table():
    covered = {name for reader in READERS.values() for name in reader.covers}
    present = set(readers_of_the_library())
    assert present - covered - set(NOT_OF_A_USER) == set()
    assert covered - present == set(), "the table covers what is gone"
