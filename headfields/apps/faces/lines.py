"""Motion of a face as JSON, one object a frame: lines of a file, and messages of a stream.

    {"time": 1.25, "shapes": {"jawOpen": 0.4, "eyeBlinkLeft": 1}, "head": [0.1, -0.2, 0], "left_eye": [0, 0.1, 0],
     "right_eye": [0, 0.1, 0], "jaw": [0.05, 0, 0]}

`time` is in seconds, on any clock. `shapes` has weights by ARKit's names; those that are left out are 0. Turns are
rotation vectors in radians (`headfields.apps.faces.motion.FaceMotion`); those that are left out are 0.
"""

import json
from collections.abc import Mapping
from typing import Any

import torch

from headfields.apps.faces.arkit import ARKIT_NAMES, arkit_name
from headfields.apps.faces.motion import LARGEST_TURN, LARGEST_WEIGHT, FaceMotion, check_times
from headfields.files.reading import brief
from headfields.similar_names import did_you_mean

__all__ = ["lines_of_motion", "message_of_motion", "motion_of_lines", "motion_of_message"]

_TURNS = ("head", "left_eye", "right_eye", "jaw")
_KEYS = ("time", "shapes", *_TURNS)
_COLUMNS = {name: column for column, name in enumerate(ARKIT_NAMES)}


def motion_of_lines(text: str) -> FaceMotion:
    """The motion of JSON lines; empty lines are left out.

    Raises:
        ValueError: see `headfields.apps.faces.files.read_face_motion`.
    """
    frames, places = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            places.append(f"line {number}")
            try:
                frames.append(motion_of_message(line))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
    if not frames:
        raise ValueError("there is no frame")
    motion = FaceMotion.cat(frames)
    check_times(motion.times.tolist(), places)
    return motion.replace(times=motion.times - motion.times[0])


def motion_of_message(text: str | bytes) -> FaceMotion:
    """The one frame of a message.

    Raises:
        ValueError: it is no JSON object of the form above, a number is not finite or far out of range, or a name is
            none of ARKit's.
    """
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from error
    if not isinstance(message, dict):
        raise ValueError(f'{brief(message)}; expected an object, as {{"time": 0.1, "shapes": {{"jawOpen": 0.4}}}}')
    unknown = [key for key in message if key not in _KEYS]
    if unknown:
        raise ValueError(f"{brief(unknown[0])} is none of {', '.join(_KEYS)}{did_you_mean(unknown[0], _KEYS)}")
    if "time" not in message:
        raise ValueError("there is no time")
    time = _number(message["time"], "time", 1e12)
    shapes = torch.zeros(1, len(ARKIT_NAMES))
    given = message.get("shapes", {})
    if not isinstance(given, Mapping):
        raise ValueError(f"shapes is {brief(given)}; expected weights by name")
    for written, weight in given.items():
        name = arkit_name(written)
        if name is None:
            raise ValueError(f"{brief(written)} is no shape of ARKit's{did_you_mean(written, ARKIT_NAMES)}")
        shapes[0, _COLUMNS[name]] = _number(weight, name, LARGEST_WEIGHT)
    head, left, right, jaw = (torch.tensor([_turn(message.get(key, (0, 0, 0)), key)]) for key in _TURNS)
    return FaceMotion(torch.tensor([time], dtype=torch.float64), shapes, head, torch.stack([left, right], 1), jaw)


def message_of_motion(motion: FaceMotion, frame: int = 0) -> str:
    """The message of one frame; what is 0 is left out."""
    turns = (motion.head[frame], *motion.eyes[frame], motion.jaw[frame])
    message: dict[str, Any] = {"time": float(motion.times[frame])}
    message["shapes"] = {name: round(weight, 6) for name, weight in motion.weights(frame).items()}
    message |= {
        key: [round(x, 6) for x in turn.tolist()] for key, turn in zip(_TURNS, turns, strict=True) if turn.any()
    }
    return json.dumps(message)


def lines_of_motion(motion: FaceMotion) -> str:
    """The text of JSON lines, one a frame."""
    return "".join(message_of_motion(motion, frame) + "\n" for frame in range(len(motion)))


def _number(value: Any, name: str, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= most:  # NaN too
        raise ValueError(f"{name} is {brief(value)}; expected a finite number, at most {most:g}")
    return float(value)


def _turn(value: Any, name: str) -> list[float]:
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise ValueError(f"{name} is {brief(value)}; expected a rotation vector, three numbers in radians")
    return [_number(each, name, LARGEST_TURN) for each in value]
