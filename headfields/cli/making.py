"""`headfields synth`."""

from pathlib import Path

from headfields.cli.errors import CommandError


def synth(out: Path, frames: int, size: int, seed: int) -> None:
    """Writes a synthetic capture to an empty or new folder; one that holds it already is left as it is."""
    from headfields.data import procedural

    if frames < 3 or size < 16:
        raise CommandError(f"--frames is {frames} and --size is {size}; at least 3 frames of 16 pixels are needed")
    try:
        procedural.write_capture(out, frames=frames, size=size, seed=seed)
    except FileExistsError as error:
        raise CommandError(str(error)) from error
    print(f"wrote {frames} frames of {size} x {size} pixels to {out}")
    print(f"next: headfields train insta --capture {out} --out RUN --minutes 10")
