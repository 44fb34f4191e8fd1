"""Identity, focal length, frames and capture of a drawn recording; frames and recordings that are bad."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from headfields.apps.tracking import HeadTracker
from headfields.apps.tracking.failures import FrameFailure
from headfields.apps.tracking.head.identity import HeadIdentity, fit_identity
from headfields.apps.tracking.head.rig import HeadModel
from headfields.apps.tracking.rig.body import TrackedBody
from headfields.apps.tracking.rig.energy import MotionPrior, PoseEnergy
from headfields.apps.tracking.rig.observation import rig_observation
from headfields.apps.tracking.rig.solve import landmark_start
from headfields.apps.tracking.rig.surface import RigSurface
from headfields.apps.tracking.rig.tracked_capture import write_tracked_capture
from headfields.data import load_capture
from headfields.data.labels import Label
from headfields.heads import BlendshapeHead
from headfields.mesh import Mesh
from headfields.mesh.distances import SurfaceTree
from headfields.ops import TriangleBVH
from headfields.ops.render_mesh import render_mesh
from headfields.ops.similarity import fit_similarity
from headfields.records import Camera


@pytest.fixture(scope="module")
def model(drawn):
    return HeadModel.of(drawn.head)


@pytest.fixture(scope="module")
def identity(model, drawn, options):
    return fit_identity(model, drawn.recording, options)


@pytest.fixture(scope="module")
def tracked(model, drawn, identity, options, tmp_path_factory):
    out = tmp_path_factory.mktemp("tracked")
    tracker = HeadTracker(model, identity, drawn.recording, out / "run", options, capture=out / "capture", bar=False)
    return tracker, tracker.run(), out


def face_error(drawn, row, vertices):
    """Mean distance of corresponding vertices of the face, millimeters, after the best similarity."""
    face = drawn.head.faces[drawn.head.derived_regions()["face"]].unique()
    moved = fit_similarity(vertices[face].double(), drawn.vertices[row][face].double()).apply(vertices[face].double())
    return 1e3 * float((moved - drawn.vertices[row][face]).norm(dim=1).mean())


def test_identity_comes_nearer_to_the_person(model, drawn, identity):
    mean = drawn.head.template_vertices
    person = drawn.head(shape=drawn.shape).vertices[0]
    own = model.rig(identity.coefficients).template_vertices
    face = drawn.head.faces[drawn.head.derived_regions()["face"]].unique()

    def error(vertices):
        moved = fit_similarity(vertices[face].double(), person[face].double()).apply(vertices[face].double())
        return 1e3 * float((moved - person[face]).norm(dim=1).mean())

    assert error(own) < 0.6 * error(mean)
    assert identity.focal_source == "uncertain" and 0.7 < identity.focal / 230.0 < 1.4
    low, high = identity.focal_interval
    assert low < 230.0 < high and high / low > 2.0  # a head that is modeled by hand does not tell it
    assert any("warning: focal length" in line and "no statistics of people" in line for line in identity.report)
    assert len(identity.poses) == 4 and identity.colors.shape == mean.shape


def test_frames_follow_the_person(drawn, tracked):
    tracker, result, _ = tracked
    assert sorted(result.stage2) == list(range(6)) and not result.failed
    for row, fit in result.fits.items():
        assert fit.errors["iou"] > 0.95 and fit.errors["landmarks_px"] < 1.0
        assert face_error(drawn, row, tracker.body.state([fit.pose]).vertices[0]) < 1.8
    jaw = [float(fit.pose.turns[tracker.body.names.index("jaw"), 0]) for _, fit in sorted(result.fits.items())]
    assert jaw[-1] - jaw[0] > 0.1


def test_the_capture_loads_with_depth_and_labels(drawn, tracked):
    tracker, result, out = tracked
    capture = load_capture(out / "capture")
    assert len(capture) == 6 and capture.recording.has_depth and capture.recording.has_label
    assert not [line for line in capture.warnings if "align" in line]
    for row in (0, 5):
        assert torch.equal(capture.image(row), drawn.recording.image(row))
        depth = capture.recording.decode_image(row)[2]
        hit = depth > 0
        assert np.abs(hit.astype(int) - (drawn.recording.image(row)[..., 3] > 0.5).numpy()).mean() < 0.05
        near = float(tracker.body.posed(result.fits[row].pose).local[:, 2].min())
        assert abs(depth[hit].min() / 1000 - near) < 0.004
    errors = json.loads((out / "capture" / "errors.json").read_text())
    assert set(errors["frames"]) == {str(row) for row in range(6)} and (out / "capture" / "overlay.mp4").is_file()


def test_identity_is_saved_exactly_and_stops(model, drawn, identity, options, tmp_path):
    identity.save(tmp_path / "identity.safetensors")
    again = HeadIdentity.load(tmp_path / "identity.safetensors")
    assert torch.equal(again.coefficients, identity.coefficients) and torch.equal(again.colors, identity.colors)
    assert again.focal == identity.focal and list(again.report) == list(identity.report)
    assert fit_identity(model, drawn.recording, options, stop=lambda: True) is None
    with pytest.raises(FileNotFoundError):
        HeadIdentity.load(tmp_path / "none.safetensors")


@pytest.mark.slow
def test_bad_frames_are_named_and_nothing_else_is_lost(model, drawn, identity, options, tmp_path):
    """Frame 1 is black, frame 2 has no face, the landmarks of frame 3 are another's; a cut before frame 4."""
    source = drawn.recording

    def marks(row):
        points = source.decode_landmarks(row)
        return None if row == 2 else points[::-1].copy() if row == 3 else points

    recording = dataclasses.replace(
        source, decode_landmarks=marks, failed={1: "frame 1 is black; nothing can be made out in it"}, cuts=(4,)
    )
    tracker = HeadTracker(model, identity, recording, tmp_path / "run", options, bar=False)
    result = tracker.run()
    assert set(result.failed) == {1} and "is black" in str(result.failed[1])
    assert sorted(result.fits) == [0, 2, 3, 4, 5]
    for row in (2, 3, 5):  # colors and outlines hold what landmarks do not say, or say wrongly
        assert result.fits[row].errors["iou"] > 0.9
    assert face_error(drawn, 5, tracker.body.state([result.fits[5].pose]).vertices[0]) < 2.0
    assert len(load_capture(result.capture)) == 5


