"""Training of a prior: an auto-decoder over scans of many people."""

import contextlib
import copy
import hashlib
import json
import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headfields.apps.priors.asynchronous_steps import AsynchronousPriorSteps, DifferentiatedStep, PendingPriorStep
from headfields.apps.priors.code_table import CodeTable
from headfields.apps.priors.codes import PriorCodes, anchors_of
from headfields.apps.priors.evaluate import surface_errors
from headfields.apps.priors.losses import CUBE_POINTS, PriorWeights, prior_terms
from headfields.apps.priors.pictures import comparison
from headfields.apps.priors.prior import Prior
from headfields.apps.priors.scans.batch import PointCounts, ScanBatch, ScanSet, generator
from headfields.apps.priors.scans.meshes import MeshScans
from headfields.apps.priors.schedule import PriorSchedule
from headfields.apps.priors.step_draw import CodeRows, StepDraw
from headfields.apps.priors.training_log import PriorTrainingLog
from headfields.avatar.avatar import Avatar
from headfields.models.mononphm import code_widths
from headfields.runs import checkpoint
from headfields.runs.folder import RunFolder, last_good, write_picture, writing
from headfields.runs.interrupts import InterruptFlag
from headfields.runs.lock import run_lock
from headfields.runs.nonfinite import BufferBackup, SkippedSteps, check_weights
from headfields.runs.progress import Progress

__all__ = ["PriorResult", "PriorTrainer"]

CHECKPOINT_SECONDS = 120.0


@dataclass(frozen=True)
class PriorResult:
    """The result of `PriorTrainer.fit`.

    Attributes:
        prior: the prior, as trained so far.
        step: number of steps, over all resumptions.
        seconds: training time over all resumptions, including pictures and checkpoints.
        loss: weighted sum of the terms, smoothed; NaN before the first step.
        interrupted: whether Ctrl-C ended training.
        skipped: steps, of those in all, that were skipped because a loss or gradient was not finite.
        skipped_scans: how many of them drew each scan, by its name.
    """

    prior: Prior
    step: int
    seconds: float
    loss: float
    interrupted: bool
    skipped: int = 0
    skipped_scans: Mapping[str, int] = field(default_factory=dict)


