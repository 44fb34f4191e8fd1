"""The motion of a face in ARKit's shapes: a take of Live Link Face typed by hand, JSON lines, packets, broken input."""

import json
import math
import struct

import pytest
import torch

from headfields.apps.faces.arkit import ARKIT_NAMES, arkit_columns
from headfields.apps.faces.files import read_face_motion
from headfields.apps.faces.lines import lines_of_motion, message_of_motion, motion_of_message
from headfields.apps.faces.live_link_face import csv_of_motion, motion_of_packet, packet_of_motion
from headfields.apps.faces.motion import FaceMotion
from headfields.ops.rotations import rotation_matrices

HEADER = (
    "Timecode,BlendshapeCount,EyeBlinkLeft,EyeLookDownLeft,EyeLookInLeft,EyeLookOutLeft,EyeLookUpLeft,EyeSquintLeft,"
    "EyeWideLeft,EyeBlinkRight,EyeLookDownRight,EyeLookInRight,EyeLookOutRight,EyeLookUpRight,EyeSquintRight,"
    "EyeWideRight,JawForward,JawRight,JawLeft,JawOpen,MouthClose,MouthFunnel,MouthPucker,MouthRight,MouthLeft,"
    "MouthSmileLeft,MouthSmileRight,MouthFrownLeft,MouthFrownRight,MouthDimpleLeft,MouthDimpleRight,MouthStretchLeft,"
    "MouthStretchRight,MouthRollLower,MouthRollUpper,MouthShrugLower,MouthShrugUpper,MouthPressLeft,MouthPressRight,"
    "MouthLowerDownLeft,MouthLowerDownRight,MouthUpperUpLeft,MouthUpperUpRight,BrowDownLeft,BrowDownRight,BrowInnerUp,"
    "BrowOuterUpLeft,BrowOuterUpRight,CheekPuff,CheekSquintLeft,CheekSquintRight,NoseSneerLeft,NoseSneerRight,"
    "TongueOut,HeadYaw,HeadPitch,HeadRoll,LeftEyeYaw,LeftEyePitch,LeftEyeRoll,RightEyeYaw,RightEyePitch,RightEyeRoll"
)
"""The first line of the app's files, as it writes it: JawRight before JawLeft."""


def row(code: str, count: int = 61, **values: float) -> str:
    names = HEADER.split(",")[2:]
    assert set(values) <= set(names)
    return ",".join([code, str(count), *(f"{values.get(name, 0):.10f}" for name in names)])


TAKE = [
    row("23:59:59:56.500", JawOpen=0.25, JawLeft=0.5, HeadPitch=0.2, LeftEyeYaw=-0.1),
    row("23:59:59:58.500", JawOpen=0.5, EyeBlinkRight=1.0),
    "00:00:00:00.500,0",
    row("00:00:00:02.500", JawOpen=0.75, HeadYaw=0.3, HeadRoll=-0.1, HeadPitch=0.1),
]


def motion(frames: int = 5) -> FaceMotion:
    random = torch.Generator().manual_seed(0)
    turns = 0.4 * torch.randn(frames, 4, 3, generator=random)
    return FaceMotion(
        torch.arange(frames, dtype=torch.float64) / 30, torch.rand(frames, 52, generator=random), turns[:, 0],
        turns[:, 1:3], turns[:, 3],
    )  # fmt: skip


def test_a_take_typed_from_the_apps_format(tmp_path) -> None:
    path = tmp_path / "take.csv"
    path.write_text("\n".join([HEADER, *TAKE]) + "\n")
    take = read_face_motion(path)
    assert take.name == "take" and take.times.tolist() == pytest.approx([0, 2 / 60, 6 / 60], abs=1e-9)
    assert take.weights(0) == pytest.approx({"jawOpen": 0.25, "jawLeft": 0.5})
    assert take.weights(1) == pytest.approx({"jawOpen": 0.5, "eyeBlinkRight": 1.0})
    looks = rotation_matrices(take.head) @ torch.tensor([0.0, 0, 1])
    assert looks[0].tolist() == pytest.approx([0, -math.sin(0.2), math.cos(0.2)], abs=1e-6)  # down
    assert looks[2, 0] < -0.2  # a positive yaw turns the face to the subject's right
    assert (rotation_matrices(take.head[2]) @ torch.tensor([0.0, 1, 0]))[0] < -0.05  # leans to the right shoulder
    assert take.eyes[0, 0].tolist() == pytest.approx([0, 0.1, 0], abs=1e-6) and not take.eyes[0, 1].any()
    steady = take.resampled(60)
    assert len(steady) == 7
    assert steady.shapes[:, ARKIT_NAMES.index("jawOpen")].tolist() == pytest.approx(
        [0.25, 0.375, 0.5, 0.5625, 0.625, 0.6875, 0.75], abs=1e-6
    )


def test_files_and_packets_come_back_as_they_were(tmp_path) -> None:
    first = motion()
    (tmp_path / "a.jsonl").write_text(lines_of_motion(first))
    again = read_face_motion(tmp_path / "a.jsonl")
    for field in ("times", "shapes", "head", "eyes", "jaw"):
        assert torch.allclose(getattr(again, field), getattr(first, field), atol=1e-6), field
    (tmp_path / "a.csv").write_text(csv_of_motion(first))
    again = read_face_motion(tmp_path / "a.csv")
    packets = FaceMotion.cat([motion_of_packet(packet_of_motion(first[frame : frame + 1])) for frame in range(5)])
    for back in (again, packets):
        assert torch.allclose(back.times, first.times, atol=1e-4) and torch.allclose(back.shapes, first.shapes)
        assert torch.allclose(back.head, first.head, atol=1e-5) and torch.allclose(back.eyes, first.eyes, atol=1e-5)


