"""headfields: differentiable head-avatar primitives for PyTorch.

Compose a deformer, an encoder, a decoder and a renderer into an `Avatar`, or take a preset from `headfields.models`.
The programs of `headfields.apps` have short names too: `headfields.tracking` is `headfields.apps.tracking`.
Names are imported when they are first used, so that `headfields --help` does not wait for PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from headfields.old_names import deprecated_names

if TYPE_CHECKING:
    from headfields import (
        apps,
        compare,  # noqa: F401
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
        runs,  # noqa: F401
        synthetic,
        training,
        viz,
    )
    from headfields.apps import capturing, export, priors, retargeting, rigging, texturing, tracking, viewer  # noqa: F401
    from headfields.avatar.avatar import Avatar
    from headfields.avatar.splat_avatar import SplatAvatar, load_avatar
    from headfields.mesh.mesh import Mesh
    from headfields.ops.dispatch import backends, use_cpu_backend
    from headfields.parts import Decoder, Deformer, Encoder, Field, Renderer, Rendering, Sampler
    from headfields.records import Camera, Canonical, FieldValues, HeadState, Rays, Samples, Splats, Template
    from headfields.training.opened_run import load_run

__version__ = "0.5.0"

_NAMES = {
    "avatar.avatar": ("Avatar",),
    "avatar.splat_avatar": ("SplatAvatar", "load_avatar"),
    "mesh.mesh": ("Mesh",),
    "ops.dispatch": ("backends", "use_cpu_backend"),
    "parts": ("Decoder", "Deformer", "Encoder", "Field", "Renderer", "Rendering", "Sampler"),
    "training.opened_run": ("load_run",),
    "records": ("Camera", "Canonical", "FieldValues", "HeadState", "Rays", "Samples", "Splats", "Template"),
}
_NAMESPACES = (
    "apps", "data", "decoders", "deformers", "encoders", "files", "heads", "interop", "losses", "mesh", "metrics",
    "models", "networks", "ops", "renderers", "synthetic", "training", "viz",
)  # fmt: skip
_SHORT = (
    "capturing",
    "export",
    "priors",
    "retargeting",
    "rigging",
    "texturing",
    "tracking",
    "viewer",
)  # of headfields.apps
_HOME = {name: module for module, names in _NAMES.items() for name in names}
_old_name = deprecated_names(__name__)

__all__ = [
    "Avatar",
    "Camera",
    "Canonical",
    "Decoder",
    "Deformer",
    "Encoder",
    "Field",
    "FieldValues",
    "HeadState",
    "Mesh",
    "Rays",
    "Renderer",
    "Rendering",
    "Sampler",
    "Samples",
    "SplatAvatar",
    "Splats",
    "Template",
    "apps",
    "backends",
    "data",
    "decoders",
    "deformers",
    "encoders",
    "files",
    "heads",
    "interop",
    "load_avatar",
    "load_run",
    "losses",
    "mesh",
    "metrics",
    "models",
    "networks",
    "ops",
    "renderers",
    "synthetic",
    "training",
    "use_cpu_backend",
    "viz",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"headfields.{_HOME[name]}"), name)
    if name in _NAMESPACES or name in ("compare", "records", "runs"):
        return importlib.import_module(f"headfields.{name}")
    if name in _SHORT:
        return importlib.import_module(f"headfields.apps.{name}")
    try:
        return _old_name(name)
    except AttributeError as error:
        raise AttributeError(f"{error}; it has {', '.join((*__all__, *_SHORT))}") from None


def __dir__() -> list[str]:
    return [*__all__, *_SHORT, "__version__"]
