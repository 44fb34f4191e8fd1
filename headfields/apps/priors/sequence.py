"""Tracking of scans over time with a prior: one identity, and the expression and pose of each scan, smooth in time.

The counterpart of tracking in images for depth cameras and scanners, whose point clouds MonoNPHM's prior was made for.
All of this file is our own choice; the terms are those of `fit_scans`.
"""

import dataclasses
import hashlib
import math
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from headfields.apps.priors.codes import PriorCodes
from headfields.apps.priors.evaluate import surface_errors
from headfields.apps.priors.fit import EXPRESSION_RATE, FIT_WEIGHTS
from headfields.apps.priors.losses import PriorWeights, prior_terms
from headfields.apps.priors.prior import Prior
from headfields.apps.priors.scans.batch import PointCounts, ScanBatch, generator
from headfields.apps.priors.scans.points import PointScans
from headfields.files.reading import reading
from headfields.files.safetensors import read_safetensors, write_safetensors
from headfields.files.versions import FileFormat
from headfields.mesh import Mesh, align_to_surface, extract, load_mesh
from headfields.ops.rotations import rotation_matrices
from headfields.ops.similarity import Similarity
from headfields.records import check_meters
from headfields.runs import checkpoint
from headfields.runs.folder import RunFolder
from headfields.runs.interrupts import InterruptFlag
from headfields.runs.lock import run_lock
from headfields.runs.nonfinite import SkippedSteps, finite_gradients
from headfields.runs.progress import Progress

__all__ = ["FittedSequence", "ScanFiles", "SequenceOptions", "fit_sequence"]

FITTED = FileFormat("headfields.fitted_sequence", "a fitted sequence of scans", 1, "fit it again")
_FILE = "sequence.safetensors"
_ENDINGS = (".ply", ".obj", ".glb", ".off", ".stl")
_SAVE_SECONDS = 30.0


@dataclass(frozen=True)
class SequenceOptions:
    """Options of `fit_sequence`.

    Attributes:
        steps: of Adam, over all frames together.
        rate: rate of the identity, in standard deviations of the prior, as in `fit_scans`; falls to 0 along a cosine.
        rotation, translation: rates of the poses, radians and meters.
        smooth: weight of the squared change of the expression from one scan to the next, in standard deviations along
            the prior's principal directions, the mean over the changes. 0: every scan for itself.
        points: points of all scans together in a step; a scan has 8 at least.
        trim: share of a scan's points that its first alignment leaves out: hair, shoulders and noise.
        weights: weights of the terms.
        seed: of the draws.
    """

    steps: int = 300
    rate: float = 0.02
    rotation: float = 2e-3
    translation: float = 5e-4
    smooth: float = 0.02
    points: int = 3000
    trim: float = 0.2
    weights: PriorWeights = FIT_WEIGHTS
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "rate", "rotation", "translation", "smooth"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"SequenceOptions: {name} is {getattr(self, name)}; expected 0 or more")
        if self.points < 1 or not 0 <= self.trim < 1:
            raise ValueError(
                f"SequenceOptions: points is {self.points} and trim {self.trim}; expected at least 1, and a share "
                "below 1"
            )


@dataclass(frozen=True)
class ScanFiles:
    """Point clouds of one head over time, as many points each.

    Attributes:
        names: F names, in the order of time.
        points, normals: (F, N, 3) meters, y up, face toward +z at the first one.
        rgb: (F, N, 3) sRGB in [0, 1]; None unless all scans have colors.
    """

    names: tuple[str, ...]
    points: Float[Tensor, "f n 3"]
    normals: Float[Tensor, "f n 3"]
    rgb: Float[Tensor, "f n 3"] | None

    @classmethod
    def read(
        cls, scans: str | Path | Sequence[str | Path], count: int = 4000, scale: float | int = 1.0, seed: int = 0
    ) -> "ScanFiles":
        """Reads meshes, or point clouds with normals: PLY, OBJ, glTF, OFF or STL.

        Args:
            scans: files in the order of time; or a folder, whose files are taken in the order of the numbers in their
                names.
            count: N, points that are drawn from each: evenly over a mesh, any of a point cloud.
            scale: meters in a unit of the files.
            seed: of the draws.

        Raises:
            FileNotFoundError: there is no such folder, or no scan in it.
            ValueError: a file cannot be read, has no points, no normals, or is not in meters; the message names it. Or
                two files have one name but for their endings or folders.
        """
        paths = _in_time(Path(scans)) if isinstance(scans, str | Path) else [Path(path) for path in scans]
        if not paths:
            raise FileNotFoundError(f"ScanFiles.read: no scans; pass files, or a folder with {', '.join(_ENDINGS)}")
        rows = [_drawn(path, count, float(scale), seed + number) for number, path in enumerate(paths)]
        points, normals = (torch.stack([row[k] for row in rows]) for k in (0, 1))
        names = [path.stem for path in paths]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"ScanFiles.read: two scans are called {twice[0]!r}; results go by the names: rename one")
        colors = [row[2] for row in rows if row[2] is not None]
        return cls(
            tuple(names), points, normals,
            torch.stack(colors) if len(colors) == len(rows) else None,
        )  # fmt: skip


