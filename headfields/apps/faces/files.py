"""Files of the motion of a face: a CSV of the app Live Link Face (`headfields.apps.faces.live_link_face`), or JSON
lines, one frame each (`headfields.apps.faces.lines`).
"""

from pathlib import Path

from headfields.apps.faces.lines import motion_of_lines
from headfields.apps.faces.live_link_face import motion_of_csv
from headfields.apps.faces.motion import FaceMotion
from headfields.files.reading import file_bytes, reading

__all__ = ["ENDINGS", "read_face_motion"]

ENDINGS = (".csv", ".jsonl", ".ndjson")


def read_face_motion(path: Path | str) -> FaceMotion:
    """The motion in a file: a CSV of Live Link Face (.csv), or JSON lines (.jsonl, .ndjson).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has another ending; a column or name is none of ARKit's, or is missing; a line is cut short; a
            number is not finite or far out of range; the times do not rise; or there is no frame. The message names
            file and line.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise ValueError(f"{path} is no motion of a face; expected a file that ends in {', '.join(ENDINGS)}")
    with reading(path, "a motion of a face"):
        text = file_bytes(path).decode("utf-8-sig")
        motion = motion_of_csv(text) if ending == ".csv" else motion_of_lines(text)
        return motion.replace(name=path.stem)
