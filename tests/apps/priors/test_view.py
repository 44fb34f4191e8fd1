"""A prior in the viewer: its sliders, its scans, and its pictures by sphere tracing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from headfields.apps.priors import PriorTrainer
from headfields.apps.priors.losses import PriorWeights
from headfields.apps.priors.scans.batch import PointCounts
from headfields.apps.priors.view import REACH, prior_scene
from headfields.apps.viewer.looks import FAR
from headfields.apps.viewer.scene import Scene
from tests.apps.priors.tiny import tiny_model, tiny_scans


@pytest.fixture(scope="module")
def scene() -> Scene:
    counts = PointCounts(face=24, static=8, back=8, near=16, far=8, correspondences=8)
    scans = tiny_scans()
    trainer = PriorTrainer(
        tiny_model(scans), scans, weights=PriorWeights(distance=1.0), counts=counts, scans_per_step=3, bar=False, seed=0
    )
    trainer.fit(steps=2)
    return prior_scene(trainer.prior(), "tiny")


def test_the_sliders_are_principal_components(scene: Scene) -> None:
    groups = {control.group for control in scene.controls}
    assert groups == {"identity", "appearance", "expression"}
    assert {(control.low, control.high, control.unit) for control in scene.controls} == {(-REACH, REACH, "σ")}
    view = scene.first_view()
    before, after = scene.state(view), scene.state(replace(view, values={"identity 1": 2.0}))
    assert not torch.equal(before.codes["geometry"], after.codes["geometry"])
    assert torch.equal(before.codes["expression_code"], after.codes["expression_code"])
    assert list(scene.motions) == ["mean person", "scans"] and scene.motions["scans"].count == 9


def test_pictures(scene: Scene) -> None:
    camera = scene.first_camera((20, 20))
    picture = scene.picture(scene.first_view(), camera)
    covered = picture.depth < FAR
    assert 0.05 < covered.mean() < 0.9 and (picture.rgb[~covered] == 255).all()
    columns = covered.nonzero()[1]
    assert abs(columns.mean() - 10) < 2
    distance = float((camera.center - scene.center).norm())
    assert abs(float(np.median(picture.depth[covered])) - distance) < scene.extent / 2
    scan = scene.picture(replace(scene.first_view(), motion="scans", frame=4), camera)
    assert (scan.depth < FAR).any()
