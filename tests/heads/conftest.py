import pytest

import headfields.heads.procedural as procedural_module


@pytest.fixture(scope="session")
def head():
    return procedural_module.procedural()


@pytest.fixture(scope="session")
def arrays():
    return procedural_module.procedural_arrays()
