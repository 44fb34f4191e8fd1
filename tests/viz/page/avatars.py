"""Avatars of Gaussians for the page: looks and networks that differ from Gaussian to Gaussian, and frames of a head."""

from typing import Any

import torch

from headfields.avatar.splat_avatar import SplatAvatar
from headfields.models.flash_avatar import flash_avatar
from headfields.models.gaussian_avatars import gaussian_avatars
from headfields.models.rgb_avatar import rgb_avatar
from headfields.records import HeadState

PRESETS = {"gaussian_avatars": gaussian_avatars, "rgb_avatar": rgb_avatar, "flash_avatar": flash_avatar}


@torch.no_grad()
def varied_avatar(preset: str, head: Any, count: int, **options: Any) -> SplatAvatar:
    """The preset on the head, with random colors, opacities, turns and networks: no two Gaussians are alike."""
    if preset != "gaussian_avatars":
        options = {"joints": (2, 3, 4)} | options
    avatar = PRESETS[preset](head.template(), count=count, **options)
    gaussians = avatar.gaussians
    gaussians.opacity_logit.normal_(1.0, 2.0)
    gaussians.color.normal_(std=1.0)
    if gaussians.harmonics.numel():
        gaussians.harmonics.normal_(std=0.15)
    gaussians.quaternion.normal_()
    gaussians.log_scale[:, 0] -= 1.0
    networks = [part for part in (avatar.decoder, avatar.blendshapes) if part is not None]
    for parameter in (each for network in networks for each in network.parameters()):
        parameter.add_(0.03 * torch.randn_like(parameter))
    if gaussians.blendshapes:
        for name, spread in (("position", 2e-4), ("quaternion", 0.05), ("color", 0.1)):
            getattr(gaussians, f"blend_{name}").normal_(std=spread)
    return avatar.eval()


def moving_states(head: Any, count: int) -> HeadState:
    """Frames with the named expressions, or the first ones, and jaw, neck and eyes turned."""
    named, joints = len(head.expression_names) or 12, len(head.parents)
    expression = torch.zeros(count, head.expression_count)
    expression[:, :named] = torch.rand(count, named)
    pose = 0.15 * torch.randn(count, joints, 3)
    pose[:, 0] = 0
    return head(expression=expression, pose=pose)
