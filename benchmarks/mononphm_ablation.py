"""Ablation of MonoNPHM: hyper-coordinates, color from the geometry's features, the landmark term.

`python -m benchmarks.mononphm_ablation --out DIR [--capture DIR --prior FILE]`

Priors of the same synthetic people differ in one thing: two, one or no hyper-coordinates, or color from the point in
place of the geometry's features. Each trains for the same number of steps, from each of `--seeds` seeds of weights and
points. Measured are training scans with the mouth wide open, and held-out people fitted by codes alone: from scan to
model the distance of the face, of its part within 3 cm of the mouth, and of the visible inside of the mouth; and from
model to scan that of the model's surface around the mouth, as three cameras see it, which counts lumps that the scan
lacks. The tables have the mean over the seeds and the standard deviation between them. With `--capture` (whose meshes
are the truth) and `--prior`, frames are also tracked with and without the landmark term.

Each run's folder is one of `headfields track --prior` and `benchmarks.tracking_truth --prior`, with landmarks.

Finished runs are reused. `ablation.json`, `ablation.png` and `landmarks.png` are written after each part.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import headfields as hf
from headfields.mesh import Mesh, SurfaceTree, align_to_surface, extract
from headfields.priors import (
    SMALL_RECIPE,
    Prior,
    PriorCodes,
    PriorTrainer,
    fit_scans,
    load_prior,
    principal_codes,
    surface_errors,
)
from headfields.priors.codes import anchors_of
from headfields.priors.evaluate import REACH, onto_surface
from headfields.priors.pictures import draw_field, draw_scan, scan_camera, trace
from headfields.priors.scans import MeshScans
from headfields.priors.scans.meshes import FACE, INNER, visible_faces
from headfields.synthetic import generate_scans, procedural_head
from headfields.tracking import PriorFit, PriorHead, TrackingPrior
from headfields.tracking.prior.load import prior_landmarks
from headfields.viz import draw_mesh, save_image, side_by_side

VARIANTS: dict[str, dict[str, Any]] = {
    "2 hyper-coordinates": {"ambient": 2},
    "1 hyper-coordinate": {"ambient": 1},
    "no hyper-coordinates": {"ambient": 0},
    "color from points": {"ambient": 2, "appearance": "point"},
}
COLUMNS = ("face_mm", "mouth_mm", "inside_mm", "stray_mm", "normal_degrees", "color")
VIEWS = (-35.0, 0.0, 35.0)
"""Yaws of the cameras that see the model's surface around the mouth, degrees."""


def model(scans: MeshScans, variant: dict[str, Any], seed: int) -> hf.Avatar:
    """The small MonoNPHM of a variant, on the mean neutral head."""
    torch.manual_seed(seed)
    template = hf.Template(scans.mean_neutral(), scans.faces)
    return hf.models.mononphm(template, small=True, landmarks=scans.mean_landmarks(), **variant)


def widest(scans: MeshScans, count: int) -> Tensor:
    """The `count` scans that show most of the inside of the mouth, widest first."""
    inside = (scans.visible & (scans.kind == INNER)).sum(dim=1)
    return inside.argsort(descending=True, stable=True)[:count]


def mouth_errors(avatar: hf.Avatar, scans: MeshScans, which: Tensor, codes: PriorCodes) -> dict[str, float]:
    """Mean distances, mm, of the centers of visible triangles: within 3 cm of the mouth, and inside it."""
    around, inside = [], []
    for row, scan in enumerate(which.tolist()):
        own = codes[row : row + 1]
        field = avatar.field(own.state())
        centers = scans.vertices[scan, scans.faces].mean(dim=1)
        inner = scans.kind == INNER
        near = (centers - centers[inner].mean(dim=0)).norm(dim=-1) < 0.03
        for mask, distances in (((scans.kind == FACE) & near, around), (inner, inside)):
            points = centers[mask & scans.visible[scan]]
            end, missed = onto_surface(field, points)
            distances.append(torch.where(missed, REACH, (end - points).norm(dim=-1).clamp(max=REACH)))
    return {
        "mouth_mm": 1e3 * float(torch.cat(around).mean()),
        "inside_mm": 1e3 * float(torch.cat(inside).mean()) if sum(map(len, inside)) else float("nan"),
    }


