"""`headfields synth`."""

from pathlib import Path

from headfields.cli.errors import CommandError


def synth(
    out: Path, frames: int, size: int, seed: int, noise: float, noise_seed: int, identity: int | None = None
) -> None:
    """Writes a synthetic capture to an empty or new folder; one that holds it already is left as it is."""
    from headfields.data import load_capture
    from headfields.synthetic import captures
    from headfields.synthetic.tracking_error import tracking_error

    if frames < 3 or size < 16:
        raise CommandError(f"--frames is {frames} and --size is {size}; at least 3 frames of 16 pixels are needed")
    if not 0 <= noise < float("inf"):
        raise CommandError(f"--noise is {noise}; expected 0 (exact tracking), 1 (a usual tracker) or another factor")
    if identity is not None and identity < 0:
        raise CommandError(f"--identity is {identity}; expected 0 or more")
    errors = captures.TrackingNoise(seed=noise_seed).times(noise) if noise else None
    try:
        captures.write_head_capture(out, frames=frames, size=size, seed=seed, noise=errors, identity=identity)
    except FileExistsError as error:
        raise CommandError(str(error)) from error
    print(f"wrote {frames} frames of {size} x {size} pixels to {out}")
    if noise:
        print(f"tracking error, mean over frames: {tracking_error(load_capture(out))}")
    print(f"next: headfields train insta --capture {out} --out RUN --minutes 10")
