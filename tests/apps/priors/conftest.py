"""Tiny scans, and a prior that was trained on them until heads are recognizable."""

from pathlib import Path

import pytest

from headfields.apps.priors.prior import Prior
from headfields.apps.priors.scans.batch import PointCounts
from headfields.apps.priors.scans.meshes import MeshScans
from headfields.apps.priors.schedule import PriorSchedule
from headfields.apps.priors.trainer import PriorResult
from tests.apps.priors.tiny import tiny_scans, trainer


@pytest.fixture(scope="session")
def scans() -> MeshScans:
    return tiny_scans()


@pytest.fixture(scope="session")
def trained(scans: MeshScans, tmp_path_factory: pytest.TempPathFactory) -> tuple[PriorResult, Path]:
    """The result of a training until heads are recognizable, some ten seconds, and its folder."""
    out = tmp_path_factory.mktemp("prior") / "run"
    schedule = PriorSchedule(networks=3e-3, identity=1e-2, halvings=(0.6, 0.8))
    return trainer(scans, out, counts=PointCounts().scaled(0.12), schedule=schedule).fit(steps=80), out


@pytest.fixture(scope="session")
def prior(trained: tuple[PriorResult, Path]) -> Prior:
    return trained[0].prior