def stray_surface(avatar: hf.Avatar, scans: MeshScans, which: Tensor, codes: PriorCodes) -> dict[str, float]:
    """Mean distance, mm, from the model's surface within 3 cm of the mouth, where cameras see it, to the scan."""
    distances = []
    for row, scan in enumerate(which.tolist()):
        field = avatar.field(codes[row : row + 1].state())
        mouth = scans.vertices[scan, scans.faces[scans.kind == INNER]].mean(dim=(0, 1))
        seen = []
        for yaw in VIEWS:
            rays = scan_camera(mouth, yaw, size=40, extent=0.08).rays()
            along, hit = trace(field, rays)
            seen.append((rays.origins + along[:, None] * rays.directions)[hit])
        points = torch.cat(seen)
        points = points[(points - mouth).norm(dim=-1) < 0.03]
        surface = SurfaceTree(Mesh(scans.vertices[scan], scans.faces[scans.visible[scan]]))
        distances.append(surface.distances(points).distance.clamp(max=REACH))
    return {"stray_mm": 1e3 * float(torch.cat(distances).mean())}


@torch.no_grad()
def measured(prior: Prior, scans: MeshScans, which: Tensor, codes: PriorCodes) -> dict[str, float]:
    errors = surface_errors(prior.avatar, scans, which, codes, points=1000).summary()
    return {
        **errors,
        **mouth_errors(prior.avatar, scans, which, codes),
        **stray_surface(prior.avatar, scans, which, codes),
    }


def over_seeds(rows: list[dict[str, float]]) -> dict[str, float]:
    """Means over seeds, and the standard deviations between them as "... sd"."""
    table = {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in rows[0]}
    spread = {f"{name} sd": float(x.std()) for name, x in table.items() if len(x) > 1}
    return {name: float(x.mean()) for name, x in table.items()} | spread | {"seeds": len(rows)}


def trained(
    folder: Path, train: MeshScans, held_out: MeshScans, variant: dict[str, Any], seed: int, steps: int
) -> tuple[Prior, MeshScans, MeshScans]:
    """The prior of a variant and a seed, trained first unless it was before, and both sets with its anchors."""
    avatar = model(train, variant, seed)
    vertices = anchors_of(avatar).vertices
    own, other = train.with_anchors(vertices), held_out.with_anchors(vertices)
    path = folder / "prior.safetensors"
    if not path.exists():
        recipe = SMALL_RECIPE
        trainer = PriorTrainer(
            avatar, own, recipe.weights, recipe.schedule, recipe.counts, scans_per_step=recipe.scans_per_step,
            noise=recipe.noise, initial_codes=principal_codes(avatar, own), seed=seed, out=folder, pictures=0,
        )  # fmt: skip
        result = trainer.fit(steps=steps, resume=(folder / "checkpoint").exists())
        if result.interrupted:
            raise SystemExit(f"interrupted at step {result.step}; the same command continues")
        prior_landmarks(result.prior, own, procedural_head()).save(folder / "landmarks.npz")
        result.prior.save(path)
    return load_prior(path), own, other


