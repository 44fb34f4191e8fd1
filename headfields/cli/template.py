"""`headfields template`: bake posed images onto a proxy mesh."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from headfields.cli.argument_types import OptionalFile, OptionalFolder, OptionalInt
from headfields.cli.errors import CommandError
from headfields.data.camera_axes import Convention


def template(
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")],
    capture: OptionalFolder = None,
    proxy: OptionalFile = None,
    refine: int = 0,
    resolution: int = 1024,
    views: OptionalInt = None,
    convention: Convention = "auto",
    even_exposure: bool = True,
    landmarks: OptionalFile = None,
    body: OptionalFile = None,
    eyes: Literal["auto", "open", "closed"] = "auto",
    scale: float = 1.0,
    inner_mouth: bool = True,
    size: int = 384,
) -> None:
    """Make the template of a 360-degree portrait from posed images and a proxy mesh.

    `headfields template --capture DIR --proxy mesh.obj --out template.obj` bakes a texture for the mesh from images
    taken from around, and --refine 200 first fits the mesh to them; with --out template.npz the result is rigged as
    well. Pictures are written next to the file: look at them. A scan that has a texture needs only `headfields rig`.

    Args:
        out: File to write: .npz is a rig, .obj a textured mesh.
        capture: Folder of posed images (transforms.json, as NeRF's and Nerfstudio's, or a capture); the subject stands
            still. Required.
        proxy: An OBJ file in the frame of the cameras, e.g. of multi-view stereo or a registered body. Required.
        refine: Steps that fit the proxy to the images; 0 keeps its shape.
        resolution: Side of the baked texture, in texels.
        views: Use at most this many images, evenly spaced.
        convention: Axes of the camera-to-world matrices; auto takes those under which the mesh lands on the mattes.
        even_exposure: Whether differences of brightness between images are removed.
        landmarks: For the rig: a JSON of landmarks (docs/rigging.md); detected on the shape if not given.
        body: For the rig: an SMPL-X or FLAME file; the procedural body if not given.
        eyes: For the rig: whether the eyelids are closed; auto looks.
        scale: Meters per unit of the OBJ file.
        inner_mouth: For the rig: whether a mouth that is cut open gets a cavity and teeth.
        size: Side of each picture, in pixels.
    """
    from headfields.apps.texturing import read_posed_images, texture_proxy
    from headfields.apps.texturing.proxy import texture_pictures
    from headfields.cli.rig import rig
    from headfields.mesh import load_mesh, save_mesh

    if out.suffix not in (".npz", ".obj"):
        raise CommandError(f"--out is {out}; expected a file ending in .npz (a rig) or .obj (a textured mesh)")
    if not scale > 0 or size < 1:
        raise CommandError(f"--scale is {scale} and --size is {size}; both must be positive")
    if capture is None or proxy is None:
        raise CommandError(
            "pass both --capture, posed images, and --proxy, its mesh; headfields rig takes a textured scan"
        )
    if refine < 0 or resolution < 16:
        raise CommandError(f"--refine is {refine} and --resolution is {resolution}; expected 0 or more, and 16 or more")
    mesh = load_mesh(proxy, texture=False, scale=scale)
    images = read_posed_images(capture, mesh.vertices, mesh.faces, views, convention)
    for line in images.report:
        print(line)
    height, width = images.camera.size
    print(f"{len(images)} images of {width} x {height}; {len(mesh.vertices)} vertices, {len(mesh.faces)} faces")
    if mesh.uv is None:
        print("the proxy has no texture coordinates: new ones are made")
    result = texture_proxy(images, mesh, resolution, refine, even_exposure=even_exposure, progress=True)
    textured = save_mesh(out.with_suffix(".obj"), result.mesh)
    pictures = textured.parent / f"{textured.stem}_pictures"
    texture_pictures(result, images, pictures, size=size)
    if refine:
        moved = 1e3 * result.moved
        print(f"refined: vertices moved {float(moved.mean()):.2f} mm on average, {float(moved.max()):.2f} mm at most")
    gains = result.baked.gains
    print(f"exposure of the images: {float(gains.min()):.2f} to {float(gains.max()):.2f} of the mean, evened out")
    print(f"{float(result.baked.visible.float().mean()):.0%} of the texture was seen; the rest is filled")
    print(f"wrote {textured}; look at {pictures / 'views.png'} and {pictures / 'turntable.png'}")
    if out.suffix == ".obj":
        print(f"next: headfields rig {textured} --out RIG.npz")
    else:
        rig(textured, out, landmarks, body, eyes=eyes, inner_mouth=inner_mouth, size=size)
