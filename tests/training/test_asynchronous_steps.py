"""Asynchronous steps, and captured ones: as steps that the host waits for. On the CPU, made to do so."""

import dataclasses
import math
from collections.abc import Iterator

import pytest
import torch

from headfields.losses.color import HuberColor
from headfields.losses.function import FunctionLoss
from headfields.losses.silhouette import OpacityLoss
from headfields.losses.surface import DepthPrior, SurfacePrior
from headfields.losses.warp import Elastic
from headfields.renderers.padded import GRANULE
from headfields.runs import asynchronous, step_graph
from headfields.runs.folder import RunFolder
from headfields.runs.progress import NanLossError
from headfields.training import step_kinds
from headfields.training.asynchronous_steps import AsynchronousSteps
from headfields.training.callbacks import Callback
from headfields.training.densification import DensityControl
from headfields.training.mcmc import MCMC
from headfields.training.monitor import TrainingMonitor
from headfields.training.step_phases import StepPhases
from headfields.training.synchronous_steps import SynchronousSteps
from headfields.training.trainer import Trainer
from tests.training.ball import ball_trainer
from tests.training.late import late_steps
from tests.training.test_nonfinite import Spoiled, state
from tests.training.test_trainer import same, weights


@pytest.fixture(params=["late", "captured"])
def late(request: pytest.FixtureRequest) -> Iterator[str]:
    """Lets the CPU take steps as a GPU does."""
    with late_steps(request.param == "captured"):
        yield request.param


CAPTURED_ALONE = ["captured", pytest.param("late", marks=pytest.mark.slow)]
"""Parameters of `late` by which the default run takes captured steps alone, which do all that others do and more."""