def ablate_prior(out: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Figures of each variant over the seeds, trained first unless they were before."""
    people = arguments.people
    scans = generate_scans(
        procedural_head(), people + arguments.held_out, arguments.expressions, seed=1, out=out / "scans"
    )
    train, held_out = scans.of(range(people)), scans.of(range(people, people + arguments.held_out))
    chosen = {name: VARIANTS[name] for name in VARIANTS if not arguments.only or name in arguments.only}
    rows: dict[str, dict[str, list[dict[str, float]]]] = {name: {"trained": [], "held out": []} for name in chosen}
    pictures: dict[str, list[Tensor]] = {}
    for seed in range(arguments.seeds):  # seeds outside: an interrupted run has equally many of each variant
        for name, variant in chosen.items():
            folder = out / name.replace(" ", "_") / f"seed_{seed}"
            prior, own, other = trained(folder, train, held_out, variant, seed, arguments.steps)
            wide = widest(own, 6)
            rows[name]["trained"].append(measured(prior, own, wide, prior.codes(wide)))
            fits = []
            for person in range(arguments.held_out):
                mine = other.of([person])
                held_wide = widest(mine, 2)
                fits.append((mine, held_wide, fit_scans(prior, mine, held_wide, steps=arguments.fit_steps).codes))
            each = [measured(prior, *fit) for fit in fits]
            rows[name]["held out"].append({key: sum(row[key] for row in each) / len(each) for key in each[0]})
            if seed == 0:
                mine, held_wide, codes = fits[0]
                pictures[name] = drawn(prior, own, wide[:2], prior.codes(wide[:2]))
                pictures[name] += drawn(prior, mine, held_wide[:1], codes)
                columns = {"truth": [*truths(own, wide[:2]), *truths(mine, held_wide[:1])], **pictures}
                save_image(out / "ablation.png", side_by_side([torch.cat(c) for c in columns.values()], list(columns)))
            table = {n: {kind: over_seeds(x) for kind, x in by.items()} for n, by in rows.items() if by["trained"]}
            write(out, {"priors": table, "rows": rows, "steps": arguments.steps, "people": people})
    return table


def drawn(prior: Prior, scans: MeshScans, which: Tensor, codes: PriorCodes) -> list[Tensor]:
    """Color over shaded surface of each scan's codes, from the front."""
    pieces = []
    for row in range(len(which)):
        own = codes[row : row + 1]
        pieces.append(torch.cat(draw_field(prior.avatar, own, scan_camera(scans.center, size=160, extent=0.26))))
    return pieces


def truths(scans: MeshScans, which: Tensor) -> list[Tensor]:
    camera = scan_camera(scans.center, size=160, extent=0.26)
    return [torch.cat(draw_scan(scans, scan, camera)) for scan in which.tolist()]


def ablate_landmarks(out: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Tracks the capture with landmarks and without, and compares the fits with images, landmarks and truth.

    Without, the tracker gets none: frames start from the capture's cameras with the expression of the frame before. All
    frames after the first have equally many steps in both, as their number would else depend on landmarks. The truth,
    the capture's meshes, is aligned rigidly to the tracked surface: a single camera leaves the distance of a head
    ambiguous.
    """
    from headfields.tracking import PriorTracker, PriorTrackingOptions, open_prior

    capture = hf.data.load_capture(arguments.capture)
    frames = torch.linspace(0, len(capture) - 1, arguments.frames).round().long().unique().tolist()
    table = {}
    pictures: dict[str, list[Tensor]] = {"image": [image_of(capture, frame) for frame in frames]}
    options = PriorTrackingOptions.quick()
    pace = (options.stage1.pace[0],) * 3
    options = replace(options, stage1=replace(options.stage1, pace=pace), stage2=None, mesh_resolution=0)
    prior = open_prior(arguments.prior, head=procedural_head())
    measuring = PriorHead(prior, options.stage1.spread, options.coarse, options.fine)
    variants = {"with landmarks": (prior, capture), "without landmarks": without_landmarks(prior, capture)}
    for name, (model, source) in variants.items():
        folder = out / name.replace(" ", "_")
        tracker = PriorTracker(model, source, folder, options, frames)
        fits = tracker.run(resume=folder.exists()).fits
        rows, pictures[name] = [], []
        for frame, fit in fits.items():
            surface = extract(tracker.head.avatar.field(tracker.head.state(fit.free)), resolution=160, progress=False)
            surface = surface.replace(vertices=fit.in_capture(surface.vertices), normals=None)
            errors = {n: fit.errors[n] for n in ("psnr", "iou")}
            errors["landmarks_px"] = landmark_distance(measuring, fit, capture.landmarks(frame), capture.size)
            rows.append(errors | from_truth(capture, frame, surface))
            pictures[name].append(draw_mesh(surface, square(capture, frame)))
        table[name] = {n: sum(row[n] for row in rows) / len(rows) for n in rows[0]} | {"frames": len(fits)}
        write(out, {"landmarks": table})
        if len(fits) == len(frames):
            columns = [torch.cat(column) for column in pictures.values()]
            save_image(out / "landmarks.png", side_by_side(columns, list(pictures)))
    return table


class WithoutLandmarks:
    """A recording whose frames have no landmarks."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def __len__(self) -> int:
        return len(self.source)

    def landmarks(self, frame: int) -> None:
        """None."""


def without_landmarks(prior: TrackingPrior, source: Any) -> tuple[TrackingPrior, WithoutLandmarks]:
    """A prior and a recording that have none: neither the energy nor starts and numbers of steps can use any."""
    return replace(prior, landmarks=None), WithoutLandmarks(source)


@torch.no_grad()
def landmark_distance(head: PriorHead, fit: PriorFit, target: Tensor, size: tuple[int, int]) -> float:
    """Mean distance of a fit's landmarks from `target` (68, 2), pixels of the image that was fitted."""
    assert head.landmarks is not None
    posed = head.posed_landmarks(head.avatar.field(head.state(fit.free)))
    pixels = fit.head_camera.project(posed.points)[0]
    scale = torch.tensor([fit.camera.size[1] / size[1], fit.camera.size[0] / size[0]])
    distance = (pixels - target[head.landmarks.number] * scale).norm(dim=1)
    return float(distance[posed.converged].nanmean())


def square(capture: hf.data.Capture, frame: int) -> hf.Camera:
    """The frame's camera at an image height of 192 pixels."""
    camera = capture.camera([frame])
    return camera.scaled(192 / camera.size[0])


def image_of(capture: hf.data.Capture, frame: int) -> Tensor:
    """A frame over white, at the size of `square`."""
    image = capture.image(frame)
    rgb = (image[..., :3] * image[..., 3:] + 1 - image[..., 3:]).movedim(-1, 0)[None]
    size = square(capture, frame).size
    return torch.nn.functional.interpolate(rgb, size, mode="area")[0].movedim(0, -1)


def from_truth(capture: hf.data.Capture, frame: int, surface: Mesh) -> dict[str, float]:
    """Mean distances, mm, from the visible true face, and from its part within 3 cm of the mouth, to a surface."""
    faces = capture.recording.canonical.faces
    regions = {name: mask[: len(faces)] for name, mask in capture.template.regions.items()}
    whole = Mesh(capture.tracked([frame])[0], faces)
    visible = visible_faces(whole.vertices[None], faces)[0]
    face, mouth = whole.select(regions["face"] & visible), whole.select(regions["mouth"])
    points = face.sample(20_000).points
    moved = align_to_surface(points[::4], surface, trim=0.1).transform
    distance = SurfaceTree(surface).distances(moved.apply(points.double()).float()).distance
    near = (points - mouth.vertices.mean(dim=0)).norm(dim=1) < 0.03
    return {"face_mm": 1e3 * float(distance.mean()), "mouth_mm": 1e3 * float(distance[near].mean())}


def write(out: Path, part: dict[str, Any]) -> None:
    path = out / "ablation.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | part, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--people", type=int, default=24)
    parser.add_argument("--expressions", type=int, default=10)
    parser.add_argument("--held-out", type=int, default=2, help="people to fit codes to")
    parser.add_argument("--steps", type=int, default=2000, help="of each prior")
    parser.add_argument("--fit-steps", type=int, default=300, help="of each held-out person")
    parser.add_argument("--seeds", type=int, default=3, help="of weights and points")
    parser.add_argument("--only", nargs="+", choices=VARIANTS)
    parser.add_argument("--capture", type=Path, help="with true meshes, to track with and without landmarks")
    parser.add_argument("--prior", type=Path, help="to track it with")
    parser.add_argument("--frames", type=int, default=6)
    arguments = parser.parse_args()
    if (arguments.capture is None) != (arguments.prior is None):
        parser.error("--capture and --prior go together")
    if min(arguments.seeds, arguments.held_out) < 1:
        parser.error("--seeds and --held-out need to be at least 1")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, rows in ablate_prior(arguments.out, arguments).items():
        for kind, row in rows.items():
            figures = (f"  {c} {row[c]:6.3f} ± {row.get(f'{c} sd', float('nan')):5.3f}" for c in COLUMNS)
            print(f"{name:22s} {kind:9s}" + "".join(figures))
    if arguments.capture is not None:
        for name, row in ablate_landmarks(arguments.out, arguments).items():
            print(f"{name:22s} " + "".join(f"  {key} {value:.3f}" for key, value in row.items()))


if __name__ == "__main__":
    main()
