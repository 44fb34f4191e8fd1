"""Every file is written whole or not at all: on a full disk the old one stays, and nothing else is left."""

import ast
import contextlib
import os
import re
import resource
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import headfields as hf
from headfields.apps.export.flame import convert_flame
from headfields.apps.priors.scans import load_scans, save_scans
from headfields.apps.priors.scans.meshes import MeshScans
from headfields.apps.rigging.rigged_template import RiggedTemplate
from headfields.apps.tracking.prior.landmarks import LandmarkPoints
from headfields.files.arrays import save_array, save_arrays
from headfields.files.atomic import replacing, replacing_folder, write_bytes, write_image, write_text
from headfields.files.safetensors import write_safetensors
from headfields.files.unfinished import filling
from headfields.mesh.mesh import Mesh
from headfields.synthetic.head.model import procedural_head_arrays
from tests.avatar.test_saving import small as small_avatar

PACKAGE = Path(__file__).resolve().parents[2] / "headfields"


@contextlib.contextmanager
def full_disk(size: int = 10) -> Iterator[None]:
    """No file may grow beyond `size` bytes: the system refuses what is written past it, also to a child process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _mesh(textured: bool = False) -> Mesh:
    mesh = Mesh(torch.rand(4, 3), torch.tensor([[0, 1, 2], [1, 2, 3]]))
    if textured:
        mesh = mesh.replace(uv=torch.rand(4, 2), uv_faces=mesh.faces, texture=torch.rand(8, 8, 3))
    return mesh


def _picture() -> torch.Tensor:
    return torch.rand(16, 16, 3)


def _frames(count: int = 3) -> list[np.ndarray]:
    return [np.full((16, 16, 3), 20 * index, np.uint8) for index in range(count)]


def _landmarks() -> LandmarkPoints:
    return LandmarkPoints(torch.rand(2, 3), torch.rand(1, 3), torch.rand(3, 6), torch.arange(2))


def _rig() -> RiggedTemplate:
    weights = torch.eye(5)[:4]
    return RiggedTemplate(
        torch.rand(4, 3), torch.tensor([[0, 1, 2], [1, 2, 3]]), torch.zeros(0, 4, 3), torch.rand(2, 4, 3),
        torch.zeros(36, 4, 3), torch.full((5, 4), 0.25), weights, [-1, 0, 1, 1, 1],
    )  # fmt: skip


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.npz": lambda path: save_arrays(path, {"a": np.random.rand(50)}),
    "a.npy": lambda path: save_array(path, np.random.rand(50)),
    "a.bin": lambda path: write_bytes(path, os.urandom(50)),
    "a.txt": lambda path: write_text(path, f"{os.urandom(50)!r}"),
    "a.png": lambda path: hf.viz.save_image(path, _picture()),
    "a.jpg": lambda path: hf.viz.save_image(path, _picture()),
    "b.png": lambda path: hf.runs.folder.write_picture(path, _picture()),
    "c.png": lambda path: write_image(path, np.random.randint(0, 9000, (9, 9), np.uint16)),
    "a.gif": lambda path: hf.viz.write_video(path, _frames()),
    "a.mp4": lambda path: hf.viz.write_video(path, _frames()),
    "a.safetensors": lambda path: write_safetensors(path, {"a": torch.rand(9)}, {}),
    "a.json": lambda path: hf.runs.folder.write_json(path, {"a": 12345678}),
    "a.ply": lambda path: hf.mesh.save_mesh(path, _mesh()),
    "a.glb": lambda path: hf.mesh.save_mesh(path, _mesh()),
    "a.obj": lambda path: hf.mesh.save_mesh(path, _mesh()),
    "avatar.safetensors": lambda path: small_avatar().save(path),
    "landmarks.npz": lambda path: _landmarks().save(path),
    "rig.npz": lambda path: _rig().save(path),
    "textured.obj": lambda path: hf.mesh.save_mesh(path, _mesh(textured=True)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_on_a_full_disk_the_old_file_stays_and_the_error_names_it(tmp_path, name):
    path = tmp_path / name
    if path.suffix == ".mp4":
        pytest.importorskip("imageio_ffmpeg")  # else it becomes a .gif
    WRITERS[name](path)
    before = content(tmp_path)
    assert before[name]
    with full_disk(), pytest.raises(OSError, match=name.rpartition(".")[0]) as caught:
        WRITERS[name](path)
    assert "\n" not in str(caught.value) and ".tmp" not in str(caught.value)
    assert content(tmp_path) == before
    assert {entry.name for entry in tmp_path.iterdir()} == set(before)
    with full_disk(), pytest.raises(OSError):
        WRITERS[name](tmp_path / "new" / name)
    assert not content(tmp_path / "new") and not list((tmp_path / "new").iterdir())


def _scans(people: int) -> MeshScans:
    return MeshScans(
        torch.rand(people, 300, 3), torch.tensor([[0, 1, 2], [1, 2, 3]]), torch.arange(people),
        torch.rand(people, 300, 3), kind=torch.zeros(2, dtype=torch.long), visible=torch.ones(people, 2).bool(),
    )  # fmt: skip


def test_a_scan_set_on_a_full_disk(tmp_path):
    save_scans(_scans(1), tmp_path / "scans")
    before = content(tmp_path)
    with full_disk(2000), pytest.raises(OSError, match=r"scans/.*npz") as caught:
        save_scans(_scans(2), tmp_path / "scans")
    assert content(tmp_path) == before and ".tmp" not in str(caught.value)
    save_scans(_scans(2), tmp_path / "scans")
    assert len(load_scans(tmp_path / "scans").people) == 2 and len(list(tmp_path.iterdir())) == 1


def test_a_converted_model_on_a_full_disk(tmp_path, capsys):
    arrays = procedural_head_arrays()
    save_arrays(tmp_path / "model.npz", arrays)
    write_bytes(tmp_path / "out.npz", b"old")
    with full_disk(), pytest.raises(OSError, match=r"out\.npz"):
        convert_flame(tmp_path / "model.npz", tmp_path / "out.npz", overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"model.npz", "out.npz"}
    assert (tmp_path / "out.npz").read_bytes() == b"old"


def test_the_folder_is_replaced_as_a_whole(tmp_path):
    write_text(tmp_path / "set" / "old", "old")
    with pytest.raises(ValueError, match="stop"), replacing_folder(tmp_path / "set") as new:
        write_text(new / "half", "new")
        raise ValueError("stop")
    assert content(tmp_path) == {"set/old": b"old"}
    with replacing_folder(tmp_path / "set") as new:
        write_text(new / "whole", "new")
    assert content(tmp_path) == {"set/whole": b"new"} and [p.name for p in tmp_path.iterdir()] == ["set"]


def test_the_permissions_of_the_old_file_are_kept(tmp_path):
    path = tmp_path / "a"
    plain = tmp_path / "plain"
    plain.touch()
    write_text(path, "one")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    path.chmod(0o640)
    write_text(path, "two")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640 and path.read_text() == "two"


def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path):
    target, link = tmp_path / "disk" / "target", tmp_path / "link"
    write_text(target, "one")
    link.symlink_to(target)
    write_text(link, "two")
    assert link.is_symlink() and target.read_text() == "two"
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


def test_a_device_or_a_folder_is_not_replaced(tmp_path):
    with pytest.raises(OSError, match="/dev/null is a device"):
        write_text("/dev/null", "text")
    assert not Path("/dev/null").is_file()
    with pytest.raises(OSError, match="is a folder"):
        write_text(tmp_path, "text")


def test_a_read_error_in_the_block_keeps_its_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone"), replacing(tmp_path / "a") as temporary:
        temporary.write_bytes(Path(tmp_path / "gone").read_bytes())
    assert not list(tmp_path.iterdir())


def test_a_folder_in_which_nothing_may_be_written(tmp_path):
    write_text(tmp_path / "file", "text")
    with pytest.raises(OSError, match="file/below/a"):
        write_text(tmp_path / "file" / "below" / "a", "text")


APPENDED = {  # they grow by a line at a time
    "runs/folder.py": "log",
    "apps/priors/training_log.py": "after_step",
    "runs/lock.py": "run_lock",
    "runs/memory.py": "__init__",  # no file, but a switch of the kernel
    "files/unfinished.py": "filling",  # the mark of a folder, which is locked while it is open
    "cli/streams.py": "open_closed_descriptors",  # no file, but a stream of the process
}
"""Functions that may open a file for writing, by module."""
_WRITING = {"write_text", "write_bytes", "savez", "savez_compressed", "save_file", "write_frames", "imwrite", "tofile"}
_WRITING |= {"mimsave", "mimwrite", "get_writer", "dump", "savetxt"}
_MENTIONED = re.compile(rf"\b({'|'.join({*_WRITING, 'open', 'save'})})\(")


def _writes(call: ast.Call) -> bool:
    """Whether a call writes a file: by the name of the function, or the mode with which it opens one."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    owner = ast.unparse(function.value) if isinstance(function, ast.Attribute) else ""
    if name == "open" and not owner.endswith(("Image", "zipfile", "archive", "webbrowser")):
        modes = [a.value for a in (*call.args, *(k.value for k in call.keywords)) if isinstance(a, ast.Constant)]
        return any(isinstance(mode, str) and set(mode) <= set("rwabtx+") and set(mode) & set("wax+") for mode in modes)
    if name == "save":
        return "Image" in owner or owner in ("np", "torch", "images[0]")
    return name in _WRITING


