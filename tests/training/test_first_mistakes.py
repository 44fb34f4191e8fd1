"""Mistakes of the first hour: swapped arguments, folders for what is in them, classes for instances; each message says
what to write instead."""

import inspect
import math
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
    "a preset's argument, nearly": (
        lambda w: hf.models.insta(level=4), TypeError, r"no argument 'level'; did you mean levels\?; it has expr"
    ),
    "a part's argument for a preset": (
        lambda w: hf.models.insta(w.template, base_resolution=8), TypeError,
        r"HashGrid, the encoder: build hf.encoders.HashGrid\(base_resolution=...\) .* avatar.replace\(encoder=",
    ),
    "a rate for a preset": (
        lambda w: hf.models.gaussian_avatars(w.template, learning_rate=1.0), TypeError, "are the trainer's .*Trainer"
    ),
    "no template": (lambda w: hf.models.vp360(), TypeError, "template is missing; pass .* capture.template"),
    "no anchors": (lambda w: hf.models.mononphm(ambience=3), TypeError, r"did you mean ambient\?"),
    "a renderer of Gaussians for a field": (
        lambda w: hf.Avatar(renderer=hf.renderers.SplatRenderer()), TypeError,
        r"renderer is a SplatRenderer; .*headfields.SplatAvatar\(gaussians, deformer, renderer\), or .*gaussian_av",
    ),
    "a part alone": (
        lambda w: hf.Avatar(decoder=hf.decoders.NeRFDecoder()), TypeError,
        r"deformer, encoder and renderer are missing; .*headfields.models.insta\(template\).replace\(decoder=...\)",
    ),
    "a renderer alone, for Gaussians": (
        lambda w: hf.SplatAvatar(renderer=hf.renderers.SplatRenderer()), TypeError,
        r"gaussians and deformer are missing; .*gaussian_avatars\(template\).replace\(renderer=...\)",
    ),
    "a template for an avatar": (lambda w: hf.Avatar(w.template), TypeError, "a preset makes all of them of one"),
    "a part that is none": (
        lambda w: hf.Avatar(conditions=None), TypeError, r"no part is called 'conditions'; did you mean condition\?"
    ),
    "a part in another's place": (
        lambda w: hf.Avatar(w.avatar.deformer, w.avatar.decoder, w.avatar.decoder, w.avatar.renderer), TypeError,
        "encoder is a NeRFDecoder; expected a headfields Encoder, and NeRFDecoder is a Decoder",
    ),
    "a sampler for a renderer": (
        lambda w: hf.Avatar(w.avatar.deformer, w.avatar.encoder, w.avatar.decoder, hf.renderers.UniformSampler(8)),
        TypeError, r"VolumeRenderer\(UniformSampler\(...\)\)",
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


def test_options_of_another_kind_are_refused_by_name(world: World, unchecked: None) -> None:
    wrong: dict[str, tuple[Any, ...]] = {
        **dict.fromkeys(("rays_per_step", "samples_per_step", "most_rays", "frames_per_step"), ("10", 1.5, True)),
        **dict.fromkeys(("patch", "patches_per_step", "seed", "num_nodes"), ("10", 1.5, True)),
        **dict.fromkeys(("learning_rate", "network_learning_rate", "final_rate"), ("0.1", True, [0.1])),
        **dict.fromkeys(("eps", "weight_decay", "checkpoint_seconds", "picture_seconds"), ("1", True, -1, math.nan)),
        **dict.fromkeys(("learning_rates", "pixel_weights"), ("0.1", 0.1, [1], {"mouth": "1"})),
        "ema": ("0.9", True, 2), "schedule": ("cosine", 3), "schedules": ("constant", 3, {"tables": 3}),
        "betas": (0.9, (0.9,), ("0.9", 0.99), (2, 3)), "parameter_groups": ("tables", 3), "fine_tuning": ("all",),
        "frame_weights": ("x", 3, {"a": 1}), "optimizer": ("adam",), "out": (3,), "device": (3, "gpu"),
        "devices": ("two", 1.5, True), "strategy": (3,), "precision": (32,), "asynchronous": ("yes",), "graph": (3,),
        "callbacks": (3, "x", None, [3]), "loggers": (3, "csv", [3]), "bar": ("no", None),
    }  # fmt: skip
    needed = {"patches_per_step": {"patch": 4}, "final_rate": {"schedule": "exponential"}}
    for option, values in wrong.items():
        for value in values:
            with pytest.raises((TypeError, ValueError), match=f"Trainer: .*{option.rstrip('s')}"):
                hf.training.Trainer(
                    world.avatar, world.capture, world.losses, **{option: value}, **needed.get(option, {})
                )
    unchecked_options = {"losses", "avatar", "capture", "self", "background"}  # the capture refuses a background
    assert set(wrong) == set(inspect.signature(hf.training.Trainer.__init__).parameters) - unchecked_options


def test_train_refuses_options_of_another_kind(world: World, tmp_path: Path, unchecked: None) -> None:
    wrong = {"minutes": "1", "steps": "10", "seed": 1.5, "rays": "64", "learning_rate": "0.1", "depth": True, "bar": 1}
    for option, value in wrong.items():
        with pytest.raises(TypeError, match=f"train: {option} is {value!r}; expected"):
            hf.training.train("insta", world.folder, tmp_path / "run", **{"steps": 2, option: value})
    assert not (tmp_path / "run").exists()


def test_the_folder_of_a_run_is_no_capture(tmp_path: Path) -> None:
    for name in ("config.json", "log.jsonl"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(hf.data.CaptureError, match=r"folder of a run; headfields.load_run\(...\) opens it"):
        hf.data.load_capture(tmp_path)
