"""Parts of several papers in one avatar: `python examples/mix_and_match.py [--capture DIR] [--minutes 3]`.

MonoAvatar's convolutional network over the texture map takes the place of INSTA's gated expression: every point learns
from the surface how the face has moved, not the mouth alone. And MonoAvatar's error-correction warp takes up, in front
of INSTA's canonicalizer, what tracking got wrong. And NeuS's signed distance takes the place of INSTA's density: an
avatar with a surface, whose normals are shown and whose mesh is written for some frames. All of them, and INSTA
beside, are trained for the same time.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import headfields as hf
from headfields.decoders import NeRFDecoder, NeuSDecoder
from headfields.deformers import Chain, ErrorWarp, NearSurface, SurfaceCanonicalizer
from headfields.encoders import HashGrid, RegionGate, SurfaceFeatures, UVDisplacementFeatures
from headfields.losses import Eikonal, Elastic, Loss, OpacityLoss, SurfacePrior, WarpMagnitude
from headfields.mesh.unwrapping import unwrapped
from headfields.renderers import NeuSAlpha, OccupancySampler, ScheduledSharpness, SurfaceRenderer, VolumeRenderer
from headfields.synthetic.captures import write_head_capture
from headfields.training import Trainer, evaluate, insta_losses
from headfields.viz import draw_mesh, normal_map, save_image, side_by_side


def canonicalizer(template: hf.Template) -> SurfaceCanonicalizer:
    """INSTA's, as in its preset."""
    return SurfaceCanonicalizer(template.canonical_vertices, template.faces, blended_faces=template.regions.get("face"))


def with_uv_cnn(capture: hf.data.Capture) -> hf.Avatar:
    """INSTA with features of MonoAvatar's network at the nearest surface point, in the place of the gate."""
    template = unwrapped(capture.template)
    source = UVDisplacementFeatures(template, width=16, channels=(8, 16, 32), resolution=64)
    return hf.Avatar(
        deformer=canonicalizer(template),
        encoder=HashGrid(levels=16, features=4, log2_table_size=17, base_resolution=16, finest_resolution=1024),
        condition=SurfaceFeatures(source, template.faces),
        decoder=NeRFDecoder(hidden=64, direction_degree=4),
        renderer=VolumeRenderer(OccupancySampler("posed", step=0.0025, warmup=48)),
        template=template,
    )


def with_warp(capture: hf.data.Capture) -> hf.Avatar:
    """INSTA behind MonoAvatar's error-correction warp: one link limits rays, one moves points, one canonicalizes."""
    template = capture.template
    near = NearSurface(template.canonical_vertices, template.faces)
    warp = ErrorWarp(near.bounds(), frames=len(capture), hidden=64, layers=3, start=200, coarse_to_fine=2000)
    width = min(64, capture.expression_width or 1)
    return hf.Avatar(
        deformer=Chain(near, warp, canonicalizer(template)),
        encoder=HashGrid(levels=16, features=4, log2_table_size=17, base_resolution=16, finest_resolution=1024),
        condition=RegionGate("expression", faces=template.regions["mouth"], width=width),
        decoder=NeRFDecoder(hidden=64, direction_degree=4),
        renderer=VolumeRenderer(OccupancySampler("posed", step=0.0025, warmup=48)),
        template=template,
    )


def with_surface(capture: hf.data.Capture) -> hf.Avatar:
    """INSTA with NeuS's signed distance: a sphere at first, behind INSTA's canonicalizer, that becomes the head.

    Its sharpness is scheduled: a learned one sees to sharp images in hours, and to fog in the first minutes.
    """
    template = capture.template
    sharpening = ScheduledSharpness(300.0, 2400.0, growth=2.0**0.5, every=60)
    return hf.Avatar(
        deformer=canonicalizer(template),
        encoder=HashGrid(levels=10, features=4, log2_table_size=17, base_resolution=16, finest_resolution=256),
        condition=RegionGate(
            "expression", faces=template.regions["mouth"], width=min(64, capture.expression_width or 1)
        ),
        decoder=NeuSDecoder(hidden=64, layers=2, radius=0.1),
        renderer=SurfaceRenderer(OccupancySampler("posed", step=0.0025, warmup=48), NeuSAlpha(sharpening)),
        template=template,
    )


def plain(capture: hf.data.Capture) -> hf.Avatar:
    """INSTA itself."""
    return hf.models.insta(capture.template, expression_width=min(64, capture.expression_width or 1))


MIXES: dict[str, Callable[[hf.data.Capture], hf.Avatar]] = {
    "INSTA": plain, "INSTA with a UV CNN": with_uv_cnn, "INSTA behind a warp": with_warp,
    "INSTA with a surface": with_surface,
}  # fmt: skip


