"""`headfields rig`."""

from pathlib import Path

from headfields.cli.errors import CommandError


def rig(
    scan: Path,
    out: Path,
    landmarks: Path | None,
    body: Path | None,
    texture: Path | None,
    eyes: str,
    scale: float,
    inner_mouth: bool,
    size: int,
) -> None:
    """Rigs a scan, writes the rig and pictures of it, and says what was found."""
    from headfields.files.arrays import load_arrays
    from headfields.files.unpickler import to_array
    from headfields.heads import FlameHead, SmplxHead
    from headfields.mesh.files import load_mesh
    from headfields.rigging import read_scan_landmarks, rig_pictures, rig_template
    from headfields.synthetic.body.model import procedural_body

    if not scale > 0 or size < 1:
        raise CommandError(f"--scale is {scale} and --size is {size}; both must be positive")
    mesh = load_mesh(scan, True if texture is None else texture, scale)
    marks = None if landmarks is None else read_scan_landmarks(landmarks)
    if body is None:
        source: FlameHead | SmplxHead = procedural_body()
    else:
        tree = to_array(load_arrays(body).get("kintree_table", ()), f"{body}: kintree_table")
        joints = tree.shape[1] if tree.ndim == 2 else 0
        if joints not in (5, 55):
            raise CommandError(f"--body {body} has {joints} joints; FLAME's format has 5 and SMPL-X's 55")
        source = SmplxHead.from_file(body) if joints == 55 else FlameHead.from_file(body)
    shut = {"auto": None, "open": False, "closed": True}[eyes]
    made = rig_template(mesh, source, marks, eyes_closed=shut, inner_mouth=inner_mouth)
    written = made.rig.save(out)
    pictures = written.parent / f"{written.stem}_pictures"
    rig_pictures(made, pictures, size)
    texts = {True: "parted already, left as they are", False: "cut apart"}
    seen = made.registration
    apart = 1e3 * float(seen.distance[seen.met].square().mean().sqrt()) if bool(seen.met.any()) else float("nan")
    filled = 1 - float(made.confidence.mean())
    print(
        f"{len(mesh.vertices)} vertices, {len(mesh.faces)} faces; the body's size times {float(made.align.scale):.3f}"
    )
    print(f"landmarks: {len(made.landmarks.points)} ({'given' if landmarks else 'found on the shape'})")
    print(f"registered: {apart:.2f} mm root mean square, over {int(seen.met.sum())} of the body's vertices")
    print(f"eyes: {'closed' if made.eyes_closed else 'open'}; lips: {texts[made.parted]}")
    print(f"{filled:.0%} of the vertices have no counterpart and took their neighbors' weights")
    print(f"wrote {written}; look at {pictures / 'sheet.png'}")
    print(f'read it with headfields.rigging.RiggedTemplate.from_file("{written}")')
