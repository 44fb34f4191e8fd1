"""What runs on the pretend device: training steps, rendering, evaluation and meshing of the presets."""

from tests.pretend_cuda.device import DEVICE, HAS_TRITON, PretendCuda  # isort: skip, before torch

import contextlib
import dataclasses
import functools
import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import distributed

import headfields as hf
import headfields.training.trainer
from headfields.apps.priors import PriorTrainer, fit_scans
from headfields.apps.priors.asynchronous_steps import AsynchronousPriorSteps
from headfields.apps.priors.scans.batch import PointCounts
from headfields.apps.tracking import PriorTracker
from headfields.apps.tracking.failures import FrameFailure
from headfields.apps.tracking.prior.asynchronous_fit import AsynchronousFit
from headfields.apps.tracking.prior.options import Stage2
from headfields.apps.tracking.prior.stage1 import fit_frame
from headfields.cli import main
from headfields.models.monoavatar import SIZES as SIZES_OF_MONOAVATAR
from headfields.renderers.lighting import SHLighting
from headfields.synthetic.captures import write_head_capture
from headfields.training import MCMC, Trainer, evaluate
from headfields.training.presets import build, preset_arguments
from headfields.training.processes import Processes
from headfields.training.recipes import recipe_of
from headfields.training.run import TrainingRun
from headfields.training.state import TrainingState
from tests.apps.priors.tiny import tiny_model, tiny_scans
from tests.apps.tracking.prior.ball import BallRecording, ball_prior, tiny_options

_launch = headfields.training.trainer.start_processes

STEPS = {"insta": 18}
"""A refresh of the occupancy grid falls on one of them; the last is a steady one. `FEW_STEPS` of the other presets."""
FEW_STEPS = 6

SIZES: dict[str, dict[str, Any]] = {
    "insta": {"levels": 4, "log2_table_size": 10, "grid_resolution": 16},
    "monoavatar": {"sizes": "cpu-0.3", "start": 0},
    "vp360": {"levels": 4, "log2_table_size": 10, "grid_resolution": 16, "fields": 2},
    "gaussian_avatars": {"count": 400, "degree": 0},
    "flash_avatar": {"count": 400},
    "rgb_avatar": {"count": 400},
}
"""Sizes for which the counts are those of the preset's own."""


def coarse_to_fine(avatar: Any) -> Any:
    """MonoAvatar with the coarse network that it has at the paper's sizes."""
    encoder = hf.encoders.VertexFeatures(avatar.encoder.source, **SIZES_OF_MONOAVATAR["cpu-0.3"]["anchored"])
    renderer = hf.renderers.CoarseToFineRenderer(encoder, hf.decoders.RadianceHead(), coarse=8, fine=8)
    return avatar.replace(renderer=renderer)


@functools.cache
def capture() -> Any:
    folder = Path(tempfile.mkdtemp()) / "head"
    write_head_capture(folder, frames=3, test_frames=1, size=24, samples=1, progress=False)
    return hf.data.load_capture(folder)


class Fabric:
    """As much of Lightning Fabric as a step uses, on one device."""

    device, global_rank, world_size, loggers = DEVICE, 0, 1, ()

    def __init__(self, precision: str = "32-true") -> None:
        self.precision = precision

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        if self.precision == "32-true":
            return contextlib.nullcontext()
        assert self.precision == "bf16-mixed", self.precision
        return torch.autocast("cuda", torch.bfloat16)

    def backward(self, loss: torch.Tensor, **options: Any) -> None:
        loss.backward(**options)

    def call(self, hook: str, trainer: Any, **arguments: Any) -> None:
        for callback in trainer.callbacks:
            getattr(callback, hook, lambda *_, **__: None)(trainer, **arguments)


