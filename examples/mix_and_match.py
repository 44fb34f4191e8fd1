"""Parts of several papers in one avatar: `python examples/mix_and_match.py [--capture DIR] [--minutes 3]`.

Three variations of INSTA, trained for the same time as INSTA itself:

- MonoAvatar's convolutional network over the texture map replaces the gated expression: every point, not the mouth
  alone, learns from the surface how the face has moved.
- MonoAvatar's error-correction warp, in front of INSTA's canonicalizer, absorbs tracking errors.
- NeuS's signed distance replaces the density: the avatar has a surface, with normals and a mesh for every frame.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

import headfields as hf
from headfields.deformers import Chain, ErrorWarp, NearSurface, SurfaceCanonicalizer
from headfields.encoders import HashGrid, RegionGate, SurfaceFeatures, UVDisplacementFeatures
from headfields.losses import Eikonal, Elastic, Loss, OpacityLoss, SurfacePrior, WarpMagnitude
from headfields.viz import draw_mesh, normal_map, save_image, side_by_side


def build(name: str, capture: hf.data.Capture) -> hf.Avatar:
    """INSTA, or INSTA with one part replaced or added; a name of `NAMES`."""
    template = capture.template
    expressions = min(64, capture.expression_width or 1)
    if name == "INSTA":
        return hf.models.insta(template, expression_width=expressions)
    deformer: hf.Deformer = SurfaceCanonicalizer(
        template.canonical_vertices, template.faces, blended_faces=template.regions.get("face")
    )
    encoder = HashGrid(levels=16, features=4, log2_table_size=17, base_resolution=16, finest_resolution=1024)
    condition: hf.Encoder = RegionGate("expression", faces=template.regions["mouth"], width=expressions)
    decoder: hf.Decoder = hf.decoders.NeRFDecoder(hidden=64, direction_degree=4)
    sampler = hf.renderers.OccupancySampler("posed", step=0.0025, warmup=48)
    renderer: hf.Renderer = hf.renderers.VolumeRenderer(sampler)
    if name == "INSTA with a UV CNN":
        template = hf.mesh.unwrap_template(template)
        source = UVDisplacementFeatures(template, width=16, channels=(8, 16, 32), resolution=64)
        condition = SurfaceFeatures(source, template.faces)
    elif name == "INSTA behind a warp":
        near = NearSurface(template.canonical_vertices, template.faces)  # limits rays; the warp then moves points
        warp = ErrorWarp(near.bounds(), frames=len(capture), hidden=64, layers=3, start=200, coarse_to_fine=2000)
        deformer = Chain(near, warp, deformer)
    elif name == "INSTA with a surface":
        encoder = HashGrid(levels=10, features=4, log2_table_size=17, base_resolution=16, finest_resolution=256)
        decoder = hf.decoders.NeuSDecoder(hidden=64, layers=2, radius=0.1)
        # A learned sharpness takes hours to become sharp; a scheduled one takes minutes.
        sharpness = hf.renderers.ScheduledSharpness(300.0, 2400.0, growth=2.0**0.5, every=60)
        renderer = hf.renderers.SurfaceRenderer(sampler, hf.renderers.NeuSAlpha(sharpness))
    return hf.Avatar(
        deformer=deformer, encoder=encoder, condition=condition, decoder=decoder, renderer=renderer, template=template
    )  # fmt: skip


NAMES = ("INSTA", "INSTA with a UV CNN", "INSTA behind a warp", "INSTA with a surface")


def train(avatar: hf.Avatar, capture: hf.data.Capture, minutes: float) -> None:
    """INSTA's losses, and those that keep a warp small or a distance a distance."""
    options: dict[str, Any] = {"samples_per_step": 14000, "schedule": "exponential", "learning_rate": 0.02}
    options |= {"network_learning_rate": 0.001}
    losses: list[Loss] = hf.training.insta_losses()
    if avatar.deformer.corrects:
        losses += [Elastic(), WarpMagnitude()]
        options |= {"learning_rates": {"warp": 1e-4}}
    if avatar.decoder.gives == "distance":
        # Derivatives of a distance enter the losses: its table learns slowly, its network fast.
        rates: dict[str, Any] = {"learning_rate": 0.003, "network_learning_rate": 0.002}
        options |= rates
        # Faces where the tracked mesh is the surface: not the eyeballs, which are mostly hidden, nor the closed mouth.
        regions, faces = avatar.template.regions, avatar.template.faces
        inner = [regions[name] for name in ("eyes", "mouth") if name in regions]
        skin = faces[~torch.stack(inner).any(dim=0)] if inner else faces
        losses += [Eikonal(weight=0.5), OpacityLoss(), SurfacePrior(skin)]
        # The initial sphere is fitted to the tracked mesh first, with few rays.
        start = hf.training.Trainer(
            avatar, capture, [SurfacePrior(skin, until=3000), Eikonal(weight=0.5)], rays_per_step=64,
            samples_per_step=512, **rates,
        )  # fmt: skip
        minutes = max(minutes - start.fit(steps=300).seconds / 60, 0.1)
    hf.training.Trainer(avatar, capture, losses, **options).fit(minutes=minutes)