@pytest.mark.slow
def test_a_head_that_does_not_turn_leaves_the_focal_length_open(model, frontal, options):
    identity = fit_identity(model, frontal.recording, dataclasses.replace(options, rounds=0))
    assert identity.focal_source == "default" and identity.focal == pytest.approx(1.2 * 96)
    assert any("do not determine the focal length" in line and "--focal" in line for line in identity.report)
    known = fit_identity(model, frontal.recording.with_focal(230.0), dataclasses.replace(options, rounds=0))
    assert known.focal_source == "given" and known.focal == 230.0


@pytest.mark.slow
def test_blendshapes_are_tracked_too(blendshapes, drawn, options, tmp_path):
    model = HeadModel.of(blendshapes)
    identity = fit_identity(model, drawn.recording, options)
    tracker = HeadTracker(
        model, identity, drawn.recording, tmp_path / "run", options, frames=[0, 5], capture=tmp_path / "capture",
        bar=False,
    )  # fmt: skip
    result = tracker.run()
    jaw = [float(result.fits[row].pose.expression[0]) for row in (0, 5)]
    assert jaw[0] < 0.3 and jaw[1] > 0.6 and max(jaw) < 1.1 and min(jaw) > -0.1
    capture = load_capture(tmp_path / "capture")
    assert len(capture) == 2 and capture.recording.expression_width == 2


def test_recordings_without_a_face_and_heads_without_landmarks(model, drawn, blendshapes, options):
    blind = dataclasses.replace(drawn.recording, decode_landmarks=lambda row: None)
    with pytest.raises(FrameFailure, match="no frame has enough landmarks"):
        fit_identity(model, blind, options)
    bare = BlendshapeHead(blendshapes.template_vertices, blendshapes.faces, blendshapes.expression_basis)
    with pytest.raises(ValueError, match="has not iBUG's 68 landmarks"):
        HeadModel.of(bare)


def test_a_surface_is_near_the_person(drawn, tracked):
    tracker, result, _ = tracked
    fit = result.fits[3]
    local = tracker.body.posed(fit.pose).local
    view = drawn.cameras[3]
    pose = view.world_to_camera.reshape(4, 4)
    points = drawn.vertices[3] @ pose[:3, :3].T + pose[:3, 3]
    moved = fit_similarity(points.double(), local.double()).apply(points.double()).float()
    assert float(SurfaceTree(Mesh(local, drawn.head.faces)).distances(moved).distance.mean()) < 0.0015


def test_a_template_tracked_without_labels_gets_those_of_its_mesh(drawn, tracked, tmp_path):
    """Captures need regions, the mouth's above all, to train on."""
    tracker, result, _ = tracked
    bare = dataclasses.replace(drawn.recording, decode_label=lambda frame: None)
    one = {frame: fit for frame, fit in result.fits.items() if frame < 2}
    capture = load_capture(write_tracked_capture(tmp_path / "capture", bare, tracker.body, one))
    assert {"mouth", "eyes"} <= set(capture.template.regions)
    assert int(Label.SKIN) in capture.label(0).unique().tolist()


