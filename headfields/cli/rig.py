"""`headfields rig`: rig a textured scan of a head."""

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from headfields.cli.argument_types import OptionalFile, Rig
from headfields.cli.errors import CommandError


def rig(
    scan: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SCAN.obj")],
    /,
    out: Rig,
    landmarks: OptionalFile = None,
    body: OptionalFile = None,
    texture: OptionalFile = None,
    eyes: Literal["auto", "open", "closed"] = "auto",
    scale: float = 1.0,
    inner_mouth: bool = True,
    size: int = 384,
) -> None:
    """Rig a textured scan of a head: skeleton, expressions, regions and landmarks from a parametric body.

    The scan stands upright and looks toward +z, its lips closed. A body is aligned to it and registered as rigidly as
    possible; skinning weights, expressions, regions and landmarks are transferred by closest triangles. A sealed mouth
    is cut along the lips and gets an inside. Pictures of the rig, posed, are written next to it: look at them.

    Args:
        scan: An OBJ file, with texture coordinates if it has a texture.
        out: File to write. Pictures go to a folder of the same name with _pictures.
        landmarks: A JSON of landmarks by name or number (docs/rigging.md); detected on the shape if not given.
        body: An SMPL-X or FLAME file with landmarks; the procedural body if not given.
        texture: The image, where the OBJ's material does not name it.
        eyes: Whether the scan's eyelids are closed; auto looks at the texture between them.
        scale: Meters per unit of the OBJ file.
        inner_mouth: Whether a mouth that is cut open gets a cavity and teeth.
        size: Side of each picture, in pixels.
    """
    from headfields.apps.rigging import rig_template
    from headfields.apps.rigging.landmarks import read_scan_landmarks
    from headfields.apps.rigging.pictures import rig_pictures
    from headfields.mesh import load_mesh

    if not scale > 0 or size < 1:
        raise CommandError(f"--scale is {scale} and --size is {size}; both must be positive")
    mesh = load_mesh(scan, True if texture is None else texture, scale)
    points = None if landmarks is None else read_scan_landmarks(landmarks)
    eyes_closed = {"auto": None, "open": False, "closed": True}[eyes]
    result = rig_template(mesh, _body(body), points, eyes_closed=eyes_closed, inner_mouth=inner_mouth)
    path = result.rig.save(out)
    pictures = path.parent / f"{path.stem}_pictures"
    rig_pictures(result, pictures, size)

    registration = result.registration
    distance = float("nan")
    if bool(registration.matched.any()):
        distance = 1e3 * float(registration.distance[registration.matched].square().mean().sqrt())
    filled = 1 - float(result.confidence.mean())
    lips = "parted already, left as they are" if result.parted else "cut apart"
    print(
        f"{len(mesh.vertices)} vertices, {len(mesh.faces)} faces; the body's size times {float(result.align.scale):.3f}"
    )
    print(f"landmarks: {len(result.landmarks.points)} ({'given' if landmarks else 'found on the shape'})")
    matched = int(registration.matched.sum())
    print(f"registered: {distance:.2f} mm root mean square, over {matched} of the body's vertices")
    print(f"eyes: {'closed' if result.eyes_closed else 'open'}; lips: {lips}")
    print(f"{filled:.0%} of the vertices have no counterpart and took their neighbors' weights")
    print(f"wrote {path}; look at {pictures / 'sheet.png'}")
    print(f'read it with headfields.apps.rigging.RiggedTemplate.from_file("{path}")')


def _body(path: Path | None) -> Any:
    """The parametric body in a file, FLAME's or SMPL-X's by its number of joints, or the procedural one."""
    from headfields.files.arrays import load_arrays
    from headfields.files.unpickler import to_array
    from headfields.heads import FlameHead, SmplxHead
    from headfields.synthetic import procedural_body

    if path is None:
        return procedural_body()
    tree = to_array(load_arrays(path).get("kintree_table", ()), f"{path}: kintree_table")
    joints = tree.shape[1] if tree.ndim == 2 else 0
    if joints not in (5, 55):
        raise CommandError(f"--body {path} has {joints} joints; FLAME's format has 5 and SMPL-X's 55")
    return SmplxHead.from_file(path) if joints == 55 else FlameHead.from_file(path)
