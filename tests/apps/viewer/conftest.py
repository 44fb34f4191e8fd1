from pathlib import Path

import pytest

from headfields.data import Capture, load_capture


@pytest.fixture(scope="module")
def capture(tiny_folder: Path) -> Capture:
    """The tiny capture, for tests whose own file does not define another."""
    return load_capture(tiny_folder)