@dataclass(frozen=True)
class FittedSequence:
    """The result of `fit_sequence`.

    Attributes:
        names: F names of the scans.
        codes: F rows, with the same geometry and appearance in all.
        rotations, translations: (F, 3, 3), (F, 3) of x → R x + t from a scan to the space of the prior, meters.
        face_mm: (F,) mean distance from a scan's points to the model, millimeters; 20 for points that it lacks.
        interrupted: whether the fit was stopped before its last step.
    """

    names: tuple[str, ...]
    codes: PriorCodes
    rotations: Float[Tensor, "f 3 3"]
    translations: Float[Tensor, "f 3"]
    face_mm: Float[Tensor, " f"]
    interrupted: bool = False

    def mesh(self, prior: Prior, frame: int, resolution: int = 128) -> Mesh:
        """The head of a scan, in the scan's own space, meters.

        Args:
            prior: the model.
            frame: number of the scan.
            resolution: cells along the longest side.
        """
        state = prior.state(self.codes[frame : frame + 1])
        mesh = extract(prior.avatar.eval().field(state), resolution=resolution, progress=False)
        turn = self.rotations[frame]
        normals = None if mesh.normals is None else mesh.normals @ turn
        return mesh.replace(vertices=(mesh.vertices - self.translations[frame]) @ turn, normals=normals)

    def save(self, path: str | Path) -> None:
        """Writes it as safetensors, atomically."""
        tensors = {name: getattr(self.codes, name) for name in ("geometry", "appearance", "expression")}
        tensors |= {name: getattr(self, name) for name in ("rotations", "translations", "face_mm")}
        owned = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
        write_safetensors(path, owned, {FITTED: {"names": list(self.names)}})

    @classmethod
    def load(cls, path: str | Path) -> "FittedSequence":
        """Reads what `save` wrote, or the result in the folder of `fit_sequence`.

        Raises:
            FileNotFoundError, ValueError: there is no such file, or it holds something else.
        """
        path = Path(path) / _FILE if Path(path).is_dir() else Path(path)
        with reading(path, "a fitted sequence"):
            tensors, header = read_safetensors(path, FITTED)
            codes = PriorCodes(*(tensors[name] for name in ("geometry", "appearance", "expression")))
            names = tuple(str(name) for name in header["names"])
            return cls(names, codes, tensors["rotations"], tensors["translations"], tensors["face_mm"])


def fit_sequence(
    prior: Prior,
    scans: ScanFiles,
    out: str | Path | None = None,
    options: SequenceOptions | None = None,
    resume: bool = False,
    progress: bool = True,
) -> FittedSequence:
    """Fits one geometry and one appearance code to scans of a person over time, with an expression and a pose for each.

    Every scan is first aligned to the mean head, from the pose of the scan before (`align_to_surface`). Then all are
    fitted together, as `fit_scans` does, each step on some points of every scan.

    Args:
        prior: the model.
        scans: the point clouds. The first faces +z, y up, to some 20 degrees; its place does not matter.
        out: a folder for a checkpoint every half a minute and the result; None keeps nothing.
        options: numbers of steps and points, rates and weights.
        resume: whether to continue from the checkpoint in the folder; if there is none, the fit begins.
        progress: whether to show bars.

    Returns:
        The fit; of one that Ctrl-C stopped, as far as it came.

    Raises:
        ValueError: the checkpoint is of other scans or options.
        NanLossError: ten steps in a row had a loss or a gradient that is not finite. Such a step is skipped.
        RunLockedError: another process writes to the folder.
    """
    options = SequenceOptions() if options is None else options
    if out is None:
        return _fit(prior, scans, None, options, False, progress)
    folder = RunFolder(out)
    folder.create()
    with run_lock(folder.path):
        return _fit(prior, scans, folder, options, resume, progress)


