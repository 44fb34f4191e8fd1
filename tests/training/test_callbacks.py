"""Callbacks and loggers of a program's own."""

import csv
import importlib.util
import json
import sys
import types

import pytest
import torch
from lightning_fabric.loggers import CSVLogger
from lightning_fabric.loggers.logger import Logger

from headfields.losses import HuberColor
from headfields.training import Callback, Trainer
from tests.tables import table
from tests.training.fakes import FakeAvatar, FakeCapture


def make(**options) -> Trainer:
    torch.manual_seed(0)
    options = {"rays_per_step": 32, "frames_per_step": 2, "bar": False, "device": "cpu"} | options
    return Trainer(FakeAvatar(), FakeCapture(), [HuberColor()], **options)


def weights(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.avatar.parameters()])


class Recorder(Callback):
    def __init__(self):
        self.calls, self.steps = [], 0

    def on_start(self, trainer):
        self.calls.append(("start", trainer.progress.step))

    def on_step(self, trainer, outcome):
        self.steps += 1
        self.calls.append(("step", trainer.progress.step, round(outcome.loss, 6), round(outcome.psnr, 3)))
        torch.rand(3)
        with trainer.averaged() as avatar, trainer.averaged():
            assert not avatar.training
        assert avatar.training

    def on_picture(self, image, psnr):
        self.calls.append(("picture", tuple(image.shape)))

    def on_checkpoint(self, path):
        assert path.exists()
        self.calls.append(("checkpoint", path.name))

    def on_end(self, trainer, result):
        self.calls.append(("end", result.step))

    def state_dict(self):
        return {"steps": self.steps, "nested": {"list": [1, 2.5, None]}}

    def load_state_dict(self, state):
        self.steps = state["steps"]


def test_callbacks_are_called_and_change_nothing(tmp_path):
    recorder, quiet = Recorder(), make()
    trainer = make(callbacks=[recorder], out=tmp_path, picture_seconds=1e9, checkpoint_seconds=1e9)
    trainer.fit(steps=3), quiet.fit(steps=3)
    assert torch.equal(weights(trainer), weights(quiet))
    kinds = [call[0] for call in recorder.calls]
    assert kinds == ["start", "step", "step", "step", "picture", "checkpoint", "end"]
    assert recorder.calls[0] == ("start", 0) and recorder.calls[-1] == ("end", 3)
    assert [call[1] for call in recorder.calls if call[0] == "step"] == [1, 2, 3]
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    last = [line for line in log if "loss" in line][-1]
    assert recorder.calls[3][2] == pytest.approx(last["loss"], abs=1e-5)


def test_a_callback_that_switches_to_evaluation_does_not_switch_training():
    class Looks:
        def on_step(self, trainer):
            self.mode = trainer.avatar.training
            trainer.avatar.eval()

    looks = Looks()
    make(callbacks=[looks]).fit(steps=2)
    assert looks.mode


def test_the_state_of_a_callback_survives_a_resume(tmp_path):
    make(callbacks=[Recorder(), Recorder()], out=tmp_path).fit(steps=3)
    again = [Recorder(), Recorder()]
    make(callbacks=again, out=tmp_path).fit(steps=5, resume=True)
    assert [callback.steps for callback in again] == [5, 5]
    assert again[0].calls[0] == ("start", 3)


def test_a_callback_stops_training(tmp_path):
    class Enough(Callback):
        def on_step(self, trainer, outcome):
            if trainer.progress.step == 2:
                trainer.stop("good enough")

    result = make(callbacks=[Enough()], out=tmp_path).fit(steps=9)
    assert result.step == 2 and result.stopped == "good enough" and not result.interrupted
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["reason"] for line in log if line.get("event") == "stopped"] == ["good enough"]
    trainer = make(out=tmp_path)
    with pytest.warns(UserWarning, match=r"callbacks=\['Enough'\] \(now \[\]\)"):
        result = trainer.fit(steps=4, resume=True)
    assert result.step == 4 and result.stopped is None


@table("hook", ["on_start", "on_step", "on_checkpoint", "on_picture", "on_end"])
def test_an_exception_in_a_callback_surfaces(hook, tmp_path):
    def fail(self, trainer):
        raise KeyError("mine")

    failing = type("Failing", (), {hook: fail})()
    with pytest.raises(KeyError, match="mine"):
        make(callbacks=[failing], out=tmp_path).fit(steps=1)


@table(
    ("callback", "message"),
    [
        (type("Typo", (), {"on_steps": lambda self: None, "on_end": lambda self: None})(), "Typo has on_steps, which"),
        (object(), "object has no hook"),
        (
            type("Odd", (), {"on_step": lambda self, trainer, loss: None})(),
            "on_step takes loss, which .* trainer, outc",
        ),
        (Callback, r"callbacks has the class Callback; expected an object, so call it: Callback\(\)"),
        (type("Half", (), {"on_end": lambda self: None, "state_dict": dict})(), "Half needs both state_dict"),
    ],
)
def test_a_callback_that_is_never_called_is_an_error(callback, message):
    with pytest.raises(TypeError, match=message):
        make(callbacks=[callback])