@pytest.mark.slow
def test_landmarks_that_a_detector_puts_elsewhere_leave_the_focal_length_alone(model, drawn, options):
    """Each landmark lies some millimeters, always the same, from the head's own point."""
    generator = np.random.default_rng(5)
    shift = generator.normal(size=(68, 3)) * np.where(np.arange(68) < 17, 0.004, 0.0015)[:, None]
    source, head = drawn.recording, drawn.head

    def marks(row):
        points = head.landmarks(drawn.vertices[row][None])[0] + torch.from_numpy(shift).float()
        return drawn.cameras[row].project(points[None])[0][0].numpy()

    moved = dataclasses.replace(source, decode_landmarks=marks)
    options = dataclasses.replace(options, rounds=0, keyframes=6, landmark_steps=40)
    identity = fit_identity(model, moved, options)
    low, high = identity.focal_interval
    assert identity.focal_source == "uncertain" and low < 230.0 < high
    assert 0.8 < identity.focal / 230.0 < 1.25
    offsets = identity.landmark_offsets
    assert offsets is not None
    correlation = np.corrcoef(offsets[:17].numpy().ravel(), shift[:17].ravel())[0, 1]
    assert correlation > 0.5


@pytest.mark.parametrize("offset", [0.0, 0.004])
def test_derivatives_of_the_landmark_term(model, drawn, options, offset):
    """The gradient of the energy against differences, by pose, focal length and offsets."""
    body = model.body(None, 4, 0.5)
    observation = rig_observation(drawn.recording.with_focal(230.0), 1, options.frame)
    level = observation.levels[-1]
    offsets = offset * torch.randn(68, 3, generator=torch.Generator().manual_seed(1))
    pose = landmark_start(body, observation, options.frame)
    step = torch.linspace(-0.01, 0.01, body.width) * torch.where(torch.arange(body.width) < 6, 0.3, 1.0)
    pose = pose.moved(step, torch.zeros(3))

    def energy(pose, focal=1.0, moved=offsets):
        lens = level.camera.intrinsics.clone()
        lens[..., 0, 0] *= focal
        lens[..., 1, 1] *= focal
        own = level.replace(camera=Camera(level.camera.world_to_camera, lens, level.camera.size))
        return PoseEnergy(body, None, observation, own, None, MotionPrior(), options.frame, True, moved)(pose)

    here = energy(pose)
    assert len(here.vector) == body.width + 1 + 3 * 68

    def slope(up, down, size):
        # the vector is half of the gradient of a sum of squares
        return (up.parts["landmarks"] - down.parts["landmarks"] + up.parts["prior"] - down.parts["prior"]) / (4 * size)

    for k in (0, 4, 5, 6, 9, body.width - 1):
        size = 2e-3 if k < 3 or k >= 6 else 2e-4
        one = torch.zeros(body.width)
        one[k] = size
        difference = slope(energy(pose.moved(one, here.center)), energy(pose.moved(-one, here.center)), size)
        assert difference == pytest.approx(
            float(here.vector[k]), rel=0.05, abs=0.02 * float(here.vector[:6].abs().max())
        )
    size = 1e-3
    difference = slope(energy(pose, 1 + size), energy(pose, 1 - size), size)
    assert difference == pytest.approx(float(here.vector[body.width]), rel=0.03)
    for k in (0, 40, 203):
        one = torch.zeros(204)
        one[k] = 2e-4
        moved = one.view(68, 3)
        difference = slope(energy(pose, moved=offsets + moved), energy(pose, moved=offsets - moved), 2e-4)
        assert difference == pytest.approx(float(here.vector[body.width + 1 + k]), rel=0.05, abs=0.5)


def test_an_outline_that_the_mesh_does_not_reach_does_not_pull_it(model, drawn, options):
    """Shoulders, which the head lacks, say nothing of its neck, although its end is the mesh that lies nearest."""
    rig = model.rig(torch.as_tensor(drawn.shape).reshape(-1)[list(model.identity)])
    pose = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    pose[:3, 3] = torch.tensor([0.0, float(rig.template_vertices[:, 1].mean()), 1.0])
    camera = drawn.cameras[0].replace(world_to_camera=pose)
    mask = render_mesh(TriangleBVH(rig.faces, rig.template_vertices[None]), camera).mask.numpy()
    ends = int(np.flatnonzero(mask.any(1))[-1])
    assert ends < 90
    image = np.zeros((*mask.shape, 4), np.uint8)
    image[mask] = 255
    image[ends - 4 :, 10:-10] = 255
    recording = dataclasses.replace(
        drawn.recording.with_focal(230.0), decode_image=lambda k: image, decode_landmarks=lambda k: None
    )
    observation, body = rig_observation(recording, 0, options.frame), TrackedBody(rig, 0, ())

    def energy(outlined):
        surface = RigSurface(rig, None, outlined)
        level = observation.levels[-1]
        return PoseEnergy(body, surface, observation, level, None, MotionPrior(), options.frame)(body.at_rest(pose))

    assert energy(model.outlined).value < 0.15 * energy(None).value
