"""headfields: differentiable head-avatar primitives for PyTorch.

Compose a deformer, an encoder, a decoder and a renderer into an `Avatar`, or take a preset from `headfields.models`.
The programs of `headfields.apps` have short names too: `headfields.tracking` is `headfields.apps.tracking`.
Names are imported when they are first used, so that `headfields --help` does not wait for PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headfields import (
        data,
        decoders,
        deformers,
        encoders,
        files,
        heads,
        interop,
        losses,
        mesh,
        metrics,
        models,
        networks,
        ops,
        renderers,
        runs,
        synthetic,
        training,
        viz,
    )
    from headfields.apps import export, priors, retargeting, rigging, texturing, tracking, viewer
    from headfields.apps.priors.prior import Prior, load_prior
    from headfields.avatar.avatar import Avatar
    from headfields.avatar.splat_avatar import SplatAvatar, load_avatar
    from headfields.mesh.mesh import Mesh
    from headfields.ops.dispatch import backends, use_cpu_backend
    from headfields.parts import Decoder, Deformer, Encoder, Field, Renderer, Rendering, Sampler
    from headfields.records import (
        Camera,
        Canonical,
        Correction,
        DistortedCameraError,
        Features,
        FieldValues,
        HeadState,
        ImageBatch,
        PixelBatch,
        Rays,
        Samples,
        Splats,
        Template,
    )

__version__ = "0.5.0"

_CORE = (
    "data", "decoders", "deformers", "encoders", "files", "heads", "interop", "losses", "mesh", "metrics", "models",
    "networks", "ops", "renderers", "runs", "training", "viz",
)  # fmt: skip
_APPS = ("export", "priors", "retargeting", "rigging", "texturing", "tracking", "viewer")
_MODULES = {
    **{name: f"headfields.{name}" for name in (*_CORE, "synthetic")},
    **{name: f"headfields.apps.{name}" for name in _APPS},
}
_NAMES = {
    "avatar.avatar": ("Avatar",),
    "avatar.splat_avatar": ("SplatAvatar", "load_avatar"),
    "ops.dispatch": ("backends", "use_cpu_backend"),
    "mesh.mesh": ("Mesh",),
    "parts": ("Decoder", "Deformer", "Encoder", "Field", "Renderer", "Rendering", "Sampler"),
    "apps.priors.prior": ("Prior", "load_prior"),
    "records": (
        "Camera", "Canonical", "Correction", "DistortedCameraError", "Features", "FieldValues", "HeadState",
        "ImageBatch", "PixelBatch", "Rays", "Samples", "Splats", "Template",
    ),
}  # fmt: skip
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "Avatar",
    "Camera",
    "Canonical",
    "Correction",
    "Decoder",
    "Deformer",
    "DistortedCameraError",
    "Encoder",
    "Features",
    "Field",
    "FieldValues",
    "HeadState",
    "ImageBatch",
    "Mesh",
    "PixelBatch",
    "Prior",
    "Rays",
    "Renderer",
    "Rendering",
    "Sampler",
    "Samples",
    "SplatAvatar",
    "Splats",
    "Template",
    "backends",
    "data",
    "decoders",
    "deformers",
    "encoders",
    "export",
    "files",
    "heads",
    "interop",
    "load_avatar",
    "load_prior",
    "losses",
    "mesh",
    "metrics",
    "models",
    "networks",
    "ops",
    "priors",
    "renderers",
    "retargeting",
    "rigging",
    "runs",
    "synthetic",
    "texturing",
    "tracking",
    "training",
    "use_cpu_backend",
    "viewer",
    "viz",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"headfields.{_HOME[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    raise AttributeError(f"module 'headfields' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
