"""`headfields convert-flame`: a FLAME model as a plain npz file."""

from pathlib import Path
from typing import Annotated

import tyro

from headfields.cli.argument_types import OptionalFile, OptionalInt
from headfields.cli.errors import CommandError


def convert_flame(
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")],
    /,
    out: Annotated[Path, tyro.conf.arg(metavar="FILE.npz")],
    expression_count: OptionalInt = None,
    masks: OptionalFile = None,
    landmarks: OptionalFile = None,
    contour: OptionalFile = None,
    mediapipe: OptionalFile = None,
    uv: OptionalFile = None,
    force: bool = False,
) -> None:
    """Convert a FLAME model to a plain npz: `headfields convert-flame generic_model.pkl --out FLAME_NEUTRAL.npz`.

    The models of flame.is.tue.mpg.de (2017, 2020, 2023) are pickles, which may hold chumpy objects and may run code.
    They are read without chumpy and without running anything: a file that names anything but numpy, scipy.sparse,
    torch tensors and chumpy is refused, and the name is printed. The npz has dense arrays, 300 shape and 100
    expression components; smplx reads it too. The files next to the model can be added, so that one file is all that
    FlameHead.from_file needs. The command prints what the model holds.

    Args:
        file: The model: generic_model.pkl, FLAME_NEUTRAL.pkl, flame2023.pkl, or an npz.
        out: The file to write, ending in .npz.
        expression_count: Number of expression components. Only needed for a model with fewer than 400 components, of
            which these are the last; in a full model expressions follow the 300th.
        masks: FLAME_masks.pkl: named regions.
        landmarks: flame_static_embedding.pkl (51 landmarks), or DECA's landmark_embedding.npy (with contour).
        contour: flame_dynamic_embedding.npy: the 17 contour landmarks for 79 angles.
        mediapipe: mediapipe_landmark_embedding.npz: 105 landmarks.
        uv: head_template_mesh.obj: texture coordinates.
        force: Overwrite a file that exists.
    """
    from headfields.apps.export import flame as convert
    from headfields.heads.flame.assets import FlameAssets

    assets = FlameAssets(masks=masks, landmarks=landmarks, contour=contour, mediapipe=mediapipe, uv=uv)
    try:
        report = convert.convert_flame(file, out, expression_count, assets, overwrite=force)
    except FileExistsError as error:
        raise CommandError(f"{out} exists already; pass --force to write over it") from error
    padding = " (filled up with zeros to 300 and 100)" if report.shape < 300 or report.expression < 100 else ""
    print(f"{file}: {report.vertices} vertices, {report.faces} faces, {report.joints} joints")
    print(f"components: {report.shape} shape, {report.expression} expression{padding}")
    print(f"chumpy arrays: {', '.join(report.chumpy) or 'none'}; sparse: {', '.join(report.sparse) or 'none'}")
    if report.ignored:
        print(f"left out: {', '.join(report.ignored)}")
    additions = [f"{count} {name}" for name, count in (
        ("landmarks", report.landmarks), ("contour landmarks by yaw", report.contour),
        ("MediaPipe landmarks", report.mediapipe), ("texture coordinates", report.uv),
    ) if count]  # fmt: skip
    additions += [f"regions {', '.join(report.regions)}"] if report.regions else []
    files = "nothing (--landmarks, --contour, --mediapipe, --masks, --uv add files)"
    print(f"with it: {'; '.join(additions) or files}")
    print(f"wrote {report.path}")
    print(f'read it with headfields.heads.FlameHead.from_file("{report.path}")')
    if report.path.name != "FLAME_NEUTRAL.npz" or not (report.path.parent / "flame_static_embedding.pkl").is_file():
        print(
            "smplx reads it as FLAME_NEUTRAL.npz in a folder that has flame_static_embedding.pkl too: "
            "smplx.FLAME(FOLDER, ext='npz', num_betas=300, num_expression_coeffs=100)"
        )
