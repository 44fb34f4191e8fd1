"""What a page needs to know of an avatar of Gaussians: its arrays and networks, or why it cannot be shown."""

from typing import Any

import torch
from torch import Tensor, nn

from headfields.avatar.splat_avatar import SplatAvatar
from headfields.decoders.splats import SplatDecoder
from headfields.deformers.triangle_binding import TriangleBinding
from headfields.encoders.frame_inputs import FrameParameters
from headfields.encoders.frequency import Frequency
from headfields.networks.field_basis import BlendCoefficients
from headfields.networks.frame_inputs import FrameInputs
from headfields.networks.gaussians import BLENDED, WIDTHS
from headfields.viz.page.packing import Packer

__all__ = ["can_be_shown", "check_avatar", "describe_avatar"]

_COLOR_BITS = 12
"""Of harmonics above degree 0: a step is 1/4096 of their range."""
_BLEND_BITS = 8


def check_avatar(avatar: Any) -> None:
    """Refuses an avatar that a page cannot pose.

    Raises:
        TypeError: it has no Gaussians, or one of its parts has no counterpart in the page; the message says which, and
            what to do.
    """
    if not isinstance(avatar, SplatAvatar):
        raise TypeError(
            f"to_html: a page draws Gaussians, and a {type(avatar).__name__} is a field of rays; `headfields distill "
            "RUN --out FAST` makes an avatar of Gaussians of it"
        )
    parts: list[tuple[str, Any, type]] = [("deformer", avatar.deformer, TriangleBinding)]
    if avatar.decoder is not None:
        parts += [("decoder", avatar.decoder, SplatDecoder), ("encoder", avatar.encoder, Frequency)]
        parts += [("condition", part, FrameParameters) for part in avatar.conditions]
    if avatar.blendshapes is not None:
        parts += [("blendshapes", avatar.blendshapes, BlendCoefficients)]
    for name, part, known in parts:
        if part is not None and type(part) is not known:
            raise TypeError(
                f"to_html: the {name} is a {type(part).__name__}; a page knows {known.__name__} alone. `headfields "
                "distill RUN --out FAST` makes an avatar of it that a page can show"
            )


def can_be_shown(avatar: Any) -> bool:
    """Whether `check_avatar` takes it."""
    try:
        check_avatar(avatar)
    except TypeError:
        return False
    return True


@torch.no_grad()
def describe_avatar(avatar: SplatAvatar, packer: Packer) -> dict[str, Any]:
    """Adds the avatar's arrays to the packer and returns the rest, as plain values for JSON.

    Args:
        avatar: one that `check_avatar` takes.
        packer: takes the arrays.
    """
    gaussians, deformer, renderer = avatar.gaussians, avatar.deformer, avatar.renderer
    assert isinstance(deformer, TriangleBinding)
    packer.integers("faces", deformer.faces)
    packer.integers("face", gaussians.face)
    packer.ranged("position", gaussians.position)
    packer.ranged("quaternion", gaussians.quaternion)
    packer.ranged("log_scale", gaussians.log_scale)
    packer.ranged("opacity_logit", gaussians.opacity_logit)
    packer.ranged("color", gaussians.color)
    packer.ranged("harmonics", gaussians.harmonics.flatten(1), _COLOR_BITS)
    if gaussians.barycentric is not None:
        packer.ranged("barycentric", gaussians.barycentric[:, 1:])
    described: dict[str, Any] = {
        "count": len(gaussians), "degree": round((1 + gaussians.harmonics.shape[1]) ** 0.5) - 1,
        "follows": deformer.follows, "lowPass": renderer.low_pass, "near": renderer.near,
        "antialiased": renderer.antialiased, "blend": None, "decoder": None,
    }  # fmt: skip
    if avatar.blendshapes is not None:
        network: Any = avatar.blendshapes
        for name in BLENDED:
            packer.ranged(f"blend_{name}", getattr(gaussians, f"blend_{name}").mT.flatten(1), _BLEND_BITS)
        layers: list[Any] = [*network.trunk, nn.ReLU()] if network.centered and network.layers else []
        layers = [*layers, network.out] if network.centered else list(network.network)
        described["blend"] = {
            "inputs": _inputs(network._inputs), "layers": _layers("blend", layers, packer),
            "centered": network.centered,
        }  # fmt: skip
    if avatar.decoder is not None:
        decoder, encoder = avatar.decoder, avatar.encoder
        assert isinstance(decoder, SplatDecoder) and isinstance(encoder, Frequency)
        rest = deformer.rest(gaussians(), gaussians.face).means
        packer.ranged("rest", (rest - encoder.center) / encoder.half_side)
        described["decoder"] = {
            "bands": encoder.bands, "coordinates": encoder.include_input,
            "inputs": [entry for part in avatar.conditions for entry in _inputs(part.inputs)],  # type: ignore[arg-type]
            "layers": _layers("decoder", list(decoder.network), packer), "bounded": decoder.bounded,
            "attributes": [
                {"name": name, "width": WIDTHS[name][0] if WIDTHS[name] else 1, "gain": decoder.gains.get(name, 1.0)}
                for name in decoder.attributes
            ],
        }  # fmt: skip
    return described


def _inputs(inputs: FrameInputs) -> list[dict[str, Any]]:
    """What a network reads of a frame, in order."""
    rows: list[dict[str, Any]] = [{"field": name, "width": width} for name, width in inputs.condition.items()]
    if inputs.joints:
        rows.append({"joints": list(inputs.joints), "rotations": inputs.rotations})
    return rows


def _layers(owner: str, modules: list[Any], packer: Packer) -> list[dict[str, Any]]:
    """Linear layers, each with whether a ReLU follows."""
    layers: list[dict[str, Any]] = []
    for module in modules:
        if isinstance(module, nn.ReLU):
            layers[-1]["relu"] = True
            continue
        name = f"{owner}_{len(layers)}"
        packer.exact(f"{name}_weight", module.weight)
        bias: Tensor | None = module.bias
        if bias is not None:
            packer.exact(f"{name}_bias", bias)
        layers.append({"name": name, "in": module.in_features, "out": module.out_features, "bias": bias is not None,
                       "relu": False})  # fmt: skip
    return layers
