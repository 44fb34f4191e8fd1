"""Tracking against a known truth: `python -m benchmarks.tracking_truth --prior RUN --out FOLDER`.

Writes a synthetic capture of a person outside the prior's training set, with expressions and light of its own (or takes
a capture with exact meshes), tracks it, and measures each frame's surface against the true mesh: mean distance from the
truth to the surface and mean angle between normals over the visible face, in the camera's frame and after rigid
alignment (a single camera leaves the distance of a head of unknown size ambiguous). Beside it, by the same measure:

- the parametric head that the capture was made from, fitted to the same landmarks and outlines, with free poses;
- the same, held to the capture's own cameras, which are exact here, as strongly as tracking is: slightly by default,
  firmly with `--hold-pose`;
- the prior's mean head with its neutral expression, posed by the landmarks.

Landmarks are exact, unless `--noise` displaces each by that many pixels, as detectors do, for all methods alike.

FOLDER gets truth.json, truth.png (truth, and each with its errors as a heat map) and the tracking run.
"""

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from benchmarks.parametric_fit import fit_parametric
from headfields.apps.priors.scans.meshes import visible_faces
from headfields.apps.tracking import PriorTracker, PriorTrackingOptions, open_prior
from headfields.apps.tracking.prior.options import HELD_POSE, Stage2
from headfields.data import load_capture
from headfields.heads import BlendshapeHead
from headfields.mesh import Mesh, align_to_surface, extract
from headfields.mesh.distances import SurfaceTree
from headfields.synthetic.captures import write_head_capture
from headfields.synthetic.head.model import procedural_head
from headfields.viz import draw_mesh, heat, side_by_side
from headfields.viz.heat import heat_legend

POINTS = 20_000
LIMIT = 0.008  # meters: the upper end of the heat map
HELD = 1000.0  # with --hold-pose: a centimeter from the capture's camera costs as much as landmarks half a pixel off


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--capture", type=Path, help="a capture with exact meshes, in place of a synthetic one")
    parser.add_argument(
        "--blendshapes", type=Path, help="npz of the head it was drawn from; the procedural one if none"
    )
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--identity", type=int, default=3, help="of the synthetic capture")
    parser.add_argument("--seed", type=int, default=5, help="of its motion and hair")
    parser.add_argument("--full", action="store_true", help="the published numbers of rays and steps")
    parser.add_argument("--stage1", type=int, help="steps of the first frame")
    parser.add_argument("--hold-pose", action="store_true", help="tracking trusts the capture's cameras too")
    parser.add_argument("--stage2", type=float, help="steps a frame of the second stage")
    parser.add_argument("--noise", type=float, default=0.0, help="of landmarks, standard deviation in pixels")
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    folder = arguments.capture
    if folder is None:
        folder = write_head_capture(
            arguments.out / "capture", frames=arguments.frames * arguments.every, size=arguments.size,
            seed=arguments.seed, identity=arguments.identity,
        )  # fmt: skip
    capture = load_capture(folder)
    head: Any = procedural_head() if arguments.blendshapes is None else BlendshapeHead.from_file(arguments.blendshapes)
    options = PriorTrackingOptions() if arguments.full else PriorTrackingOptions.quick()
    options = dataclasses.replace(options, mesh_resolution=0)
    if arguments.stage1 is not None:
        options = dataclasses.replace(options, stage1=dataclasses.replace(options.stage1, steps=arguments.stage1))
    if arguments.stage2 is not None:
        joint = options.stage2 or Stage2()
        options = dataclasses.replace(options, stage2=dataclasses.replace(joint, steps_a_frame=arguments.stage2))
    if arguments.hold_pose:
        options = options.holding_pose()
    frames = list(range(0, len(capture), arguments.every))[: arguments.frames]
    source: Any = NoisyLandmarks(capture, arguments.noise, arguments.seed) if arguments.noise else capture
    tracker = PriorTracker(
        open_prior(arguments.prior, head=procedural_head()), source, arguments.out / "run", options, frames
    )
    result = tracker.run(resume=arguments.resume)
    if result.interrupted or not result.fits:
        sys.exit(f"nothing to measure: {len(result.fits)} frames tracked, interrupted: {result.interrupted}")
    observations = {frame: tracker.observation(frame) for frame in result.fits}
    assert tracker.head.landmarks is not None
    fitted = fit_parametric(head, observations, tracker.head.landmarks.number)
    held = fit_parametric(
        head, observations, tracker.head.landmarks.number, held=HELD * options.stage1.weights.pose / HELD_POSE
    )
    mean = _mean_head(tracker)
    names = ("tracked", "parametric head", "parametric, held", "prior's mean")
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    pictures = []
    for frame, fit in result.fits.items():
        truth = true_face(capture, frame)
        own = extract(tracker.head.avatar.field(tracker.head.state(fit.free)), resolution=160, progress=False)
        surfaces = {
            "tracked": own.replace(vertices=fit.in_capture(own.vertices), normals=None),
            "parametric head": _moved(fitted.meshes[frame], observations[frame].to_capture),
            "parametric, held": _moved(held.meshes[frame], observations[frame].to_capture),
            "prior's mean": _moved(mean, observations[frame].to_capture),
        }
        for name, surface in surfaces.items():
            rows[name].append({"frame": frame, **measure(surface, truth)})
        if len(pictures) < 3:
            pictures.append(_row(capture, frame, truth, surfaces, {name: row[-1] for name, row in rows.items()}))
    table = {name: summary(values) for name, values in rows.items()}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "truth.json").write_text(
        json.dumps({"means": table, "frames": rows, "options": dataclasses.asdict(options)}, indent=1, default=str)
    )
    width = max(picture.shape[1] for picture in pictures)
    padded = [np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in pictures]
    Image.fromarray(np.concatenate(padded)).save(arguments.out / "truth.png")
    print(f"{'':18}{'in the camera':>28}{'rigidly aligned':>26}")
    for name, values in table.items():
        print(
            f"{name:18}{values['mm']:16.2f} mm {values['degrees']:7.2f}°{values['aligned_mm']:14.2f} mm "
            f"{values['aligned_degrees']:7.2f}°"
        )


