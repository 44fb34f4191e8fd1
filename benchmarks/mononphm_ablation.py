"""Ablation of MonoNPHM: hyper-coordinates, color from the geometry's features, the landmark term.

`python -m benchmarks.mononphm_ablation --out DIR [--capture DIR --prior FILE]`

Priors of the same synthetic people differ in one thing: two, one or no hyper-coordinates, or color from the point in
place of the geometry's features. Each trains for the same number of steps, from each of `--seeds` seeds of weights and
points. Measured are training scans with the mouth wide open, and held-out people fitted by codes alone: from scan to
model the distance of the face, of its part within 3 cm of the mouth, and of the visible inside of the mouth; and from
model to scan that of the model's surface around the mouth, as three cameras see it, which counts lumps that the scan
lacks.

Each prior then tracks frames of another person, drawn once in DIR/capture (`headfields track --quick`, stage 1 alone),
the first frame and those with the mouth widest. Measured, after the best rigid alignment, are the distances from the
true face to the fit, and from the fit's surface around the mouth, as the camera sees it outside of the mouth's inside,
to the truth; landmarks and PSNR.

The tables have the mean over the seeds and the standard deviation between them, and with two seeds or more the
difference to the first variant, and whether Student's t-test of the pairs of seeds determines it at 95 %. With
`--capture` (whose meshes are the truth) and `--prior`, frames are also tracked with and without the landmark term.

Each run's folder is one of `headfields track --prior` and `benchmarks.tracking_truth --prior`, with landmarks.

Finished runs, and their figures, are reused; other sizes take another DIR. `ablation.json`, `ablation.png` and
`landmarks.png` are written after each part.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import headfields as hf
from benchmarks.rows import Figures, markdown, summary
from headfields.apps.priors import SMALL_RECIPE, Prior, PriorTrainer, fit_scans, load_prior, principal_codes
from headfields.apps.priors.codes import PriorCodes, anchors_of
from headfields.apps.priors.evaluate import REACH, onto_surface, surface_errors
from headfields.apps.priors.pictures import draw_field, draw_scan, scan_camera, trace
from headfields.apps.priors.scans.meshes import FACE, INNER, MeshScans, visible_faces
from headfields.apps.tracking import PriorTracker, PriorTrackingOptions, open_prior
from headfields.apps.tracking.prior.fit import PriorFit
from headfields.apps.tracking.prior.head import PriorHead, TrackingPrior
from headfields.apps.tracking.prior.load import prior_landmarks
from headfields.mesh import Mesh, align_to_surface, extract
from headfields.mesh.distances import SurfaceTree
from headfields.ops import TriangleBVH
from headfields.ops.render_mesh import render_mesh
from headfields.synthetic import generate_scans, procedural_head
from headfields.synthetic.captures import write_head_capture
from headfields.viz import draw_mesh, save_image, side_by_side

VARIANTS: dict[str, dict[str, Any]] = {
    "2 hyper-coordinates": {"ambient": 2},
    "1 hyper-coordinate": {"ambient": 1},
    "no hyper-coordinates": {"ambient": 0},
    "color from points": {"ambient": 2, "appearance": "point"},
}
COLUMNS = ("face_mm", "mouth_mm", "inside_mm", "stray_mm", "normal_degrees", "color", "landmarks_px", "psnr")
IDENTITY, MOTION = 3, 5
"""The tracked person and its motion, those of `benchmarks.tracking_truth`."""
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


def measured_run(
    folder: Path, sets: tuple[MeshScans, MeshScans], capture: hf.data.Capture, variant: dict[str, Any], seed: int,
    arguments: argparse.Namespace,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """The figures of one variant and seed on training scans, held-out people and a tracked recording."""
    prior, own, other = trained(folder, *sets, variant, seed, arguments.steps)
    wide = widest(own, 6)
    figures = {"trained": measured(prior, own, wide, prior.codes(wide))}
    each = []
    pictures = drawn(prior, own, wide[:2], prior.codes(wide[:2])) if seed == 0 else []
    for person in range(arguments.held_out):
        mine = other.of([person])
        held_wide = widest(mine, 2)
        codes = fit_scans(prior, mine, held_wide, steps=arguments.fit_steps).codes
        each.append(measured(prior, mine, held_wide, codes))
        if pictures and not person:
            pictures += drawn(prior, mine, held_wide[:1], codes)
    figures["held out"] = {key: sum(row[key] for row in each) / len(each) for key in each[0]}
    if pictures:
        save_image(folder / "mouths.png", torch.cat(pictures))
    if arguments.tracked:
        tracking = open_prior(folder, head=procedural_head())
        fits, head = track(tracking, capture, folder / "tracked", with_widest(capture, arguments.tracked))
        figures["tracked"] = tracking_errors(fits, head, head, capture)[0]
    return figures


def ablate_prior(out: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Figures of each variant over the seeds, trained first unless they were before."""
    people = arguments.people
    scans = generate_scans(
        procedural_head(), people + arguments.held_out, arguments.expressions, seed=1, out=out / "scans"
    )
    train, held_out = scans.of(range(people)), scans.of(range(people, people + arguments.held_out))
    capture = hf.data.load_capture(
        write_head_capture(out / "capture", frames=24, size=192, seed=MOTION, identity=IDENTITY)
    )
    chosen = [name for name in VARIANTS if not arguments.only or name in arguments.only]
    rows: dict[str, dict[str, list[Figures]]] = {kind: {} for kind in ("trained", "held out", "tracked")}
    for seed in range(arguments.seeds):  # seeds outside: an interrupted run has equally many of each variant
        for name in chosen:
            folder = out / name.replace(" ", "_") / f"seed_{seed}"
            path = folder / "figures.json"
            if not path.exists():
                figures = measured_run(folder, (train, held_out), capture, VARIANTS[name], seed, arguments)
                path.write_text(json.dumps(figures, indent=1) + "\n")
            for kind, figures in json.loads(path.read_text()).items():
                rows[kind].setdefault(name, []).append(figures)
            baseline = dict.fromkeys(chosen[1:], chosen[0])
            tables = {kind: summary(by, COLUMNS, baseline) for kind, by in rows.items() if by}
            write(out, {"priors": tables, "rows": rows, "steps": arguments.steps, "people": people})
    show(out, train, held_out, chosen)
    return tables


