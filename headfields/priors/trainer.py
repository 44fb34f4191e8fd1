"""Training of a prior: an auto-decoder over scans of many people."""

import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headfields.avatar import Avatar
from headfields.models.mononphm import code_widths
from headfields.priors.code_table import CodeTable
from headfields.priors.codes import PriorCodes, anchors_of
from headfields.priors.evaluate import surface_errors
from headfields.priors.losses import PriorWeights, prior_terms
from headfields.priors.pictures import comparison
from headfields.priors.prior import Prior
from headfields.priors.scans import MeshScans, PointCounts, ScanSet
from headfields.priors.scans.batch import generator
from headfields.priors.schedule import PriorSchedule
from headfields.priors.training_log import PriorTrainingLog
from headfields.runs import checkpoint
from headfields.runs.folder import RunFolder, write_picture
from headfields.runs.interrupts import InterruptFlag
from headfields.runs.lock import run_lock
from headfields.runs.progress import NanLossError, Progress

__all__ = ["PriorResult", "PriorTrainer"]

CHECKPOINT_SECONDS = 120.0


@dataclass(frozen=True)
class PriorResult:
    """What `PriorTrainer.fit` gives.

    Attributes:
        prior: as trained so far.
        step: steps taken in all.
        seconds: of training, over all resumptions, pictures and checkpoints included.
        loss: weighted sum of the terms, smoothed; NaN before the first step.
        interrupted: whether Ctrl-C ended it.
    """

    prior: Prior
    step: int
    seconds: float
    loss: float
    interrupted: bool


