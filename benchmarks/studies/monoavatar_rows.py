"""Rows of MonoAvatar's study: the preset for a CPU with another source of vertex features.

Codes are the expression and, where the capture has it, the pose.
"""

import headfields as hf
from headfields.encoders import (
    CodeFeatures,
    CodeMLPFeatures,
    StaticFeatures,
    UVCodeFeatures,
    UVDisplacementFeatures,
    VertexSource,
)
from headfields.mesh.unwrapping import FEATURE_WEIGHTS, unwrap_template
from headfields.models.monoavatar import SIZES
from headfields.training.presets import pose_width

WIDTH = 32
NOTHING_MOVES = 1e9
"""Meters that become 1 in the map of the row "position": displacements vanish, and all else is as in D."""


def _avatar(capture: hf.data.Capture, template: hf.Template, source: VertexSource) -> hf.Avatar:
    return hf.models.monoavatar(template, frames=len(capture), source=source, sizes="cpu")


def _fields(capture: hf.data.Capture) -> dict[str, int]:
    pose = pose_width(capture)
    return {"expression": capture.expression_width or 1, **({"pose": pose} if pose else {})}


def _count(template: hf.Template) -> int:
    return len(template.canonical_vertices)


def displacements(capture: hf.data.Capture) -> hf.Avatar:
    template = unwrap_template(capture.template, weights=FEATURE_WEIGHTS)
    return _avatar(capture, template, UVDisplacementFeatures(template, **SIZES["cpu"]["D"], unit=0.01))


def position(capture: hf.data.Capture) -> hf.Avatar:
    template = unwrap_template(capture.template, weights=FEATURE_WEIGHTS)
    return _avatar(capture, template, UVDisplacementFeatures(template, **SIZES["cpu"]["D"], unit=NOTHING_MOVES))


def static(capture: hf.data.Capture) -> hf.Avatar:
    template = unwrap_template(capture.template, weights=FEATURE_WEIGHTS)
    return _avatar(capture, template, StaticFeatures(_count(template), WIDTH))


def codes(capture: hf.data.Capture) -> hf.Avatar:
    template = unwrap_template(capture.template, weights=FEATURE_WEIGHTS)
    return _avatar(capture, template, CodeFeatures(_count(template), _fields(capture), WIDTH))


def codes_mlp(capture: hf.data.Capture) -> hf.Avatar:
    template = unwrap_template(capture.template, weights=FEATURE_WEIGHTS)
    return _avatar(capture, template, CodeMLPFeatures(_count(template), _fields(capture), WIDTH))


def transposed(capture: hf.data.Capture) -> hf.Avatar:
    template = unwrap_template(capture.template, weights=FEATURE_WEIGHTS)
    return _avatar(capture, template, UVCodeFeatures(template, _fields(capture), **SIZES["cpu"]["C"]))