class _CountedTrainer(Trainer):
    """A trainer that counts each of its steps; a callback would have it wait for their figures."""

    def __init__(self, pretended: PretendCuda, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.steps: list[dict[str, Any]] = []
        step = self._steps.step

        def counted(*args: Any) -> Any:
            pretended.reset()
            outcome = step(*args)
            self.steps.append(pretended.counts())
            return outcome

        self._steps.step = counted  # type: ignore[method-assign]


def _from_the_start(loss: Any) -> Any:
    """The loss as it is later in a run, at a few of the samples."""
    changes = {name: 0 for name in ("start", "region_start") if hasattr(loss, name)}
    if hasattr(loss, "samples"):
        changes["samples"] = 64  # of more than there are, so that some are drawn
    return dataclasses.replace(loss, **changes)


def replays(device: PretendCuda, reason: str) -> dict[str, Any]:
    """Whether steps were captured, and how the last two replays differ."""
    result: dict[str, Any] = {"reason": reason, "replays": len(device.regions)}
    if device.regions:
        first, second = device.regions[-2:]
        result |= {
            "waits": first[-1][1] + second[-1][1],
            "operations": len(second) - 1,
            "exchanges": [each[0] for each in second if each[0].startswith("c10d.")],
            # the gradient of an index, which sorts all indices; True: it adds where they meet
            "sorts": [each[-1] for each in second if "index_put" in each[0] and True in each[1:-1]],
            "differences": [f"{a} and {b}" for a, b in zip(first, second, strict=False) if a != b][:5],
            "longer": len(second) - len(first),
        }
    return result


def train(
    model: str,
    change: Any = None,
    follows: tuple[str, ...] = ("evaluate", "mesh"),
    callbacks: Any = None,
    losses: Any = None,
    name: str = "cpu",
    fabric: type[Fabric] = Fabric,
) -> dict[str, Any]:
    """Trains a preset with its recipe for a few steps; counts of the last, of an image, and of what follows training.

    `change` makes another avatar of the preset's, and `callbacks` and `losses` are others than those of the recipe
    `name`.
    """
    source, recipe = capture(), recipe_of(model, name)
    with PretendCuda() as device:
        torch.manual_seed(0)
        arguments = preset_arguments(model, {}, source, recipe) | SIZES[model]
        avatar = build(model, arguments, source)
        avatar = avatar if change is None else change(avatar)
        headfields.training.trainer.start_processes = lambda *given: (fabric(given[3]), None)
        # As many rays as give a number of samples, where the recipe has them follow it.
        samples = 0 if name == "cpu" or not recipe.options["samples"] else 2048
        rays = {} if getattr(avatar, "whole_images", False) else {"rays": 128, "samples": samples}
        options = recipe.trainer_arguments(avatar, source, **rays)
        options["losses"] = losses or [_from_the_start(loss) for loss in options["losses"]]
        if callbacks is not None:
            options["callbacks"] = callbacks()
        trainer = _CountedTrainer(device, avatar, source, device="cuda:0", bar=False, **options)
        trainer.fit(steps=STEPS.get(model, FEW_STEPS))
        result = {"step": trainer.steps[-1], "graph": replays(device, trainer.graph_reason)}
        frame = source.splits["test"][:1]
        state, camera = source.state(frame).to(DEVICE), source.camera(frame).to(DEVICE)[0]
        actions: dict[str, Any] = {
            "render": torch.no_grad()(lambda: trainer.avatar.render(camera, state)),
            "evaluate": lambda: evaluate(trainer.avatar, source),
        }
        if hasattr(trainer.avatar, "field"):
            actions["refine"] = lambda: evaluate(trainer.avatar, source, refine={"steps": 1})
            actions["mesh"] = lambda: hf.mesh.extract(trainer.avatar.field(state), resolution=16)
        actions["render"]()  # the first image measures the buffers of the next
        for name in ("render", *(name for name in follows if name in actions)):
            device.reset()
            actions[name]()
            result[name] = device.counts()
    return result


class OneOfTwo(Fabric):
    """The first of two processes, whose group has no other: what it exchanges stays as it is."""

    world_size = 2


def several() -> dict[str, Any]:
    """Trains one of two processes on devices that exchange by NCCL; which exchanges are in a captured step."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    def raise_own(processes: Processes, error: Exception | None) -> None:
        if error is not None:
            raise error

    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        with (
            mock.patch.object(distributed, "get_backend", lambda group=None: "nccl"),
            mock.patch.object(Processes, "raise_on_all", raise_own),  # hosts exchange objects; there is one
        ):
            found = train("insta", follows=(), fabric=OneOfTwo)
    finally:
        distributed.destroy_process_group()
    return found


def command() -> dict[str, Any]:
    """`headfields train insta --device cuda`, and its resumption on a CPU, with a small table; what the run records."""
    capture()
    with tempfile.TemporaryDirectory() as folder:
        out, source = Path(folder) / "run", Path(capture().path)
        words = ["train", "insta", "--capture", str(source), "--out", str(out), "--rays", "32", "--samples", "0"]
        headfields.training.trainer.start_processes = lambda *_: (Fabric(), None)
        # Its checkpoints are left out: a file is written from the memory of tensors, and pretended ones have none.
        with (
            PretendCuda() as device,
            mock.patch.object(TrainingState, "save"),
            mock.patch.object(TrainingRun, "save_last"),
        ):
            smaller = ["--set", "log2_table_size=10", "grid_resolution=16", "step=0.02"]
            assert not main([*words, "--device", "cuda", "--steps", "1", *smaller])
            counts = device.counts()
        log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        chosen = json.loads((out / "config.json").read_text())
        headfields.training.trainer.start_processes = _launch
        assert not main([*words, "--device", "cpu", "--steps", "2", "--resume"])
        resumed = json.loads((out / "config.json").read_text())
    return {"registered": counts["registered"], "log": log[0], "chosen": chosen, "resumed": resumed}


def prior() -> dict[str, Any]:
    """Trains a tiny MonoNPHM; counts of the last step, and of one whose figures are read at once."""
    scans = tiny_scans()
    counts = PointCounts(face=24, static=8, back=8, near=16, far=8, correspondences=8)
    options: dict[str, Any] = {"counts": counts, "scans_per_step": 3, "noise": 0.1, "bar": False}
    on_host = PriorTrainer(tiny_model(scans), scans, **options)
    expected = on_host.fit(steps=6).loss
    with PretendCuda() as device:
        trainer = PriorTrainer(tiny_model(scans), scans, **options, device="cuda:0")
        steps, launch = [], AsynchronousPriorSteps.launch

        def counted(*arguments: Any) -> None:
            device.reset()
            launch(*arguments)
            steps.append(device.counts())

        with mock.patch.object(AsynchronousPriorSteps, "launch", counted):
            loss = trainer.fit(steps=6).loss
        result = {"step": steps[-1], "graph": replays(device, trainer.graph_reason), "loss": [expected, loss]}
        own, others = trainer.model.state_dict(), on_host.model.state_dict()
        tables = [name for name in own if name.endswith((".table", ".first", ".steps"))]
        result["apart"] = max(float((own[name].values - others[name]).abs().max()) for name in tables)
        rgb, scans.rgb = scans.rgb, torch.full_like(scans.rgb, torch.nan)
        before = {name: tensor.values.clone() for name, tensor in own.items()}
        with warnings.catch_warnings(action="ignore"):
            result["skipped"] = trainer.fit(steps=9).skipped
        result["kept"] = all(torch.equal(tensor.values, before[name]) for name, tensor in own.items())
        scans.rgb = rgb
        device.reset()
        trainer.step()
        result["prompt"] = device.counts()
        codes = fit_scans(trainer.prior(), scans, torch.tensor([0, 1]), steps=2, counts=counts)
        assert bool(codes.codes.geometry.isfinite().all())
    return result


def track() -> dict[str, Any]:
    """Tracks a recording of a ball with a prior of balls, both stages, meshes and pictures; counts of the whole, and of
    the last step of: the first frame, the second, both together, and one near the surface of steps before."""
    recording = BallRecording(2, size=24)
    for frame in range(2):  # it draws itself on the CPU
        recording.image(frame)
    options = tiny_options(
        stage2=Stage2(steps_a_frame=2.5), mesh_resolution=16, image_height=24, mask_pixels=9, band=0.0
    )
    stage1 = dataclasses.replace(options.stage1, steps=5, pace=(0.8, 0.8, 0.8))
    options = dataclasses.replace(options, stage1=stage1)
    near = dataclasses.replace(options, band=0.01, roots=0, stage1=dataclasses.replace(stage1, sharpness=(0.8, 0, 0.8)))
    steps = _StepCounts()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        expected = PriorTracker(ball_prior(), recording, out / "host", options, bar=False).run()
        with (
            PretendCuda() as device,
            mock.patch.object(AsynchronousFit, "launch", steps.counted(AsynchronousFit.launch)),
        ):
            tracker = PriorTracker(ball_prior(), recording, out / "run", options, device="cuda:0", bar=False)
            tracking = tracker.run()
            assert len(tracking.stage2) == 2, tracking.failed
            result: dict[str, Any] = {"run": device.counts(), "graph": replays(device, steps.reason)}
            tracker = PriorTracker(ball_prior(), recording, out / "near", near, device="cuda:0", bar=False)
            observation = tracker.observation(0)
            fit_frame(tracker.head, observation, 0, near)
            result["near_reason"] = steps.reason
            spoiled = observation.replace(rgb=torch.full_like(observation.rgb, torch.nan))
            short = dataclasses.replace(near, band=0.0, stage1=dataclasses.replace(stage1, steps=2))
            try:
                fit_frame(tracker.head, spoiled, 0, short)
            except FrameFailure as failure:
                result["failure"] = str(failure)
            fitted = zip(tracker.head.light.parameters(), SHLighting().parameters(), strict=True)
            result["kept"] = all(torch.equal(own.detach().cpu(), other) for own, other in fitted)
    names = ("first", "second", "together", "near")
    result |= {name: counts[-1] for name, counts in zip(names, steps.counts, strict=False)}
    result["near"]["waits"] = sum(step["waits"] for step in steps.counts[3][1:])
    pairs = [(own[frame], other[frame]) for own, other in (
        (tracking.stage1, expected.stage1), (tracking.stage2, expected.stage2)) for frame in own]  # fmt: skip
    result["apart"] = max(
        float((own.free[name] - other.free[name]).abs().max()) for own, other in pairs for name in own.free
    )
    return result


class _StepCounts:
    """Counts of each step of tracking, with all between the step before and itself, a list for each fit."""

    def __init__(self) -> None:
        self.counts: list[list[dict[str, Any]]] = []
        self.reason = ""
        self._fit: Any = None
        self._before: dict[str, Any] = {}

    def counted(self, launch: Any) -> Any:
        def count(fit: Any, *arguments: Any) -> None:
            launch(fit, *arguments)
            now = PretendCuda.current().counts()
            if fit is not self._fit:
                self._fit, self._before = fit, now
                self.counts.append([])
            before, self._before = self._before, now
            step = {name: now[name] - before[name] for name in ("launches", "waits")}
            for name in ("waits_at", "launches_at"):
                more = {place: count - before[name].get(place, 0) for place, count in now[name].items()}
                step[name] = {place: count for place, count in more.items() if count}
            self.counts[-1].append({**step, "captured": now["captured"]})
            self.reason = fit.graph_reason

        return count


PLANTED: dict[str, Callable[[torch.Tensor], Any]] = {
    "item": lambda x: x[0, 0].item(),
    "mask": lambda x: x[x > 0],
    "nonzero": torch.nonzero,
    "normal": lambda x: torch.normal(x, x.abs()),
    "unique": torch.unique,
    "bincount": lambda x: torch.bincount(x.long().abs().flatten()),
    "repeat_interleave": lambda x: torch.repeat_interleave(x, x.long().abs()[0], dim=0),
    "allclose": lambda x: torch.allclose(x, x),
    "multinomial": lambda x: torch.multinomial(x.abs(), 1),
    "number from the host": lambda x: x[0, 0].copy_(torch.tensor(1.0)),
    "to the host": lambda x: x.cpu(),
}
"""Operations for which the host waits on a GPU, of a matrix; and those of `torch.linalg` that say so themselves."""
PLANTED |= {
    name: getattr(torch.linalg, name)
    for name in dir(torch.linalg)
    if "synchronizes that device" in (getattr(torch.linalg, name).__doc__ or "") and name != "solve"
}
PLANTED["solve"] = lambda x: torch.linalg.solve(x, x)
FREE: dict[str, Callable[[torch.Tensor], Any]] = {
    "fill": lambda x: x.fill_(2.0),
    "inv_ex": lambda x: torch.linalg.inv_ex(x),
    "normal": lambda x: torch.normal(0.0, 1.0, x.shape, device=x.device),
    "repeat_interleave": lambda x: torch.repeat_interleave(x, x.long().abs()[0], dim=0, output_size=1),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "select": lambda x: x.index_select(0, x.long()[0].abs().clamp_max(2)),
}


def planted() -> dict[str, Any]:
    """How often the host waits for operations that do, and for some that do not."""
    with PretendCuda() as device:

        def waits(operation: Callable[[torch.Tensor], Any]) -> int:
            x = (torch.eye(3) + 0.1 * torch.ones(3, 3)).to(DEVICE)
            device.reset()
            operation(x)
            return sum(device.waits.values())

        return {
            "planted": {name: waits(operation) for name, operation in PLANTED.items()},
            "free": {name: waits(operation) for name, operation in FREE.items()},
        }


def reading() -> dict[str, Any]:
    """Trains with a loss of one's own that reads a number in each step."""

    class Reading:
        name, weight = "reading", 1.0

        def phase(self, step: int) -> bool:
            return True

        def __call__(self, rendering: Any, *_: Any) -> torch.Tensor:
            return rendering.rgb.mean() * rendering.rgb.detach().mean().item()

    return train("gaussian_avatars", follows=(), losses=[Reading()])


EVERYTHING = ("evaluate", "refine", "mesh")


def default(model: str) -> dict[str, Any]:
    """Trains a preset as a GPU does unless told otherwise: the recipe `fast`, its precision, networks in Triton."""
    return train(model, follows=EVERYTHING, name="fast") | {"has_triton": HAS_TRITON}


PROGRAMS: dict[str, Callable[[], dict[str, Any]]] = {
    "insta": functools.partial(train, "insta", follows=EVERYTHING),
    "gaussian_avatars": functools.partial(train, "gaussian_avatars"),
    "mcmc": functools.partial(train, "gaussian_avatars", follows=(), callbacks=lambda: [MCMC()]),
    "several": several,
    "planted": planted,
    "reading": reading,
    "command": command,
    "prior": prior,
}
LONG_PROGRAMS: dict[str, Callable[[], dict[str, Any]]] = {
    **{
        f"{model}, everything": functools.partial(train, model, follows=EVERYTHING)
        for model in ("monoavatar", "vp360", "flash_avatar", "rgb_avatar")
    },
    "coarse_to_fine, everything": functools.partial(train, "monoavatar", coarse_to_fine, EVERYTHING),
    **{f"{model}, fast": functools.partial(default, model) for model in SIZES},
    "track": track,
}
