"""Terms of the energy on numbers computed by hand."""

import copy
from dataclasses import replace

import pytest
import torch

from headfields.apps.tracking import PriorTracker
from headfields.apps.tracking.prior.energy import (
    code_terms,
    color_term,
    data_energy,
    draw_energy,
    landmark_term,
    mask_term,
    regularizers,
)
from headfields.apps.tracking.prior.fit import PriorFit
from headfields.apps.tracking.prior.head import PriorHead
from headfields.apps.tracking.prior.landmarks import EMPHASIZED, TRACKED_LANDMARKS, PosedLandmarks
from headfields.apps.tracking.prior.observation import PriorObservation, RayBatch
from headfields.apps.tracking.prior.options import EnergyWeights, PriorTrackingOptions, Stage2
from headfields.apps.tracking.prior.stage2 import JointFit, _Plan
from headfields.avatar.avatar import Avatar
from headfields.networks.anchors import AnchoredCode
from headfields.parts import Rendering
from headfields.records import Camera, Rays
from tests.apps.tracking.prior.ball import BallRecording, Mouth, ball_prior, tiny_options

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
    assert float(color_term(rendering(), batch())) == pytest.approx(
        2 * 0.1 * 3 * 1.5 / 4
    )  # three channels, weights of 1.5 together, four rays
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
    factor = torch.tensor([1.0, 100, 1, 1])  # the last two do not count
    term, counted = landmark_term(posed, target, factor, camera, torch.zeros(3), torch.zeros(3))
    assert counted.tolist() == [True, True, False, False]
    assert term.item() == pytest.approx((0.01**2 + (100 / 50) ** 2) / 4, rel=1e-4)  # two landmarks, x and y
    term.backward()
    assert bool(torch.isfinite(points.grad).all()) and float(points.grad[0].abs().sum()) > 0
    lost = PosedLandmarks(points.detach(), torch.zeros(4, dtype=torch.bool))
    none, _ = landmark_term(lost, target, factor, camera, torch.zeros(3), torch.zeros(3))
    assert float(none) == 0


def test_codes() -> None:
    layout = AnchoredCode(pairs=1, middle=0, global_width=1, local_width=1)
    code = torch.tensor([2.0, 1.0, 3.0, 0.5])
    weights = EnergyWeights(
        geometry_global=10, geometry_local=100, appearance_global=1, appearance_local=1000, symmetry=7, expression=3,
        first_expression=5,
    )  # fmt: skip
    found = code_terms((code, layout), (torch.tensor([2.0]), None), torch.tensor([1.0, 1.0]), weights, first=False)
    assert float(found) == pytest.approx(10 * 4 + 100 * 10.25 + 7 * 2 + 1 * 4 + 3 * 2)
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


def test_the_published_landmarks_are_emphasized() -> None:
    chin, lids, lips = {8}, {38, 41, 43, 46}, {48, 49, 50, 52, 53, 54, 55, 56, 58, 59}
    assert set(EMPHASIZED) == chin | lids | lips and len(EMPHASIZED) == 15
    assert set(EMPHASIZED) <= set(TRACKED_LANDMARKS) and len(TRACKED_LANDMARKS) == 48


def test_smoothness_is_the_mean_over_the_tracked_neighbors(recording: BallRecording) -> None:
    """Frames 0, 3 and 4: three frames and one away from the frame between, which has both as neighbors."""
    options = tiny_options(stage2=Stage2(smooth_expression=2.0, smooth_pose=3.0))
    zero, head = torch.zeros(3), copy.deepcopy(recording.head)  # a joint fit sets its light
    free = {name: torch.zeros(head.width(name)) for name in head.names}
    fits = {
        frame: PriorFit(
            frame=frame, errors={}, codes={}, free={**free, "expression_code": torch.full((2,), code)},
            rotation=torch.full((3,), turn), translation=zero, camera=recording.camera([0])[0],
            to_capture=torch.eye(4), light=torch.zeros(9, 3), matrix=torch.eye(3), offset=zero,
        )
        for frame, code, turn in ((0, 1.0, 0.0), (3, 0.0, 0.0), (4, 2.0, 0.5))
    }  # fmt: skip
    joint = JointFit(head, fits, options)

    def smoothness(frame: int) -> float:
        plan = next(plan for plan in map(plan_of, range(40)) if plan.frame == frame)
        rows = torch.tensor(plan.rows)
        return float(joint._smoothness(*(table[rows] for table in joint.tables.values()), torch.tensor(plan.weights)))

    def plan_of(step: int) -> _Plan:
        joint.step, joint.steps = step, 1000  # early ones: smoothness is halved later
        return joint._plan()

    before, after = 2 * 2 * 1.0 / 3, (2 * 2 * 4.0 + 3 * 3 * 0.25) / 1
    assert smoothness(3) == pytest.approx((before + after) / 2)
    assert smoothness(0) == pytest.approx(before) and smoothness(4) == pytest.approx(after)
    assert JointFit(head, {3: fits[3]}, options).steps >= 1


