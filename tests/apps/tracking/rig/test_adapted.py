"""A template adapted to the person of a recording, and the order in which frames are visited."""

from dataclasses import replace

import pytest
import torch

from headfields.apps.tracking.rig.adapted import AdaptedTemplate, _modes, _with, adapted_template
from headfields.apps.tracking.rig.observation import rig_observation
from headfields.apps.tracking.rig.options import Adaptation, RigTrackingOptions
from headfields.apps.tracking.rig.tracker import RigTracker
from headfields.data import load_capture
from headfields.ops.similarity import fit_similarity
from headfields.synthetic.rig_captures import write_rig_capture

OPTIONS = RigTrackingOptions(levels=(48,), steps=(3,), mask_pixels=30)
SMALL = Adaptation(keyframes=4, landmark_steps=6, steps=4, rounds=2, wide=0.1, wide_modes=6, narrow_modes=16)


@pytest.fixture(scope="module")
def person(rig):
    """The bust with a higher, wider skull and another texture."""
    rest = rig.template_vertices.clone()
    top = torch.sigmoid((rest[:, 1] - 0.1) * 60)[:, None]
    rest = rest + top * rest * torch.tensor([0.25, 0.15, 0.25])
    other = _with(rig, rest)
    other.texture = (0.55 * rig.texture.flip(0) + torch.tensor([0.0, 0.1, 0.3])).contiguous()
    return other


@pytest.fixture(scope="module")
def recording(person, tmp_path_factory):
    out = tmp_path_factory.mktemp("person") / "talk"
    return load_capture(write_rig_capture(person, out, "talk", frames=8, size=48, rate=3.0, samples=1, progress=False))


def adapted(rig, recording, frames):
    marks = {frame: recording.landmarks(frame) for frame in frames}
    known = {frame: m for frame, m in marks.items() if m is not None and int(m.isfinite().all(1).sum()) >= 12}
    with torch.no_grad():
        return adapted_template(
            rig, known, lambda frame: recording.camera([frame])[0],
            lambda frame: rig_observation(recording, frame, OPTIONS), OPTIONS, SMALL,
        )  # fmt: skip


def test_the_template_takes_shape_and_colors_of_the_person(rig, person, recording, tmp_path):
    fitted = adapted(rig, recording, range(8))
    assert len(fitted.frames) >= 3

    def distance(vertices):
        aligned = fit_similarity(vertices, person.template_vertices).apply(vertices)
        return float((aligned - person.template_vertices).norm(dim=1).mean())

    own = fitted.rig(rig)
    before, after = distance(rig.template_vertices), distance(own.template_vertices)
    assert after < 0.75 * before, (before, after)
    assert float(fitted.tint.norm(dim=1).mean()) > 0.05
    fitted.save(tmp_path / "adapted.safetensors")
    again = AdaptedTemplate.load(tmp_path / "adapted.safetensors")
    assert again.frames == fitted.frames and torch.equal(again.offsets, fitted.offsets)
    assert torch.equal(again.tint, fitted.tint) and torch.equal(again.light.matrix, fitted.light.matrix)


def test_two_frames_leave_the_shape_alone(rig, recording):
    fitted = adapted(rig, recording, [0])
    assert not fitted.offsets.any() and not fitted.tint.any()


def test_modes_neither_scale_nor_turn_nor_shift(rig):
    everything = torch.ones(len(rig.template_vertices), dtype=torch.bool)
    modes = _modes(rig, everything, SMALL).double()
    points = rig.template_vertices.double()
    points = points - points.mean(0)
    assert len(modes) == 3 * SMALL.wide_modes + SMALL.narrow_modes - 7
    size = modes.norm(dim=-1).sum(1).amax()
    assert float(modes.mean(1).norm(dim=-1).amax()) < 1e-4 * float(size)
    assert float((modes * points).sum((1, 2)).abs().amax()) < 1e-4 * float(size)
    assert float(torch.linalg.cross(points.expand_as(modes), modes).sum(1).norm(dim=-1).amax()) < 1e-4 * float(size)


def test_frames_without_landmarks_are_visited_from_both_sides(rig, capture, tmp_path, monkeypatch):
    tracker = RigTracker(rig, capture, tmp_path / "run", replace(OPTIONS, adaptation=SMALL), range(10), bar=False)
    monkeypatch.setattr(tracker, "_landmarks", lambda: dict.fromkeys((1, 2, 7, 8)))
    order = [(1, False), (2, False), (7, False), (8, False), (0, True)]
    assert tracker.visits() == [*order, (3, False), (4, False), (6, True), (5, True), (9, False)]
    tracker.cuts = (4,)
    assert tracker.visits() == [*order, (3, False), (6, True), (5, True), (4, True), (9, False)]
    monkeypatch.setattr(tracker, "_landmarks", dict)
    assert tracker.visits() == [(frame, False) for frame in range(10)]


def test_adaptations_are_checked():
    with pytest.raises(ValueError, match="keyframes is 0"):
        Adaptation(keyframes=0)
    with pytest.raises(ValueError, match="wide is 0"):
        Adaptation(wide=0.0)
