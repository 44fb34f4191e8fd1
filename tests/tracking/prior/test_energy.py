"""Terms of the energy on numbers computed by hand."""

import pytest
import torch

from headfields.networks.anchors import AnchoredCode
from headfields.parts import Rendering
from headfields.records import Camera, Rays
from headfields.tracking.prior.energy import code_terms, color_term, landmark_term, mask_term, regularizers
from headfields.tracking.prior.landmarks import PosedLandmarks
from headfields.tracking.prior.observation import RayBatch
from headfields.tracking.prior.options import EnergyWeights, PriorTrackingOptions
from tests.tracking.prior.ball import BallRecording

RAYS = Rays(torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))


def batch(**changes: torch.Tensor) -> RayBatch:
    given = {
        "rgb": torch.full((4, 3), 0.5), "alpha": torch.tensor([1.0, 1, 0, 1]), "mask_weight": torch.ones(4),
        "color_weight": torch.tensor([1.0, 0.5, 0, 0]),
    }  # fmt: skip
    return RayBatch(RAYS, **(given | changes))


def rendering(rgb: torch.Tensor | None = None, opacity: torch.Tensor | None = None) -> Rendering:
    return Rendering(
        torch.full((4, 3), 0.6) if rgb is None else rgb, torch.ones(4) if opacity is None else opacity, torch.zeros(4)
    )


def test_color() -> None:
    assert float(color_term(rendering(), batch())) == pytest.approx(2 * 0.1 * 1.5 / 2)
    nothing = batch(color_weight=torch.zeros(4))
    assert float(color_term(rendering(), nothing)) == 0


def test_mask() -> None:
    # o = 1 everywhere, a = 1, 1, 0, 1: I = 3, U = 4
    assert float(mask_term(rendering(), batch())) == pytest.approx(5 * (1 - 8 / 9))
    ignored = batch(mask_weight=torch.tensor([1.0, 1, 0, 1]))
    assert float(mask_term(rendering(), ignored)) == pytest.approx(0)
    hair = batch(mask_weight=torch.tensor([1.0, 1, 0.2, 1]))
    assert float(mask_term(rendering(), hair)) == pytest.approx(5 * (1 - 8 / 8.2))


def test_landmarks() -> None:
    camera = Camera(torch.eye(4), torch.tensor([[100.0, 0, 50], [0, 100.0, 25], [0, 0, 1]]), (50, 100))
    points = torch.tensor([[0.0, 0, 1], [0.0, 0, 1], [0.0, 0, 1], [0.0, 0, -1]])
    target = torch.tensor([[51.0, 25], [50, 26], [float("nan"), 0], [0, 0]])
    posed = PosedLandmarks(points.requires_grad_(), torch.ones(4, dtype=torch.bool))
    number = torch.tensor([20, 50, 30, 31])  # a brow, the mouth, and two on the nose that do not count
    term, counted = landmark_term(posed, target, number, camera, torch.zeros(3), torch.zeros(3), 100.0)
    assert counted.tolist() == [True, True, False, False]
    assert term.item() == pytest.approx((0.01**2 + (100 / 50) ** 2) / 2, rel=1e-4)
    term.backward()
    assert bool(torch.isfinite(points.grad).all()) and float(points.grad[0].abs().sum()) > 0
    lost = PosedLandmarks(points.detach(), torch.zeros(4, dtype=torch.bool))
    none, _ = landmark_term(lost, target, number, camera, torch.zeros(3), torch.zeros(3), 100.0)
    assert float(none) == 0


def test_codes() -> None:
    layout = AnchoredCode(pairs=1, middle=0, global_width=1, local_width=1)
    code = torch.tensor([2.0, 1.0, 3.0, 0.5])
    weights = EnergyWeights(
        geometry_global=10, geometry_local=100, appearance_global=1, appearance_local=1000, symmetry=7, expression=3,
        first_expression=5,
    )  # fmt: skip
    found = code_terms((code, layout), (torch.tensor([2.0]), None), torch.tensor([1.0, 1.0]), weights, first=False)
    assert float(found) == pytest.approx(10 * 4 + 100 * 10.25 + 7 * 4 + 1 * 4 + 3 * 2)
    assert float(code_terms(None, None, torch.ones(2), weights, first=True)) == 10
    assert float(code_terms(None, None, None, weights, first=True)) == 0


def test_unlikely_people_cost_along_the_priors_directions(recording: BallRecording) -> None:
    weights = EnergyWeights(
        likely=2.0, geometry_local=0, geometry_global=0, appearance_local=0, appearance_global=0, symmetry=0,
        expression=3.0, first_expression=5.0,
    )  # fmt: skip
    codes = {
        "geometry": torch.tensor([1.0, 2.0]), "appearance": torch.tensor([0.0, 3.0]),
        "expression_code": torch.tensor([1.0, 0.0]),
    }  # fmt: skip
    everything = ["geometry", "appearance", "expression_code"]
    assert float(regularizers(recording.head, codes, everything, weights, first=True)) == 2 * (5 + 9) + 5
    assert float(regularizers(recording.head, codes, ["expression_code"], weights, first=False)) == 3


def test_quick_holds_poses_a_little_and_holding_more() -> None:
    quick = PriorTrackingOptions.quick()
    held = quick.holding_pose()
    assert quick.stage2 is not None and held.stage2 is not None
    for some, more in ((quick.stage1, held.stage1), (quick.stage2, held.stage2)):
        assert 0 == EnergyWeights().pose < some.weights.pose < more.weights.pose
