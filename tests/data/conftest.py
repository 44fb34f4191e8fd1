import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def written(tiny_folder: Path) -> Path:
    return tiny_folder


@pytest.fixture
def tiny(written: Path, tmp_path: Path) -> Path:
    """A copy of it to break."""
    return Path(shutil.copytree(written, tmp_path / "tiny"))
