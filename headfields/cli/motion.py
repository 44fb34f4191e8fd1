"""Camera paths and head motion for videos: turntable, expressions, another capture's motion, a face's."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headfields.cli.errors import CommandError
from headfields.records import Camera, HeadState
from headfields.viz.clips import turn_angles


@dataclass(frozen=True)
class Shot:
    """One image to render.

    Attributes:
        camera: one camera, alone or as a batch of one.
        state: state of one frame.
        driver: the frame of the driving capture that the state follows.
    """

    camera: Camera
    state: HeadState
    driver: int | None = None


def recorded(capture: Any, frame: int) -> Shot:
    """A frame of a capture as recorded."""
    index = torch.tensor([frame])
    return Shot(capture.camera(index)[0], capture.state(index))


def turntable(capture: Any, frame: int, count: int, degrees: float | int) -> Iterator[Shot]:
    """One frame's head from that frame's camera as it circles the head's vertical axis.

    Args:
        capture: capture of the camera and the state.
        frame: index of the frame.
        count: number of shots.
        degrees: the whole angle; from 360 on the camera goes around, below it swings to both sides and back.
    """
    index = torch.tensor([frame])
    camera, state = capture.camera(index), capture.state(index)
    vertices = state.vertices[0]
    center = (vertices.amin(0) + vertices.amax(0)) / 2
    for angle in turn_angles(count, degrees):
        yield Shot(camera.orbited(center, angle), state)


def expressions(capture: Any, count: int, coefficients: int) -> Iterator[Shot]:
    """From the most neutral training frame to the strongest of each expression coefficient, and back, in turn.

    The coefficients are those that vary most. Vertices and expressions between two frames are interpolated linearly;
    the camera is the neutral frame's.

    Args:
        capture: capture of the states.
        count: shots of each expression.
        coefficients: number of expressions.

    Raises:
        CommandError: the capture has no expressions.
    """
    frames = torch.as_tensor(capture.splits["train"])
    states = capture.state(frames)
    if states.expression is None or not states.expression.shape[1]:
        raise CommandError(f"capture {capture.name!r} has no expression coefficients; --mode expressions needs them")
    neutral = int(states.expression.norm(dim=-1).argmin())
    camera = capture.camera(frames[neutral : neutral + 1])
    for coefficient in states.expression.std(dim=0, correction=0).argsort(descending=True)[:coefficients].tolist():
        extreme = int((states.expression[:, coefficient] - states.expression[neutral, coefficient]).abs().argmax())
        for i in range(count):
            amount = (1 - math.cos(2 * math.pi * i / count)) / 2
            yield Shot(camera, _interpolated(states[neutral], states[extreme], amount))


def _interpolated(first: HeadState, second: HeadState, amount: float | int) -> HeadState:
    """The first state interpolated toward the second (joints rigidly, all else linearly), and no frame number."""
    between: dict[str, Tensor] = {}
    for name in ("vertices", "expression", "pose", "joint_transforms"):
        start, end = getattr(first, name), getattr(second, name)
        if start is not None and end is not None:
            between[name] = torch.lerp(start, end, amount)
    if "joint_transforms" in between:
        left, _, right = torch.linalg.svd(between["joint_transforms"][..., :3, :3])
        between["joint_transforms"][..., :3, :3] = left @ right  # the nearest rotation
    return first.replace(**between, frame_id=None)


def retargeted(capture: Any, driver: Any, frames: list[int]) -> Iterator[Shot]:
    """This capture's head driven by another capture, of any topology; see `headfields.apps.retargeting.Retargeter`.

    The head turns from its mean pose as the driver's does from its own; lens and image size are this capture's.

    Args:
        capture: capture whose head is driven.
        driver: capture whose motion is used.
        frames: frames of the driver.
    """
    from headfields.apps.retargeting import Retargeter
    from headfields.apps.retargeting.retargeter import rest_camera

    retargeter = Retargeter.from_captures(driver, capture)
    rests = [rest_camera(each.camera(_training_frames(each))) for each in (driver, capture)]

    @torch.no_grad()
    def shot(frame: int) -> Shot:
        index = torch.tensor([frame])
        camera = retargeter.camera(driver.camera(index), *rests)
        return Shot(camera[0], retargeter(driver.state(index)), frame)

    return map(shot, frames)  # heads that do not fit are refused now, before a progress bar appears


def driven(capture: Any, driver: Any, frames: list[int]) -> Iterator[Shot]:
    """This capture's head driven by the motion of a face, before the camera of its most neutral frame.

    Args:
        capture: capture whose head is driven.
        driver: a `headfields.apps.driving.face_driver.DrivenFace`.
        frames: frames of the driver.
    """
    from headfields.apps.viewer.motion import neutral_frame

    camera = capture.camera([neutral_frame(capture)])[0]
    return (Shot(camera, driver.state([frame])) for frame in frames)


def _training_frames(capture: Any) -> Tensor:
    """The training frames, or all if the capture has none."""
    return torch.as_tensor(capture.splits["train"] if len(capture.splits["train"]) else capture.splits["all"])