def show(out: Path, train: MeshScans, held_out: MeshScans, chosen: list[str]) -> None:
    """Saves the wide-open mouths of two training scans and of a held-out person, truth and the first seeds."""
    mine = held_out.of([0])
    columns = {"truth": torch.cat([*truths(train, widest(train, 6)[:2]), *truths(mine, widest(mine, 2)[:1])])}
    for name in chosen:
        path = out / name.replace(" ", "_") / "seed_0" / "mouths.png"
        columns[name] = torch.from_numpy(np.array(Image.open(path))).float() / 255
    save_image(out / "ablation.png", side_by_side(list(columns.values()), list(columns)))


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


def track(prior: TrackingPrior, source: Any, folder: Path, frames: list[int]) -> tuple[dict[int, PriorFit], PriorHead]:
    """Fits of frames by stage 1 of `--quick`, all after the first in equally many steps, and the tracker's head."""
    options = PriorTrackingOptions.quick()
    stage1 = replace(options.stage1, pace=(options.stage1.pace[0],) * 3)
    options = replace(options, stage1=stage1, stage2=None, mesh_resolution=0)
    tracker = PriorTracker(prior, source, folder, options, frames)
    result = tracker.run(resume=folder.exists())
    if result.interrupted or not result.fits:
        raise SystemExit(f"{len(result.fits)} frames tracked in {folder}; the same command continues")
    return result.fits, tracker.head


def with_widest(capture: hf.data.Capture, count: int) -> list[int]:
    """Frame 0, and the frames that show most of the inside of the mouth, `count` in all, in the order of time."""
    inside = [_inside(capture.label(frame)).sum() for frame in range(1, len(capture))]
    widest_first = torch.tensor(inside).argsort(descending=True, stable=True) + 1
    return [0, *widest_first[: count - 1].sort().values.tolist()]


def _inside(label: Tensor | None) -> Tensor:
    """Mask of the inside of the mouth."""
    assert label is not None
    numbers = torch.tensor(hf.data.labels.labels_of("mouth_interior"), dtype=torch.int32)
    return torch.isin(label.int(), numbers)


def tracking_errors(
    fits: dict[int, PriorFit], head: PriorHead, measuring: PriorHead, capture: hf.data.Capture
) -> tuple[dict[str, float], list[Tensor]]:
    """Mean errors over the tracked frames, and a picture of each; `measuring` is a head with landmarks."""
    rows, pictures = [], []
    for frame, fit in fits.items():
        surface = extract(head.avatar.field(head.state(fit.free)), resolution=160, progress=False)
        surface = surface.replace(vertices=fit.in_capture(surface.vertices), normals=None)
        errors = {n: fit.errors[n] for n in ("psnr", "iou")}
        errors["landmarks_px"] = landmark_distance(measuring, fit, capture.landmarks(frame), capture.size)
        rows.append(errors | from_truth(capture, frame, surface))
        pictures.append(draw_mesh(surface, square(capture, frame)))
    return {n: sum(row[n] for row in rows) / len(rows) for n in rows[0]} | {"frames": len(fits)}, pictures


