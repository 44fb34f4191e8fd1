"""MonoAvatar on a capture: `python examples/monoavatar.py [--capture DIR] [--variant C] [--minutes 25]`.

What `headfields train monoavatar` does, step by step. Without `--capture`, a synthetic one is written first.
"""

import argparse
from pathlib import Path

import torch

import headfields as hf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capture", type=Path, help="a synthetic one if not given")
    parser.add_argument("--out", type=Path, default=Path("runs/monoavatar"))
    parser.add_argument("--variant", choices=["D", "C"], default="D", help="displacement maps (D) or codes (C)")
    parser.add_argument("--minutes", type=float, default=25.0, help="of training")
    arguments = parser.parse_args()
    folder = arguments.capture
    if folder is None:
        folder = hf.synthetic.write_head_capture(arguments.out.parent / "capture", frames=72, size=128)  # only once
    capture = hf.data.load_capture(folder, mouth="auto")  # with an inside of the mouth where it is open

    torch.manual_seed(0)
    pose = capture.state([0]).pose
    recipe = hf.training.recipe_of("monoavatar")  # "cpu", or "fast" where there is a GPU: sizes, rays and rates
    avatar = hf.models.monoavatar(
        capture.template, frames=len(capture), variant=arguments.variant, **recipe.arguments,
        expression_width=capture.expression_width or 1, pose_width=0 if pose is None else pose[0].numel(),
    )  # fmt: skip
    options = recipe.trainer_arguments(avatar, capture)  # losses too
    trainer = hf.training.Trainer(avatar, capture, out=arguments.out, **options)
    trainer.fit(minutes=arguments.minutes, resume=True)
    avatar.save(arguments.out / "avatar.safetensors")

    metrics = hf.training.evaluate(avatar, capture, bar=True)
    print({name: metrics[name] for name in ("psnr", "ssim", "psnr_head", "frames", "seconds_per_frame")})
    frame = int(capture.splits["test"][0])
    image = avatar.render(capture.camera([frame])[0], capture.state([frame])).rgb
    print(hf.viz.save_image(arguments.out / "test_frame.png", image))


if __name__ == "__main__":
    main()