def write_meshes(avatar: hf.Avatar, capture: hf.data.Capture, out: Path, frames: list[int]) -> None:
    """The surface of each frame as a PLY file with colors, and a picture of each next to the image."""
    rows = []
    for frame in frames:
        camera, state = capture.camera([frame])[0], capture.state([frame])
        mesh = hf.mesh.extract(avatar.field(state), resolution=128, largest=True)
        print(hf.mesh.save_mesh(out / f"{frame:05d}.ply", mesh))
        image = capture.pixels(frame, background=1.0).target.view(*capture.size, 3)
        rows.append(torch.cat([image, draw_mesh(mesh, camera, "colors"), draw_mesh(mesh, camera)], dim=1))
    print(save_image(out / "meshes.png", torch.cat(rows)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capture", type=Path, help="a synthetic one if not given")
    parser.add_argument("--out", type=Path, default=Path("runs/mix_and_match"))
    parser.add_argument("--minutes", type=float, default=3.0, help="of training, for each avatar")
    parser.add_argument("--only", default="", help="only avatars whose name contains this")
    arguments = parser.parse_args()
    names = [name for name in NAMES if arguments.only in name]
    if not names:
        parser.error(f"--only is {arguments.only!r}; the names are {', '.join(NAMES)}")
    folder = arguments.capture
    if folder is None:
        folder = hf.synthetic.write_head_capture(arguments.out / "capture", frames=72, size=128)  # only once
    capture = hf.data.load_capture(folder)
    test = [int(frame) for frame in capture.splits["test"]]
    camera, state = capture.camera(test[:1])[0], capture.state(test[:1])
    columns = {"truth": capture.pixels(test[0], background=1.0).target.view(*capture.size, 3)}
    for name in names:
        torch.manual_seed(0)
        avatar = build(name, capture)
        train(avatar, capture, arguments.minutes)
        avatar.save(arguments.out / f"{name.replace(' ', '_')}.safetensors")
        metrics = hf.training.evaluate(avatar, capture, frames=test[:: max(len(test) // 6, 1)][:6], bar=True)
        print(f"{name:22s} PSNR {metrics['psnr']:5.2f} dB   in the head {metrics['psnr_head']:5.2f} dB")
        rendering = avatar.render(camera, state)
        columns[name] = rendering.rgb
        if avatar.decoder.gives == "distance":
            columns["its normals"] = normal_map(rendering, camera)
            write_meshes(avatar, capture, arguments.out / "meshes", test[:: max(len(test) // 3, 1)][:3])
    print(save_image(arguments.out / "comparison.png", side_by_side(list(columns.values()), list(columns))))


if __name__ == "__main__":
    main()
