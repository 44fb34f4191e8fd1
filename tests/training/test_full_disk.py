"""Full disks and folders that cannot be written to: detected early, reported in a line, the last checkpoint intact."""

import contextlib
import os
import shutil
import subprocess
import sys

import pytest
import torch

from headfields.losses.color import HuberColor
from headfields.runs import checkpoint
from headfields.runs.folder import RunFolder, RunWriteError
from headfields.training import Trainer
from tests.training.fakes import FakeAvatar, FakeCapture
from tests.training.test_trainer import make, same, weights

resource = pytest.importorskip("resource", reason="limits of a process's files are POSIX's")


@contextlib.contextmanager
def largest_file(size: int):
    """Within the block the system refuses to make a file larger than that."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def mounted(tmp_path):
    """Mounts small file systems, where the tests may."""
    places = []

    def mount(options: str):
        place = tmp_path / f"disk{len(places)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no permission to mount a file system")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", str(place)], check=True)


def test_a_checkpoint_that_the_system_refuses_stops_training_and_leaves_the_last_one(tmp_path):
    trainer = make(out=tmp_path)
    trainer.fit(steps=5)
    before = RunFolder(tmp_path).checkpoint.read_bytes()
    with (
        largest_file(len(before) // 2),
        pytest.raises(RunWriteError, match=r"step 9: .*last\.safetensors cannot be written: .*\(step 5\).*resume=True"),
    ):
        trainer.fit(steps=9)
    assert RunFolder(tmp_path).checkpoint.read_bytes() == before
    assert {path.stem for path in (tmp_path / "checkpoint").iterdir()} == {"last", "previous", "parts"}
    resumed, through = make(out=tmp_path), make()
    resumed.fit(steps=9, resume=True)
    through.fit(steps=9)
    assert same(weights(resumed), weights(through))


def test_a_log_that_the_system_refuses(tmp_path):
    trainer = make(out=tmp_path)
    trainer.fit(steps=2)
    with (
        largest_file(os.path.getsize(tmp_path / "log.jsonl")),
        pytest.raises(RunWriteError, match=r"log\.jsonl cannot"),
    ):
        trainer.fit(steps=4)
    resumed = make(out=tmp_path)
    resumed.fit(steps=4, resume=True)
    assert [entry["step"] for entry in RunFolder(tmp_path).read_log()][-1] == 4


def test_a_disk_that_fills_up(mounted):
    place = mounted("size=512k")
    trainer = make(out=place / "run", checkpoint_seconds=0.0)
    trainer.fit(steps=3)
    whole = RunFolder(place / "run").checkpoint.read_bytes()
    with contextlib.suppress(OSError):
        (place / "others").write_bytes(bytes(1 << 20))
    with pytest.raises(RunWriteError, match="No space left on device"):
        trainer.fit(steps=50)
    kept = RunFolder(place / "run").checkpoints
    assert kept[0].read_bytes() == whole or checkpoint.load_weights(kept[0], FakeAvatar()).step >= 3
    (place / "others").unlink()
    assert make(out=place / "run").fit(steps=6, resume=True).step == 6


def test_a_disk_with_no_room_for_one_checkpoint_is_found_before_training(mounted):
    losses = [HuberColor(region_weight=1)]
    trainer = Trainer(FakeAvatar(width=2000), FakeCapture(), losses, out=mounted("size=1m"), bar=False, device="cpu")
    with pytest.raises(RunWriteError, match=r"a checkpoint takes 1\.5 MB.*make room, or choose another folder"):
        trainer.fit(steps=1)
    assert trainer.progress.step == 0


def test_a_full_disk_is_found_before_training(mounted):
    place = mounted("size=64k")
    with contextlib.suppress(OSError):
        (place / "others").write_bytes(bytes(1 << 20))
    trainer = make(out=place / "run")
    with pytest.raises(RunWriteError, match="No space left on device"):
        trainer.fit(steps=1)
    assert trainer.progress.step == 0


def test_a_read_only_disk_is_found_before_training(mounted):
    place = mounted("size=1m,ro")
    trainer = make(out=place / "deep" / "run")
    with pytest.raises(RunWriteError, match=r"deep/run cannot be written: Read-only file system"):
        trainer.fit(steps=1)
    assert trainer.progress.step == 0


def test_a_folder_without_permission_is_found_before_training_and_nothing_is_left(tmp_path):
    place = tmp_path / "others"
    place.mkdir(mode=0o555)
    code = f"""
import os, sys
if os.getuid() == 0:
    os.setuid(65534)
from headfields.training import RunFolder, RunWriteError
try:
    RunFolder({str(place / "a" / "run")!r}).check_writable()
except RunWriteError as error:
    print(error)
"""
    for folder in [tmp_path, *tmp_path.parents]:  # what pytest makes is for its user alone
        if folder.stat().st_uid == os.getuid() and folder != folder.parent and "pytest" in folder.name:
            folder.chmod(folder.stat().st_mode | 0o055)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if "denied" not in done.stdout and done.returncode:
        pytest.skip(f"another user cannot import the package here: {done.stderr[-200:]}")
    assert done.stdout.strip() == f"{place / 'a' / 'run'} cannot be written: Permission denied"
    assert not list(place.iterdir())


def test_trying_a_folder_out_leaves_nothing(tmp_path):
    RunFolder(tmp_path / "a" / "b").check_writable()
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file is a file; a run needs a folder"):
        RunFolder(tmp_path / "file" / "run").check_writable()


def test_a_picture_is_whole_or_not_there(tmp_path):
    from headfields.runs.folder import write_picture

    image = torch.rand(64, 64, 3)
    write_picture(tmp_path / "x.png", image)
    before = (tmp_path / "x.png").read_bytes()
    with largest_file(100), pytest.raises(RunWriteError, match=r"x\.png cannot be written"):
        write_picture(tmp_path / "x.png", 1 - image)
    assert (tmp_path / "x.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
