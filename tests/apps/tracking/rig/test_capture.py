import json

import numpy as np
import pytest
import torch

from headfields.data import load_capture
from headfields.synthetic.rig_captures import write_rig_capture
from headfields.synthetic.scene.body_motion import HELD_OUT, chair_motion, talk_motion


def test_a_capture_of_a_rig_is_read_and_lies_on_its_meshes(rig, folder, capture):
    assert not capture.warnings, capture.report
    truth = np.load(folder / "truth.npz")
    assert truth["pose"].shape == (12, 5, 3) and truth["vertices"].shape == (12, len(rig.template_vertices), 3)
    state = rig(expression=torch.from_numpy(truth["expression"][:, 3:]), pose=torch.from_numpy(truth["pose"]))
    torch.testing.assert_close(state.vertices, torch.from_numpy(truth["vertices"]), atol=1e-6, rtol=0)
    torch.testing.assert_close(state.expression, capture.state(range(12)).expression[:, 3:])
    for frame in range(12):
        alpha = capture.image(frame)[..., 3]
        assert 0.1 < float(alpha.mean()) < 0.7
        assert float(alpha[0].max()) == float(alpha[:, 0].max()) == 0  # head and shoulders within the image


def test_landmarks_are_missing_where_they_are_not_seen(capture):
    known = []
    for frame in range(len(capture)):
        marks = capture.landmarks(frame)
        known.append(0 if marks is None else int(marks.isfinite().all(dim=1).sum()))
    assert known[0] > 30  # from the front
    assert min(known) == 0  # from behind
    assert any(0 < count < 68 for count in known)


def test_splits_hold_out_yaws_and_expressions(rig):
    chair = chair_motion(90, 4, 0)
    degrees = torch.rad2deg(chair.yaw)
    assert bool(((degrees >= 170) & (degrees < 188)).equal(chair.test & (degrees > 120) & (degrees < 220)))
    assert float(chair.expression.abs().max()) == 0 and 0.1 < float(chair.test.float().mean()) < 0.3
    names = ("smile_left", *HELD_OUT)
    talk = talk_motion(96, names, 10, 10.0, 0)
    held = talk.expression[:, 1:5]
    assert float(held[talk.test].abs().amax(0).min()) > 0.3
    assert float(held[~talk.test].abs().max()) == 0
    assert float(talk.yaw.max() - talk.yaw.min()) > 5.5


def test_zero_frames_of_motion_are_legal(rig):
    assert len(chair_motion(0, 3, 0).yaw) == 0
    with pytest.raises(ValueError, match="frames is 0"):
        write_rig_capture(rig, "unused", frames=0)


def test_what_cannot_be_drawn_is_refused(rig, tmp_path, folder):
    with pytest.raises(FileExistsError, match="not empty"):
        write_rig_capture(rig, folder)
    with pytest.raises(ValueError, match="samples is 3"):
        write_rig_capture(rig, tmp_path / "new", samples=3)


def test_a_turn_on_a_chair(rig, tmp_path):
    out = write_rig_capture(rig, tmp_path / "chair", "chair", frames=24, size=32, samples=1, progress=False)
    capture = load_capture(out)
    assert json.loads((out / "synthetic.json").read_text())["kind"] == "chair"
    assert set(capture.splits["test"].tolist()).isdisjoint(capture.splits["train"].tolist())
    assert len(capture.splits["test"]) >= 4
