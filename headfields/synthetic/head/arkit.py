"""ARKit's shapes on the procedural head: what each is made of, so that there is a head that has them without a file.

51 of the 52: the head has no tongue. Weights are by eye, so that a shape at 1 is as strong as ARKit's are shown to be.
"""

from headfields.apps.faces.arkit import ARKIT_NAMES

__all__ = ["procedural_arkit"]

_LOOKS = {"Down": (0.45, 0.0), "Up": (-0.4, 0.0), "In": (0.0, 0.55), "Out": (0.0, 0.55)}
"""Radians about x and y; the sign of y is that of the side."""
_SIDED = {
    "eyeBlink": {"blink": 1.0}, "eyeSquint": {"squint": 1.0}, "eyeWide": {"eye_wide": 1.0},
    "mouthSmile": {"smile": 1.0}, "mouthFrown": {"frown": 1.0}, "mouthDimple": {"dimple": 1.0},
    "mouthStretch": {"mouth_stretch": 1.0}, "browOuterUp": {"brow_raise": 1.0}, "cheekSquint": {"squint": 0.6},
}  # fmt: skip
"""Of directions that the head has a side each."""
_WHOLE = {
    "mouthClose": {"mouth_open": -0.5}, "mouthFunnel": {"funnel": 1.0}, "mouthPucker": {"pucker": 1.0},
    "mouthLeft": {"mouth_left": 1.0}, "mouthRight": {"mouth_right": 1.0}, "mouthRollLower": {"lip_roll": 0.6},
    "mouthRollUpper": {"lip_roll": 0.4}, "mouthShrugLower": {"chin_raise": 1.0},
    "mouthShrugUpper": {"chin_raise": 0.4, "upper_lip_raise": 0.3}, "browInnerUp": {"brow_inner_raise": 1.0},
    "cheekPuff": {"cheek_puff": 1.0},
}  # fmt: skip
_SHARED = {
    "mouthPress": {"lip_press": 0.5}, "mouthLowerDown": {"lower_lip_depress": 0.5},
    "mouthUpperUp": {"upper_lip_raise": 0.5}, "browDown": {"brow_furrow": 0.5}, "noseSneer": {"nose_wrinkle": 0.5},
}  # fmt: skip
"""Of directions that the head has once: each side does half of it."""
_JAW = {"jawOpen": [0.35, 0.0, 0.0], "jawLeft": [0.0, 0.12, 0.0], "jawRight": [0.0, -0.12, 0.0]}


def procedural_arkit() -> dict[str, dict[str, float | list[float]]]:
    """The mapping for `headfields.apps.export.arkit.arkit_rig`, by ARKit's names.

    >>> from headfields.synthetic.head.arkit import procedural_arkit
    >>> mapping = procedural_arkit()
    >>> len(mapping), mapping["mouthSmileLeft"], mapping["eyeLookOutRight"]
    (50, {'smile_left': 1.0}, {'pose:right_eye': [0.0, -0.55, 0.0]})
    """
    mapping: dict[str, dict[str, float | list[float]]] = {}
    for name in ARKIT_NAMES:
        side = next((each for each in ("Left", "Right") if name.endswith(each)), "")
        stem = name.removesuffix(side) if side else name
        if name in _JAW:
            mapping[name] = {"pose:jaw": _JAW[name]}
        elif name in _WHOLE:
            mapping[name] = dict(_WHOLE[name])
        elif stem.startswith("eyeLook"):
            way = stem.removeprefix("eyeLook")
            pitch, yaw = _LOOKS[way]
            sign = 1.0 if (side == "Left") == (way == "Out") else -1.0  # outward is to the head's own left on that side
            mapping[name] = {f"pose:{side.lower()}_eye": [pitch, sign * yaw if yaw else 0.0, 0.0]}
        elif stem in _SIDED:
            mapping[name] = {f"{own}_{side.lower()}": weight for own, weight in _SIDED[stem].items()}
        elif stem in _SHARED:
            mapping[name] = dict(_SHARED[stem])
    return mapping
