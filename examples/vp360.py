"""3VP Avatar from a scan: `python examples/vp360.py [--scan head.obj] [--minutes 10] [--frames 72]`.

A textured scan (or the body made by code in its place) is rigged; a recording of it is drawn, or taken; the rig is
tracked through it, from behind too; an avatar is trained on what tracking found, and shown from all sides. What follows
is what `headfields template`, `synth-template`, `track-template`, `train vp360` and `render` do.
"""

import argparse
import math
from pathlib import Path

import torch

import headfields as hf
from headfields.mesh import Mesh, load_mesh
from headfields.rigging import RiggedTemplate, rig_template
from headfields.synthetic.body.model import procedural_body
from headfields.synthetic.body.texture import procedural_body_texture
from headfields.synthetic.rig_captures import write_rig_capture
from headfields.tracking.rig import RigTracker, RigTrackingOptions
from headfields.training import vp360_losses
from headfields.viz import save_image, side_by_side


def made_by_code() -> Mesh:
    """The procedural body as if it had been scanned."""
    body, texture = procedural_body(), torch.from_numpy(procedural_body_texture()).float()
    return Mesh(body.template_vertices, body.faces, uv=body.uv, uv_faces=body.uv_faces, texture=texture)


def from_around(camera: hf.Camera, middle: torch.Tensor, degrees: float) -> hf.Camera:
    """A camera carried around the vertical axis through a point (3,)."""
    angle = math.radians(degrees)
    turn = torch.eye(4)
    turn[0, 0] = turn[2, 2] = math.cos(angle)
    turn[0, 2], turn[2, 0] = math.sin(angle), -math.sin(angle)
    turn[:3, 3] = middle - turn[:3, :3] @ middle
    return camera.replace(world_to_camera=camera.world_to_camera @ turn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/vp360"))
    parser.add_argument("--scan", type=Path, help="an OBJ with a texture, upright, lips closed")
    parser.add_argument("--capture", type=Path, help="of the person of the scan; drawn if not given")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training")
    parser.add_argument("--frames", type=int, default=72, help="of the capture that is drawn")
    parser.add_argument("--size", type=int, default=160, help="of its images")
    arguments = parser.parse_args()
    out = arguments.out

    if not (out / "rig.npz").exists():
        scan = made_by_code() if arguments.scan is None else load_mesh(arguments.scan)
        rig_template(scan, procedural_body()).rig.save(out / "rig.npz")
    rig = RiggedTemplate.from_file(out / "rig.npz")
    folder = arguments.capture or out / "talk"
    if not folder.exists():
        write_rig_capture(rig, folder, "talk", arguments.frames, arguments.size, rate=arguments.frames / 10)
    tracker = RigTracker(rig, hf.data.load_capture(folder), out / "tracking", RigTrackingOptions.quick())
    found = tracker.run(resume=(out / "tracking").exists())
    for frame, failure in found.failed.items():
        print(f"frame {frame}: {failure.reason}: {failure}")

    capture = hf.data.load_capture(found.capture)
    head = torch.zeros(len(capture.template.canonical_vertices), dtype=torch.bool)
    head[: len(rig.weights)] = rig.weights.argmax(dim=1) == rig.skull_joint
    avatar = hf.models.vp360(capture.template, capture.expression_width or 0)
    trainer = hf.training.Trainer(
        avatar, capture, vp360_losses(avatar), samples_per_step=14000, learning_rate=0.02, network_learning_rate=0.001,
        schedule="exponential", frame_weights=hf.data.yaw_balanced_weights(capture, vertices=head), out=out / "avatar",
    )  # fmt: skip
    trainer.fit(minutes=arguments.minutes, resume=(out / "avatar" / "checkpoint").exists())
    avatar.save(out / "avatar.safetensors")

    shown = torch.cat([capture.splits["test"], capture.splits["all"]])[:1].tolist()  # a few frames have no test split
    camera, state = capture.camera(shown)[0], capture.state(shown)
    middle = state.vertices[0].mean(dim=0)
    views = [avatar.render(from_around(camera, middle, turn), state).rgb for turn in range(0, 360, 60)]
    print(save_image(out / "around.png", side_by_side(views)))


if __name__ == "__main__":
    main()
