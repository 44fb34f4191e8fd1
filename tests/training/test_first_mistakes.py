"""Mistakes of the first hour: swapped arguments, folders for what is in them, classes for instances; each message says
what to write instead."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import headfields as hf
from headfields.data.formats.insta_writer import write_insta
from tests.data.tiny import blob, tiny_frames
from tests.training.test_train import SIZES


class World:
    """A capture, another one with an open mouth, an avatar and a view of each."""

    def __init__(self, folder: Path, other: Path) -> None:
        self.folder = folder
        self.capture, self.open = hf.data.load_capture(folder), hf.data.load_capture(other, mouth="interior")
        self.template = self.capture.template
        self.avatar = hf.models.insta(self.template, 3, **SIZES)
        self.splats = hf.models.gaussian_avatars(self.template)
        self.camera, self.state = self.capture.camera([0])[0], self.capture.state([0])
        self.losses = [hf.losses.SquaredColor()]


@pytest.fixture(scope="module")
def world(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    other = tmp_path_factory.mktemp("captures") / "open"
    write_insta(other, tiny_frames(2, True), *blob(True))
    return World(tiny_folder, other)


MISTAKES: dict[str, tuple[Callable[[World], Any], type[Exception], str]] = {
    "a part without its arguments": (
        lambda w: hf.renderers.VolumeRenderer(), TypeError,
        r"VolumeRenderer: missing .* 'sampler'; it takes sampler: Sampler, early_stop: float = 0.0001$",
    ),
    "a mesh that is None": (
        lambda w: hf.deformers.InverseSkinning(None), TypeError, "InverseSkinning: missing .* it takes canonical_vert"
    ),
    "weights that are None": (
        lambda w: hf.deformers.InverseSkinning(w.template.canonical_vertices, w.template.faces, None), TypeError,
        "InverseSkinning: weights is None; pass a torch.Tensor",
    ),
    "a template for a mesh": (
        lambda w: hf.deformers.SurfaceCanonicalizer(w.template), TypeError,
        "it takes template.canonical_vertices and template.faces, not the template",
    ),
    "a class for an instance": (
        lambda w: hf.renderers.VolumeRenderer(hf.renderers.UniformSampler), TypeError, r"call it: UniformSampler\(\.\."
    ),
    "a folder for a template": (lambda w: hf.models.insta(w.folder), TypeError, r"load_capture\(...\).template"),
    "a capture for a template": (lambda w: hf.models.gaussian_avatars(w.capture), TypeError, "capture.template"),
    "a head for a template": (
        lambda w: hf.models.insta(hf.synthetic.procedural_head()), TypeError, r"pass its template: head.template\(\)"
    ),
    "a folder for a capture": (
        lambda w: hf.training.Trainer(w.avatar, w.folder, w.losses), TypeError, r"load_capture\(...\) of it"
    ),
    "avatar and capture swapped": (
        lambda w: hf.training.Trainer(w.capture, w.avatar, w.losses), TypeError, "swapped: the avatar comes first"
    ),
    "swapped for evaluate": (lambda w: hf.training.evaluate(w.capture, w.avatar), TypeError, "the avatar comes first"),
    "None for a capture": (
        lambda w: hf.training.evaluate(w.avatar, None), TypeError, "capture is None .* as headfields.data"
    ),
    "a device that torch lacks": (
        lambda w: hf.training.Trainer(w.avatar, w.capture, w.losses, device="gpu"), ValueError,
        r"Trainer: device is 'gpu'; expected 'auto', 'cpu', 'cuda'",
    ),
    "such a device for evaluate": (
        lambda w: hf.training.evaluate(w.avatar, w.capture, device="gpu"), ValueError, "evaluate: device is 'gpu'"
    ),
    "camera and state swapped": (
        lambda w: w.avatar.render(w.state, w.camera), TypeError, r"they are swapped: render\(camera, state\)"
    ),
    "swapped for Gaussians": (lambda w: w.splats.render(w.state, w.camera), TypeError, "SplatAvatar.render: .*swapped"),
    "no state": (lambda w: w.avatar.render(w.camera, None), TypeError, "state is None; expected a headfields.H"),
    "vertices for a state": (
        lambda w: w.avatar.render(w.camera, w.state.vertices), TypeError, r"headfields.HeadState\(vertices\)"
    ),
    "a matrix for a camera": (
        lambda w: w.avatar.render(w.camera.world_to_camera, w.state), TypeError, r"headfields.Camera\(world_to_camera, "
    ),
    "an index for a camera": (lambda w: w.avatar.render(0, w.state), TypeError, r"as capture.camera\(frame\)"),
    "a state of doubles": (
        lambda w: w.avatar.render(w.camera, w.state.replace(vertices=w.state.vertices.double())), TypeError,
        r"torch.float64, and the deformer SurfaceCanonicalizer torch.float32; .* avatar.double\(\)",
    ),
    "a state with another mouth": (
        lambda w: w.avatar.render(w.camera, w.open.state([0])), ValueError,
        r"opened with another mouth, .* load_capture\(folder, avatar=avatar\)",
    ),
    "a path for an avatar": (
        lambda w: hf.data.load_capture(w.folder, avatar="runs/me"), TypeError, r"headfields.load_avatar\(...\) of it"
    ),
    "a capture for a run": (lambda w: hf.load_avatar(w.folder), FileNotFoundError, "load_capture reads a capture"),
    "bytes as images": (
        lambda w: hf.metrics.psnr(*[torch.zeros(4, 4, 3, dtype=torch.uint8)] * 2), TypeError, "colors: divide by 255"
    ),
    "bytes as floats": (
        lambda w: hf.metrics.psnr(torch.rand(4, 4, 3), torch.full((4, 4, 3), 200.0)), ValueError, "truth has values up"
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_its_remedy(mistake: str, world: World, unchecked: None) -> None:
    call, kind, message = MISTAKES[mistake]
    with pytest.raises(kind, match=message):
        call(world)


def test_the_folder_of_a_run_is_no_capture(tmp_path: Path) -> None:
    for name in ("config.json", "log.jsonl"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(hf.data.CaptureError, match=r"folder of a run; headfields.load_run\(...\) opens it"):
        hf.data.load_capture(tmp_path)