class _Parameters(nn.Module):
    """What is fitted, and the rigid motions that the poses are relative to.

    Codes are in standard deviations along the prior's principal directions.
    """

    start: Tensor

    def __init__(self, prior: Prior, count: int) -> None:
        super().__init__()
        statistics = prior.statistics()
        self._statistics = (statistics.geometry, statistics.appearance, statistics.expression)
        mean = statistics.geometry.mean
        self.identity = nn.ParameterList(mean.new_zeros(1, each.axes.shape[1]) for each in self._statistics[:2])
        self.expression = nn.Parameter(mean.new_zeros(count, statistics.expression.axes.shape[1]))
        self.rotation, self.translation = (nn.Parameter(mean.new_zeros(count, 3)) for _ in range(2))
        self.register_buffer("start", torch.eye(4).to(mean).repeat(count, 1, 1))

    def codes(self) -> PriorCodes:
        free = (*self.identity, self.expression)
        rows = [each.at(at).expand(len(self.expression), -1) for each, at in zip(self._statistics, free, strict=True)]
        return PriorCodes(*rows)

    def poses(self) -> tuple[Float[Tensor, "f 3 3"], Float[Tensor, "f 3"]]:
        turn = rotation_matrices(self.rotation)
        moved = (turn @ self.start[:, :3, 3:])[..., 0] + self.translation
        return turn @ self.start[:, :3, :3], moved


def _fit(
    prior: Prior, scans: ScanFiles, folder: RunFolder | None, options: SequenceOptions, resume: bool, bar: bool
) -> FittedSequence:
    count, device = len(scans.names), prior.geometry.device
    parameters = _Parameters(prior, count)
    optimizer = torch.optim.Adam(
        [
            {"params": list(parameters.identity), "factor": options.rate},
            {"params": [parameters.expression], "factor": EXPRESSION_RATE * options.rate},
            {"params": [parameters.rotation], "factor": options.rotation},
            {"params": [parameters.translation], "factor": options.translation},
        ],
        lr=0.0,
    )
    done, about = Progress(), _about(prior, scans, options)
    if folder is not None and resume and folder.checkpoint.exists():
        done, _ = checkpoint.load(folder.checkpoint, parameters, optimizer, None)
        if done.extra.get("about") != about:
            raise ValueError(
                f"fit_sequence: {folder.path} holds the fit of other scans, options or another prior; pass the same "
                "ones, or another folder"
            )
    else:
        parameters.start.copy_(_aligned(prior, scans, options, bar).to(device))
    done.extra["about"] = about
    with InterruptFlag() as interrupted:
        _minimize(prior, scans, parameters, optimizer, done, options, folder, bar, interrupted)
    with torch.no_grad():
        codes, (turns, shifts) = parameters.codes(), parameters.poses()
        points = scans.points.to(device) @ turns.mT + shifts[:, None]
        normals = scans.normals.to(device) @ turns.mT
    posed = PointScans(points.cpu(), normals.cpu(), scans.rgb)
    errors = surface_errors(prior.avatar, posed, torch.arange(count), codes, points=500)
    fitted = FittedSequence(
        scans.names, codes, turns, shifts, 1e3 * errors.face, interrupted=done.step < options.steps
    )  # fmt: skip
    if folder is not None:
        fitted.save(folder.path / _FILE)
    return fitted