def ablate_landmarks(out: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Tracks the capture with landmarks and without, and compares the fits with images, landmarks and truth.

    Without, the tracker gets none: frames start from the capture's cameras with the expression of the frame before. All
    frames after the first have equally many steps in both, as their number would else depend on landmarks. The truth,
    the capture's meshes, is aligned rigidly to the tracked surface: a single camera leaves the distance of a head
    ambiguous.
    """
    capture = hf.data.load_capture(arguments.capture)
    frames = torch.linspace(0, len(capture) - 1, arguments.frames).round().long().unique().tolist()
    table = {}
    pictures: dict[str, list[Tensor]] = {"image": [image_of(capture, frame) for frame in frames]}
    options = PriorTrackingOptions.quick()
    prior = open_prior(arguments.prior, head=procedural_head())
    measuring = PriorHead(prior, options.stage1.spread, options.coarse, options.fine)
    variants = {"with landmarks": (prior, capture), "without landmarks": without_landmarks(prior, capture)}
    for name, (model, source) in variants.items():
        fits, head = track(model, source, out / name.replace(" ", "_"), frames)
        table[name], pictures[name] = tracking_errors(fits, head, measuring, capture)
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
    """Mean distances, mm, after the best rigid alignment: from the visible true face, and from its part within 3 cm of
    the mouth, to a surface; and "stray_mm" from the surface within 3 cm of the mouth, as the frame's camera sees it
    outside of the inside of the mouth, to the truth."""
    faces = capture.recording.canonical.faces
    regions = {name: mask[: len(faces)] for name, mask in capture.template.regions.items()}
    whole = Mesh(capture.tracked([frame])[0], faces)
    visible = visible_faces(whole.vertices[None], faces)[0]
    face, mouth = whole.select(regions["face"] & visible), whole.select(regions["mouth"])
    points = face.sample(20_000).points
    moved = align_to_surface(points[::4], surface, trim=0.1).transform
    distance = SurfaceTree(surface).distances(moved.apply(points.double()).float()).distance
    near = (points - mouth.vertices.mean(dim=0)).norm(dim=1) < 0.03
    errors = {"face_mm": 1e3 * float(distance.mean()), "mouth_mm": 1e3 * float(distance[near].mean())}
    camera = capture.camera([frame])[0]
    image = render_mesh(TriangleBVH(surface.faces, surface.vertices), camera)
    visible_points = image.mask & ~_inside(capture.label(frame))
    rays = camera.rays()
    along = image.depth.flatten() / (rays.directions @ camera.world_to_camera.reshape(4, 4)[2, :3])
    seen = (rays.origins + along[:, None] * rays.directions)[visible_points.flatten()]
    center, truth = (moved.apply(x.double()).float() for x in (mouth.vertices.mean(dim=0)[None], whole.vertices))
    stray = SurfaceTree(Mesh(truth, faces)).distances(seen[(seen - center).norm(dim=1) < 0.03]).distance
    return errors | {"stray_mm": 1e3 * float(stray.clamp(max=REACH).mean())}


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
    parser.add_argument("--tracked", type=int, default=4, help="frames that each prior tracks; 0 for none")
    parser.add_argument("--capture", type=Path, help="with true meshes, to track with and without landmarks")
    parser.add_argument("--prior", type=Path, help="to track it with")
    parser.add_argument("--frames", type=int, default=6)
    arguments = parser.parse_args()
    if (arguments.capture is None) != (arguments.prior is None):
        parser.error("--capture and --prior go together")
    if min(arguments.seeds, arguments.held_out) < 1 or arguments.tracked < 0:
        parser.error("--seeds and --held-out need to be at least 1, --tracked at least 0")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for kind, table in ablate_prior(arguments.out, arguments).items():
        print(f"{kind}\n{markdown(table, [c for c in COLUMNS if any(c in row for row in table.values())])}")
    if arguments.capture is not None:
        for name, row in ablate_landmarks(arguments.out, arguments).items():
            print(f"{name:22s} " + "".join(f"  {key} {value:.3f}" for key, value in row.items()))


if __name__ == "__main__":
    main()
