"""3VP Avatar from a scan to a turntable in one command: rig, captures, tracking, training, rendering.

    python -m benchmarks.vp360_chain --scan head.obj --out OUT [--rig RIG.npz] [--minutes 5] [--frames 60] [--size 160]

Steps whose result is in OUT are skipped. Prints held-out PSNR and SSIM of front, side and back views and writes them
to OUT/report.json; the turntable is in OUT/avatar/renders.
"""

import argparse
import json
from pathlib import Path

import torch

from headfields.apps.rigging import RiggedTemplate
from headfields.avatar.avatar import Avatar
from headfields.cli import main as headfields
from headfields.data import load_capture
from headfields.data.balance import view_yaw
from headfields.metrics.image import psnr, ssim
from headfields.viz import save_image, side_by_side


def run(*arguments: object) -> None:
    """Runs one headfields command; a failure ends the chain."""
    print("headfields", *arguments, flush=True)
    if headfields([str(argument) for argument in arguments]):
        raise SystemExit(1)


@torch.no_grad()
def held_out(avatar_path: Path, tracked: Path, rig: RiggedTemplate, pictures: Path) -> dict[str, dict[str, float]]:
    """PSNR and SSIM of test frames, by the view: front, side or back."""
    capture, avatar = load_capture(tracked), Avatar.load(avatar_path).eval()
    frames = capture.splits["test"]
    on_head = rig.weights.argmax(dim=1) == rig.skull_joint
    head = torch.zeros(len(capture.template.canonical_vertices), dtype=torch.bool)
    head[: len(on_head)] = on_head
    yaw = view_yaw(capture, frames, head).rad2deg().abs()
    rows: dict[str, list[tuple[float, float]]] = {"front": [], "side": [], "back": []}
    for frame, turn in zip(frames.tolist(), yaw.tolist(), strict=True):
        image = capture.image(frame)
        truth = image[..., :3] * image[..., 3:] + 1 - image[..., 3:]
        rendering = avatar.render(capture.camera([frame])[0], capture.state([frame])).rgb.clamp(0, 1)
        view = "front" if turn <= 50 else "side" if turn <= 110 else "back"
        rows[view].append((float(psnr(rendering, truth)), float(ssim(rendering, truth))))
        save_image(pictures / f"{view}_{frame:05d}.png", side_by_side([truth, rendering], ["truth", view]))
    out = {}
    for view, values in rows.items():
        if values:
            both = torch.tensor(values).mean(0).tolist()
            out[view] = {"frames": len(values), "psnr": both[0], "ssim": both[1]}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", type=Path)
    parser.add_argument("--rig", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kind", choices=("chair", "talk"), default="talk")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--size", type=int, default=160)
    arguments = parser.parse_args()
    out, rig = arguments.out, arguments.rig or arguments.out / "rig.npz"
    if not rig.exists():
        run("rig", arguments.scan, "--out", rig)
    capture, tracked, avatar = out / arguments.kind, out / "tracking", out / "avatar"
    if not capture.exists():
        run("synth-template", "--rig", rig, "--out", capture, "--kind", arguments.kind, "--frames", arguments.frames,
            "--size", arguments.size, "--rate", arguments.frames / 10)  # fmt: skip
    if not (tracked / "capture" / "transforms.json").exists():
        more = ["--resume"] if tracked.exists() else []
        run("track-template", "--rig", rig, "--capture", capture, "--out", tracked, "--quick", *more)
    if not (avatar / "avatar.safetensors").exists():
        run("train", "vp360", "--capture", tracked / "capture", "--out", avatar, "--minutes", arguments.minutes)
    report = held_out(
        avatar / "avatar.safetensors", tracked / "capture", RiggedTemplate.from_file(rig), out / "held_out"
    )
    (out / "report.json").write_text(json.dumps(report, indent=1))
    print(json.dumps(report))
    run("render", avatar, "--mode", "turntable", "--degrees", 360)


if __name__ == "__main__":
    main()