class NoisyLandmarks:
    """A capture with normal noise on its landmarks, the same for a frame at every call.

    Args:
        capture: the source of everything else.
        deviation: standard deviation in each direction, pixels.
        seed: of the noise.
    """

    def __init__(self, capture: Any, deviation: float, seed: int) -> None:
        self.capture, self.deviation, self.seed = capture, deviation, seed

    def __getattr__(self, name: str) -> Any:
        return getattr(self.capture, name)

    def __len__(self) -> int:
        return len(self.capture)

    def landmarks(self, frame: int) -> Tensor | None:
        """(68, 2) in pixels, or None for a frame without landmarks."""
        landmarks = self.capture.landmarks(frame)
        if landmarks is None:
            return None
        noise = np.random.default_rng([self.seed, frame, 31]).normal(size=(68, 2))
        return landmarks + self.deviation * torch.from_numpy(noise).to(landmarks)


def measure(surface: Mesh, truth: Mesh) -> dict[str, float]:
    """Mean distance (mm) and normal angle (degrees) from the truth to a surface, as it is and rigidly aligned."""
    samples = truth.sample(POINTS)
    out = {}
    moved = align_to_surface(samples.points[::4], surface, trim=0.1).transform
    rotation = moved.rotation.to(samples.points)
    for prefix, points, normals in (
        ("", samples.points, samples.normals),
        ("aligned_", moved.apply(samples.points.double()).float(), samples.normals @ rotation.T),
    ):
        closest = SurfaceTree(surface).distances(points)
        cosine = (closest.normal * normals).sum(dim=1).clamp(-1, 1)
        out[f"{prefix}mm"] = 1e3 * float(closest.distance.mean())
        out[f"{prefix}degrees"] = math.degrees(float(torch.arccos(cosine).mean()))
    return out


def summary(rows: list[dict[str, float]]) -> dict[str, float]:
    """Means over frames."""
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0] if name != "frame"}


def true_face(capture: Any, frame: int) -> Mesh:
    """The visible true mesh of the face, the eyes and the lips, by the template's regions, in the capture's world.

    The backs of eyeballs and the inside of a closed mouth are left out: no image and no scan shows them, and a model of
    another kind need not have them.
    """
    faces = capture.recording.canonical.faces
    regions = capture.template.regions
    mask = torch.zeros(len(faces), dtype=torch.bool)
    for name in ("face", "eyes", "mouth"):
        if name in regions:
            mask |= regions[name][: len(faces)]
    vertices = capture.tracked([frame])[0]
    return Mesh(vertices, faces).select(mask & visible_faces(vertices[None], faces)[0])


@torch.no_grad()
def _mean_head(tracker: PriorTracker) -> Mesh:
    head = tracker.head
    state = head.state({name: torch.zeros(head.width(name)) for name in head.names})
    return extract(head.avatar.field(state), resolution=160, progress=False).replace(normals=None)


def _moved(mesh: Mesh, to_capture: Float[Tensor, "4 4"]) -> Mesh:
    return Mesh(mesh.vertices @ to_capture[:3, :3].T + to_capture[:3, 3], mesh.faces)


def _row(
    capture: Any, frame: int, truth: Mesh, surfaces: dict[str, Mesh], errors: dict[str, dict[str, float]]
) -> np.ndarray:
    camera = capture.camera([frame])
    camera = camera.scaled(256 / camera.size[0])
    image = capture.image(frame)
    rgb = (image[..., :3] * image[..., 3:] + 1 - image[..., 3:]).movedim(-1, 0)[None]
    small = torch.nn.functional.interpolate(rgb, camera.size, mode="area")[0].movedim(0, -1)
    tiles, captions = [small, draw_mesh(truth, camera)], [f"frame {frame}", "truth (the face)"]
    for name, surface in surfaces.items():
        tiles.append(draw_mesh(surface, camera))
        captions.append(name)
        closest = SurfaceTree(surface).distances(truth.vertices)
        tiles.append(draw_mesh(truth, camera, heat(closest.distance, LIMIT), light=None))
        captions.append(f"{errors[name]['mm']:.2f} mm, {errors[name]['degrees']:.1f} deg")
    tiles.append(torch.from_numpy(heat_legend(256, LIMIT)).float() / 255)
    captions.append("")
    return side_by_side(tiles, captions)


if __name__ == "__main__":
    main()
