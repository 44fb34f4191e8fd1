"""Presets by name: their arguments on a capture, and building one.

A preset is a function of `headfields.models` whose first parameter is the capture's template.
"""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from headfields import models
from headfields.data.hair_extent import matter_extent
from headfields.models.preset import unknown_argument
from headfields.ops._rasterize_gsplat import installed_gsplat
from headfields.similar_names import did_you_mean

__all__ = ["PRIORS", "build", "check_people", "parameters_of", "preset_arguments", "preset_named", "presets"]

PRIORS = {"mononphm": "a prior of heads: train it on scans with headfields train-prior, and fit it to a capture with "
          "headfields track"}  # fmt: skip
"""Models that are not trained on a capture, and what trains them."""
_GAUSSIANS = "its Gaussians have the places, sizes and colors of one head"
_ONE_PERSON = {
    "gaussian_avatars": _GAUSSIANS, "flash_avatar": _GAUSSIANS, "rgb_avatar": _GAUSSIANS,
    "vp360": "its blendfield and its grid belong to one person's rig",
    "monoavatar": "its warp has a code for each frame of one recording, and it has not been tried with people's codes",
}  # fmt: skip
"""Why presets are of one person."""

DRIVING_JOINTS: Mapping[str, tuple[int, ...]] = {"flash_avatar": (2, 3, 4), "rgb_avatar": (1, 2, 3, 4)}
"""Joints of FLAME (root, neck, jaw, left eye, right eye) whose rotations drive presets of Gaussians: in the released
code of FlashAvatar src/deform_model.py, in that of RGBAvatar dataset/flame_dataset.py."""
_FLAME_JOINTS = 5
_UNREAD: Mapping[str, Sequence[tuple[Sequence[str], str, Callable[[Mapping[str, Any]], bool]]]] = {
    "insta": [(("person_width",), "for one person (people=0)", lambda given: not given.get("people"))],
    "vp360": [(
        ("expression_width", "joints", "blend", "kind"), "without fields (fields=0)",
        lambda given: given.get("fields") == 0,
    )],
    "monoavatar": [(
        ("expression_width", "pose_width"), "with variant D, which reads displacements",
        lambda given: given.get("variant", "D") == "D",
    )],
    "gaussian_avatars": [
        (("hair", "share_above"), "with one Gaussian a triangle (count=None)",
         lambda given: given.get("count", 0) is None),
        (("share_above",), "where no hair is above the mesh (hair=0)", lambda given: not given.get("hair")),
    ],
}  # fmt: skip
"""Arguments that a preset does not read beside others: their names, where that is, and whether it is so."""


def presets() -> dict[str, Callable[..., Any]]:
    """The presets by name."""
    functions = {name: getattr(models, name) for name in models.__all__ if inspect.isfunction(getattr(models, name))}
    return {name: function for name, function in functions.items() if parameters_of(function)[0].name == "template"}


def preset_named(model: str) -> Callable[..., Any]:
    """A preset by name.

    Raises:
        ValueError: there is none of that name; the message lists those there are.
    """
    if model in PRIORS:
        raise ValueError(f"{model} is not trained on a capture; it is {PRIORS[model]}")
    known = presets()
    if model not in known:
        raise ValueError(
            f"there is no model {model!r}{did_you_mean(model, known)}; headfields train has {', '.join(sorted(known))}"
        )
    return known[model]


def check_people(model: str, captures: int) -> None:
    """Refuses to train a preset of one person on several captures.

    Raises:
        ValueError: it has no argument `people`; the message says why, and names those that have.
    """
    if captures > 1 and not _shares(preset_named(model)):
        reason = _ONE_PERSON.get(model, "nothing in it tells people apart")
        able = [name for name, function in sorted(presets().items()) if _shares(function)]
        raise ValueError(
            f"train: {captures} captures, and {model} is of one person: {reason}. {', '.join(able)} shares its "
            "networks and has a code for each; or train one run for each capture"
        )


def _shares(function: Callable[..., Any]) -> bool:
    return any(parameter.name == "people" for parameter in parameters_of(function))


