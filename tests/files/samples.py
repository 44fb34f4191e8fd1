"""Tiny files of what the library saves: avatars of all parts, a prior, a set of scans, and a run folder."""

from collections.abc import Callable
from pathlib import Path

import torch

from headfields.apps.priors.prior import Prior
from headfields.apps.priors.scans.store import save_scans
from headfields.avatar.avatar import Avatar
from headfields.avatar.composition import Composition
from headfields.avatar.splat_avatar import SplatAvatar
from headfields.decoders import BlendedColor, NeuSDecoder
from headfields.deformers import Chain, NearSurface, SurfaceCanonicalizer, TriangleBinding
from headfields.encoders import (
    CodeFeatures,
    CodeMLPFeatures,
    ColorFields,
    Frequency,
    UVCodeFeatures,
    UVDisplacementFeatures,
    VertexFeatures,
    VertexSource,
)
from headfields.models import insta
from headfields.networks import Gaussians
from headfields.networks.field_basis import BlendCoefficients
from headfields.networks.surface_splats import surface_splats
from headfields.records import Template
from headfields.renderers import CoarseToFineRenderer, SurfaceRenderer, UniformSampler, VolumeRenderer
from headfields.renderers.lighting import ColorAffine, SHLighting
from headfields.renderers.sharpness import ScheduledSharpness
from headfields.renderers.surface_alpha import NeuSAlpha, VolSDFDensity
from headfields.runs.folder import RunFolder
from tests.apps.priors.tiny import tiny_head, tiny_model, tiny_scans
from tests.avatar import test_composition as parts
from tests.avatar.test_composition import CAMERA, FACES, MOUTH, VERTICES, state

TEMPLATE = Template(VERTICES, FACES, {"mouth": MOUTH, "face": ~MOUTH})
CHARTED = TEMPLATE.replace(uv=VERTICES[:, :2] * 4 + 0.5, uv_faces=FACES)
FIELDS = {"expression": 3}
GRID = {"levels": 2, "features": 2, "base_resolution": 2, "finest_resolution": 4}
CONFIG = {"model": "insta", "arguments": {"levels": 2}, "capture": "tiny", "mouth": "close", "seed": 0}


def composed(deformer: str, encoder: str, decoder: str, sampler: str, condition: str = "none") -> Avatar:
    made = parts.DEFORMERS[deformer](), parts.ENCODERS[encoder](), parts.DECODERS[decoder]()
    given = parts.CONDITIONS[condition]()
    return Avatar(*made, parts.renderer(decoder, sampler), condition=given, template=TEMPLATE)


def of_vertices(source: VertexSource) -> Avatar:
    encoder = VertexFeatures(source, bands=2, hidden=8, layers=2, merged_layers=1)
    made = parts.DECODERS["radiance head"](), VolumeRenderer(UniformSampler(6))
    return Avatar(parts.DEFORMERS["near surface, corrected"](), encoder, *made, template=CHARTED)


def coarse_to_fine() -> Avatar:
    shared = parts.ENCODERS["posed vertices, turning"]()
    renderer = CoarseToFineRenderer(shared, parts.DECODERS["nerf"](), coarse=6, fine=5)
    return Avatar(Chain(NearSurface(VERTICES, FACES), parts.warp()), shared, parts.DECODERS["nerf"](), renderer)


def surface(renderer: SurfaceRenderer) -> Avatar:
    decoder = NeuSDecoder(hidden=16, geometry_width=4, radius=0.1)
    return Avatar(SurfaceCanonicalizer(VERTICES, FACES), Frequency(4), decoder, renderer, template=TEMPLATE)


def colored() -> Avatar:
    fields = ColorFields(BlendCoefficients(FIELDS, fields=2, hidden=8), options=GRID)
    made = parts.DEFORMERS["surface published"](), parts.ENCODERS["hash grid"](), BlendedColor(parts.DECODERS["nerf"]())
    return Avatar(*made, VolumeRenderer(UniformSampler(6)), condition=fields)


def bound() -> SplatAvatar:
    deformer = TriangleBinding(VERTICES, FACES)
    return SplatAvatar(Gaussians.of(*deformer.attach(*surface_splats(VERTICES, FACES, 30)), degree=1), deformer)


AVATARS: dict[str, Callable[[], Composition]] = {
    "insta": lambda: insta(
        TEMPLATE, 3, levels=2, features=2, log2_table_size=8, finest_resolution=32, grid_resolution=8
    ),
    "static": lambda: composed("static", "hash grid smooth", "nerf", "hierarchical"),
    "gated": lambda: composed("surface released", "hash grid", "nerf", "occupancy posed", "gate"),
    "skinning": lambda: composed("skinning, blendfield", "hash grid", "nerf", "uniform"),
    "weight_field": lambda: composed("skinning by a field", "canonical vertices", "nerf", "occupancy canonical"),
    "roots": lambda: composed("skinning roots", "frequency", "radiance head", "uniform"),
    "hyper_neus": lambda: composed("hyper", "frequency", "neus", "surface"),
    "mononphm": lambda: tiny_model(tiny_scans()),
    "monoavatar": lambda: of_vertices(UVDisplacementFeatures(CHARTED, width=4, channels=(2, 4), resolution=16)),
    "monoavatar_c": lambda: of_vertices(UVCodeFeatures(CHARTED, FIELDS, width=4, channels=(4, 2), resolution=16)),
    "code_features": lambda: of_vertices(CodeFeatures(len(VERTICES), FIELDS, 4)),
    "code_mlp_features": lambda: of_vertices(CodeMLPFeatures(len(VERTICES), FIELDS, 4, hidden=4)),
    "near_surface": coarse_to_fine,
    "scheduled": lambda: surface(SurfaceRenderer(UniformSampler(8), NeuSAlpha(ScheduledSharpness(10.0, 100.0)))),
    "volsdf": lambda: surface(SurfaceRenderer(UniformSampler(8), VolSDFDensity(), [SHLighting(), ColorAffine()])),
    "vp360_colors": colored,
    "splats": bound,
}
"""An avatar for each part that has arguments of its own."""


def write_avatar(name: str, folder: Path) -> None:
    """NAME.safetensors, with a preview."""
    avatar = AVATARS[name]()
    avatar.preview = CAMERA, state(1)
    avatar.save(folder / f"{name}.safetensors")


def write_prior(folder: Path) -> None:
    """prior.safetensors, of three people with three scans each."""
    scans = tiny_scans()
    avatar = tiny_model(scans)
    width = avatar.deformer.anchors.layout.width
    tables = torch.randn(3, width), torch.randn(3, width), torch.randn(9, avatar.deformer.expression_width)
    Prior(avatar, *tables, scans.person, scans.neutral, scans.people, scans.scans).save(folder / "prior.safetensors")


def write_scans(folder: Path) -> None:
    """A set of scans in scans/."""
    save_scans(tiny_scans(2, 2), folder / "scans", {"head": tiny_head().__class__.__name__})


def write_run(folder: Path) -> None:
    """config.json and log.jsonl of a run."""
    run = RunFolder(folder)
    run.write_config(CONFIG)
    for step in range(3):
        run.log(step=step, loss=0.5)


def write_samples(folder: Path) -> Path:
    """All of them; avatars and the prior side by side in `folder`."""
    for name in AVATARS:
        write_avatar(name, folder)
    write_prior(folder)
    write_scans(folder)
    write_run(folder / "run")
    return folder