class PriorTrainer:
    """Trains a model together with the codes of all people and scans: an auto-decoder (Park et al. 2019, "DeepSDF").

    Each step draws scans and points on them, and updates the networks by AdamW and the codes of those scans and people
    by Adam. The random numbers of a step depend on its number and the seed only, so a resumed run ends with the weights
    of an unbroken one, if its length is given in steps (one in minutes depends on the clock).

    Args:
        avatar: a model made by `headfields.models.mononphm`.
        scans: P people and S scans.
        weights: weights of the loss terms.
        schedule: learning rates and how they fall.
        counts: points per scan and step.
        scans_per_step: number of scans per step.
        noise: standard deviation of Gaussian noise on the codes of a step, relative to the current covariance of all
            codes. The covariance matters: codes vary a hundred times as much along some directions (jaw) as along
            others (eyelids). Between the training codes a small network is unconstrained, and all its units are
            inactive half way from the mean to a wide-open mouth, where tracking must pass; noise trains it there too.
            The published code has none; our own choice.
        initial_codes: initial codes of the S scans, as from `principal_codes`; zero (as published) if None.
        seed: seed of the scan and point sampling.
        out: a run folder, for checkpoints, log.csv and images/; None keeps nothing.
        device: device to train on.
        shown: maximum number of people in pictures, evenly spaced among all.
        pictures: number of pictures in a run, with one at its end; 0 for none.
        picture_size: side of each picture, pixels.
        bar: whether a progress bar is shown.
        graph: whether `fit` replays steps on a GPU from a CUDA graph, where it can be captured; if not, the run's log
            says why. In either case it reads a step's metrics up to 31 steps later, so that the host waits for none.

    Attributes:
        graph_reason: why steps on a GPU are not replayed from a graph; empty where they are.

    Raises:
        TypeError: the avatar has no anchors.
        ValueError: scans_per_step is not positive; the numbers of anchors of scans and avatar differ; initial_codes
            has the wrong shape.
    """

    def __init__(
        self,
        avatar: Avatar,
        scans: ScanSet,
        weights: PriorWeights | None = None,
        schedule: PriorSchedule | None = None,
        counts: PointCounts | None = None,
        scans_per_step: int = 16,
        noise: float | int = 0.0,
        initial_codes: PriorCodes | None = None,
        seed: int = 0,
        out: str | Path | None = None,
        device: torch.device | str = "cpu",
        shown: int = 4,
        pictures: int = 12,
        picture_size: int = 128,
        bar: bool = True,
        graph: bool = True,
    ) -> None:
        anchors = anchors_of(avatar)
        if scans_per_step < 1:
            raise ValueError(f"PriorTrainer: scans_per_step is {scans_per_step}; expected at least 1")
        if not 0 <= noise < math.inf:
            raise ValueError(f"PriorTrainer: noise is {noise}; expected 0 (none) or more")
        if bool(scans.anchored.any()) and scans.anchors.shape[1] != len(anchors):
            raise ValueError(
                f"PriorTrainer: the scans have {scans.anchors.shape[1]} anchors and the avatar {len(anchors)}; "
                "pass scans with the avatar's anchors, scans.with_anchors(avatar.decoder.anchors.vertices)"
            )
        self.device = torch.device(device)
        self.scans = scans
        self.weights = PriorWeights() if weights is None else weights
        self.schedule = PriorSchedule() if schedule is None else schedule
        self.counts = PointCounts() if counts is None else counts
        self.scans_per_step, self.noise, self.seed = scans_per_step, noise, seed
        self.folder = None if out is None else RunFolder(out)
        self.bar, self.pictures, self.picture_size, self.graph = bar, pictures, picture_size, graph
        widths = code_widths(avatar)
        people = len(scans.people)
        self.model = nn.ModuleDict(
            {
                "avatar": avatar,
                "geometry": CodeTable(people, widths["geometry"]),
                "appearance": CodeTable(people, widths["appearance"]),
                "expression": CodeTable(len(scans), widths["expression_code"]),
            }
        ).to(self.device)
        if initial_codes is not None:
            self._initialize_codes(initial_codes)
        anchor_parameters = {id(p) for p in anchors.parameters()}
        deformer_parameters = [p for p in avatar.deformer.parameters() if id(p) not in anchor_parameters]
        self.networks = [deformer_parameters, list(avatar.decoder.parameters())]
        trained = [p for group in self.networks for p in group]
        on_cuda: dict[str, Any] = {"fused": True, "capturable": True} if self.device.type == "cuda" else {}
        self.optimizer = torch.optim.AdamW(
            trained, lr=self.schedule.networks, weight_decay=self.schedule.decay, **on_cuda
        )
        self.progress = Progress()
        self._skipped, self._backup = SkippedSteps("scan"), BufferBackup(avatar)
        self.graph_reason = "" if graph else "graph is False"
        self._saved: tuple[Path, int] | None = None  # the checkpoint written or read last, and its step
        self._owns_folder = False  # whether the run in the folder is this trainer's
        self._options = self._recorded_options()
        count = min(shown, people)
        pictured_people = torch.linspace(0, people - 1, count).round().long().tolist() if count else []
        self._pictured_scans = self._select_scans(pictured_people)

    @property
    def avatar(self) -> Avatar:
        """The trained model."""
        avatar = self.model["avatar"]
        assert isinstance(avatar, Avatar)
        return avatar

    def fit(self, steps: int | None = None, minutes: float | int | None = None, resume: bool = False) -> PriorResult:
        """Trains up to a total number of steps or minutes, whichever comes first.

        Args:
            steps: total, over all resumptions.
            minutes: wall time in minutes, likewise.
            resume: whether to continue from the checkpoint in the run folder; if there is none, training starts. A
                warning names options that differ from the run's. Without it, the checkpoint of another run in the
                folder is put aside, with a warning.

        Raises:
            ValueError: neither limit is given, or the checkpoint belongs to another model.
            NanLossError: no step of the last ten had a finite loss and gradient. Such a step is skipped and counted.
            RunLockedError: another process trains into the folder.
            RunWriteError: the run folder cannot be written to. The last checkpoint is intact.
        """
        if steps is None and minutes is None:
            raise ValueError("PriorTrainer.fit: pass a limit, steps=5000 or minutes=25")
        if self.folder is None:
            return self._fit(steps, minutes)
        self.folder.create()
        with run_lock(self.folder.path):
            self.folder.remove_leftovers()
            if resume and self.folder.checkpoints:
                self._resume(self.folder)
            elif not self._owns_folder and (aside := self.folder.set_aside()) is not None:
                warnings.warn(
                    f"PriorTrainer: {self.folder.path} held another run, which this one replaces; its checkpoint is "
                    f"now {aside.name}. resume=True would have continued it",
                    stacklevel=2,
                )
            self.folder.rewind_log(self.progress.step if resume or self._owns_folder else -1)
            self._owns_folder = True
            return self._fit(steps, minutes)

    def _resume(self, folder: RunFolder) -> None:
        """Loads the newest checkpoint that can be read; warns of those that cannot, and of other options."""
        path, broken = checkpoint.load_newest(folder.checkpoints, self._load)
        for unread, reason in broken:
            warnings.warn(f"PriorTrainer: {unread} cannot be read ({reason}); {path} is used", stacklevel=4)
        before = self.progress.extra.get("options", {})
        changes = [
            f"{name}={before[name]} (now {value})"
            for name, value in self._options.items()
            if name in before and before[name] != value
        ]
        if changes:
            warnings.warn(
                f"PriorTrainer: {folder.path} continues with other options than before: {', '.join(changes)}",
                stacklevel=4,
            )

    def _load(self, path: Path) -> Path:
        self.progress, _ = checkpoint.load(path, self.model, self.optimizer, None)
        self._skipped.load(self.progress.extra.get("skipped", {}))
        self._saved = path, self.progress.step
        return path

    def _recorded_options(self) -> dict[str, Any]:
        """What a step depends on besides the model, for a checkpoint: options, and digests of the scans."""
        scans = hashlib.sha256(json.dumps([list(self.scans.people), list(self.scans.scans)]).encode())
        for tensor in (self.scans.person, self.scans.anchors, self.scans.neutral):
            scans.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        options = {name: repr(getattr(self, name)) for name in ("weights", "schedule", "counts")}
        numbers = {"scans_per_step": self.scans_per_step, "noise": self.noise, "seed": self.seed}
        return {**options, **numbers, "scans": scans.hexdigest()[:12]}

    def _fit(self, steps: int | None, minutes: float | int | None) -> PriorResult:
        monitor = PriorTrainingLog(self.progress, steps, minutes, self.folder, self.bar)
        picture_count = math.floor(monitor.fraction * self.pictures)
        last_save, skipped_before = time.perf_counter(), self._skipped.total
        self.progress.extra["options"] = self._options
        if self.folder is not None and not self.folder.checkpoints:
            self.save()  # so that a run that is killed before its next checkpoint is resumed as the run it was
        asynchronous = self._asynchronous_steps() if self.device.type == "cuda" else None
        active = contextlib.nullcontext() if asynchronous is None else asynchronous.active()
        with InterruptFlag() as interrupted, monitor, active:
            while not interrupted and (fraction := monitor.fraction) < 1:
                if self.folder is not None and (due := math.floor(fraction * self.pictures)) > picture_count:
                    picture_count = due
                    self._read(asynchronous, monitor)
                    self.picture()
                self._advance(
                    asynchronous, monitor, self.schedule.factor(fraction), self.schedule.correspondence(fraction)
                )
                if self.folder is not None and time.perf_counter() - last_save > CHECKPOINT_SECONDS:
                    self._read(asynchronous, monitor)
                    self.save()
                    last_save = time.perf_counter()
            self._read(asynchronous, monitor)
            monitor.tick()
            if self.folder is not None:
                self.save()
                if not interrupted and self.pictures:
                    self.picture()
        if self._skipped.total > skipped_before:
            warnings.warn(f"PriorTrainer: {self._skipped.summary()}", stacklevel=3)
        return PriorResult(
            self.prior(), self.progress.step, self.progress.seconds, monitor.loss, bool(interrupted),
            self._skipped.total, dict(self._skipped.drawn),
        )  # fmt: skip

    def _asynchronous_steps(self) -> AsynchronousPriorSteps:
        """The steps of a GPU."""
        tables = {name: self._table(name) for name in ("geometry", "appearance", "expression")}
        return AsynchronousPriorSteps(
            self.model, self.optimizer, tables, self._backup, self._differentiate, self.graph, self.device
        )

    def _advance(
        self,
        asynchronous: AsynchronousPriorSteps | None,
        monitor: PriorTrainingLog,
        rates: float,
        correspondence: float,
    ) -> None:
        """A step and its line in the log; of an asynchronous step that follows when its metrics are read."""
        if asynchronous is None:
            terms = self.step(rates, correspondence)
            self.progress.step += 1
            self._log_step(monitor, terms, rates)
            return
        scans, batch, draw = self._draw(rates, correspondence)
        asynchronous.launch(batch, draw, PendingPriorStep(self.progress.step, scans, rates, correspondence))
        self.progress.step += 1
        monitor.tick()
        if asynchronous.is_due(self.progress.step):
            self._read(asynchronous, monitor)
        if asynchronous.graph_reason != self.graph_reason:
            self.graph_reason = asynchronous.graph_reason
            if self.folder is not None:
                self.folder.log(event="graph", captured=False, reason=self.graph_reason)

    def _read(self, asynchronous: AsynchronousPriorSteps | None, monitor: PriorTrainingLog) -> None:
        """Reads the metrics of the steps that have been launched since the last time, and logs them.

        Raises:
            NanLossError: ten of them in a row were not finite; none of these has changed a parameter.
        """
        for pending, terms, norms in [] if asynchronous is None else asynchronous.read():
            if all(map(math.isfinite, (*terms.values(), *norms.values()))):
                self._skipped.accept()
            else:
                self._skip(pending.step, pending.scans, terms, norms)
            self._log_step(monitor, terms, pending.rates, pending.step + 1)

    def _log_step(
        self, monitor: PriorTrainingLog, terms: Mapping[str, float], rates: float, step: int | None = None
    ) -> None:
        """Counts a step in the log, which was the last to be counted as taken or as skipped."""
        if self._skipped.in_row:
            monitor.after_skipped_step()
        else:
            monitor.after_step(terms, rates, step)

    def step(self, rates: float | int = 1.0, correspondence: float | int = 1.0) -> dict[str, float]:
        """One step of all optimizers; the weighted terms by name.

        A step whose loss or gradient is not finite changes no parameter and is counted.

        Args:
            rates: factor of the learning rates.
            correspondence: factor of the weight of correspondences.

        Raises:
            NanLossError: it is the tenth such step in a row.
        """
        scans, batch, draw = self._draw(rates, correspondence)
        batch, draw = batch.to(self.device), draw.to(self.device)
        self._backup.keep()
        step = self._differentiate(batch, draw, correspondence)
        terms, norms = step.named(step.metrics.tolist(), correspondence)
        if not all(map(math.isfinite, (*terms.values(), *norms.values()))):
            self._backup.restore()
            self.optimizer.zero_grad(set_to_none=True)
            self._skip(self.progress.step, scans, terms, norms)
            return terms
        self._skipped.accept()
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.networks * rates
        self.optimizer.step()
        for name, leaf in step.leaves.items():
            if leaf.grad is not None:
                rate = self.schedule.expression if name == "expression" else self.schedule.identity
                rows = draw.rows[name]
                self._table(name).step(rows.numbers, rows.gradient(leaf.grad), rate * rates)
        return terms

    def _draw(self, rates: float, correspondence: float) -> tuple[Tensor, ScanBatch, StepDraw]:
        """The scans of a step, their points, and what else is drawn, on the host."""
        step, schedule = self.progress.step, self.schedule
        scans = self.scans.draw(step, self.scans_per_step, self.seed)
        batch = self.scans.sample(scans, self.counts, _batch_seed(self.seed, step))
        random, rows = generator(self.seed, 5, step), {}
        for name, index in (("geometry", batch.person), ("appearance", batch.person), ("expression", batch.scan)):
            size = len(self._table(name))
            rows[name] = CodeRows.draw(index, random, size, self.noise, padded=self.device.type == "cuda")
        cube = torch.rand(len(batch), CUBE_POINTS, 3, generator=generator(self.seed, 4, step))
        of_tables = torch.tensor([schedule.networks, schedule.identity, schedule.expression]) * rates
        return scans, batch, StepDraw(rows, cube, of_tables, torch.tensor(float(correspondence)))

    def _differentiate(
        self, batch: ScanBatch, draw: StepDraw, correspondence: float | Float[Tensor, ""]
    ) -> DifferentiatedStep:
        """The metrics and gradients of a step, of tensors on the device; gradients of networks are clipped."""
        self.avatar.train()
        tables = {name: self._table(name) for name in draw.rows}
        leaves = {name: tables[name].rows(rows.numbers) for name, rows in draw.rows.items()}
        codes = PriorCodes(
            **{name: rows.codes(leaves[name], tables[name].table.detach()) for name, rows in draw.rows.items()}
        )
        terms = prior_terms(self.avatar, batch, codes, self.weights, draw.cube)
        weights = {name: self.weights.of(name) for name in terms}
        factors = {"correspondence": correspondence}
        loss = torch.stack([weights[name] * factors.get(name, 1.0) * term for name, term in terms.items()]).sum()
        self.optimizer.zero_grad()
        loss.backward(inputs=[*(p for group in self.networks for p in group), *leaves.values()])
        norms = {
            name: nn.utils.clip_grad_norm_(network, self.schedule.clip)
            for name, network in zip(("deformer", "decoder"), self.networks, strict=True)
        }
        norms |= {f"{name} codes": leaf.grad.norm() for name, leaf in leaves.items() if leaf.grad is not None}
        metrics = torch.stack([value.detach() for value in (*terms.values(), *norms.values())])
        return DifferentiatedStep(weights, tuple(norms), metrics, leaves)

    def _skip(self, step: int, scans: Tensor, terms: Mapping[str, float], norms: Mapping[str, float]) -> None:
        """Counts a step that is not finite, which has not been taken."""
        names = [self.scans.scans[scan] for scan in scans.unique().tolist()]
        bad = [name for name, value in terms.items() if not math.isfinite(value)]
        what = f"loss {', '.join(bad)}" if bad else ""
        what = what or f"gradient of {', '.join(name for name, value in norms.items() if not math.isfinite(value))}"
        remedy = f"{last_good(self._saved, self.folder)}. Lower the learning rates, or inspect these scans"
        event = {"step": step, "what": what, "scans": names}
        try:
            self._skipped.skip(step, what, names, remedy)
        finally:
            self.progress.extra["skipped"] = self._skipped.state()
            if self.folder is not None and self._owns_folder:
                self.folder.log(event="skipped", **event)

    def codes(self, scans: Tensor) -> PriorCodes:
        """The current codes of scans, by index."""
        person = self.scans.person[scans]
        tables = [self._table(name).table.detach() for name in ("geometry", "appearance", "expression")]
        return PriorCodes(*(t[i.to(t.device)] for t, i in zip(tables, (person, person, scans), strict=True)))

    def prior(self, about: dict[str, Any] | None = None) -> Prior:
        """The prior as trained so far, on the CPU; `about` is saved with it."""
        geometry, appearance, expression = (
            self._table(name).table.detach().cpu() for name in ("geometry", "appearance", "expression")
        )
        scans, avatar = self.scans, self.avatar
        if self.device.type != "cpu":  # training may continue
            avatar = copy.deepcopy(avatar).cpu()
        return Prior(
            avatar, geometry, appearance, expression, scans.person, scans.neutral, scans.people, scans.scans, about
        )

    def errors(self, scans: Tensor, points: int = 2000) -> dict[str, float]:
        """Mean errors of training scans, by index, at `points` points of each: see `surface_errors`."""
        return surface_errors(self.avatar, self.scans, scans, self.codes(scans), points).summary()

    def picture(self) -> Float[Tensor, "h w 3"] | None:
        """Draws training scans next to the model, into images/ if there is a folder; None without pictured scans."""
        if not isinstance(self.scans, MeshScans) or not len(self._pictured_scans):
            return None
        codes = self.codes(self._pictured_scans)
        sheet = comparison(self.avatar, self.scans, self._pictured_scans, codes, self.picture_size)
        if self.folder is not None:
            write_picture(self.folder.images / f"step_{self.progress.step:06d}.png", sheet)
        return sheet

    def save(self) -> None:
        """Writes a checkpoint; the previous one is kept next to it.

        Raises:
            NanLossError: a weight is not finite.
            RunWriteError: it cannot be written; the last checkpoint is intact.
        """
        assert self.folder is not None
        check_weights(self.model, f"{last_good(self._saved, self.folder)}. Resume from there with lower learning rates")
        path = self.folder.checkpoint
        with writing(path):
            checkpoint.save(path, self.model, self.optimizer, None, {}, self.progress, self.folder.previous_checkpoint)
        self._saved = path, self.progress.step

    def _initialize_codes(self, initial_codes: PriorCodes) -> None:
        for name, rows in (("geometry", self.scans.neutral), ("appearance", self.scans.neutral), ("expression", None)):
            table, values = self._table(name).table, getattr(initial_codes, name)
            if values.shape != (len(self.scans), table.shape[1]):
                raise ValueError(
                    f"PriorTrainer: initial_codes.{name} has shape {tuple(values.shape)}; expected "
                    f"{len(self.scans), table.shape[1]}, a code for each scan: make them for these scans and "
                    "this avatar with principal_codes"
                )
            table.data.copy_(values if rows is None else values[rows])

    def _table(self, name: str) -> CodeTable:
        table = self.model[name]
        assert isinstance(table, CodeTable)
        return table

    def _select_scans(self, people: list[int]) -> Tensor:
        """One scan per person: the neutral one of the first, varying expressions of the others."""
        if not isinstance(self.scans, MeshScans):
            return torch.zeros(0, dtype=torch.long)
        selected = []
        for row, person in enumerate(people):
            candidates = (self.scans.person == person).nonzero()[:, 0]
            selected.append(int(self.scans.neutral[person]) if row == 0 else int(candidates[row % len(candidates)]))
        return torch.tensor(selected, dtype=torch.long)


def _batch_seed(seed: int, step: int) -> int:
    """Seed of the points of a step."""
    return (seed * 0x9E3779B1 + step * 0x85EBCA77 + 1) & 0x7FFFFFFFFFFFFFFF
