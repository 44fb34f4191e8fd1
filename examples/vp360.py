"""3VP Avatar from a scan: `python examples/vp360.py [--scan head.obj] [--minutes 10] [--frames 72]`.

Rigs a textured scan (the procedural body if not given), renders a capture of it (or loads one), tracks the rig through
it, back views included, trains an avatar on the tracked capture and renders it from all sides. These are the steps of
`headfields rig`, `synth-template`, `track-template`, `train vp360` and `render`.
"""

import argparse
from pathlib import Path

import torch

import headfields as hf


def procedural_scan() -> hf.Mesh:
    """The procedural body as a textured scan."""
    body, texture = hf.synthetic.procedural_body(), hf.synthetic.body.texture.procedural_body_texture()
    return hf.Mesh(
        body.template_vertices, body.faces, uv=body.uv, uv_faces=body.uv_faces,
        texture=torch.from_numpy(texture).float(),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/vp360"))
    parser.add_argument("--scan", type=Path, help="an OBJ with a texture, upright, lips closed")
    parser.add_argument("--capture", type=Path, help="of the scanned person; a synthetic one if not given")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training")
    parser.add_argument("--frames", type=int, default=72, help="of the synthetic capture")
    parser.add_argument("--size", type=int, default=160, help="of its images")
    arguments = parser.parse_args()
    out = arguments.out

    if not (out / "rig.npz").exists():
        scan = procedural_scan() if arguments.scan is None else hf.mesh.load_mesh(arguments.scan)
        hf.rigging.rig_template(scan, hf.synthetic.procedural_body()).rig.save(out / "rig.npz")
    rig = hf.rigging.RiggedTemplate.from_file(out / "rig.npz")
    folder = arguments.capture or out / "talk"
    if not folder.exists():
        rate = arguments.frames / 10
        hf.synthetic.write_rig_capture(rig, folder, "talk", arguments.frames, arguments.size, rate=rate)
    options = hf.tracking.RigTrackingOptions.quick()
    tracker = hf.tracking.RigTracker(rig, hf.data.load_capture(folder), out / "tracking", options)
    result = tracker.run(resume=(out / "tracking").exists())
    for frame, failure in result.failed.items():
        print(f"frame {frame}: {failure.reason}: {failure}")

    capture = hf.data.load_capture(result.capture)
    # Frames are balanced by the yaw of the head, not of the body: by the vertices that the skull carries.
    head = torch.zeros(len(capture.template.canonical_vertices), dtype=torch.bool)
    head[: len(rig.weights)] = rig.weights.argmax(dim=1) == rig.skull_joint
    avatar = hf.models.vp360(capture.template, capture.expression_width or 0)
    trainer = hf.training.Trainer(
        avatar, capture, hf.training.vp360_losses(avatar), samples_per_step=14000, learning_rate=0.02,
        network_learning_rate=0.001, schedule="exponential", out=out / "avatar",
        frame_weights=hf.data.yaw_balanced_weights(capture, vertices=head),
    )  # fmt: skip
    trainer.fit(minutes=arguments.minutes, resume=(out / "avatar" / "checkpoint").exists())
    avatar.save(out / "avatar.safetensors")

    shown = torch.cat([capture.splits["test"], capture.splits["all"]])[:1].tolist()  # few frames leave no test split
    state = capture.state(shown)
    views = [
        avatar.render(hf.viz.view_camera(state.vertices[0], yaw, size=arguments.size), state).rgb
        for yaw in range(0, 360, 60)
    ]
    print(hf.viz.save_image(out / "around.png", hf.viz.side_by_side(views)))


if __name__ == "__main__":
    main()
