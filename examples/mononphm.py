"""MonoNPHM from nothing: `python examples/mononphm.py [--prior RUN] [--capture DIR] [--minutes 25] [--frames 6]`.

Trains a small prior on the procedural head (or loads one), writes a synthetic capture of a person outside its training
set (or loads one), tracks that, and shows truth, rendering, normals and mesh of each frame. These are the steps of
`headfields train-prior` and `headfields track`.
"""

import argparse
from pathlib import Path

import torch

import headfields as hf
from headfields.cli.train_prior import train_prior
from headfields.viz import draw_mesh, normal_map, save_image, side_by_side


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/mononphm"))
    parser.add_argument("--prior", type=Path, help="run of headfields train-prior; trained here if not given")
    parser.add_argument("--capture", type=Path, help="a synthetic one if not given")
    parser.add_argument("--minutes", type=float, default=25.0, help="of training the prior")
    parser.add_argument("--frames", type=int, default=6)
    arguments = parser.parse_args()

    prior_run = arguments.prior
    if prior_run is None:
        prior_run = arguments.out / "prior"
        if not (prior_run / "prior.safetensors").exists():
            train_prior(prior_run, minutes=arguments.minutes, resume=True)
    folder = arguments.capture
    if folder is None:
        folder = hf.synthetic.write_head_capture(
            arguments.out / "capture", frames=arguments.frames, size=192, seed=5, identity=3
        )
    capture = hf.data.load_capture(folder)

    prior = hf.tracking.open_prior(prior_run, head=hf.synthetic.procedural_head())
    options = hf.tracking.PriorTrackingOptions.quick()
    if torch.cuda.is_available():
        options = hf.tracking.PriorTrackingOptions()
    frames = range(min(arguments.frames, len(capture)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tracker = hf.tracking.PriorTracker(prior, capture, arguments.out / "track", options, list(frames), device=device)
    result = tracker.run(resume=True)
    for frame, failure in result.failed.items():
        print(f"frame {frame}: {failure.reason}: {failure}")

    for frame, fit in result.fits.items():
        errors = {name: round(fit.errors[name], 3) for name in ("psnr", "iou", "landmarks_px") if name in fit.errors}
        print(frame, errors)
        camera = fit.head_camera
        state = tracker.head.state(fit.to(tracker.device).free)
        rendering = tracker.head.picture(camera.to(device), state).to("cpu")
        mesh = draw_mesh(tracker.mesh(fit), camera)
        columns = (tracker.observation(frame).rgb.cpu(), rendering.rgb, normal_map(rendering, camera), mesh)
        picture = side_by_side(columns, ["truth", "rendering", "normals", "mesh"])
        print(save_image(arguments.out / f"frame_{frame:05d}.png", picture))


if __name__ == "__main__":
    main()