def _is_safe(call: ast.Call, function: ast.FunctionDef) -> bool:
    """Whether the target of a call is a BytesIO or a temporary path of `replacing` in the same function."""
    names = set()
    for node in ast.walk(function):
        if isinstance(node, ast.withitem) and ast.unparse(node.context_expr).startswith("replacing"):
            names |= {each.id for each in ast.walk(node.optional_vars or ast.Pass()) if isinstance(each, ast.Name)}
        if isinstance(node, ast.Assign) and ast.unparse(node.value) == "io.BytesIO()":
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    owner = [call.func.value] if isinstance(call.func, ast.Attribute) else []
    used = [node for each in (*call.args[:2], *owner) for node in ast.walk(each)]
    return any(isinstance(node, ast.Name) and node.id in names for node in used)


def test_a_killed_writers_draft_is_swept_and_nothing_else(tmp_path):
    def folder(name: str, content: str) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / content).write_bytes(b"mine")
        return tmp_path / name

    dead = folder(".video.mp4.abcd1234.tmp", "video.mp4")
    kept = [folder(".video.mp4.abcd1235.tmp", ".old"), folder(".notes.tmp", "notes"), folder("a.abcd1234.tmp", "a")]
    with replacing(tmp_path / "first") as first:  # a writer that lives
        first.write_bytes(b"1")
        assert not dead.exists()
        subprocess.run([sys.executable, "-c", "import sys\nfrom headfields.files.atomic import write_text\n"
                        "write_text(sys.argv[1], '2')", tmp_path / "second"], check=True)  # fmt: skip
    assert all(path.is_dir() for path in kept)
    assert (tmp_path / "first").read_bytes() == b"1" and (tmp_path / "second").read_bytes() == b"2"
    assert len(list(tmp_path.iterdir())) == 2 + len(kept)


