"""Live Link Face, Epic's app for phones: its CSV of a take, and the packets that it sends by UDP.

    Timecode,BlendshapeCount,EyeBlinkLeft, ... ,TongueOut,HeadYaw,HeadPitch,HeadRoll,LeftEyeYaw, ... ,RightEyeRoll
    13:13:16:47.553,61,0.1004296392, ...

The time code is hours, minutes, seconds and frames of the second, with a fraction. Columns are read by their names: the
app writes JawRight before JawLeft in its files, and after it in its packets.

Neither the unit nor the sign of the turns is in the app's documentation. In published takes of 2022 a look to the side
by EyeLookOut = 0.12 comes with 0.07 in EyeYaw, and one upward by 0.47 with -0.20: radians, since otherwise a whole look
would turn an eye by more than 75 degrees; pitch is positive downward, and yaw is negative toward the subject's left.
Roll has the sign of yaw in the engine's own conversion (its plugin for ARKit negates both or neither), and pitch and
yaw of a take explain its small rolls with that sign. The head is taken to be as the eyes are.

Packets are those of version 6, as several independent readers decode them: a byte with the version; the device's and
the subject's names, each a length (int32) and its bytes; frame (int32), part of a frame (float32), and the rate as a
fraction (two int32); a byte with the number of values; the values (float32). Numbers are big-endian.
"""

import csv
import itertools
import math
import statistics
import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from headfields.apps.faces.arkit import ARKIT_NAMES, arkit_name
from headfields.apps.faces.motion import LARGEST_TURN, LARGEST_WEIGHT, FaceMotion, check_times
from headfields.files.reading import brief
from headfields.ops.rotations import axis_angle, rotation_from_euler
from headfields.similar_names import did_you_mean

__all__ = ["csv_of_motion", "motion_of_csv", "motion_of_packet", "packet_of_motion"]

_TURNS = tuple(f"{part}{axis}" for part in ("Head", "LeftEye", "RightEye") for axis in ("Yaw", "Pitch", "Roll"))
_VALUES = (*ARKIT_NAMES, *_TURNS)
"""In the order of a packet."""
_RATES = (24, 25, 30, 48, 50, 60)
_USUAL_RATE = 60
_DAY = 86400.0
_VERSION = 6
_LONGEST_NAME = 256


def motion_of_csv(text: str) -> FaceMotion:
    """The motion of a take. Rows without values, in which the app saw no face, are left out.

    Raises:
        ValueError: see `headfields.apps.faces.files.read_face_motion`.
    """
    rows = [(number, row) for number, row in enumerate(csv.reader(text.splitlines()), 1) if any(map(str.strip, row))]
    if not rows:
        raise ValueError("the file is empty; expected the header of Live Link Face, Timecode,BlendshapeCount,...")
    columns = _columns(rows[0][1])
    width = len(rows[0][1])
    codes: list[tuple[float, float]] = []
    values, places = [], []
    for number, row in rows[1:]:
        place = f"line {number}"
        if len(row) <= width and len(row) >= 2 and row[1].strip() == "0" and not any(map(str.strip, row[2:])):
            continue
        if len(row) != width:
            raise ValueError(f"{place} has {len(row)} of {width} values: it is cut short or from another file")
        codes.append(_timecode(row[0], place))
        values.append([_number(row[column], name, place) for name, column in columns.items()])
        places.append(place)
    if not values:
        raise ValueError("there is no frame with values")
    times = _seconds(codes)
    check_times(times, places)
    return _motion([time - times[0] for time in times], torch.tensor(values, dtype=torch.float32), list(columns))


def csv_of_motion(motion: FaceMotion, rate: int = _USUAL_RATE) -> str:
    """The text of a take in the app's format, from 00:00:00:00 on; turns of the jaw have no column, and are left out.

    Args:
        motion: T frames.
        rate: frames of a second in the time code.
    """
    lines = [",".join(["Timecode", "BlendshapeCount", *(name[0].upper() + name[1:] for name in _VALUES)])]
    for time, row in zip((motion.times - motion.times[:1]).tolist(), _row_values(motion).tolist(), strict=True):
        minutes, seconds = divmod(int(time + 5e-4 / rate), 60)
        hours, minutes = divmod(minutes, 60)
        part = max(time - int(time + 5e-4 / rate), 0.0) * rate
        code = f"{hours:02d}:{minutes:02d}:{seconds:02d}:{part:06.3f}"
        lines.append(",".join([code, str(len(_VALUES)), *(f"{value:.10f}" for value in row)]))
    return "\n".join(lines) + "\n"


def motion_of_packet(data: bytes) -> FaceMotion:
    """The one frame of a packet; its time is that of its frame number.

    Raises:
        ValueError: it is no packet of version 6 with 61 values in range.
    """
    try:
        if data[0] != _VERSION:
            raise ValueError(f"a packet of version {data[0]}; expected version {_VERSION}")
        at = 1
        for _ in range(2):
            (length,) = struct.unpack_from(">i", data, at)
            if not 0 <= length <= _LONGEST_NAME:
                raise ValueError(f"a name of {length} bytes in a packet; expected at most {_LONGEST_NAME}")
            at += 4 + length
        frame, part, rate, base, count = struct.unpack_from(">ifiiB", data, at)
        if count != len(_VALUES) or len(data) != at + 17 + 4 * count:
            raise ValueError(f"a packet of {len(data)} bytes with {count} values; expected {len(_VALUES)} values")
        values = struct.unpack_from(f">{count}f", data, at + 17)
    except (struct.error, IndexError) as error:
        raise ValueError(f"a packet of {len(data)} bytes, cut short") from error
    if rate <= 0 or base <= 0 or not math.isfinite(part):
        raise ValueError(f"a packet with the rate {rate}/{base}")
    for name, value in zip(_VALUES, values, strict=True):
        _check(value, name, "a packet")
    return _motion([(frame + part) * base / rate], torch.tensor([values], dtype=torch.float32), _VALUES)


