"""`headfields synth`."""

from pathlib import Path

from headfields.cli.errors import CommandError


def synth(out: Path, frames: int, size: int, seed: int) -> None:
    """Writes a synthetic capture to an empty or new folder."""
    from headfields.data import procedural

    if frames < 3 or size < 16:
        raise CommandError(f"--frames is {frames} and --size is {size}; at least 3 frames of 16 pixels are needed")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CommandError(f"{out} exists and is not an empty folder; choose another OUT")
    procedural.write_capture(out, frames=frames, size=size, seed=seed)
    print(f"wrote {frames} frames of {size} x {size} pixels to {out}")
    print(f"next: headfields train insta --capture {out} --out RUN --minutes 10")