def preset_arguments(model: str, own: Mapping[str, Any], capture: Any, recipe: Any) -> dict[str, Any]:
    """Arguments for a preset on a capture: those of a recipe, with `own` in their place.

    Nine parameters of a preset have defaults of their own: `expression_width` is at most what the capture offers,
    `pose_width` what it records, `frames` is the number of its frames, `people`
    that of the people in joined captures, `sizes` is "cpu" in the recipe "cpu" and else
    "paper", `shell` is a centimeter more than what the mattes show, if that is more than the preset's, and `hair` is
    what they show. FlashAvatar's and RGBAvatar's `joints` are the paper's, jaw and eyes, and RGBAvatar's neck, and
    their `eyelids` is true, where the capture records them.

    Raises:
        ValueError: there is no such preset.
            Or an argument in `own` is one that the preset does not read beside the others.
        TypeError: it has no argument of that name.
        ModuleNotFoundError: gsplat is to draw, and not installed.
    """
    arguments = {**recipe.arguments, **own}
    if "small" in own and "sizes" not in own:  # MonoAvatar's older word for sizes
        arguments.pop("sizes", None)
    parameters = {parameter.name: parameter for parameter in parameters_of(preset_named(model))}
    unknown = [name for name in own if name not in list(parameters)[1:]]
    if unknown:
        raise TypeError(unknown_argument(preset_named(model), unknown[0]))
    offered = getattr(capture, "expression_width", None)
    if "expression_width" in parameters and "expression_width" not in own and offered is not None:
        usual = arguments.get("expression_width", parameters["expression_width"].default)
        if usual is not None:  # else the preset takes what the template's states have
            arguments["expression_width"] = min(usual, offered)
    several = getattr(capture, "captures", (capture,))
    if "people" in parameters and len(several) > 1:
        arguments.setdefault("people", len(set(capture.identities)))
    elif own.get("people"):
        raise ValueError(
            f"{model}: people={own['people']!r} has a code for each person, and the capture is of one; give a capture "
            "of each, or leave it out"
        )
    if "frames" in parameters:
        arguments.setdefault("frames", len(capture))
    if "shell" in parameters and "shell" not in arguments:
        needed = round(max(map(matter_extent, several)) + 0.01, 3)
        if needed > parameters["shell"].default:
            arguments["shell"] = needed
            print(
                f"{model}: a shell of {100 * needed:.1f} cm, because the mattes show matter {100 * needed - 1:.1f} cm "
                "off the mesh; shell=0.045 keeps the preset's",
                file=sys.stderr,
            )
    if "hair" in parameters and "hair" not in arguments:
        arguments["hair"] = round(matter_extent(capture), 3)
    if model in DRIVING_JOINTS and len(capture):
        state = capture.state([0])
        joints = 0 if state.pose is None else state.pose.shape[1]
        arguments.setdefault("joints", DRIVING_JOINTS[model] if joints == _FLAME_JOINTS else ())
        arguments.setdefault("eyelids", "eyelids" in state.codes)
    if "pose_width" in parameters:
        arguments.setdefault("pose_width", pose_width(capture))
    if "sizes" in parameters and not {"sizes", "small"} & arguments.keys():
        arguments["sizes"] = "cpu" if recipe.name == "cpu" else "paper"
    for names, where, is_so in _UNREAD.get(model, ()):
        idle = [name for name in names if name in own]
        if idle and is_so(arguments):
            raise ValueError(f"{model}: {idle[0]}={own[idle[0]]!r} changes nothing {where}; leave it out")
    if len(capture) and (own.get("joints") or own.get("eyelids")):
        state = capture.state([0])
        for name, recorded in (("joints", state.pose is not None), ("eyelids", "eyelids" in state.codes)):
            if own.get(name) and not recorded:
                what = "poses" if name == "joints" else "eyelids"
                raise ValueError(f"{model}: {name}={own[name]!r}, and the capture records no {what}; leave it out")
    if arguments.get("backend") == "gsplat":
        installed_gsplat()  # here, and not where an avatar is built: a run can be opened without it
    return arguments


def build(model: str, arguments: Mapping[str, Any], capture: Any) -> Any:
    """The avatar of a preset on a capture's template, to be trained.

    Raises:
        ValueError: it is to have no Gaussians, which is legal elsewhere, but nothing to train.
    """
    if arguments.get("count", 1) == 0:
        raise ValueError(f"{model}: count is 0; expected 1 Gaussian or more to train")
    return preset_named(model)(capture.template, **arguments)


def pose_width(capture: Any) -> int:
    """Number of pose coefficients that the states of a capture have, 3 for each joint; 0 for none."""
    pose = capture.state([0]).pose if len(capture) else None
    return 0 if pose is None else pose[0].numel()


def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of a function, in order."""
    return list(inspect.signature(function).parameters.values())
