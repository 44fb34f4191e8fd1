import pytest

from headfields.synthetic.head.model import procedural, procedural_arrays


@pytest.fixture(scope="session")
def head():
    return procedural()


@pytest.fixture(scope="session")
def arrays():
    return procedural_arrays()