def read_every(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    monkeypatch.setattr(asynchronous, "READ_EVERY", steps)


def fitted(steps: int, **options: object) -> Trainer:
    made = ball_trainer(256, **options)
    made.fit(steps=steps)
    return made


@pytest.fixture(scope="module")
def prompt() -> dict[int, Trainer]:
    return {steps: fitted(steps) for steps in (3, 12)}


def test_weights_are_those_of_prompt_steps(prompt: dict[int, Trainer], late: str) -> None:
    for steps, tolerance in ((3, 2e-5), (12, 2e-2)):  # Adam moves numbers of no gradient by their rounding
        own, other = fitted(steps), prompt[steps]
        assert own.graph_reason == ("" if late == "captured" else "a test")
        for name, tensor in weights(other).items():
            torch.testing.assert_close(weights(own)[name].float(), tensor.float(), rtol=1e-3, atol=tolerance)
        for name, tensor in other.ema.average.items():
            torch.testing.assert_close(own.ema.average[name], tensor, rtol=1e-3, atol=tolerance)
        assert own.progress.extra["psnr"] == pytest.approx(other.progress.extra["psnr"], abs=0.01)
        assert all(isinstance(group["lr"], float) for group in own.optimizer.param_groups)
        assert own.avatar.renderer.sample_buffers is None


@pytest.mark.parametrize("gradient", [False, True])
def test_a_bad_step_leaves_everything_as_it_was(tmp_path, late: str, gradient: bool) -> None:
    made = ball_trainer(128, out=tmp_path)
    made.losses[0] = made._objective.losses[0] = Spoiled([6], math.nan, gradient)
    made.fit(steps=6)
    before = state(made)
    with pytest.warns(UserWarning, match="1 step was skipped, whose loss or gradient was not finite"):
        result = made.fit(steps=7)
    assert same(before, state(made))
    assert result.step == 7 and result.skipped == 1 and sum(result.skipped_frames.values()) == 3
    (event,) = [entry for entry in RunFolder(tmp_path).read_log() if entry.get("event") == "skipped"]
    assert event["step"] == 6 and ("gradient of" if gradient else "loss bad") in event["what"]
    assert made.fit(steps=9).skipped == 1
    assert not torch.equal(before["encoder.table"], state(made)["encoder.table"]), "training goes on"


@pytest.mark.parametrize("late", CAPTURED_ALONE, indirect=True)
def test_bad_steps_in_a_row_end_training_without_harm(tmp_path, late: str) -> None:
    made = ball_trainer(64, out=tmp_path)
    made.losses[0] = made._objective.losses[0] = Spoiled(range(4, 99), math.inf)
    made.fit(steps=4)
    made._state.swap_average()  # the weights that are trained, which a fit that fails leaves in their place
    before = state(made)
    made._state.swap_average()
    with pytest.raises(NanLossError, match=r"step 13: loss bad is not finite .*, the 10th step in a row"):
        made.fit(steps=60)
    assert same(before, state(made)) and made.progress.step <= 4 + asynchronous.READ_EVERY


@pytest.mark.parametrize("late", CAPTURED_ALONE, indirect=True)
def test_the_frame_at_fault_is_named(late: str) -> None:
    made = ball_trainer(256)
    image = made.capture.image
    made.capture.image = lambda frame: image(frame) * (math.nan if frame == 3 else 1)
    with pytest.warns(UserWarning, match=r"skipped, .* \(frame 3: \d+\)"):
        result = made.fit(steps=12)
    assert 0 < result.skipped < 12 and set(result.skipped_frames) == {3}


@pytest.mark.parametrize("late", CAPTURED_ALONE, indirect=True)
def test_overflow_is_reported_and_mended(tmp_path, late: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read_every(monkeypatch, 4)
    made = ball_trainer(512, out=tmp_path)
    before = {name: p.clone() for name, p in made.avatar.named_parameters()}
    small = {"marched": GRANULE, "samples": GRANULE, "visible": GRANULE}
    made.progress.extra["sample_rows"] = small
    made.fit(steps=4)
    assert all(torch.equal(before[name], p) for name, p in made.avatar.named_parameters()), "no step on a part"
    made.fit(steps=8)
    assert not torch.equal(before["encoder.table"], dict(made.avatar.named_parameters())["encoder.table"])
    events = [entry for entry in RunFolder(tmp_path).read_log() if entry.get("event") == "overflow"]
    assert [event["step"] for event in events] == [0, 1, 2, 3] and made.progress.extra["overflowed"] == 4
    for event in events:
        assert event["rows"] == small and max(event["samples"].values()) > GRANULE, "the number to raise"
    rows = made.progress.extra["sample_rows"]
    assert rows["marched"] >= max(event["samples"]["marched"] for event in events)


@pytest.mark.parametrize("late", CAPTURED_ALONE, indirect=True)
@pytest.mark.parametrize("end", [7, pytest.param(13, marks=pytest.mark.slow)])
def test_a_resumed_run_takes_the_same_steps(tmp_path, late: str, monkeypatch: pytest.MonkeyPatch, end: int) -> None:
    read_every(monkeypatch, 5)
    options = {"samples_per_step": 500, "learning_rate": 1e-2}
    whole = fitted(21, out=tmp_path / "whole", **options)
    fitted(end, out=tmp_path / "parts", **options)
    resumed = ball_trainer(256, out=tmp_path / "parts", **options)
    resumed.fit(steps=21, resume=True)
    assert resumed.rays_now == whole.rays_now != 256, "the number of rays follows that of samples"
    assert same(state(whole), state(resumed))


def test_a_loss_that_computes_with_the_step_is_not_captured(
    tmp_path, late: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fading(rendering, batch, step):
        return rendering.opacity.mean() * (1 - step / 100)

    made = ball_trainer(64, out=tmp_path)
    made = Trainer(made.avatar, made.capture, [HuberColor(), fading], rays_per_step=64, bar=False, device="cpu",
                   out=tmp_path)  # fmt: skip
    made.fit(steps=6)
    if late == "captured":
        assert made.graph_reason == "the loss fading reads the number of the step, and has no phase(step)"
        (event,) = [entry for entry in RunFolder(tmp_path).read_log() if entry.get("event") == "graph"]
        assert event["reason"] == made.graph_reason and not event["captured"]


@pytest.mark.parametrize("late", CAPTURED_ALONE, indirect=True)
def test_a_part_that_changes_each_step_is_named(late: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_graph, "MOST_CAPTURES", 2)
    made = ball_trainer(64)
    decoder = made.avatar.decoder
    decoder.at_step = lambda step: setattr(decoder, "phase", step // 4)
    made.fit(steps=24)
    if late == "captured":
        assert "phase changes too often" in made.graph_reason


def test_asynchronous_false_is_the_plain_loop(late: str) -> None:
    made = ball_trainer(64, asynchronous=False)
    assert type(made._steps) is SynchronousSteps and made.graph_reason == "asynchronous is False"
    assert type(ball_trainer(64, asynchronous=True)._steps) is AsynchronousSteps
    with pytest.raises(ValueError, match="graph is True, and steps cannot be captured: asynchronous is False"):
        ball_trainer(64, asynchronous=False, graph=True)
    losses: list[float] = []

    def debugged(rendering, batch, step):
        losses.append(rendering.opacity.mean().item())  # the host waits, and has each step's own
        return rendering.opacity.mean()

    made = Trainer(made.avatar, made.capture, debugged, rays_per_step=64, bar=False, device="cpu", asynchronous=False)
    made.fit(steps=3)
    assert len(losses) == 3


class Reader(Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_step(self, trainer: Trainer, outcome) -> None:
        self.losses.append(outcome.loss)


def test_who_waits_for_the_metrics_and_why() -> None:
    assert ball_trainer(8).graph_reason == "the device is no GPU"
    with pytest.raises(ValueError, match="graph is True, and steps cannot be captured: the device is no GPU"):
        ball_trainer(8, graph=True)
    with pytest.raises(ValueError, match="graph is 'yes'; expected True, False or 'auto'"):
        ball_trainer(8, graph="yes")
    with pytest.raises(ValueError, match="asynchronous is True, and steps cannot be: the device is no GPU"):
        ball_trainer(8, asynchronous=True)
    with pytest.raises(ValueError, match="asynchronous is 'no'; expected True, False or 'auto'"):
        ball_trainer(8, asynchronous="no")
    made = ball_trainer(8)
    adam, unfused = made.optimizer, torch.optim.SGD(made.avatar.parameters(), 0.1)

    def reason(optimizer: torch.optim.Optimizer = adam, callbacks: tuple[Callback, ...] = ()) -> str:
        return step_kinds.why_synchronous(torch.device("cuda"), made.processes, None, optimizer, callbacks)

    assert not reason() and not reason(callbacks=(Callback(),))
    assert reason(callbacks=(Reader(),)) == "the callback Reader has on_step, which reads the metrics of each step"
    assert "build it with fused=True" in reason(unfused)
    assert "build it with capturable=True" in step_kinds.why_no_graph(made.avatar, [], adam, [])
    assert "the number of samples of Module differs" in step_kinds.why_no_graph(torch.nn.Module(), [], adam, [])


class Fading(HuberColor):
    """Reads the number of the step, which the phase of its base does not know."""

    def __call__(self, rendering, batch, step):
        return super().__call__(rendering, batch, step) / (1 + step)


class Silent(HuberColor):
    def __call__(self, rendering, batch, step):
        return rendering.opacity.mean()


class Launched(Callback):
    def on_launch(self, trainer: Trainer, rendering, taken, step: int) -> None:
        self.last = step


def test_phases_of_losses_and_callbacks() -> None:
    losses = [HuberColor(region_start=5), DepthPrior(start=7), SurfacePrior(torch.zeros(1, 3).int(), until=9)]
    phases = StepPhases(
        [*losses, Elastic(after=3), OpacityLoss(1.0)], [DensityControl(start=0, stop=4), Reader(), MCMC()]
    )
    assert not phases.reason
    changes = [step for step in range(1, 12) if phases(step) != phases(step - 1)]
    assert changes == [*range(1, 10)], "the surface prior's weight falls with each step to the ninth"
    without = StepPhases([losses[0], losses[1], Silent(), Elastic(after=3)], [DensityControl(start=0, stop=4)])
    assert not without.reason
    assert [step for step in range(1, 12) if without(step) != without(step - 1)] == [3, 4, 5, 7]
    for part in (Fading(), FunctionLoss(lambda rendering, batch, step: step * rendering.opacity.mean())):
        assert (
            StepPhases([part], []).reason
            == f"the loss {part.name} reads the number of the step, and has no phase(step)"
        )
    assert "on_launch of Launched reads the number of the step" in StepPhases([], [Launched()]).reason
    quiet = [FunctionLoss(lambda rendering, batch: rendering.opacity.mean()), lambda rendering, batch, step: rendering]
    assert not StepPhases([quiet[0], FunctionLoss(quiet[1])], []).reason


@pytest.mark.parametrize("late", CAPTURED_ALONE, indirect=True)
@pytest.mark.parametrize("start", [2, 9])
def test_a_loss_that_begins_later_is_captured_anew(late: str, monkeypatch: pytest.MonkeyPatch, start: int) -> None:
    """A captured step has the number with which it was captured, so only a new capture can begin the loss."""
    captures = []
    monkeypatch.setattr(step_graph, "capture_launches", lambda body, stream: captures.append(body) or body)

    @dataclasses.dataclass(frozen=True)
    class Begins:
        weight: float = 1.0
        name: str = "begins"

        def phase(self, step: int) -> bool:
            return step >= start

        def __call__(self, rendering, batch, step):
            return rendering.opacity.mean() * (step >= start)

    read = []
    made = ball_trainer(32)
    made = Trainer(made.avatar, made.capture, [HuberColor(), Begins()], rays_per_step=32, bar=False, device="cpu")
    monkeypatch.setattr(TrainingMonitor, "after_step", lambda self, terms, *_: read.append(terms["begins"] > 0))
    made.fit(steps=14)
    assert read == [False] * start + [True] * (14 - start)
    assert len(captures) == ((1 if start == 2 else 2) if late == "captured" else 0)


def test_opacity_alone_needs_no_samples(late: str) -> None:
    """Rays that all miss: no step of the optimizer, as without gradients."""
    made = ball_trainer(32)
    made = Trainer(made.avatar, made.capture, [OpacityLoss(1.0)], rays_per_step=32, bar=False, device="cpu")
    made.avatar.renderer.sampler.grid.occupied.zero_()
    made.avatar.renderer.sampler.grid.box.mul_(4)
    made.avatar.renderer.sampler.due = lambda step: False
    before = weights(made)
    made.fit(steps=4)
    assert same({name: before[name] for name, _ in made.avatar.named_parameters()},
                dict(made.avatar.named_parameters()))  # fmt: skip
