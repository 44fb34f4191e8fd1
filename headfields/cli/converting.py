"""`headfields convert-flame`."""

from pathlib import Path

from headfields.cli.errors import CommandError


def convert_flame(
    file: Path,
    out: Path,
    expression_count: int | None,
    masks: Path | None,
    landmarks: Path | None,
    contour: Path | None,
    mediapipe: Path | None,
    uv: Path | None,
    force: bool,
) -> None:
    """Writes `out` and prints what was found."""
    from headfields.heads.flame.assets import FlameAssets
    from headfields.heads.flame.convert import convert_flame as convert

    assets = FlameAssets(masks=masks, landmarks=landmarks, contour=contour, mediapipe=mediapipe, uv=uv)
    try:
        found = convert(file, out, expression_count, assets, overwrite=force)
    except FileExistsError as error:
        raise CommandError(f"{out} exists already; pass --force to write over it") from error
    padding = " (filled up with zeros to 300 and 100)" if found.shape < 300 or found.expression < 100 else ""
    print(f"{file}: {found.vertices} vertices, {found.faces} faces, {found.joints} joints")
    print(f"components: {found.shape} shape, {found.expression} expression{padding}")
    print(f"chumpy arrays: {', '.join(found.chumpy) or 'none'}; sparse: {', '.join(found.sparse) or 'none'}")
    if found.ignored:
        print(f"left out: {', '.join(found.ignored)}")
    extra = [f"{count} {what}" for what, count in (
        ("landmarks", found.landmarks), ("contour landmarks by yaw", found.contour),
        ("MediaPipe landmarks", found.mediapipe), ("texture coordinates", found.uv),
    ) if count]  # fmt: skip
    extra += [f"regions {', '.join(found.regions)}"] if found.regions else []
    print(f"with it: {'; '.join(extra) or 'nothing (--landmarks, --contour, --mediapipe, --masks, --uv add files)'}")
    print(f"wrote {found.path}")
    print(f'read it with headfields.heads.FlameHead.from_file("{found.path}")')
    if found.path.name != "FLAME_NEUTRAL.npz" or not (found.path.parent / "flame_static_embedding.pkl").is_file():
        print(
            "smplx reads it as FLAME_NEUTRAL.npz in a folder that has flame_static_embedding.pkl too: "
            "smplx.FLAME(FOLDER, ext='npz', num_betas=300, num_expression_coeffs=100)"
        )