def _minimize(
    prior: Prior, scans: ScanFiles, parameters: _Parameters, optimizer: torch.optim.Optimizer, done: Progress,
    options: SequenceOptions, folder: RunFolder | None, bar: bool, interrupted: InterruptFlag,
) -> None:  # fmt: skip
    """The remaining steps, with checkpoints."""
    avatar, device = prior.avatar, prior.geometry.device
    source, weights = PointScans(scans.points, scans.normals, scans.rgb), options.weights
    if scans.rgb is None:
        weights = dataclasses.replace(weights, color=0.0)
    each = max(options.points // len(scans.names), 8)
    counts = PointCounts(face=each, static=0, back=0, near=max(each // 4, 1), far=0, correspondences=0)
    which, skipped = torch.arange(len(scans.names)), SkippedSteps("step")
    trainable = [parameter for parameter in avatar.parameters() if parameter.requires_grad]
    avatar.train()
    saved = time.perf_counter()

    def save() -> None:
        if folder is not None:
            folder.checkpoint.parent.mkdir(parents=True, exist_ok=True)
            checkpoint.save(folder.checkpoint, parameters, optimizer, None, {}, done, folder.previous_checkpoint)

    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        with tqdm(
            total=options.steps, initial=done.step, desc="fitting", unit="step", disable=not bar, file=sys.stderr
        ) as shown:
            while done.step < options.steps and not interrupted:
                for group in optimizer.param_groups:
                    group["lr"] = group["factor"] * 0.5 * (1 + math.cos(math.pi * done.step / options.steps))
                batch = _posed(source.sample(which, counts, options.seed + done.step).to(device), *parameters.poses())
                terms = prior_terms(
                    avatar, batch, parameters.codes(), weights, generator(options.seed, 5, done.step), cube=0
                )
                loss = torch.stack([weights.of(name) * term for name, term in terms.items()]).sum()
                if len(which) > 1:
                    change = parameters.expression[1:] - parameters.expression[:-1]
                    loss = loss + options.smooth * change.square().sum(dim=1).mean()
                optimizer.zero_grad()
                fitted = list(parameters.parameters())
                loss.backward(inputs=fitted)
                if finite_gradients(loss, fitted):
                    skipped.accept()
                    optimizer.step()
                else:
                    skipped.skip(done.step, "the loss or a gradient", [])
                done.step += 1
                shown.update()
                shown.set_postfix_str(f"loss {float(loss.detach()):.3f}")
                if time.perf_counter() - saved > _SAVE_SECONDS:
                    save()
                    saved = time.perf_counter()
        save()
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def _posed(batch: ScanBatch, turns: Float[Tensor, "f 3 3"], shifts: Float[Tensor, "f 3"]) -> ScanBatch:
    """The points of scans in the space of the prior."""
    return batch.replace(
        front_points=batch.front_points @ turns.mT + shifts[:, None], front_normals=batch.front_normals @ turns.mT,
        near_points=batch.near_points @ turns.mT + shifts[:, None],
    )  # fmt: skip


@torch.no_grad()
def _aligned(prior: Prior, scans: ScanFiles, options: SequenceOptions, bar: bool) -> Float[Tensor, "f 4 4"]:
    """Rigid motions from each scan to the mean head, each from that of the scan before."""
    field = prior.avatar.eval().field(prior.state())
    head = extract(field, resolution=96, colors=False, largest=True, progress=False).to("cpu")
    front = head.vertices[head.vertices[:, 2] > head.vertices[:, 2].median()]
    pose = Similarity.identity(torch.float64)
    pose = pose.replace(translation=(front.mean(0) - scans.points[0].mean(0)).double())
    out = torch.eye(4).repeat(len(scans.names), 1, 1)
    rows = tqdm(range(len(scans.names)), desc="aligning", unit="scan", disable=not bar, file=sys.stderr)
    for row in rows:
        stride = max(len(scans.points[row]) // 1500, 1)
        pose = align_to_surface(
            scans.points[row, ::stride], head, trim=options.trim, start=pose, steps=40, tolerance=1e-5,
            normals=scans.normals[row, ::stride],
        ).transform  # fmt: skip
        out[row, :3, :3], out[row, :3, 3] = pose.rotation.float(), pose.translation.float()
    return out


def _about(prior: Prior, scans: ScanFiles, options: SequenceOptions) -> dict[str, Any]:
    """What a fit depends on, to tell another one by."""
    content = hashlib.sha256()
    for tensor in (scans.points, scans.normals, scans.rgb, prior.geometry, prior.expression):
        content.update(b"" if tensor is None else tensor.detach().cpu().numpy().tobytes())
    return {"names": list(scans.names), "options": repr(options), "content": content.hexdigest()}


def _in_time(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"ScanFiles.read: {folder} is no folder; pass one, or a list of files")
    paths = [path for path in folder.iterdir() if path.suffix.lower() in _ENDINGS]
    return sorted(paths, key=lambda path: ([int(digits) for digits in re.findall(r"\d+", path.stem)], path.name))


def _drawn(path: Path, count: int, scale: float, seed: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Points, normals and colors of a file."""
    mesh = load_mesh(path, scale=scale)
    if not len(mesh.vertices):
        raise ValueError(f"ScanFiles.read: {path} has no points; leave it out")
    try:
        check_meters(str(path), "its points", mesh.vertices)
    except ValueError as error:
        raise ValueError(f"ScanFiles.read: {error}; scale= says how many meters a unit is") from None
    if len(mesh.faces):
        drawn = mesh.sample(count, seed)
        colors = None
        if mesh.colors is not None:
            colors = (drawn.barycentric[..., None] * mesh.colors[mesh.faces[drawn.face]]).sum(1)
        return drawn.points, drawn.normals, colors
    if mesh.normals is None:
        raise ValueError(
            f"ScanFiles.read: {path} holds points without normals; write normals that point outside with them (Open3D: "
            "estimate_normals, orient_normals_towards_camera_location), or a mesh"
        )
    index = torch.randint(len(mesh.vertices), (count,), generator=torch.Generator().manual_seed(seed))
    return mesh.vertices[index], mesh.normals[index], None if mesh.colors is None else mesh.colors[index]
