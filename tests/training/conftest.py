from pathlib import Path

import pytest
import torch

from headfields.data import Capture, load_capture


@pytest.fixture(scope="module")
def capture(head_folder: Path) -> Capture:
    """Five frames of the procedural head, for tests whose own file does not define another."""
    return load_capture(head_folder)


@pytest.fixture(autouse=True)
def one_thread():
    """The networks here are so small that waking a second thread costs more than it does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
