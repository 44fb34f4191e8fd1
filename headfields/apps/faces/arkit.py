"""ARKit's 52 shapes: their names, and which shapes of a head they are."""

import re
from collections.abc import Sequence

__all__ = ["ARKIT_NAMES", "arkit_columns", "arkit_name"]

_BOTH = ("Left", "Right")
ARKIT_NAMES = (
    *(f"{name}{side}" for side in _BOTH
      for name in ("eyeBlink", "eyeLookDown", "eyeLookIn", "eyeLookOut", "eyeLookUp", "eyeSquint", "eyeWide")),
    "jawForward", "jawLeft", "jawRight", "jawOpen", "mouthClose", "mouthFunnel", "mouthPucker", "mouthLeft",
    "mouthRight", "mouthSmileLeft", "mouthSmileRight", "mouthFrownLeft", "mouthFrownRight", "mouthDimpleLeft",
    "mouthDimpleRight", "mouthStretchLeft", "mouthStretchRight", "mouthRollLower", "mouthRollUpper",
    "mouthShrugLower", "mouthShrugUpper", "mouthPressLeft", "mouthPressRight", "mouthLowerDownLeft",
    "mouthLowerDownRight", "mouthUpperUpLeft", "mouthUpperUpRight", "browDownLeft", "browDownRight", "browInnerUp",
    "browOuterUpLeft", "browOuterUpRight", "cheekPuff", "cheekSquintLeft", "cheekSquintRight", "noseSneerLeft",
    "noseSneerRight", "tongueOut",
)  # fmt: skip
"""The names of `ARFaceAnchor.BlendShapeLocation` (Apple's ARKit), in its order of groups. Left is the subject's own."""

_PLAIN = {name.lower(): name for name in ARKIT_NAMES}


def arkit_name(name: str) -> str | None:
    """ARKit's name of a shape that is written otherwise (`JawOpen`, `eyeBlink_L`); None if it is none of the 52.

    >>> from headfields.apps.faces.arkit import arkit_name
    >>> arkit_name("JawOpen"), arkit_name("eyeBlink_L"), arkit_name("smile_left")
    ('jawOpen', 'eyeBlinkLeft', None)
    """
    return _PLAIN.get(_plain(name))


def arkit_columns(names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The shapes of a head that each of ARKit's names moves, by name; names that the head lacks are left out.

    A shape that the head has once a side, and ARKit once (`browInnerUp_L` and `browInnerUp_R` of ICT-FaceKit), moves on
    both sides.

    Args:
        names: of the head's shapes, in its order.

    >>> from headfields.apps.faces.arkit import arkit_columns
    >>> arkit_columns(["cheekPuff_L", "cheekPuff_R", "jawopen", "smile"])
    {'jawOpen': (2,), 'cheekPuff': (0, 1)}
    """
    own = {_plain(name): column for column, name in enumerate(names)}
    columns: dict[str, tuple[int, ...]] = {}
    for plain, name in _PLAIN.items():
        sides = [own.get(plain + side.lower()) for side in _BOTH]
        if plain in own:
            columns[name] = (own[plain],)
        elif sides[0] is not None and sides[1] is not None:
            columns[name] = (sides[0], sides[1])
    return columns


def _plain(name: str) -> str:
    """Lower case, with `_L` and `_R` written out, and without separators."""
    sided = re.sub(r"[_. -]([lr])$", lambda end: {"l": "left", "r": "right"}[end[1]], name.strip().lower())
    return re.sub(r"[_. -]", "", sided)
