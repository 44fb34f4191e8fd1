"""What many tests look at and none may change: heads, and folders of captures, made once a run."""

from collections.abc import Iterator
from pathlib import Path

import torch

from headfields.data.formats.insta_writer import write_insta
from headfields.synthetic.captures import write_head_capture
from tests.data.tiny import blob, tiny_frames


def tiny_capture(folder: Path) -> Path:
    """Six frames of the blob, 48 x 40 pixels, with everything optional; two of them are for tests."""
    write_insta(folder, tiny_frames(), *blob(), test_frames=2)
    return folder


def head_capture(folder: Path) -> Path:
    """Five frames of the procedural head, 40 x 40 pixels; one is for tests."""
    return write_head_capture(folder, frames=5, test_frames=1, size=40, samples=1, progress=False)


def kept_folder(folder: Path) -> Iterator[Path]:
    """The folder, which has to hold the same files when the run ends."""
    before = _contents(folder)
    yield folder
    after = _contents(folder)
    changed = sorted(str(path) for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    assert not changed, f"a test changed {changed[:5]} of {folder}, which others read: copy it with shutil.copytree"


def kept_module(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The module, which has to have the same tensors when the run ends."""
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    yield module
    changed = [name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])]
    assert not changed, f"a test changed {changed[:5]} of a {type(module).__name__} that others read: deepcopy it"


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
