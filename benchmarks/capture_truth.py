"""A capture made from a plain recording, against the exact one: `python -m benchmarks.capture_truth --out FOLDER`.

Takes a capture with exact meshes and throws away its meshes, weights and cameras; its landmarks are moved by normal
noise. `headfields capture`'s steps then make a capture of images, mattes, labels and noisy landmarks, with a head that
does not know the person, and each frame is compared with the truth:

- mean distance from the visible true face (face, eyes, lips) to the tracked surface, after the best similarity, which a
  single camera leaves open;
- overlap (intersection over union) of the tracked mesh's silhouette and the exact mesh's, whole, and without the neck,
  whose length and shoulders differ from head model to head model;
- overlap of the tracked mesh's silhouette and the matte where the person is what the head has: pixels labeled hair,
  clothes or, for a head that ends at the neck, neck do not count, all others do. Beside it that of the exact mesh,
  which is the ceiling;
- focal length, and seconds a frame, all steps together.

FOLDER gets capture_truth.json, capture_truth.png and the run.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from benchmarks.tracking_truth import LIMIT
from headfields.apps.capturing.detectors.files import DetectionFiles
from headfields.apps.capturing.prepare import prepare_recording
from headfields.apps.capturing.video import open_video
from headfields.apps.priors.scans.meshes import visible_faces
from headfields.apps.tracking import HeadTracker, HeadTrackingOptions
from headfields.apps.tracking.head.identity import fit_identity
from headfields.apps.tracking.head.recording import opened_head
from headfields.apps.tracking.head.rig import HeadModel
from headfields.data import load_capture
from headfields.data.labels import Label, labels_of
from headfields.mesh import Mesh, align_to_surface
from headfields.mesh.distances import SurfaceTree
from headfields.ops.render_mesh import render_mesh
from headfields.ops.similarity import fit_similarity
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.records import Camera
from headfields.synthetic import procedural_head
from headfields.viz import draw_mesh, heat, save_image, side_by_side
from headfields.viz.heat import heat_legend

POINTS = 8000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capture", type=Path, required=True, help="a capture with exact meshes")
    parser.add_argument("--head", default="procedural", help="procedural, or a file: benchmarks.ict_people writes one")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--frames", type=int)
    parser.add_argument("--noise", type=float, default=1.0, help="of landmarks, standard deviation in pixels")
    parser.add_argument("--focal", type=float, help="known focal length, pixels")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--no-labels", action="store_true", help="mattes and landmarks alone")
    parser.add_argument("--scale", action="append", default=[], metavar="NAME=VALUE", help="of TermScales; repeatable")
    arguments = parser.parse_args()
    truth = load_capture(arguments.capture)
    arguments.out.mkdir(parents=True, exist_ok=True)
    marks = noisy_landmarks(truth, arguments.noise)
    np.savez(arguments.out / "landmarks.npz", landmarks=marks)
    labels = None if arguments.no_labels else arguments.capture / "seg_mask"
    began, process = time.perf_counter(), time.process_time()
    recording = prepare_recording(
        open_video(arguments.capture, arguments.every, None, arguments.frames), arguments.out / "recording",
        DetectionFiles(arguments.out / "landmarks.npz", None, labels), crop="none", focal=arguments.focal,
    )  # fmt: skip
    assert recording is not None
    read = time.perf_counter()
    head = procedural_head() if arguments.head == "procedural" else opened_head(arguments.head)
    options = HeadTrackingOptions.quick() if arguments.quick else HeadTrackingOptions()
    scales = {name: float(value) for name, _, value in (text.partition("=") for text in arguments.scale)}
    options = replace(options, frame=replace(options.frame, scales=replace(options.frame.scales, **scales)))
    model = HeadModel.of(head, options.identities)
    free = labels_of("hair", "cloth", "ears") if model.one_sided else labels_of("hair", "cloth", "ears", "neck")
    identity = fit_identity(model, recording, options, free, show=lambda text: print(text, flush=True))
    assert identity is not None
    shaped = time.perf_counter()
    tracker = HeadTracker(
        model, identity, recording, arguments.out / f"run_{int(time.time())}", options, free, None,
        arguments.out / "capture",
    )  # fmt: skip
    result = tracker.run()
    if result.interrupted or not result.fits:
        sys.exit(f"nothing to measure: {len(result.fits)} frames tracked, interrupted: {result.interrupted}")
    ended, process = time.perf_counter(), time.process_time() - process
    rows, tiles = [], []
    shown = sorted(result.fits)[:: max(len(result.fits) // 4, 1)][:4]
    for frame, fit in sorted(result.fits.items()):
        own = frame * arguments.every
        state = tracker.body.state([fit.pose])
        tracked = Mesh(state.vertices[0], tracker.rig.faces)
        camera = fit.camera.replace(world_to_camera=fit.pose.world_to_camera)
        row, tile = compare(truth, own, tracked, camera, free, frame in shown)
        rows.append({"frame": own, **row})
        tiles += tile
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0] if name != "frame"}
    count = len(recording)
    own_focal = float(truth.camera([0]).intrinsics[0, 0, 0])
    summary = {
        **means,
        "frames": len(rows), "failed": len(recording.failed) + len(result.failed),
        "focal": identity.focal, "true_focal": own_focal, "focal_source": identity.focal_source,
        "seconds_a_frame": (ended - began) / count, "processor_seconds_a_frame": process / count,
        "seconds_reading": read - began, "seconds_identity": shaped - read, "seconds_frames": ended - shaped,
    }  # fmt: skip
    (arguments.out / "capture_truth.json").write_text(
        json.dumps({"means": summary, "frames": rows, "arguments": vars(arguments)}, indent=1, default=str)
    )
    if tiles:
        images, captions = zip(*tiles, strict=True)
        legend = torch.from_numpy(heat_legend(256, LIMIT)).float() / 255
        save_image(arguments.out / "capture_truth.png", side_by_side([*images, legend], [*captions, ""]))
    for name, value in summary.items():
        print(f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}")


def noisy_landmarks(capture: Any, deviation: float) -> Float[np.ndarray, "f 68 2"]:
    """The landmarks of all frames with normal noise, the same at every call."""
    out = np.full((len(capture), 68, 2), np.nan, np.float32)
    for frame in range(len(capture)):
        marks = capture.landmarks(frame)
        if marks is not None:
            out[frame] = marks.numpy() + deviation * np.random.default_rng([frame, 31]).normal(size=(68, 2))
    return out


def compare(
    capture: Any, frame: int, tracked: Mesh, camera: Camera, free: Sequence[int], draw: bool
) -> tuple[dict[str, float], list[tuple[Tensor, str]]]:
    """Errors of a frame, and pictures of them; `free` are labels of what the head lacks."""
    faces = capture.recording.canonical.faces
    vertices = capture.tracked([frame])[0]
    exact = Mesh(vertices, faces)
    regions = capture.template.regions
    mask = torch.zeros(len(faces), dtype=torch.bool)
    for name in ("face", "eyes", "mouth"):
        if name in regions:
            mask |= regions[name][: len(faces)]
    front = exact.select(mask & visible_faces(vertices[None], faces)[0])
    view = capture.camera([frame])[0]
    images = [render_mesh(TriangleBVH(mesh.faces, mesh.vertices[None]), own)
              for mesh, own in ((exact, view), (tracked, camera), (front, view))]  # fmt: skip
    points = front.sample(POINTS).points
    seen = images[1].mask & images[2].mask & ((images[2].depth - images[0].depth).abs() < 1e-3)
    start = fit_similarity(unprojected(images[0].depth, seen, view), unprojected(images[1].depth, seen, camera))
    best = align_to_surface(points, tracked, scaling=True, start=start).transform
    tree = SurfaceTree(tracked)
    distance = tree.distances(best.apply(points.double()).float()).distance
    silhouettes = [images[0].mask, images[1].mask]
    label = capture.label(frame)
    above = torch.ones_like(silhouettes[0]) if label is None else label != int(Label.NECK)
    row = {
        "surface_mm": 1e3 * float(distance.mean()),
        "surface_p95_mm": 1e3 * float(distance.quantile(0.95)),
        "overlap": overlap(*silhouettes),
        "overlap_above_neck": overlap(*(silhouette & above for silhouette in silhouettes)),
    }
    image = capture.image(frame)
    matte = image[..., 3] > 0.5
    counts = torch.ones_like(matte) if label is None else ~torch.isin(label.long(), torch.tensor(list(free)))
    row["overlap_matte"] = overlap(silhouettes[1] & counts, matte & counts)
    row["overlap_matte_exact"] = overlap(silhouettes[0] & counts, matte & counts)
    if not draw:
        return row, []
    rgb = image[..., :3] * image[..., 3:] + 1 - image[..., 3:]
    on_truth = tree.distances(best.apply(front.vertices.double()).float()).distance
    tiles = [
        (rgb, f"frame {frame}"), (draw_mesh(tracked, camera), "tracked"), (draw_mesh(exact, view), "exact"),
        (draw_mesh(front, view, heat(on_truth, LIMIT), light=None), f"{row['surface_mm']:.2f} mm"),
    ]  # fmt: skip
    return row, tiles


def unprojected(depth: Float[Tensor, "h w"], mask: Bool[Tensor, "h w"], camera: Camera) -> Float[Tensor, "n 3"]:
    """Points (N, 3) float64 in the world, at the pixels of a mask."""
    row, column = mask.nonzero().unbind(1)
    pixels = torch.stack([column + 0.5, row + 0.5, torch.ones_like(row)], 1).double()
    local = depth[mask].double()[:, None] * (pixels @ torch.linalg.inv(camera.intrinsics.reshape(3, 3).double()).T)
    pose = camera.world_to_camera.reshape(4, 4).double()
    return (local - pose[:3, 3]) @ pose[:3, :3]


def overlap(one: Bool[Tensor, "h w"], other: Bool[Tensor, "h w"]) -> float:
    """Intersection over union."""
    return float((one & other).sum() / (one | other).sum().clamp_min(1))


if __name__ == "__main__":
    main()
