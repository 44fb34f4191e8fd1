"""Whether a small prior's deformation learns lids, by the share of correspondences that is drawn on lid skin.

`python -m benchmarks.lid_correspondences` (a minute or two)

Five drawn people with a blink, both winks, a wide-open mouth and five random expressions each. The deformation of
`hf.models.mononphm(small=True)` alone is trained on correspondences, as by `PriorTrainer`: for each share, the part of
the true motion that it reproduces at the vertices that move, (Σ p · t) / Σ t² of predicted offsets p and true ones t,
and how far it moves the open eye's lid in a wink. Above the table: what part of the face's area, and of the squared
motion by area, lids are.

`--scans RUN/scans` takes the drawn scans of a prior, in which eyes close more rarely: the parts are those of each scan
in which lids or chin move by more than half of the farthest.

`--prior RUN` trains nothing: it measures the deformation of a prior on its own scans, with the codes of training, and
on those of the people held out, with codes from `fit_scans`.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

import headfields as hf
from headfields.apps.priors.codes import PriorCodes
from headfields.apps.priors.fit import fit_scans
from headfields.apps.priors.principal_codes import principal_codes
from headfields.apps.priors.prior import load_prior
from headfields.apps.priors.recipes import SMALL_RECIPE
from headfields.apps.priors.scans import load_scans
from headfields.apps.priors.scans.batch import PointCounts
from headfields.apps.priors.scans.meshes import FACE, MeshScans
from headfields.ops.vertex_geometry import face_crosses
from headfields.synthetic.scans.sampler import HeadSampler

NAMED: tuple[dict[str, float], ...] = (
    {},
    {"mouth_open": 0.8},
    {"blink_left": 1, "blink_right": 1},
    {"blink_left": 1},
    {"blink_right": 1},
)
OPEN, BLINK, LEFT, RIGHT = range(1, 5)
CODES = ("geometry", "appearance", "expression")
MOVING = 2e-3
"""Meters that a vertex of a lid or of the chin moves at least."""


Regions = dict[str, Bool[Tensor, " v"]]
Measured = list[tuple[str, int, Bool[Tensor, " v"]]]
Deformation = Callable[[Tensor, Tensor], Tensor]
"""From points (B, N, 3) of scans (B,) to those of the neutral scans."""


def blinking_scans(people: int, random: int) -> tuple[MeshScans, Regions]:
    """Scans of drawn people, the expressions of `NAMED` and some random ones each, and where lids and chin move."""
    head = hf.synthetic.procedural_head()
    sampler, names = HeadSampler(head), head.expression_names

    def weights(**named: float) -> Tensor:
        out = torch.zeros(len(head.expression_basis))
        for name, value in named.items():
            out[names.index(name)] = value
        return out

    meshes = []
    for p in range(people):
        seeds = [np.random.default_rng([0, p, e]) for e in range(random)]
        expression = torch.stack([weights(**named) for named in NAMED] + [sampler.expression(seed) for seed in seeds])
        gaze = torch.stack([torch.zeros(2) for _ in NAMED] + [sampler.gaze(seed) for seed in seeds])
        identity = sampler.identity(np.random.default_rng([0, p])).expand(len(expression), -1)
        meshes.append(sampler.vertices(identity, expression, gaze))
    landmarks = head.landmarks(head.template_vertices[None])[0]
    vertices = torch.cat(meshes)
    scans = MeshScans(
        vertices, head.faces, torch.arange(people).repeat_interleave(len(NAMED) + random),
        torch.full((people, vertices.shape[1], 3), 0.5),
        landmark_vertices=torch.cdist(landmarks, head.template_vertices).argmin(dim=1),
    )  # fmt: skip
    lids = {side: head.expression_basis[names.index(f"blink_{side}")].norm(dim=-1) > MOVING for side in
            ("left", "right")}  # fmt: skip
    chin = (vertices[OPEN] - vertices[0]).norm(dim=-1) > 5 * MOVING
    return scans, lids | {"chin": chin}


def shares(scans: MeshScans, lid: Bool[Tensor, " v"]) -> tuple[float, float]:
    """The lids' share of the face's visible area, and of its squared motion by area."""
    owner = scans.neutral[scans.person]
    squared = (scans.vertices - scans.vertices[owner])[:, scans.faces].mean(2).square().sum(-1)
    area = torch.stack([face_crosses(mesh, scans.faces).norm(dim=-1) for mesh in scans.vertices[scans.neutral]])
    area = area[scans.person] * (scans.visible[owner] & (scans.kind == FACE))
    faces = lid[scans.faces].all(1)
    return float(area[:, faces].sum() / area.sum()), float((area * squared)[:, faces].sum() / (area * squared).sum())


def reproduced(
    scans: MeshScans, measured: Measured, counts: PointCounts, steps: int, seed: int = 0
) -> dict[str, float]:
    """Trains a deformation on correspondences drawn by `counts`; the parts of each motion that it reproduces."""
    torch.manual_seed(seed)
    template = hf.Template(canonical_vertices=scans.mean_neutral(), faces=scans.faces, regions={})
    avatar = hf.models.mononphm(template, small=True, landmarks=scans.mean_landmarks())
    deformer, codes, recipe = avatar.deformer, principal_codes(avatar, scans), SMALL_RECIPE
    tables = {name: getattr(codes, name).clone().requires_grad_() for name in ("geometry", "expression")}
    groups: list[tuple[dict[str, Any], float]] = [
        ({"params": list(deformer.parameters())}, recipe.schedule.networks),
        ({"params": [tables["geometry"]], "weight_decay": 0.0}, recipe.schedule.identity),
        ({"params": [tables["expression"]], "weight_decay": 0.0}, recipe.schedule.expression),
    ]
    optimizer = torch.optim.AdamW([group for group, _ in groups], weight_decay=recipe.schedule.decay)

    def canonical(points: Float[Tensor, "b n 3"], which: Tensor) -> Float[Tensor, "b n 3"]:
        state = type(codes)(tables["geometry"][which], codes.appearance[which], tables["expression"][which]).state()
        flat, frame = points.flatten(0, 1), torch.arange(len(which)).repeat_interleave(points.shape[1])
        return deformer(flat, torch.zeros_like(flat), frame, deformer.prepare(state)).points.view_as(points)

    for step in range(steps):
        for group, (_, rate) in zip(optimizer.param_groups, groups, strict=True):
            group["lr"] = rate * recipe.schedule.factor(step / steps)
        which = scans.draw(step, recipe.scans_per_step, seed)
        batch = scans.sample(which, counts, step)
        error = canonical(batch.posed_points, which) - batch.neutral_points
        optimizer.zero_grad()
        (recipe.weights.correspondence * 16 * error.square().mean()).backward()
        torch.nn.utils.clip_grad_norm_(list(deformer.parameters()), recipe.schedule.clip)
        optimizer.step()

    return {name: float(np.mean(values)) for name, values in parts(scans, measured, canonical).items()}


@torch.no_grad()
def parts(scans: MeshScans, measured: Measured, canonical: Deformation) -> dict[str, list[float]]:
    """By name, the part of each motion that a deformation reproduces."""
    moved: dict[str, list[float]] = {}
    for name, scan, region in measured:
        posed, rest = (scans.vertices[row, region] for row in (scan, int(scans.neutral[scans.person[scan]])))
        offset = canonical(posed[None], torch.tensor([scan]))[0] - posed
        if name.endswith("mm"):
            part = 1e3 * offset.norm(dim=-1).mean()
        else:
            part = (offset * (rest - posed)).sum() / (rest - posed).square().sum()
        moved.setdefault(name, []).append(float(part))
    return moved


def of_prior(run: Path, where: Regions, most: int = 40) -> None:
    """Prints the parts of a prior's own scans, up to `most` motions of each name, and of people it has not seen."""
    prior, scans = load_prior(run), load_scans(run / "scans")
    trained = [number for number, person in enumerate(scans.people) if person in prior.people]
    unseen = [number for number in range(len(scans.people)) if number not in trained]
    for title, people in (("training", trained), ("held out, fitted", unseen)):
        if not people:
            continue
        own = scans.of(people)
        every = [[motion for motion in strongest(own, where) if motion[0] == name] for name in ("lids", "mouth")]
        measured = [motion for motions in every for motion in motions[:: -(-len(motions) // most) or 1]]
        if title == "training":
            codes = prior.codes(torch.arange(len(own)))
        else:
            scans_of = ((own.person == person).nonzero()[:, 0] for person in range(len(people)))
            each = [fit_scans(prior, own, scans).codes for scans in scans_of]
            codes = PriorCodes(*(torch.cat([getattr(c, name) for c in each]) for name in CODES))

        def canonical(points: Tensor, which: Tensor, codes: PriorCodes = codes) -> Tensor:
            deformer, flat = prior.avatar.deformer, points.flatten(0, 1)
            frame = torch.zeros(len(flat), dtype=torch.long)
            prepared = deformer.prepare(codes[which].state())
            return deformer(flat, torch.zeros_like(flat), frame, prepared).points.view_as(points)

        for name, values in parts(own, measured, canonical).items():
            print(f"{title}: {name} {np.mean(values):.2f} ± {np.std(values):.2f} of {len(values)} scans", flush=True)


def named(scans: MeshScans, where: Regions) -> Measured:
    """The motions of `NAMED`, of each person."""
    each, both = len(scans) // len(scans.people), where["left"] | where["right"]
    of = (("blink", BLINK, both), ("wink left", LEFT, where["left"]), ("wink right", RIGHT, where["right"]),
          ("mouth", OPEN, where["chin"]), ("open lid, mm", LEFT, where["right"]))  # fmt: skip
    return [(name, first + place, region) for first in range(0, len(scans), each) for name, place, region in of]


def strongest(scans: MeshScans, where: Regions) -> Measured:
    """The scans in which a region moves by more than half of the farthest, and what moves there."""
    motion = (scans.vertices - scans.vertices[scans.neutral[scans.person]]).norm(dim=-1)
    out: Measured = []
    for name in ("left", "right", "chin"):
        own = torch.nn.functional.pad(where[name], (0, motion.shape[1] - len(where[name])))
        far = (motion * own).amax(1)
        out += [
            ("lids" if name != "chin" else "mouth", scan, own & (motion[scan] > MOVING))
            for scan in (far > 0.5 * far.max()).nonzero()[:, 0].tolist()
        ]
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--shares", type=float, nargs="+", default=[0, 0.15, 0.5])
    parser.add_argument("--features", type=float, default=0.0, help="share of the rest at eyes and mouth")
    parser.add_argument("--people", type=int, default=5)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--scans", type=Path, help="scans of the procedural head, as train-prior keeps them")
    parser.add_argument("--prior", type=Path, help="a prior of the procedural head, by train-prior")
    options = parser.parse_args(arguments)
    scans, where = blinking_scans(options.people, 5)
    if options.prior:
        of_prior(options.prior, where)
        return
    measured = named(scans, where)
    if options.scans:
        scans = load_scans(options.scans)
        measured = strongest(scans, where)
        where = {
            name: torch.nn.functional.pad(own, (0, scans.vertices.shape[1] - len(own))) for name, own in where.items()
        }
    area, motion = shares(scans, where["left"] | where["right"])
    print(f"lids: {100 * area:.1f} % of the face's area, {100 * motion:.2f} % of its squared motion")
    for share in options.shares:
        # a quarter of the correspondences is not on the face
        counts = PointCounts(0, 0, 0, 0, 0, correspondences=128, features=options.features, lids=share)
        rows = [reproduced(scans, measured, counts, options.steps, seed) for seed in range(options.seeds)]
        cells = [f"{name} {np.mean([row[name] for row in rows]):.2f}" for name in rows[0]]
        print(f"{100 * share:3.0f} % on lids: {', '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
