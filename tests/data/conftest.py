import shutil
from pathlib import Path

import pytest

from headfields.data.formats.insta_writer import write_insta
from tests.data.tiny import blob, tiny_frames


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny capture with everything in it; not to be changed."""
    folder = tmp_path_factory.mktemp("capture") / "tiny"
    write_insta(folder, tiny_frames(), *blob(), test_frames=2)
    return folder


@pytest.fixture
def tiny(written: Path, tmp_path: Path) -> Path:
    """A copy of it to break."""
    return Path(shutil.copytree(written, tmp_path / "tiny"))
