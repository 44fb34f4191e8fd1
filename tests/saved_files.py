"""Small samples of the files that the library writes: avatars of many parts, a prior, scans, a run's folder."""

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path

import torch

from headfields.apps.priors.prior import Prior
from headfields.apps.priors.scans import save_scans
from headfields.avatar.avatar import Avatar
from headfields.models import code_widths, flash_avatar, insta
from headfields.records import Template
from tests.apps.priors.tiny import tiny_model, tiny_scans
from tests.avatar import test_composition as parts

SMALL = {"levels": 2, "features": 2, "log2_table_size": 6, "finest_resolution": 16, "grid_resolution": 8}
TEMPLATE = Template(parts.VERTICES, parts.FACES, {"mouth": parts.MOUTH, "face": parts.MOUTH})


def composed(deformer: str, encoder: str, decoder: str, sampler: str, condition: str = "none") -> Avatar:
    """An avatar of the parts of that name in the test of compositions."""
    return Avatar(
        parts.DEFORMERS[deformer](), parts.ENCODERS[encoder](), parts.DECODERS[decoder](),
        parts.renderer(decoder, sampler), condition=parts.CONDITIONS[condition](), template=TEMPLATE,
    )  # fmt: skip


AVATARS = {
    "insta": lambda: insta(TEMPLATE, expression_width=3, **SMALL),
    "flash_avatar": lambda: flash_avatar(TEMPLATE, count=40, expression_width=3),
    "static": lambda: composed("static", "frequency", "nerf", "uniform"),
    "hyper_neus": lambda: composed("hyper", "hash grid smooth", "neus", "surface"),
    "roots": lambda: composed("skinning roots", "frequency", "nerf", "occupancy posed"),
    "weight_field": lambda: composed("skinning by a field", "hash grid smooth", "nerf", "uniform"),
    "skinning": lambda: composed("skinning, blendfield", "hash grid smooth", "nerf", "hierarchical", "gate"),
    "near_surface": lambda: composed("near surface, corrected", "posed vertices", "radiance head", "uniform"),
    "mononphm": lambda: tiny_model(tiny_scans()),
    "surface_features": lambda: composed(
        "surface rigid", "canonical vertices", "neus", "occupancy canonical", "surface features"
    ),
}  # fmt: skip


NAMES = tuple(f"{name}.safetensors" for name in (*AVATARS, "prior"))


def prior() -> Prior:
    """An untrained prior of three people with three scans each."""
    scans = tiny_scans()
    avatar = tiny_model(scans)
    widths = code_widths(avatar)
    return Prior(
        avatar, torch.randn(3, widths["geometry"]), torch.randn(3, widths["appearance"]),
        torch.randn(9, widths["expression_code"]), scans.person, torch.tensor([0, 3, 6]), ("a", "b", "c"),
        tuple(str(index) for index in range(9)),
    )  # fmt: skip


@functools.cache
def samples() -> Path:
    """A folder, written once by each process: the files `NAMES`, scans/, and config.json and log.jsonl of a run/."""
    folder = Path(tempfile.mkdtemp(prefix="headfields-samples-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, make in AVATARS.items():
            make().save(folder / f"{name}.safetensors")
        prior().save(folder / "prior.safetensors")
    save_scans(tiny_scans(), folder / "scans")
    (folder / "run").mkdir()
    config = {"model": "insta", "arguments": dict(SMALL), "capture": "tiny", "seed": 0, "training": {"steps": 3}}
    (folder / "run" / "config.json").write_text(json.dumps(config))
    steps = [{"step": step, "loss": 0.1, "terms": {"color": 0.1}, "psnr": 12.9} for step in (1, 3)]
    lines = [{"time": 1.0, "event": "start", "step": 0}, *steps]
    (folder / "run" / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
