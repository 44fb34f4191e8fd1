from typing import Any

import pytest


@pytest.fixture(scope="session")
def head(tiny_head: Any) -> Any:
    """Formats do not depend on how many vertices a head has."""
    return tiny_head
