import pytest


@pytest.fixture(autouse=True)
def unmeasured_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases are run without their memory, which takes half a second each time; `test_timing.py` measures it."""
    monkeypatch.setattr("benchmarks.case.peak_growth", lambda run, device: 0)
