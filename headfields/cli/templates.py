"""`headfields template`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from headfields.cli.errors import CommandError


@dataclass(frozen=True)
class Sources:
    """What the template is made from: a scan, or a capture and a proxy."""

    scan: Path | None
    capture: Path | None
    proxy: Path | None
    texture: Path | None
    scale: float


@dataclass(frozen=True)
class Baking:
    """How the texture is made out of images."""

    refine: int
    resolution: int
    views: int | None
    convention: Literal["auto", "opencv", "opengl"]
    even_exposure: bool


@dataclass(frozen=True)
class RigOptions:
    """What `headfields rig` takes beside the scan."""

    landmarks: Path | None
    body: Path | None
    eyes: str
    inner_mouth: bool


def template(source: Sources, baking: Baking, options: RigOptions, out: Path, size: int) -> None:
    """Makes the template and pictures of it, and says what was found."""
    from headfields.cli.rigging import rig

    if out.suffix not in (".npz", ".obj"):
        raise CommandError(f"--out is {out}; expected a file ending in .npz (a rig) or .obj (a textured mesh)")
    if not source.scale > 0 or size < 1:
        raise CommandError(f"--scale is {source.scale} and --size is {size}; both must be positive")
    if source.scan is not None:
        if source.capture is not None or source.proxy is not None:
            raise CommandError("--scan and --capture exclude each other: a scan has its texture already")
        if out.suffix != ".npz":
            raise CommandError(f"--out is {out}, but a scan is rigged into an .npz file")
        mesh, texture, scale = source.scan, source.texture, source.scale
    elif source.capture is None or source.proxy is None:
        raise CommandError("name --scan, a textured mesh, or both --capture, posed images, and --proxy, a mesh of them")
    else:
        mesh, texture, scale = _bake(source.capture, source.proxy, source.scale, baking, out, size), None, 1.0
        if out.suffix == ".obj":
            print(f"next: headfields template --scan {mesh} --out TEMPLATE.npz")
            return
    rig(mesh, out, options.landmarks, options.body, texture, options.eyes, scale, options.inner_mouth, size)


def _bake(capture: Path, proxy: Path, scale: float, options: Baking, out: Path, size: int) -> Path:
    from headfields.mesh.files import load_mesh, save_mesh
    from headfields.texturing import make_template, read_posed_images, template_pictures

    if options.refine < 0 or options.resolution < 16:
        raise CommandError(
            f"--refine is {options.refine} and --resolution is {options.resolution}; expected 0 or more, and 16 or more"
        )
    mesh = load_mesh(proxy, texture=False, scale=scale)
    images = read_posed_images(capture, mesh.vertices, mesh.faces, options.views, options.convention)
    for line in images.report:
        print(line)
    height, width = images.camera.size
    print(f"{len(images)} images of {width} x {height}; {len(mesh.vertices)} vertices, {len(mesh.faces)} faces")
    if mesh.uv is None:
        print("the proxy has no texture coordinates: new ones are made")
    made = make_template(
        images, mesh, options.resolution, options.refine, even_exposure=options.even_exposure, progress=True
    )
    written = save_mesh(out.with_suffix(".obj"), made.mesh)
    pictures = written.parent / f"{written.stem}_pictures"
    template_pictures(made, images, pictures, size=size)
    if options.refine:
        moved = 1e3 * made.moved
        print(f"refined: vertices moved {float(moved.mean()):.2f} mm on average, {float(moved.max()):.2f} mm at most")
    gains = made.baked.gains
    print(f"exposure of the images: {float(gains.min()):.2f} to {float(gains.max()):.2f} of the mean, evened out")
    print(f"{float(made.baked.seen.float().mean()):.0%} of the texture was seen; the rest is filled")
    print(f"wrote {written}; look at {pictures / 'views.png'} and {pictures / 'turntable.png'}")
    return written