def losses_for(avatar: hf.Avatar) -> list[Loss]:
    """INSTA's losses, and what keeps a warp small or a distance a distance."""
    losses = insta_losses()
    if avatar.deformer.corrects:
        losses += [Elastic(), WarpMagnitude()]
    if avatar.decoder.gives == "distance":
        losses += [Eikonal(weight=0.5), OpacityLoss(), SurfacePrior(skin(avatar.template))]
    return losses


def skin(template: hf.Template) -> torch.Tensor:
    """Faces where the tracked mesh is the surface: not the eyeballs, which few see much of, nor the closed mouth."""
    inner = [template.regions[name] for name in ("eyes", "mouth") if name in template.regions]
    return template.faces[~torch.stack(inner).any(dim=0)] if inner else template.faces


def start_at_mesh(avatar: hf.Avatar, capture: hf.data.Capture, steps: int = 300) -> float:
    """Brings the sphere to the tracked mesh before images count, with next to no rays; the minutes that it took."""
    losses: list[Loss] = [SurfacePrior(skin(avatar.template), until=10 * steps), Eikonal(weight=0.5)]
    trainer = Trainer(avatar, capture, losses, rays_per_step=64, samples_per_step=512, **rates_for(avatar))
    return trainer.fit(steps=steps).seconds / 60


def rates_for(avatar: hf.Avatar) -> dict[str, Any]:
    """A warp learns slowly. A distance has its derivatives looked at too: its table learns slowly, its network fast."""
    if avatar.decoder.gives == "distance":
        return {"learning_rate": 0.003, "network_learning_rate": 0.002}
    warp = {"warp": 1e-4} if avatar.deformer.corrects else {}
    return {"learning_rate": 0.02, "network_learning_rate": 0.001, "learning_rates": warp}


def write_meshes(avatar: hf.Avatar, capture: hf.data.Capture, out: Path, frames: list[int]) -> None:
    """The surface of each frame, as a PLY with colors, and one picture of all of them beside what was seen."""
    rows = []
    for frame in frames:
        camera, state = capture.camera([frame])[0], capture.state([frame])
        mesh = hf.mesh.extract(avatar.field(state), resolution=128, largest=True)
        print(hf.mesh.save_mesh(out / f"{frame:05d}.ply", mesh))
        seen = capture.pixels(frame, background=1.0).target.view(*capture.size, 3)
        rows.append(torch.cat([seen, draw_mesh(mesh, camera, "colors"), draw_mesh(mesh, camera)], dim=1))
    print(save_image(out / "meshes.png", torch.cat(rows)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capture", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/mix_and_match"))
    parser.add_argument("--minutes", type=float, default=3.0, help="of training, each")
    parser.add_argument("--only", default="", help="train those alone whose name holds this")
    arguments = parser.parse_args()
    if not any(arguments.only in name for name in MIXES):
        parser.error(f"--only is {arguments.only!r}; the names are {', '.join(MIXES)}")
    folder = arguments.capture
    if folder is None:
        folder = arguments.out / "capture"
        write_head_capture(folder, frames=72, size=128)  # at once if it is there already
    capture = hf.data.load_capture(folder)
    test = [int(each) for each in capture.splits["test"]]
    frame = test[0]
    camera, state = capture.camera([frame])[0], capture.state([frame])
    columns = {"truth": capture.pixels(frame, background=1.0).target.view(*capture.size, 3)}
    for name, build in MIXES.items():
        if arguments.only not in name:
            continue
        torch.manual_seed(0)
        avatar, begun = build(capture), 0.0
        if avatar.decoder.gives == "distance":
            begun = start_at_mesh(avatar, capture)
        trainer = Trainer(
            avatar, capture, losses_for(avatar), samples_per_step=14000, schedule="exponential", **rates_for(avatar)
        )  # fmt: skip
        trainer.fit(minutes=max(arguments.minutes - begun, 0.1))
        avatar.save(arguments.out / f"{name.replace(' ', '_')}.safetensors")
        figures = evaluate(avatar, capture, frames=test[:: max(len(test) // 6, 1)][:6], bar=True)
        print(f"{name:22s} PSNR {figures['psnr']:5.2f} dB   in the head {figures['psnr_masked']:5.2f} dB")
        rendering = avatar.render(camera, state)
        columns[name] = rendering.rgb
        if rendering.normal is not None:
            columns["its normals"] = normal_map(rendering, camera)
        if avatar.decoder.gives == "distance":
            write_meshes(avatar, capture, arguments.out / "meshes", test[:: max(len(test) // 3, 1)][:3])
    print(save_image(arguments.out / "comparison.png", side_by_side(list(columns.values()), list(columns))))


if __name__ == "__main__":
    main()
