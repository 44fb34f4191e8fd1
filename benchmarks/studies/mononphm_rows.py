"""Priors of `mononphm.toml`: one trained on scans of drawn people, measured on them, on new people, and in tracking.

`python -m benchmarks.studies.mononphm_rows --out DIR` draws the scans, and the capture of another person to track.

Measured are training scans with the mouth wide open, and held-out people fitted by codes alone: from scan to model the
distance of the face, of its part within 3 cm of the mouth, and of the visible inside of the mouth; and from model to
scan that of the model's surface around the mouth, as three cameras see it, which counts lumps that the scan lacks. Then
the prior tracks the capture's first frame and those with the mouth widest (`headfields track --quick`, stage 1 alone).
Measured, after the best rigid alignment, are the distances from the true face to the fit, and from the fit's surface
around the mouth, as the camera sees it outside of the mouth's inside, to the truth; landmarks and PSNR.
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import headfields as hf
from headfields.apps.priors import SMALL_RECIPE, Prior, PriorTrainer, fit_scans, load_prior, principal_codes
from headfields.apps.priors.codes import PriorCodes, anchors_of
from headfields.apps.priors.evaluate import REACH, onto_surface, surface_errors
from headfields.apps.priors.pictures import scan_camera, trace
from headfields.apps.priors.scans.meshes import FACE, INNER, MeshScans, visible_faces
from headfields.apps.priors.scans.store import load_scans
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

IDENTITY, MOTION = 3, 5
"""The tracked person and its motion, those of `benchmarks.tracking_truth`."""
VIEWS = (-35.0, 0.0, 35.0)
"""Yaws of the cameras that see the model's surface around the mouth, degrees."""
WIDEST, OF_A_PERSON = 6, 2
"""Scans that are measured of training, and of a held-out person."""
MEASURES = {
    "face_mm": "distance_face", "mouth_mm": "distance_mouth", "inside_mm": "distance_inside",
    "stray_mm": "distance_stray", "normal_degrees": "normal_face", "color": "color_face",
    "landmarks_px": "landmarks", "psnr": "psnr",
}  # fmt: skip
"""Names of figures in a study."""


def prior(
    capture: Path, folder: Path, seed: int, steps: int, people: int = 24, fit_steps: int = 300, tracked: int = 4,
    **variant: Any,
) -> dict[str, Any]:  # fmt: skip
    """Trains the small MonoNPHM of a variant and measures it; goes on in `folder` where it was stopped.

    Args:
        capture: what `main` has drawn.
        folder, seed, steps: as `headfields.compare.Row.run` has them.
        people: trained on; the others are held out.
        fit_steps: of the codes of a held-out person.
        tracked: frames; 0 for none.
        variant: arguments of `hf.models.mononphm`.
    """
    scans = load_scans(capture / "scans")
    everyone = len(scans.people)
    if not 0 < people < everyone:
        raise ValueError(f"{capture}: scans of {everyone} people; {people} are to be trained on, the others held out")
    train, held_out = scans.of(range(people)), scans.of(range(people, everyone))
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
            raise KeyboardInterrupt
        prior_landmarks(result.prior, own, procedural_head()).save(folder / "landmarks.npz")
        result.prior.save(path)
    trained = load_prior(path)
    wide = widest(own, WIDEST)
    frames = scored("trained", trained, own, wide, trained.codes(wide))
    for person in range(everyone - people):
        mine = other.of([person])
        wide = widest(mine, OF_A_PERSON)
        codes = fit_scans(trained, mine, wide, steps=fit_steps).codes
        frames += scored("held out", trained, mine, wide, codes, OF_A_PERSON * person)
    if tracked:
        recording = hf.data.load_capture(capture / "capture")
        chosen = with_widest(recording, tracked)
        fits, head = track(open_prior(folder, head=procedural_head()), recording, folder / "tracked", chosen)
        frames += [{"stratum": "tracked", "frame": frame, **named(row)}
                   for frame, row in tracking_errors(fits, head, head, recording)[0].items()]  # fmt: skip
    cost = {
        "steps": steps,
        "parameters": sum(p.numel() for p in avatar.parameters()),
        "file, bytes": path.stat().st_size,
    }
    return {"frames": frames, "cost": cost}


def named(figures: dict[str, float]) -> dict[str, float | None]:
    """Figures by their names in a study; none for what is not a number."""
    return {MEASURES[key]: value if math.isfinite(value) else None for key, value in figures.items() if key in MEASURES}


def scored(
    stratum: str, prior: Prior, scans: MeshScans, which: Tensor, codes: PriorCodes, first: int = 0
) -> list[dict[str, Any]]:
    """Figures of each of the scans."""
    rows = []
    for row in range(len(which)):
        one = prior.avatar, scans, which[row : row + 1], codes[row : row + 1]
        figures = {**surface_errors(*one, points=1000).summary(), **mouth_errors(*one), **stray_surface(*one)}
        rows.append({"stratum": stratum, "frame": first + row, **named(figures)})
    return rows


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
) -> tuple[dict[int, dict[str, float]], dict[int, Mesh]]:
    """Errors of the tracked frames, and their surfaces; `measuring` is a head with landmarks."""
    rows: dict[int, dict[str, float]] = {}
    surfaces = {}
    for frame, fit in fits.items():
        surface = extract(head.avatar.field(head.state(fit.free)), resolution=160, progress=False)
        surface = surface.replace(vertices=fit.in_capture(surface.vertices), normals=None)
        errors = {n: fit.errors[n] for n in ("psnr", "iou")}
        errors["landmarks_px"] = landmark_distance(measuring, fit, capture.landmarks(frame), capture.size)
        rows[frame], surfaces[frame] = errors | from_truth(capture, frame, surface), surface
    return rows, surfaces


@torch.no_grad()
def landmark_distance(head: PriorHead, fit: PriorFit, target: Tensor, size: tuple[int, int]) -> float:
    """Mean distance of a fit's landmarks from `target` (68, 2), pixels of the image that was fitted."""
    assert head.landmarks is not None
    posed = head.posed_landmarks(head.avatar.field(head.state(fit.free)))
    pixels = fit.head_camera.project(posed.points)[0]
    scale = torch.tensor([fit.camera.size[1] / size[1], fit.camera.size[0] / size[0]])
    distance = (pixels - target[head.landmarks.number] * scale).norm(dim=1)
    return float(distance[posed.converged].nanmean())


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


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--people", type=int, default=26, help="the last ones of whom the study holds out")
    parser.add_argument("--expressions", type=int, default=10)
    parser.add_argument("--size", type=int, default=192, help="of the capture that priors track")
    arguments = parser.parse_args(words)
    generate_scans(procedural_head(), arguments.people, arguments.expressions, seed=1, out=arguments.out / "scans")
    write_head_capture(arguments.out / "capture", frames=24, size=arguments.size, seed=MOTION, identity=IDENTITY)


if __name__ == "__main__":
    main()
