import pytest

from headfields.synthetic.head.model import procedural_head_arrays


@pytest.fixture(scope="session")
def arrays():
    return procedural_head_arrays()