def test_an_unfinished_folder_refuses_no_other_try_but_one_that_is_being_filled_does(tmp_path):
    folder = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), filling(folder, "op"):
        (folder / "below").mkdir()
        (folder / "below" / "1").write_text("half")
        raise KeyboardInterrupt
    assert list(folder.iterdir()) == []
    (folder / ".headfields_unfinished").touch()  # what a killed one leaves
    (folder / "1").write_text("half")
    with filling(folder, "op"):
        assert [path.name for path in folder.iterdir()] == [".headfields_unfinished"]
        (folder / "2").write_text("whole")
        with pytest.raises(FileExistsError, match="op: another process writes to"), filling(folder, "op"):
            raise AssertionError
    assert [path.name for path in folder.iterdir()] == ["2"]
    for path, message in ((folder, "is not empty"), (folder / "2", "is a file")):
        with pytest.raises(FileExistsError, match=message), filling(path, "op"):
            raise AssertionError


def test_only_the_atomic_writer_writes_files():
    elsewhere = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module, text = path.relative_to(PACKAGE).as_posix(), path.read_text()
        if module == "files/atomic.py" or not _MENTIONED.search(text):
            continue
        tree = ast.parse(text)
        inside = {}  # the innermost function around each call
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            inside |= {node: function for node in ast.walk(function) if isinstance(node, ast.Call)}
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call) and _writes(node)):
            own = isinstance(call.func, ast.Name) and call.func.id in ("write_text", "write_bytes")
            function = inside.get(call)
            allowed = function is not None and (APPENDED.get(module) == function.name or _is_safe(call, function))
            if not own and not allowed:
                elsewhere.append(f"{module}:{call.lineno} {ast.unparse(call)[:90]}")
    assert not elsewhere, "write through headfields.files.atomic"
