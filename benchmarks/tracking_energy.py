"""What tracking's energy says of the true codes: `python -m benchmarks.tracking_energy --prior RUN --out FOLDER`.

Draws a capture of a person outside the prior's training set (or takes one with exact meshes), fits geometry and
expression codes to the true meshes of its frames (`fit_scans`: one geometry, an expression a frame), tracks the frames
jointly from the images, and evaluates each term of the energy at both. Poses of the true codes are the capture's own;
appearance, light and color affine are fitted to the images at either codes, from the tracked ones, so that only what
scans determine differs. Where the truth costs more than what was tracked, the energy is wrong; where it costs less, the
optimizer missed it.

The true codes are kept in FOLDER, so that another call with other settings tracks and compares only.
`--spread` and `--emphasis` track again for each pair of `Stage1.spread` and `EnergyWeights.emphasis`. Distances go from
the true face to the surface after rigid alignment, as in `benchmarks.tracking_truth`.
"""

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.tracking_truth import measure, true_face
from headfields.apps.priors import Prior, fit_scans, load_prior
from headfields.apps.priors.fit import FIT_WEIGHTS
from headfields.apps.priors.scans.meshes import MeshScans
from headfields.apps.tracking import PriorTracker, PriorTrackingOptions, open_prior
from headfields.apps.tracking.prior.energy import code_terms, data_energy, draw_energy
from headfields.apps.tracking.prior.head import IDENTITY, PER_FRAME, PriorHead
from headfields.apps.tracking.prior.observation import PriorObservation
from headfields.apps.tracking.prior.options import EnergyWeights, Stage2
from headfields.data import load_capture
from headfields.files.safetensors import read_safetensors, write_safetensors
from headfields.files.versions import FileFormat
from headfields.mesh import Mesh, extract
from headfields.synthetic.captures import write_head_capture
from headfields.synthetic.head.model import procedural_head

RAYS, BATCHES = 800, 2
REFIT, REFIT_RAYS = 25, 200
"""Steps in which appearance, light and color affine are fitted to fixed geometry and expression."""

CODES = FileFormat("headfields.true_codes", "codes of scans", 1, "delete it")

Codes = dict[str, Tensor]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--capture", type=Path, help="a capture with exact meshes, in place of a drawn one")
    parser.add_argument("--frames", type=int, default=3, help="one, if there is no second stage")
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--identity", type=int, nargs="+", default=[3], help="people of the drawn captures")
    parser.add_argument("--scan-steps", type=int, default=200)
    parser.add_argument("--stage1", type=int, default=120, help="steps of the first frame")
    parser.add_argument("--stage2", type=float, default=16.0, help="steps a frame of the second stage; 0: none")
    parser.add_argument("--spread", type=float, nargs="+", default=[0.01])
    parser.add_argument("--emphasis", type=float, nargs="+", default=[100.0])
    parser.add_argument("--weights", type=json.loads, default={}, help="other EnergyWeights of both stages, as JSON")
    parser.add_argument("--distances", action="store_true", help="distances of what is tracked alone, no energies")
    options = parser.parse_args(arguments)
    if options.stage2 == 0 and options.frames > 1:
        parser.error(f"--stage2 is 0 and --frames {options.frames}: stage 1 fits the identity to the first frame alone")
    prior, rows = load_prior(options.prior), []
    table = options.out / "energy.json"
    if table.exists():
        rows = json.loads(table.read_text())
    for person in options.identity:
        folder = options.capture or options.out / f"capture_{person}"
        if not folder.exists():
            write_head_capture(
                folder, frames=options.frames * options.every, size=options.size, seed=5, identity=person,
                progress=False,
            )  # fmt: skip
        true: list[dict[str, Tensor]] = []
        for spread in options.spread:
            for emphasis in options.emphasis:
                weights = {"emphasis": emphasis, **options.weights}
                settings = tracking_options(spread, weights, options.stage1, options.stage2)
                frames = list(range(0, options.frames * options.every, options.every))
                tracker = PriorTracker(
                    open_prior(options.prior, head=procedural_head()), load_capture(folder),
                    options.out / "runs" / str(len(rows)), settings, frames, bar=False,
                )  # fmt: skip
                if options.distances:
                    rows.append({"person": person, "spread": spread, "weights": weights, **distances(tracker)})
                    print(" ".join(f"{key} {_text(value)}" for key, value in rows[-1].items()), flush=True)
                    continue
                if not true:
                    true = scan_codes(prior, tracker, options.scan_steps, options.out / f"true_{person}.safetensors")
                for row in compared(tracker, true):
                    rows.append({"person": person, "spread": spread, "weights": weights, **row})
                    print(" ".join(f"{key} {_text(value)}" for key, value in rows[-1].items()), flush=True)
        table.write_text(json.dumps(rows, indent=1))


