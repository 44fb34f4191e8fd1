"""Presets: functions that assemble public parts into published models, and two baselines."""

from headfields.models.baselines import AverageTexture, static_field
from headfields.models.flash_avatar import flash_avatar
from headfields.models.gaussian_avatars import gaussian_avatars
from headfields.models.insta import INSTA_RELEASED, insta
from headfields.models.monoavatar import monoavatar
from headfields.models.mononphm import code_widths, mononphm
from headfields.models.rgb_avatar import rgb_avatar
from headfields.models.vp360 import vp360

__all__ = [
    "INSTA_RELEASED",
    "AverageTexture",
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
