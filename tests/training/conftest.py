import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """The networks here are so small that waking a second thread costs more than it does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