def tracking_options(
    spread: float, weights: Mapping[str, Any], first: int, joint: float
) -> PriorTrackingOptions:  # fmt: skip
    """The settings of `--quick` with another spread, weights and numbers of steps."""
    quick = PriorTrackingOptions.quick()
    stage2, none = quick.stage2 or Stage2(), joint == 0
    return dataclasses.replace(
        quick, mesh_resolution=0,
        stage1=dataclasses.replace(
            quick.stage1, steps=first, spread=spread, weights=dataclasses.replace(quick.stage1.weights, **weights)
        ),
        stage2=None if none else dataclasses.replace(
            stage2, steps_a_frame=joint, weights=dataclasses.replace(stage2.weights, **weights)
        ),
    )  # fmt: skip


def scan_codes(prior: Prior, tracker: PriorTracker, steps: int, path: Path) -> list[Codes]:
    """Geometry and expression codes of each frame, fitted to the true meshes in the space that tracking starts from;
    those in the file, if there is one."""
    if path.exists():
        kept, _ = read_safetensors(path, CODES)
        return [dict(zip(("geometry", PER_FRAME), rows, strict=True)) for rows in zip(*kept.values(), strict=True)]
    capture: Any = tracker.capture
    meshes = []
    faces = capture.recording.canonical.faces
    for frame in tracker.frames:
        to_prior = torch.linalg.inv(tracker.observation(frame).to_capture)
        meshes.append(capture.tracked([frame])[0] @ to_prior[:3, :3].T + to_prior[:3, 3])
    vertices = torch.stack(meshes)
    scans = MeshScans(
        vertices, faces, torch.zeros(len(vertices), dtype=torch.long), torch.full((1, vertices.shape[1], 3), 0.5)
    )
    weights = dataclasses.replace(FIT_WEIGHTS, color=0.0, appearance=0.0, appearance_symmetry=0.0)
    fitted = fit_scans(prior, scans, steps=steps, weights=weights, rate=6 / steps)
    print(f"codes of the scans: {1e3 * float(fitted.errors.face.mean()):.2f} mm from the face", flush=True)
    codes = fitted.codes
    write_safetensors(path, {"0": codes.geometry.contiguous(), "1": codes.expression.contiguous()}, {CODES: {}})
    return [{"geometry": codes.geometry[row], PER_FRAME: codes.expression[row]} for row in range(len(vertices))]


def distances(tracker: PriorTracker) -> dict[str, float]:
    """Distances of the tracked heads, means over frames."""
    head, rows = tracker.head, []
    for frame, fit in tracker.run().fits.items():
        surface = extract(head.avatar.field(head.state(fit.free)), resolution=112, progress=False)
        truth = true_face(tracker.capture, frame)
        rows.append(measure(Mesh(fit.in_capture(surface.vertices), surface.faces), truth))
        head.jitter()
    return {f"{key} tracked": sum(row[key] for row in rows) / len(rows) for key in ("mm", "aligned_mm")}


