"""Presets: functions that assemble public parts into published models, and two baselines."""

from typing import TYPE_CHECKING

from headfields.models.baselines import static_field
from headfields.models.flash_avatar import flash_avatar
from headfields.models.gaussian_avatars import gaussian_avatars
from headfields.models.insta import insta
from headfields.models.monoavatar import monoavatar
from headfields.models.mononphm import code_widths, mononphm
from headfields.models.rgb_avatar import rgb_avatar
from headfields.models.vp360 import vp360
from headfields.old_names import deprecated_names

__all__ = [
    "code_widths",
    "flash_avatar",
    "gaussian_avatars",
    "insta",
    "monoavatar",
    "mononphm",
    "rgb_avatar",
    "static_field",
    "vp360",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated_names(__name__)