class PriorTrainer:
    """Trains a model and the codes of everyone in a set of scans together (Park et al. 2019, "DeepSDF").

    Codes start at zero, or where `starts` says. Each step takes some scans, draws points of them, and moves the
    networks by AdamW and the codes of those scans and people by Adam. What a step draws follows from its number and
    the seed, so a run that goes on from a checkpoint ends with the weights of an unbroken one, as long as its length
    is given in steps: one in minutes follows the clock.

    Args:
        avatar: as `headfields.models.mononphm` makes it.
        scans: P people and S scans.
        weights: of the terms.
        schedule: learning rates and how they fall.
        counts: points of a scan in a step.
        scans_per_step: how many scans a step takes.
        noise: standard deviation of what is added to the codes of a step, in that of all codes at the time and with
            their covariance: codes vary a hundred times as much along some directions (the jaw's) as along others (the
            lids'), and noise that is the same in all of them would leave nothing of the latter. A network has seen
            codes at as many places as there are scans; between them it may say anything, and a small one does: its
            units all fall silent half way from the mean to a wide-open mouth, where tracking must pass. Noise has it
            learn the surroundings too. The published code has none; our own choice.
        starts: codes of the S scans to start from, as `principal_codes` makes them; zero (as published) if None.
        seed: of scans and points.
        out: a run folder, for checkpoints, log.csv and images/; None keeps nothing.
        device: where it is trained.
        shown: up to so many people are pictured, evenly among all.
        pictures: how many times in a run, its end included; 0 for never.
        picture_size: of each picture, pixels.
        bar: whether a progress bar is shown.

    Raises:
        TypeError: the avatar has no anchors.
        ValueError: scans_per_step is not positive; the scans' anchors are not as many as the avatar's; starts have
            another shape than the codes.
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
        starts: PriorCodes | None = None,
        seed: int = 0,
        out: str | Path | None = None,
        device: torch.device | str = "cpu",
        shown: int = 4,
        pictures: int = 12,
        picture_size: int = 128,
        bar: bool = True,
    ) -> None:
        anchors = anchors_of(avatar)
        if scans_per_step < 1:
            raise ValueError(f"PriorTrainer: scans_per_step is {scans_per_step}; expected at least 1")
        if not 0 <= noise < math.inf:
            raise ValueError(f"PriorTrainer: noise is {noise}; expected 0 (none) or more")
        if bool(scans.anchored.any()) and scans.anchors.shape[1] != len(anchors):
            raise ValueError(
                f"PriorTrainer: the scans have {scans.anchors.shape[1]} anchors and the avatar {len(anchors)}; "
                "give the scans the avatar's, scans.with_anchors(avatar.decoder.anchors.vertices)"
            )
        self.device = torch.device(device)
        self.scans = scans
        self.weights = PriorWeights() if weights is None else weights
        self.schedule = PriorSchedule() if schedule is None else schedule
        self.counts = PointCounts() if counts is None else counts
        self.scans_per_step, self.noise, self.seed = scans_per_step, noise, seed
        self.folder = None if out is None else RunFolder(out)
        self.bar, self.pictures, self.picture_size = bar, pictures, picture_size
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
        if starts is not None:
            self._start(starts)
        shared = {id(p) for p in anchors.parameters()}
        own = [p for p in avatar.deformer.parameters() if id(p) not in shared]
        self.networks = [own, list(avatar.decoder.parameters())]
        trained = [p for group in self.networks for p in group]
        self.optimizer = torch.optim.AdamW(trained, lr=self.schedule.networks, weight_decay=self.schedule.decay)
        self.progress = Progress()
        count = min(shown, people)
        self._shown = self._scans_shown(torch.linspace(0, people - 1, count).round().long().tolist() if count else [])

    @property
    def avatar(self) -> Avatar:
        """The model that is trained."""
        avatar = self.model["avatar"]
        assert isinstance(avatar, Avatar)
        return avatar

    def fit(self, steps: int | None = None, minutes: float | int | None = None, resume: bool = False) -> PriorResult:
        """Trains until so many steps or minutes are over in all, whichever comes first.

        Args:
            steps: counted from the start of training, over resumptions.
            minutes: likewise, of wall time.
            resume: whether to go on from the checkpoint in the run folder; without one training begins.

        Raises:
            ValueError: neither limit is given.
            NanLossError: the loss is not finite; the last checkpoint stays.
            RunLockedError: another process trains into the folder.
        """
        if steps is None and minutes is None:
            raise ValueError("PriorTrainer.fit: say when to stop: steps=5000 or minutes=25")
        if self.folder is None:
            return self._fit(steps, minutes)
        self.folder.create()
        with run_lock(self.folder.path):
            self.folder.remove_leftovers()
            if resume and self.folder.checkpoints:
                (self.progress, _), broken = checkpoint.load_newest(
                    self.folder.checkpoints, lambda path: checkpoint.load(path, self.model, self.optimizer, None)
                )
                for path, reason in broken:
                    print(f"headfields: warning: {path} cannot be read: {reason}")
            return self._fit(steps, minutes)

    def _fit(self, steps: int | None, minutes: float | int | None) -> PriorResult:
        monitor = PriorTrainingLog(self.progress, steps, minutes, self.folder, self.bar)
        drawn = math.floor(monitor.fraction * self.pictures)
        saved = time.perf_counter()
        with InterruptFlag() as interrupted, monitor:
            while not interrupted and (fraction := monitor.fraction) < 1:
                if self.folder is not None and (due := math.floor(fraction * self.pictures)) > drawn:
                    drawn = due
                    self.picture()
                rates = self.schedule.factor(fraction)
                terms = self.step(rates, self.schedule.correspondence(fraction))
                self.progress.step += 1
                monitor.after_step(terms, rates)
                if self.folder is not None and time.perf_counter() - saved > CHECKPOINT_SECONDS:
                    self.save()
                    saved = time.perf_counter()
            monitor.tick()
            if self.folder is not None:
                self.save()
                if not interrupted and self.pictures:
                    self.picture()
        return PriorResult(
            self.prior(), self.progress.step, self.progress.seconds, monitor.loss, interrupted=bool(interrupted)
        )

    def step(self, rates: float | int = 1.0, correspondence: float | int = 1.0) -> dict[str, float]:
        """One step of all optimizers; the weighted terms by name.

        Args:
            rates: what learning rates are multiplied by.
            correspondence: what the weight of correspondences is multiplied by.

        Raises:
            NanLossError: the loss is not finite; nothing has moved.
        """
        number = self.progress.step
        which = self.scans.draw(number, self.scans_per_step, self.seed)
        batch = self.scans.sample(which, self.counts, _mixed(self.seed, number)).to(self.device)
        self.avatar.train()
        tables = {name: self._table(name) for name in ("geometry", "appearance", "expression")}
        index = {"geometry": batch.person, "appearance": batch.person, "expression": batch.scan}
        rows = {name: table.rows(index[name]) for name, table in tables.items()}
        random = generator(self.seed, 5, number)
        codes = PriorCodes(
            *(self._blurred(leaf, name, random).index_select(0, place) for name, (leaf, _, place) in rows.items())
        )
        terms = prior_terms(self.avatar, batch, codes, self.weights, generator(self.seed, 4, number))
        weights = {name: self.weights.of(name) for name in terms}
        if "correspondence" in weights:
            weights["correspondence"] *= correspondence
        loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        if not bool(torch.isfinite(loss)):
            bad = [name for name, term in terms.items() if not bool(torch.isfinite(term))]
            raise NanLossError(
                f"the loss is not finite at step {number} (terms: {', '.join(bad)}; scans: "
                f"{', '.join(self.scans.scans[s] for s in which.tolist()[:4])}); lower the learning rates, or look at "
                "these scans"
            )
        self.optimizer.zero_grad()
        loss.backward()
        for network in self.networks:
            nn.utils.clip_grad_norm_(network, self.schedule.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.networks * rates
        self.optimizer.step()
        for name, (leaf, numbers, _) in rows.items():
            if leaf.grad is not None:
                rate = self.schedule.expression if name == "expression" else self.schedule.identity
                tables[name].step(numbers, leaf.grad, rate * rates)
        return {name: weights[name] * float(term.detach()) for name, term in terms.items()}

    def _blurred(self, rows: Tensor, name: str, random: torch.Generator) -> Tensor:
        """Rows of a table of codes with this step's noise, which varies as the codes themselves do."""
        table = self._table(name).table.detach()
        if not self.noise or len(table) < 2:
            return rows
        mixing = torch.randn(len(rows), len(table), generator=random).to(rows)
        return rows + self.noise / len(table) ** 0.5 * (mixing @ (table - table.mean(dim=0)))

    def codes(self, scans: Tensor) -> PriorCodes:
        """The codes that scans have now, by number."""
        owner = self.scans.person[scans]
        tables = [self._table(name).table.detach() for name in ("geometry", "appearance", "expression")]
        return PriorCodes(*(t[i.to(t.device)] for t, i in zip(tables, (owner, owner, scans), strict=True)))

    def prior(self, about: dict[str, Any] | None = None) -> Prior:
        """What has been learned so far, on the CPU; `about` is kept with it."""
        geometry, appearance, expression = (
            self._table(name).table.detach().cpu() for name in ("geometry", "appearance", "expression")
        )
        scans, avatar = self.scans, self.avatar
        if self.device.type != "cpu":  # training may go on
            avatar = copy.deepcopy(avatar).cpu()
        return Prior(
            avatar, geometry, appearance, expression, scans.person, scans.neutral, scans.people, scans.scans, about
        )

    def errors(self, scans: Tensor, points: int = 2000) -> dict[str, float]:
        """How far the model is from these of its training scans, at so many points of each: see `surface_errors`."""
        return surface_errors(self.avatar, self.scans, scans, self.codes(scans), points).summary()

    def picture(self) -> Float[Tensor, "h w 3"] | None:
        """Draws the people shown, truth beside model, into images/ if there is a folder; None if nobody is."""
        if not isinstance(self.scans, MeshScans) or not len(self._shown):
            return None
        codes = self.codes(self._shown)
        sheet = comparison(self.avatar, self.scans, self._shown, codes, self.picture_size)
        if self.folder is not None:
            write_picture(self.folder.images / f"step_{self.progress.step:06d}.png", sheet)
        return sheet

    def save(self) -> None:
        """Writes a checkpoint; the one before is kept beside it."""
        assert self.folder is not None
        checkpoint.save(
            self.folder.checkpoint, self.model, self.optimizer, None, {}, self.progress,
            self.folder.previous_checkpoint,
        )  # fmt: skip

    def _start(self, starts: PriorCodes) -> None:
        for name, rows in (("geometry", self.scans.neutral), ("appearance", self.scans.neutral), ("expression", None)):
            table, values = self._table(name).table, getattr(starts, name)
            if values.shape != (len(self.scans), table.shape[1]):
                raise ValueError(
                    f"PriorTrainer: starts.{name} has shape {tuple(values.shape)}; expected "
                    f"{len(self.scans), table.shape[1]}, a code for each scan: make them for these very scans and "
                    "this avatar, as principal_codes does"
                )
            table.data.copy_(values if rows is None else values[rows])

    def _table(self, name: str) -> CodeTable:
        table = self.model[name]
        assert isinstance(table, CodeTable)
        return table

    def _scans_shown(self, people: list[int]) -> Tensor:
        """Of each of these people another of their scans, the first the neutral one."""
        if not isinstance(self.scans, MeshScans):
            return torch.zeros(0, dtype=torch.long)
        chosen = []
        for place, person in enumerate(people):
            own = (self.scans.person == person).nonzero()[:, 0]
            chosen.append(int(self.scans.neutral[person]) if place == 0 else int(own[place % len(own)]))
        return torch.tensor(chosen, dtype=torch.long)


def _mixed(seed: int, step: int) -> int:
    return (seed * 0x9E3779B1 + step * 0x85EBCA77 + 1) & 0x7FFFFFFFFFFFFFFF
