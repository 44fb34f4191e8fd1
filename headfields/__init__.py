"""headfields: differentiable head-avatar primitives for PyTorch.

Compose a deformer, an encoder, a decoder and a renderer into an `Avatar`, or take a preset from `headfields.models`.
"""

from headfields import data, decoders, deformers, encoders, heads, losses, metrics, models, ops, renderers, training, viz
from headfields.avatar import Avatar, Field
from headfields.backends import backends, use_cpu_backend
from headfields.parts import Decoder, Deformer, Encoder, Renderer, Sampler
from headfields.records import (
    Camera,
    Canonical,
    FieldValues,
    HeadState,
    PixelBatch,
    Rays,
    Rendering,
    Samples,
    Template,
)

__version__ = "0.1.0"
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
    "PixelBatch",
    "Rays",
    "Renderer",
    "Rendering",
    "Sampler",
    "Samples",
    "Template",
    "backends",
    "data",
    "decoders",
    "deformers",
    "encoders",
    "heads",
    "losses",
    "metrics",
    "models",
    "ops",
    "renderers",
    "training",
    "use_cpu_backend",
    "viz",
]
