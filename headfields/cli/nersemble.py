"""Results for NeRSemble's benchmark of avatars: videos of the sequences that it holds out, from its cameras."""

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headfields.cli import open_run
from headfields.cli.errors import CommandError
from headfields.cli.motion import Shot, recorded

if TYPE_CHECKING:
    from torch import Tensor

_QUALITY = 14  # H.264's constant rate factor of the benchmark's own writer (nersemble_benchmark, submission_data.py)


def render_results(
    image_of: Callable[[Shot], "Tensor"],
    config: dict[str, Any],
    person: Path,
    head: Path | None,
    out: Path,
    memory: int,
) -> int:
    """Writes `OUT/393/FREE/cam_222200037.mp4` and the like; videos that are there already are kept.

    Args:
        image_of: renders a shot, (H, W, 3) in [0, 1].
        config: of the run, for the treatment of the head's motion and of the mouth.
        person: the person's folder in the benchmark, with trackings of the sequences that it holds out.
        head: FLAME's file (2023).
        out: the folder of results.
        memory: megabytes for decoded frames.

    Returns:
        The number of videos that were written.
    """
    from tqdm import tqdm

    from headfields.data.capture import Capture
    from headfields.data.formats.nersemble import BENCHMARK_FPS, read_nersemble_holdout
    from headfields.heads import FlameHead
    from headfields.viz import write_video
    from headfields.viz.images import to_uint8

    if head is None:
        raise CommandError("--nersemble needs --head, the FLAME model of 2023 by which the heads are posed")
    recording, places = read_nersemble_holdout(person, FlameHead.from_file(head))
    capture = Capture(recording, memory, head_frame=open_run.head_frame(config), mouth=config.get("mouth", "close"))
    written = 0
    for place, group in itertools.groupby(range(len(places)), key=places.__getitem__):
        path, frames = result_path(out, person, *place), list(group)
        if path.exists():
            print(f"{path} is there already", file=sys.stderr)
            continue

        def images(frames: list[int] = frames, name: str = " ".join(place)) -> Iterator[Any]:
            for frame in tqdm(frames, desc=name, unit="frame", file=sys.stderr):
                yield to_uint8(image_of(recorded(capture, frame)).cpu())

        write_video(path, images(), BENCHMARK_FPS, crf=_QUALITY)
        written += 1
    return written


def result_path(out: Path, person: Path, sequence: str, serial: str) -> Path:
    """The path of the video of a camera among results: `393/FREE/cam_222200037.mp4`. The benchmark takes a zip of them.

    Args:
        out: the folder of results, of any number of persons.
        person: the person's folder.
        sequence, serial: the sequence and the camera.

    Raises:
        CommandError: the person's folder is not named by a number.
    """
    name = person.resolve().name
    if not name.isdecimal():
        raise CommandError(f"{person}: expected the person's number as the folder's name, as 393")
    return out / f"{int(name):03d}" / sequence / f"cam_{serial}.mp4"