class Folded(Mouth):
    """The mouth, and a fold of x of less than a millimeter, so that a canonical point has several posed places."""

    def forward(self, points: torch.Tensor, directions: torch.Tensor, frame: torch.Tensor, prepared: torch.Tensor):
        canonical = super().forward(points, directions, frame, prepared)
        fold = 0.0008 * torch.sin(canonical.points[:, :1] / 0.0003)
        return canonical.replace(points=canonical.points + torch.cat([fold, 0 * fold, 0 * fold], dim=1))


def folded_head() -> PriorHead:
    prior = ball_prior()
    own = prior.avatar
    avatar = Avatar(Folded(), own.encoder, own.decoder, own.renderer)
    return PriorHead(replace(prior, avatar=avatar), 1.0, 4, 4)


def landmark_energy(head: PriorHead, observation: PriorObservation, code: torch.Tensor, roots: int) -> torch.Tensor:
    codes = {name: torch.zeros(head.width(name)) for name in head.names} | {"expression_code": code}
    random, zero = torch.Generator().manual_seed(3), torch.zeros(3)
    weights = EnergyWeights(emphasis=2.0)
    draw = draw_energy(head, observation, tiny_options(rays=4, roots=roots), random, landmarks=True)
    _, terms, guess = data_energy(head, draw, codes, zero, zero, weights, 1.0)
    assert (guess is None) == (roots > 0) and float(terms["reached"]) == 1
    return terms["landmarks"]


def test_the_landmark_term_is_the_mean_over_all_roots(recording: BallRecording) -> None:
    observation = PriorTracker(ball_prior(), recording, "unused", tiny_options(), bar=False).observation(0)
    head = folded_head()
    code = torch.tensor([0.3, 0.1], requires_grad=True)
    term = landmark_energy(head, observation, code, 8)
    (gradient,) = torch.autograd.grad(term, code)
    # by hand: every root, one at a time
    random = torch.Generator().manual_seed(3)
    observation.batch(4, 0.75, random)
    state = head.state({name: torch.zeros(2) for name in head.names} | {"expression_code": code})
    posed = head.landmark_roots(head.avatar.field(state), head.root_shifts(8, random))
    assert len(posed.points) == 8 * len(head.landmarks) and posed.converged.float().mean() > 0.9
    spread = posed.points.view(8, -1, 3).std(dim=0).norm(dim=1)
    assert float(spread.median()) > 2e-4, "roots of a fold are apart"
    terms = []
    for row, number in enumerate(head.landmarks.number.repeat(8).tolist()):
        target = observation.landmarks[number]
        if posed.converged[row] and torch.isfinite(target).all():
            pixel = observation.camera.project(posed.points[row : row + 1])[0][0]
            off = (2 if number in EMPHASIZED else 1) * (pixel - target) / 48
            terms.append(off.square().mean())
    mean = torch.stack(terms).mean()
    torch.testing.assert_close(term, mean)
    torch.testing.assert_close(gradient, torch.autograd.grad(mean, code)[0])
    one = landmark_energy(head, observation, code, 0)
    assert abs(float(one) - float(term)) > 1e-3 * float(term)


def test_where_there_is_one_root_all_searches_give_its_term(recording: BallRecording) -> None:
    observation = PriorTracker(ball_prior(), recording, "unused", tiny_options(), bar=False).observation(0)
    code = torch.tensor([0.3, 0.1])
    torch.testing.assert_close(
        landmark_energy(recording.head, observation, code, 32), landmark_energy(recording.head, observation, code, 0),
        rtol=1e-2, atol=0,
    )  # fmt: skip


def test_the_published_setting_searches_from_32_starts() -> None:
    assert PriorTrackingOptions().roots == 32 and PriorTrackingOptions.quick().roots == 0
    with pytest.raises(ValueError, match="roots is -1"):
        PriorTrackingOptions(roots=-1)
