"""Where the tests find captures that are not in the repository."""

import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent


def shared(path: str) -> Path:
    """`path` under `$HEADFIELDS_SHARED`, or else `shared/` next to the project; skips the test if neither has it."""
    places = [Path(os.environ["HEADFIELDS_SHARED"])] if "HEADFIELDS_SHARED" in os.environ else []
    places.append(_ROOT.parent / "shared")
    for place in places:
        if (place / path).exists():
            return place / path
    pytest.skip(f"{path} not in {' or '.join(map(str, places))}; set HEADFIELDS_SHARED")
