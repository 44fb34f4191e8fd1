import pytest

from headfields.heads import procedural, procedural_arrays


@pytest.fixture(scope="session")
def head():
    return procedural()


@pytest.fixture(scope="session")
def arrays():
    return procedural_arrays()
