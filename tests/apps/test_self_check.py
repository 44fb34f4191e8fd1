import pytest
import torch

from headfields.apps import self_check as doctor


def one(monkeypatch, check) -> list[doctor.CheckResult]:
    monkeypatch.setattr(doctor, "CHECKS", [("thing", check)])
    monkeypatch.setattr(doctor, "_backends", lambda: ["cpu warp"])
    return list(doctor.run())


@pytest.mark.parametrize(
    ("actual", "passed", "detail"),
    [
        (torch.tensor([1.0, 100.0]), True, "error 0.0e+00"),
        (torch.tensor([1.0, 100.005]), True, "error 5.0e-05"),
        (torch.tensor([1.0, 101.0]), False, "error 1.0e-02"),
        (torch.tensor([1.0, torch.nan]), False, "error nan"),
        (torch.tensor([1.0]), False, r"AssertionError: shape (1,) instead of (2,)"),
    ],
)
def test_what_passes(monkeypatch, actual, passed, detail):
    (result,) = one(monkeypatch, lambda device: [(actual, torch.tensor([1.0, 100.0]))])
    assert (result.passed, result.detail) == (passed, detail)
    assert str(result).startswith("ok" if passed else "FAILED")


def test_a_nan_hides_behind_no_other_pair(monkeypatch):
    good, bad = torch.ones(1), torch.tensor([torch.nan])
    for pairs in ([(good, good), (bad, good)], [(bad, good), (good, good)]):
        (result,) = one(monkeypatch, lambda device, pairs=pairs: pairs)
        assert not result.passed


def test_a_check_that_raises_has_failed(monkeypatch):
    def check(device):
        raise RuntimeError("no such\nkernel")

    (result,) = one(monkeypatch, check)
    assert not result.passed and result.detail == "RuntimeError: no such kernel"


def test_the_registry_names_each_operation_once():
    names = [name for name, _ in doctor.CHECKS]
    assert len(set(names)) == len(names) >= 3
