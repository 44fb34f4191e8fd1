"""Rows of the studies of fine-tuning: the tracking of drawn captures is trained beside the avatar."""

import json
from collections.abc import Mapping
from typing import Any

import headfields as hf
from headfields.synthetic.captures import head_of_identity
from headfields.training import recipe_of
from headfields.training.fine_tuning import FineTuning


def gaussians(capture: hf.data.Capture) -> Mapping[str, Any]:
    """Expression, joints, turn and shift of each training frame, at the default rates."""
    return _tuned("gaussian_avatars", capture)


def insta(capture: hf.data.Capture) -> Mapping[str, Any]:
    """The same, and the pixels that INSTA's recipe draws."""
    return _tuned("insta", capture)


def _tuned(model: Any, capture: hf.data.Capture) -> Mapping[str, Any]:
    identity = json.loads((capture.path / "synthetic.json").read_text())["identity"]
    sampling = recipe_of(model, "cpu").sampling(capture)
    return {**sampling, "fine_tuning": FineTuning(head=head_of_identity(identity))}