def test_a_state_that_cannot_be_saved_is_named(tmp_path):
    class Bad(Recorder):
        def state_dict(self):
            return {"best": torch.zeros(3)}

    with pytest.raises(TypeError, match="callback Bad has a Tensor as 'best'"):
        make(callbacks=[Bad()], out=tmp_path).fit(steps=1)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def every_step(monkeypatch):
    monkeypatch.setattr("headfields.runs.progress.LOG_SECONDS", 0.0)


def test_loggers_have_the_metrics_of_the_log(tmp_path, every_step):
    logger = CSVLogger(tmp_path / "mine", name="x", version="y")
    make(out=tmp_path / "run", loggers=[logger, "csv"]).fit(steps=4)
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    figures = [line for line in log if "loss" in line]
    pictures = [line for line in log if line.get("event") == "picture"]
    for path in (tmp_path / "mine/x/y/metrics.csv", tmp_path / "run/logs/csv/metrics.csv"):
        written = [row for row in rows(path) if row["loss"]]
        assert [int(row["step"]) for row in written] == [1, 2, 3, 4]
        for row, line in zip(written, figures, strict=True):
            assert float(row["loss"]) == line["loss"] and float(row["terms/color"]) == line["terms"]["color"]
            assert float(row["psnr"]) == line["psnr"] and float(row["learning_rate"]) == line["learning_rate"]
        assert [round(float(row["validation/psnr"]), 3) for row in rows(path) if row["validation/psnr"]] == [
            line["psnr"] for line in pictures
        ]


def test_resuming_goes_on_with_the_same_files(tmp_path, every_step):
    def run(steps, **options):
        loggers = ["csv", CSVLogger(tmp_path / "mine", name="x", version="y")]
        return make(out=tmp_path, loggers=loggers, checkpoint_seconds=1e9).fit(steps=steps, **options)

    run(3)
    with open(tmp_path / "logs/csv/metrics.csv", "a") as file:
        file.write(",,,9,,,\n5")  # of steps that will be taken again, and cut short
    run(6, resume=True)
    for path in (tmp_path / "logs/csv/metrics.csv", tmp_path / "mine/x/y/metrics.csv"):
        assert [int(row["step"]) for row in rows(path) if row["loss"]] == [1, 2, 3, 4, 5, 6]


def test_metrics_without_a_run_folder_and_pictures_where_a_logger_can(tmp_path, every_step):
    class Own(Logger):
        name, version, root_dir, log_dir = "own", 0, str(tmp_path), str(tmp_path)

        def __init__(self):
            self.metrics, self.images, self.ends = [], [], []
            self.experiment = types.SimpleNamespace()

        def log_metrics(self, metrics, step=None):
            self.metrics.append((step, metrics))

        def log_hyperparams(self, *arguments, **options):
            pass

        def log_image(self, key, images, step):
            self.images.append((key, images[0].shape, step))

        def finalize(self, status):
            self.ends.append(status)

    logger = Own()
    make(loggers=[logger]).fit(steps=2)
    assert [step for step, _ in logger.metrics] == [1, 2] and logger.ends == ["success"] and not logger.images
    make(loggers=[logger], out=tmp_path / "run").fit(steps=2)
    assert logger.images[-1] == ("validation/picture", (24, 60, 3), 2)


def test_weights_and_biases_by_name(tmp_path, monkeypatch):
    made = []

    class WandbLogger(CSVLogger):
        def __init__(self, **options):
            made.append(options)
            super().__init__(tmp_path / "w", version=str(len(made)))

    monkeypatch.setitem(sys.modules, "wandb", types.ModuleType("wandb"))
    module = types.ModuleType("pytorch_lightning.loggers")
    module.WandbLogger = WandbLogger
    monkeypatch.setitem(sys.modules, "pytorch_lightning.loggers", module)
    real = importlib.util.find_spec
    known = ("wandb", "pytorch_lightning")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: name in known or real(name, *rest))
    make(out=tmp_path / "run", loggers=["wandb"]).fit(steps=1)
    make(out=tmp_path / "run", loggers=["wandb"]).fit(steps=2, resume=True)
    assert made[0]["id"] == made[1]["id"] and made[0]["resume"] == "allow" and made[0]["name"] == "run"


@pytest.mark.parametrize(
    ("loggers", "error", "message"),
    [
        (["excel"], ValueError, r"loggers has 'excel'; expected one of 'csv', 'tensorboard', 'wandb'"),
        (["csv"], ValueError, "pass out= to Trainer"),
        ([3], TypeError, "loggers has a int"),
    ],
)
def test_what_is_no_logger_is_named(loggers, error, message):
    with pytest.raises(error, match=message):
        make(loggers=loggers)


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_logger_whose_package_is_missing_says_so(name, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    with pytest.raises(ModuleNotFoundError, match=f"the logger '{name}' needs the package {name}; pip install {name}"):
        make(loggers=[name], out=tmp_path)