def compared(tracker: PriorTracker, true: list[Codes]) -> list[dict[str, Any]]:
    """Energies and distances at the true and the tracked codes, means over frames."""
    result = tracker.run()
    head, stage2 = tracker.head, tracker.options.stage2
    weights = tracker.options.stage1.weights if stage2 is None else stage2.weights
    rows: dict[str, list[dict[str, float]]] = {"true codes": [], "tracked": []}
    for frame, exact in zip(tracker.frames, true, strict=True):
        fit, observation = result.fits[frame], tracker.observation(frame)
        truth = true_face(tracker.capture, frame)
        own = {name: head.free(name, exact[name]) for name in exact} | {"appearance": fit.free["appearance"]}
        poses = {"true codes": (torch.zeros(3), torch.zeros(3)), "tracked": (fit.rotation, fit.translation)}
        for name, free in (("true codes", own), ("tracked", dict(fit.free))):
            with torch.no_grad():
                head.light.coefficients.copy_(fit.light)
                head.affine.matrix.copy_(fit.matrix)
                head.affine.offset.copy_(fit.offset)
            terms = energies(head, observation, free, poses[name], weights, tracker.options)
            surface = extract(head.avatar.field(head.state(free)), resolution=112, progress=False)
            moved = fit.in_capture(surface.vertices) if name == "tracked" else _in_capture(surface, observation)
            mm = measure(Mesh(moved, surface.faces), truth)
            rows[name].append({**terms, "mm": mm["mm"], "aligned_mm": mm["aligned_mm"]})
            head.jitter()
    return [
        {"codes": name, **{key: sum(row[key] for row in of) / len(of) for key in of[0]}} for name, of in rows.items()
    ]


def energies(
    head: PriorHead, observation: PriorObservation, free: Codes, pose: tuple[Tensor, Tensor], weights: EnergyWeights,
    options: PriorTrackingOptions,
) -> dict[str, float]:  # fmt: skip
    """Weighted terms of a frame at fixed geometry, expression and pose; appearance, light and affine are fitted."""
    random = torch.Generator().manual_seed(7)
    head.sharpen(options.stage1.sharpness[2])
    first = options.stage2 is None  # stage 1 holds the expression of the frame that identity is fitted to
    settings = dataclasses.replace(options, rays=REFIT_RAYS)
    paint = free["appearance"].clone().requires_grad_()
    fitted = [paint, head.light.coefficients, head.affine.matrix, head.affine.offset]
    for parameter in fitted:
        parameter.requires_grad_()
    optimizer = torch.optim.Adam([{"params": [paint], "lr": 0.05 * head.scale}, {"params": fitted[1:], "lr": 0.01}])
    for _ in range(REFIT):
        draw = draw_energy(head, observation, settings, random, landmarks=False)
        codes = {**free, "appearance": paint}
        total, _, _ = data_energy(head, draw, codes, *pose, weights, 0.0)
        total = total + _regularizers(head, codes, weights, first)["appearance"]
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    free["appearance"] = paint.detach()
    terms: dict[str, float] = {}
    settings = dataclasses.replace(options, rays=RAYS)
    landmark_weight = weights.landmarks.at(10**6)
    with torch.no_grad():
        for _ in range(BATCHES):
            draw = draw_energy(head, observation, settings, random, landmarks=True)
            _, parts, _ = data_energy(head, draw, free, *pose, weights, landmark_weight)
            factors = {"color": weights.color, "mask": weights.mask, "landmarks": landmark_weight,
                       "pose": weights.pose}  # fmt: skip
            for name, factor in factors.items():
                if name in parts:
                    terms[name] = terms.get(name, 0.0) + factor * float(parts[name]) / BATCHES
        data = sum(terms.values())
        prior = {name: float(value) for name, value in _regularizers(head, free, weights, first).items()}
    return {**terms, **prior, "data": data, "prior": sum(prior.values()), "total": data + sum(prior.values())}


def _regularizers(head: PriorHead, free: Codes, weights: EnergyWeights, first: bool) -> dict[str, Tensor]:
    """`headfields.apps.tracking.prior.energy.regularizers`, term by term."""
    out: dict[str, Tensor] = {}
    for name in IDENTITY:
        item = (head.in_spreads(name, free[name]), head.layout(name))
        shape, paint = (item, None) if name == "geometry" else (None, item)
        out[name] = code_terms(shape, paint, None, weights, first)
        out[f"likely {name}"] = weights.likely * free[name].square().sum()
    out["expression"] = code_terms(None, None, free[PER_FRAME], weights, first)
    return out


def _in_capture(surface: Mesh, observation: PriorObservation) -> Tensor:
    transform = observation.to_capture
    return surface.vertices @ transform[:3, :3].T + transform[:3, 3]


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