def packet_of_motion(motion: FaceMotion, subject: str = "headfields", rate: int = _USUAL_RATE) -> bytes:
    """The packet of one frame; turns of the jaw are left out.

    Args:
        motion: one frame.
        subject: name of the subject, at most 256 bytes.
        rate: frames a second of the time code.

    Raises:
        ValueError: it is not one frame, or the name is too long.
    """
    name = subject.encode()
    if len(motion) != 1 or len(name) > _LONGEST_NAME:
        raise ValueError(f"packet_of_motion: {len(motion)} frames of {len(name)} bytes' name; expected one, and <= 256")
    at = float(motion.times[0]) * rate
    frame = math.floor(at)
    head = struct.pack(">B", _VERSION) + 2 * (struct.pack(">i", len(name)) + name)
    values = _row_values(motion)[0].tolist()
    return head + struct.pack(f">ifiiB{len(values)}f", frame, at - frame, rate, 1, len(values), *values)


def _columns(header: Sequence[str]) -> dict[str, int]:
    """The column of each value, by its name; see `_VALUES`."""
    known = {"timecode", "blendshapecount"} | {name.lower() for name in _VALUES}
    columns: dict[str, int] = {}
    if [name.strip().lower() for name in header[:2]] != ["timecode", "blendshapecount"]:
        raise ValueError(
            f"the first line begins with {brief(','.join(header[:2]))}; expected the header of Live Link Face, "
            "Timecode,BlendshapeCount,..."
        )
    turns = {name.lower(): name for name in _TURNS}
    for column, written in enumerate(header[2:], 2):
        name = arkit_name(written) or turns.get(written.strip().lower())
        if name is None or name in columns:
            what = "twice" if name in columns else "none of ARKit's" + did_you_mean(written.lower(), known)
            raise ValueError(f"column {column + 1} is {brief(written)}, {what}")
        columns[name] = column
    missing = [name for name in ARKIT_NAMES if name not in columns]
    if missing:
        raise ValueError(f"there is no column {', '.join(missing[:4])}{', ...' if len(missing) > 4 else ''}")
    return columns


def _timecode(text: str, place: str) -> tuple[float, float]:
    """Whole seconds of the day, and frames of the second."""
    try:
        hours, minutes, seconds, frames = text.strip().replace(";", ":").split(":")
        whole = 3600 * int(hours) + 60 * int(minutes) + int(seconds)
        part = float(frames)
    except ValueError:
        raise ValueError(f"{place}: the time code is {brief(text)}; expected hours:minutes:seconds:frames") from None
    if not (0 <= whole <= _DAY and 0 <= part < 1000):
        raise ValueError(f"{place}: the time code is {brief(text)}; expected a time of the day")
    return float(whole), part


def _seconds(codes: Sequence[tuple[float, float]]) -> list[float]:
    """Seconds of time codes: the rate of their frames is what fits from one second to the next, 60 where none does."""
    pairs = list(itertools.pairwise(codes))
    steps = [after[1] - before[1] for before, after in pairs if after[0] == before[0]]
    rate = _USUAL_RATE
    if steps:
        step = statistics.median(steps)
        wraps = [step + before[1] - after[1] for before, after in pairs if after[0] == before[0] + 1]
        if wraps:
            rate = min(_RATES, key=lambda each: abs(each - statistics.median(wraps)))
    rate = max(rate, next((each for each in _RATES if each > max(part for _, part in codes)), _USUAL_RATE))
    times: list[float] = []
    days = 0.0
    for number, (whole, part) in enumerate(codes):
        time = whole + part / rate
        if number and time + days < times[-1] - _DAY / 2:
            days += _DAY  # midnight
        times.append(time + days)
    return times


def _number(text: str, name: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{place}: {name} is {brief(text)}; expected a number") from None
    _check(value, name, place)
    return value


def _check(value: float, name: str, place: str) -> None:
    most = LARGEST_TURN if name in _TURNS else LARGEST_WEIGHT
    if not abs(value) <= most:  # NaN too
        expected = "radians" if name in _TURNS else "a weight in [0, 1]"
        raise ValueError(f"{place}: {name} is {value:g}; expected {expected}")


def _motion(times: Sequence[float], values: Tensor, names: Sequence[str]) -> FaceMotion:
    whole = values.new_zeros(len(values), len(_VALUES))
    whole[:, [_VALUES.index(name) for name in names]] = values
    shapes, turns = whole[:, : len(ARKIT_NAMES)], whole[:, len(ARKIT_NAMES) :].reshape(-1, 3, 3)
    signs = turns.new_tensor([-1.0, 1.0, -1.0])
    vectors = axis_angle(rotation_from_euler(signs * turns, "yxz"))
    jaw = vectors.new_zeros(len(vectors), 3)
    return FaceMotion(torch.tensor(times, dtype=torch.float64), shapes, vectors[:, 0], vectors[:, 1:], jaw)


def _row_values(motion: FaceMotion) -> Tensor:
    """The app's values (T, 61) of frames."""
    from headfields.ops.rotations import rotation_matrices

    matrices = rotation_matrices(torch.cat([motion.head[:, None], motion.eyes], dim=1))
    yaw = torch.atan2(matrices[..., 0, 2], matrices[..., 2, 2])
    pitch = -torch.asin(matrices[..., 1, 2].clamp(-1, 1))
    roll = torch.atan2(matrices[..., 1, 0], matrices[..., 1, 1])
    return torch.cat([motion.shapes, torch.stack([-yaw, pitch, -roll], dim=-1).flatten(1)], dim=1)
