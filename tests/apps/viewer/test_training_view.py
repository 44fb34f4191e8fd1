"""The avatar on screen while it trains: pictures come between two steps, and change nothing of the training."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import headfields as hf
from headfields.apps.viewer.training_view import BetweenSteps, TrainingView
from headfields.data.formats.insta_writer import write_insta
from tests.data.tiny import blob, tiny_frames


class Watcher:
    """Asks for a picture in another thread after the first step, and lets training end once it is there."""

    def __init__(self, view: TrainingView) -> None:
        self.view, self.pictures, self.errors = view, [], []
        self.thread: threading.Thread | None = None

    def look(self) -> None:
        try:
            scene = self.view.scene
            assert scene is not None
            self.pictures.append(scene.picture(scene.first_view(), scene.first_camera((6, 6))))
        except Exception as error:
            self.errors.append(error)

    def on_step(self, trainer: Any, outcome: Any) -> None:
        if self.thread is None:
            self.thread = threading.Thread(target=self.look)
            self.thread.start()
        if not self.thread.is_alive() and trainer.progress.step >= 4:
            trainer.stop("seen")


def weights_after(capture: Any, steps: int, callbacks: list[Any]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    avatar = hf.models.insta(capture.template, expression_width=4, levels=2, features=2, log2_table_size=8)
    losses = [hf.losses.HuberColor()]
    trainer = hf.training.Trainer(avatar, capture, losses, rays_per_step=16, frames_per_step=1, bar=False,
                                  callbacks=callbacks, device="cpu", schedule="constant")  # fmt: skip
    step = trainer.fit(steps=steps).step
    return {**avatar.state_dict(), "step": torch.tensor(step)}


@pytest.fixture(scope="module")
def capture(tmp_path_factory) -> Any:
    folder: Path = tmp_path_factory.mktemp("view") / "tiny"
    write_insta(folder, tiny_frames(4), *blob(), test_frames=0)
    return hf.data.load_capture(folder)


def test_pictures_come_between_steps_and_change_nothing(capture) -> None:
    view = TrainingView(serve=False)
    watcher = Watcher(view)
    watched = weights_after(capture, 5000, [view, watcher])
    assert watcher.thread is not None
    watcher.thread.join(10)
    assert not watcher.errors and watcher.pictures[0].rgb.shape == (6, 6, 3)
    alone = weights_after(capture, int(watched["step"]), [])
    assert all(torch.equal(watched[name], alone[name]) for name in alone)
    assert view.scene is not None  # and after the training it is drawn at once
    assert view.scene.picture(view.scene.first_view(), view.scene.first_camera((4, 4))).rgb.shape == (4, 4, 3)


def test_an_error_of_a_picture_reaches_who_asked_for_it(capture) -> None:
    between, errors = BetweenSteps(), []

    class Broken:
        def render(self, camera: Any, state: Any, background: Any) -> Any:
            raise ValueError("no codes")

    def ask() -> None:
        try:
            between.render(capture.camera([0])[0], capture.state([0]))
        except ValueError as error:
            errors.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    while not between.waits and thread.is_alive():
        pass
    between.serve(Broken(), "cpu")
    thread.join(10)
    assert errors == ["no codes"]