BROKEN = {
    "empty": ("", "the file is empty"),
    "no frame": (HEADER, "no frame with values"),
    "another table": ("a,b\n1,2", "begins with 'a,b'; expected the header"),
    "a wrong column": (HEADER.replace("JawOpen", "JawOpn") + "\n" + TAKE[0], "'JawOpn', none of .*mean jawopen"),
    "a column twice": (HEADER.replace("JawLeft", "JawOpen"), "'JawOpen', twice"),
    "a column is missing": (HEADER.replace(",TongueOut", ""), "no column tongueOut"),
    "NaN": (HEADER + "\n" + TAKE[1].replace("0.5000000000", "nan", 1), "line 2: jawOpen is nan"),
    "a weight of 1e9": (HEADER + "\n" + TAKE[1].replace("1.0000000000", "1e9"), "line 2: eyeBlinkRight is 1e.09"),
    "degrees": (HEADER + "\n" + TAKE[0].replace("0.2000000000", "20"), "HeadPitch is 20; expected radians"),
    "words": (HEADER + "\n" + TAKE[1].replace("0.5000000000", "half", 1), "'half'; expected a number"),
    "time runs back": ("\n".join([HEADER, TAKE[1], TAKE[0]]), "line 3: the time does not rise"),
    "no time": (HEADER + "\n" + TAKE[0].replace("23:59:59:56.500", "now"), "line 2: the time code is 'now'"),
    "cut short": ("\n".join([HEADER, TAKE[0], TAKE[1][:80]]), "line 3 has .* of 63 values: it is cut short"),
    "bytes": ("\x00\x01", "begins with"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_take_is_refused_by_line(case, tmp_path) -> None:
    text, message = BROKEN[case]
    path = tmp_path / "take.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as failure:
        read_face_motion(path)
    assert str(path) in str(failure.value)


GOOD = {"time": 1.5, "shapes": {"jawOpen": 0.5}, "head": [0.1, 0, 0]}
MESSAGES = {
    "no JSON": (b"\xff\x00\x9c", "no JSON"),
    "a list": ("[1, 2]", "expected an object"),
    "nested": ("[" * 100_000, "no JSON"),
    "no time": (json.dumps({"shapes": {}}), "no time"),
    "another key": (json.dumps({**GOOD, "hed": [0, 0, 0]}), "'hed' is none of .*mean head"),
    "another shape": (json.dumps({**GOOD, "shapes": {"jawOpn": 1}}), "'jawOpn' is no shape .*mean jawOpen"),
    "shapes are a list": (json.dumps({**GOOD, "shapes": [1]}), "expected weights by name"),
    "NaN": (json.dumps({**GOOD, "shapes": {"jawOpen": math.nan}}), "jawOpen is nan"),
    "1e9": (json.dumps({**GOOD, "shapes": {"jawOpen": 1e9}}), "jawOpen is 1000000000.0"),
    "true": (json.dumps({**GOOD, "time": True}), "time is True"),
    "infinite time": (json.dumps({**GOOD, "time": math.inf}), "time is inf"),
    "two numbers": (json.dumps({**GOOD, "jaw": [0, 0]}), r"jaw is \[0, 0\]; expected a rotation vector"),
    "many turns": (json.dumps({**GOOD, "jaw": [0, 99, 0]}), "jaw is 99"),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_a_broken_message_is_refused(case) -> None:
    text, message = MESSAGES[case]
    with pytest.raises(ValueError, match=message):
        motion_of_message(text)


def test_broken_packets_and_lines_are_refused(tmp_path) -> None:
    packet = packet_of_motion(motion(1))
    random = torch.Generator().manual_seed(1)
    noise = bytes(torch.randint(0, 256, (300,), generator=random).tolist())
    for data in (b"", packet[:-1], packet + b"\0", b"\x05" + packet[1:], b"\x06" + noise, noise):
        with pytest.raises(ValueError, match="packet"):
            motion_of_packet(data)
    wrong = packet[:-4] + struct.pack(">f", math.nan)
    with pytest.raises(ValueError, match="RightEyeRoll is nan"):
        motion_of_packet(wrong)
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps({**GOOD, "time": 1.0}) + "\n")
    with pytest.raises(ValueError, match=r"a\.jsonl.*line 2: the time does not rise: 1 s after 1\.5 s"):
        read_face_motion(path)
    path.write_text(json.dumps(GOOD)[:-5])
    with pytest.raises(ValueError, match="line 1: no JSON"):
        read_face_motion(path)
    with pytest.raises(ValueError, match=r"ends in \.csv, \.jsonl"):
        read_face_motion(tmp_path / "a.txt")


def test_names_are_found_however_they_are_written() -> None:
    names = ["browInnerUp_L", "browInnerUp_R", "JAWOPEN", "eyeBlink_L", "mouth.smile.R", "other"]
    assert arkit_columns(names) == {
        "eyeBlinkLeft": (3,), "jawOpen": (2,), "mouthSmileRight": (4,), "browInnerUp": (0, 1),
    }  # fmt: skip
    assert json.loads(message_of_motion(motion(2)[1:]))["time"] == pytest.approx(1 / 30)
