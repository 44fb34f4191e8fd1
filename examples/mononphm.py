"""MonoNPHM from nothing: `python examples/mononphm.py [--prior RUN] [--capture DIR] [--minutes 25] [--frames 6]`.

Trains a small prior from the procedural head (or takes one), draws a recording of someone it has not seen (or
takes one), tracks it, and shows what has been found. What follows is what `headfields train-prior` and
`headfields track` do.
"""

import argparse
from pathlib import Path

import torch

import headfields as hf
from headfields.synthetic.captures import write_head_capture
from headfields.viz import draw_mesh, normal_map, save_image, side_by_side


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/mononphm"))
    parser.add_argument("--prior", type=Path)
    parser.add_argument("--capture", type=Path)
    parser.add_argument("--minutes", type=float, default=25.0, help="of training the prior")
    parser.add_argument("--frames", type=int, default=6)
    arguments = parser.parse_args()

    prior_run = arguments.prior
    if prior_run is None:
        prior_run = arguments.out / "prior"
        if not (prior_run / "prior.safetensors").exists():
            from headfields.cli import main as command

            more = ["--resume"] if (prior_run / "checkpoint").exists() else []
            command(["train-prior", "--out", str(prior_run), "--minutes", str(arguments.minutes), *more])
    folder = arguments.capture
    if folder is None:
        folder = write_head_capture(arguments.out / "capture", frames=arguments.frames, size=192, seed=5, identity=3)
    capture = hf.data.load_capture(folder)

    prior = hf.tracking.open_prior(prior_run, head=hf.synthetic.procedural_head())
    options = (
        hf.tracking.PriorTrackingOptions() if torch.cuda.is_available() else hf.tracking.PriorTrackingOptions.quick()
    )
    frames = range(min(arguments.frames, len(capture)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tracker = hf.tracking.PriorTracker(prior, capture, arguments.out / "track", options, list(frames), device=device)
    found = tracker.run(resume=True)
    for frame, failure in found.failed.items():
        print(f"frame {frame}: {failure.reason}: {failure}")

    rows = []
    for frame, fit in found.fits.items():
        print(
            frame, {name: round(fit.errors[name], 3) for name in ("psnr", "iou", "landmarks_px") if name in fit.errors}
        )
        camera = fit.head_camera
        seen = tracker.head.picture(camera.to(device), tracker.head.state(fit.to(tracker.device).free)).to("cpu")
        mesh = draw_mesh(tracker.mesh(fit), camera)
        rows.append((tracker.observation(frame).rgb.cpu(), seen.rgb, normal_map(seen, camera), mesh))
    for frame, row in zip(found.fits, rows, strict=True):
        picture = side_by_side(row, ["truth", "rendering", "normals", "mesh"])
        print(save_image(arguments.out / f"frame_{frame:05d}.png", picture))


if __name__ == "__main__":
    main()
