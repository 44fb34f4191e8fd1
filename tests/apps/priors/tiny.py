"""A head of a few hundred faces, its scans, and a small model for it."""

import math
from pathlib import Path

import torch
from torch import Tensor

from headfields.apps.priors import PriorTrainer
from headfields.apps.priors.losses import PriorWeights
from headfields.apps.priors.scans.batch import PointCounts
from headfields.apps.priors.scans.meshes import MeshScans
from headfields.avatar.avatar import Avatar
from headfields.decoders import AnchoredDecoder
from headfields.deformers import HyperDeformer
from headfields.encoders import Coordinates
from headfields.heads import BlendshapeHead
from headfields.networks import Anchors, head_anchors
from headfields.records import Template
from headfields.renderers import HierarchicalSampler, SurfaceRenderer, UnclampedAlpha

COUNTS = PointCounts(face=24, static=8, back=8, near=16, far=8, correspondences=8)
WEIGHTS = PriorWeights(distance=1.0)


def tiny_head(rows: int = 12, around: int = 16) -> BlendshapeHead:
    """An egg with a nose, open at the neck, with two identities and an expression that lowers the chin."""
    polar = torch.linspace(0.12, 0.82, rows) * math.pi
    turn = torch.arange(around) * (2 * math.pi / around)
    ring = torch.stack([turn.sin(), torch.zeros(around), turn.cos()], -1)
    body = polar.sin()[:, None, None] * ring[None] + polar.cos()[:, None, None] * torch.tensor([0.0, 1.0, 0.0])
    top = torch.tensor([[0.0, 1.0, 0.0]])
    sphere = torch.cat([body.reshape(-1, 3), top])
    vertices = sphere * torch.tensor([0.07, 0.11, 0.09])
    vertices[:, 2] += 0.02 * torch.exp(-((sphere[:, :2] / 0.25) ** 2).sum(-1)) * (sphere[:, 2] > 0)
    faces = []
    for i in range(rows - 1):
        for j in range(around):
            a, b = i * around + j, i * around + (j + 1) % around
            faces += [(a, a + around, b), (b, a + around, b + around)]
    faces += [(rows * around, j, (j + 1) % around) for j in range(around)]
    chin = torch.exp(-(((sphere - torch.tensor([0.0, -0.5, 0.8])) / 0.5) ** 2).sum(-1))
    drop = chin[:, None] * torch.tensor([0.0, -0.015, 0.0])
    identities = torch.stack([0.05 * vertices * torch.tensor([1.0, 0, 0]), 0.05 * vertices * torch.tensor([0, 0, 1.0])])
    return BlendshapeHead(vertices, torch.tensor(faces), drop[None], identities, ("jawOpen",))


def tiny_scans(people: int = 3, expressions: int = 3, anchors: bool = True) -> MeshScans:
    """Scans of such heads with the anchors of `tiny_model`; the first of each person is neutral."""
    head = tiny_head()
    person = torch.arange(people).repeat_interleave(expressions)
    amount = torch.linspace(0, 1, expressions).repeat(people)
    size = torch.linspace(-1, 1, people)
    identity = torch.stack([size, -size], -1)
    vertices = head(identity=identity[person], expression=amount[:, None]).vertices
    rgb = (0.5 + 4 * vertices[::expressions]).clamp(0, 1)
    scans = MeshScans(vertices, head.faces, person, rgb)
    return scans.with_anchors(anchor_vertices(scans)) if anchors else scans


def anchor_vertices(scans: MeshScans) -> Tensor:
    template = Template(canonical_vertices=scans.mean_neutral(), faces=scans.faces, regions={})
    return head_anchors(template, pairs=3, middle=2)


def tiny_model(scans: MeshScans, seed: int = 0) -> Avatar:
    """MonoNPHM on the mean neutral head with eight anchors and a few thousand weights."""
    torch.manual_seed(seed)
    mean, chosen = scans.mean_neutral(), anchor_vertices(scans)
    anchors = Anchors(mean[chosen], 3, global_width=6, local_width=3, hidden=8, center=scans.center, vertices=chosen)
    return Avatar(
        deformer=HyperDeformer(anchors, 1, expression_width=4, identity_width=4, hidden=24, layers=3, skip=2),
        encoder=Coordinates(points=False),
        decoder=AnchoredDecoder(
            anchors, hidden=24, layers=2, neighbors=3, reach=3, appearance_hidden=12, appearance_layers=1,
            appearance_width=4,
        ),
        renderer=SurfaceRenderer(HierarchicalSampler(coarse=8, fine=8), UnclampedAlpha()),
    )  # fmt: skip


def trainer(scans: MeshScans, out: Path | None = None, seed: int = 0, **options) -> PriorTrainer:
    given = {
        "weights": WEIGHTS,
        "counts": COUNTS,
        "scans_per_step": 3,
        "bar": False,
        "shown": 1,
        "pictures": 1,
        "picture_size": 32,
    } | options
    return PriorTrainer(tiny_model(scans, seed), scans, out=out, seed=seed, **given)
