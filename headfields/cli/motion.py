"""Cameras and states for videos: around the head, through its expressions, and after another capture."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.cli.errors import CommandError
from headfields.records import Camera, HeadState


@dataclass(frozen=True)
class Shot:
    """One picture to take: a camera (a batch of one), a state of one frame, and which frame of a driver it follows."""

    camera: Camera
    state: HeadState
    driver: int | None = None


def turntable(capture: Any, frame: int, count: int, degrees: float | int) -> Iterator[Shot]:
    """The head in one frame's state, seen from that frame's camera as it goes around the head's vertical axis.

    Args:
        capture: where the camera and the state come from.
        frame: which frame.
        count: number of pictures.
        degrees: the whole angle; from 360 on the camera goes round, below it swings to both sides and back.
    """
    index = torch.tensor([frame])
    camera, state = capture.camera(index), capture.state(index)
    corners = state.vertices[0]
    center = (corners.amin(0) + corners.amax(0)) / 2
    for i in range(count):
        turn = i / count
        angle = math.radians(degrees) * (turn if degrees >= 360 else math.sin(2 * math.pi * turn) / 2)
        yield Shot(orbit(camera, center, angle), state)


def orbit(camera: Camera, center: Float[Tensor, "3"], angle: float | int) -> Camera:
    """The camera carried around the vertical axis (y) through `center` by an angle in radians."""
    cos, sin = math.cos(angle), math.sin(angle)
    # Turning the world by the opposite angle before the camera sees it is the same as carrying the camera.
    turn = torch.eye(4).to(camera.world_to_camera)
    turn[:3, :3] = torch.tensor([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]]).to(turn)
    turn[:3, 3] = center - turn[:3, :3] @ center
    return camera.replace(world_to_camera=camera.world_to_camera @ turn)


def expressions(capture: Any, count: int, how_many: int) -> Iterator[Shot]:
    """From the most neutral training frame to the strongest of each expression coefficient, and back, by turns.

    The coefficients taken are those that vary most. Vertices and expressions between two frames are interpolated
    linearly; the camera is that of the neutral frame.

    Args:
        capture: where the states come from.
        count: pictures for each expression.
        how_many: how many expressions.

    Raises:
        CommandError: the capture has no expressions.
    """
    frames = torch.as_tensor(capture.splits["train"])
    every = capture.state(frames)
    if every.expression is None or not every.expression.shape[1]:
        raise CommandError(f"capture {capture.name!r} has no expression coefficients; --mode expressions needs them")
    neutral = int(every.expression.norm(dim=-1).argmin())
    camera = capture.camera(frames[neutral : neutral + 1])
    for coefficient in every.expression.std(dim=0, correction=0).argsort(descending=True)[:how_many].tolist():
        extreme = int((every.expression[:, coefficient] - every.expression[neutral, coefficient]).abs().argmax())
        for i in range(count):
            yield Shot(camera, between(every[neutral], every[extreme], (1 - math.cos(2 * math.pi * i / count)) / 2))


def between(first: HeadState, second: HeadState, amount: float | int) -> HeadState:
    """Vertices and expression of two states, linearly interpolated; the rest is the first's, but it is no frame."""
    expression = first.expression
    if first.expression is not None and second.expression is not None:
        expression = torch.lerp(first.expression, second.expression, amount)
    vertices = torch.lerp(first.vertices, second.vertices, amount)
    return first.replace(vertices=vertices, expression=expression, frame_id=None)


def retargeted(capture: Any, driver: Any, frames: list[int]) -> Iterator[Shot]:
    """This capture's head moved as another one's, of whatever topology; see `headfields.retargeting.Retargeter`.

    The head turns from its mean pose as the driver's does from its own; lens and image size are this capture's.

    Args:
        capture: whose head it is.
        driver: whose motion it is.
        frames: of the driver.
    """
    from headfields.retargeting import Retargeter, rest_camera

    retargeter = Retargeter.from_captures(driver, capture)
    rests = [rest_camera(each.camera(_known(each))) for each in (driver, capture)]

    @torch.no_grad()
    def shot(frame: int) -> Shot:
        index = torch.tensor([frame])
        camera = retargeter.camera(driver.camera(index), *rests)
        return Shot(camera[0], retargeter(driver.state(index)), frame)

    return map(shot, frames)  # heads that do not fit are refused now, before a progress bar is drawn


def _known(capture: Any) -> Tensor:
    """The training frames, or all where none is for training."""
    return torch.as_tensor(capture.splits["train"] if len(capture.splits["train"]) else capture.splits["all"])
