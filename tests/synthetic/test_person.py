"""People drawn with one rig and tracked with another: rigs, hair, teeth and shirt, detectors that err."""

from pathlib import Path

import numpy as np
import pytest
import torch

from headfields.apps.rigging import RiggedTemplate
from headfields.data import load_capture
from headfields.data.labels import Label
from headfields.synthetic import write_rig_capture
from headfields.synthetic.body.person import procedural_rig
from headfields.synthetic.detector_noise import DetectorNoise


@pytest.fixture(scope="module")
def person() -> RiggedTemplate:
    return procedural_rig(3, resolution=128)


def test_people_and_bases_differ(person: RiggedTemplate, tmp_path: Path) -> None:
    other = procedural_rig(None, basis=1, resolution=128)
    apart = (other.template_vertices - person.template_vertices).norm(dim=1)
    assert 0.002 < float(apart.mean()) < 0.03 and not torch.equal(other.texture, person.texture)
    named = len(person.expression_names)
    ours, theirs = (rig.expression_basis[:named].flatten(1) for rig in (person, other))
    assert other.expression_names == person.expression_names
    angle = torch.nn.functional.cosine_similarity(ours, theirs)
    assert 0.6 < float(angle.median()) < 0.999, "alike, and not the same"
    left = ours - torch.linalg.lstsq(theirs.T, ours.T).solution.T @ theirs
    assert float((left.norm(dim=1) / ours.norm(dim=1)).median()) > 0.05, "of another span"
    other.save(tmp_path / "rig.npz")
    assert torch.equal(RiggedTemplate.from_file(tmp_path / "rig.npz").expression_basis, other.expression_basis)
    with pytest.raises(ValueError, match="procedural_rig: identity is -1"):
        procedural_rig(-1)


@pytest.mark.slow
def test_people_are_repeated(person: RiggedTemplate) -> None:
    again = procedural_rig(3, resolution=128)
    assert torch.equal(again.template_vertices, person.template_vertices) and torch.equal(again.texture, person.texture)


def test_detectors_err_by_what_they_are_told() -> None:
    image = np.zeros((96, 96, 4), np.uint8)
    image[24:72, 24:72] = [200, 100, 50, 255]
    marks = np.full((68, 2), 40, np.float32)
    marks[3] = np.nan
    exact, same = DetectorNoise(landmarks=0, matte=0).detected(image, marks, 1.0)
    assert np.array_equal(exact[..., 3], image[..., 3]) and np.array_equal(same, marks, equal_nan=True)
    noise = DetectorNoise(landmarks=0.02, matte=0.01, seed=1)
    errors, areas = [], []
    for seconds in np.arange(0, 20, 0.5):
        drawn, moved = noise.detected(image, marks, float(seconds))
        assert moved is not None and np.isnan(moved[3]).all()
        errors.append(moved - marks)
        areas.append(float((drawn[..., 3] > 127).sum() / 48**2))
    assert 0.7 < np.nanstd(np.stack(errors)) / (0.02 * 96) < 1.4
    assert 0.01 < np.std(areas) < 0.1 and abs(np.mean(areas) - 1) < 0.03
    soon = noise.detected(image, marks, 0.02)[1] - noise.detected(image, marks, 0.0)[1]
    assert np.nanstd(soon) < 0.3 * np.nanstd(errors), "errors change slowly"
    assert noise.detected(image, None, 0.0)[1] is None
    with pytest.raises(ValueError, match=r"DetectorNoise: .*positive scales"):
        DetectorNoise(patch=0)


@pytest.mark.slow
def test_a_dressed_person_has_what_its_mesh_lacks(person: RiggedTemplate, tmp_path: Path) -> None:
    draw = {"frames": 2, "size": 64, "samples": 1, "rate": 1.0, "lowest": -0.24, "progress": False}
    dressed = load_capture(write_rig_capture(person, tmp_path / "dressed", dressed=True, **draw))
    bare = load_capture(write_rig_capture(person, tmp_path / "bare", **draw))
    assert torch.equal(dressed.state(0).vertices, bare.state(0).vertices)
    label, plain = dressed.label(0), bare.label(0)
    for name in (Label.HAIR, Label.CLOTH, Label.MOUTH_INTERIOR):
        assert int((label == name).sum()) > 3 and not bool((plain == name).any()), name
    hair = (label == Label.HAIR) & (bare.image(0)[..., 3] == 0)
    assert int(hair.sum()) > 10, "hair stands off the mesh"
    assert float(dressed.image(0)[0, :, 3].max()) < 1, "the head is in the image"
    noisy = load_capture(
        write_rig_capture(person, tmp_path / "noisy", dressed=True, noise=DetectorNoise(matte=0.02), **draw)
    )
    assert torch.equal(noisy.label(1), dressed.label(1)) and not torch.equal(noisy.image(1), dressed.image(1))
    assert not torch.equal(noisy.landmarks(0).nan_to_num(), dressed.landmarks(0).nan_to_num())
    with pytest.raises(ValueError, match=r"lowest is 9\.0 m, above all of the rig"):
        write_rig_capture(person, tmp_path / "high", **{**draw, "lowest": 9.0})


@pytest.mark.slow
def test_held_out_cameras_see_a_rig_from_all_around_and_above(person: RiggedTemplate, tmp_path: Path) -> None:
    draw = {"frames": 24, "size": 32, "samples": 1, "rate": 2.0, "progress": False}
    write_rig_capture(person, tmp_path / "a", cameras=2, **draw)
    own, views = load_capture(tmp_path / "a"), load_capture(tmp_path / "a" / "cameras")
    seen = len(views) // 2
    assert seen >= 1 and len(own) == 24
    front, back = (views.camera(rows).center for rows in (range(seen), range(seen, 2 * seen)))
    assert bool((front[:, 1] > own.camera([0]).center[0, 1] + 0.3).all())  # 1.6 m away and 20 degrees up: 0.5 m
    assert bool(((front - back).norm(dim=-1) > 2.5).all())
    with pytest.raises(ValueError, match="cameras is 2, and none of 1 frames is for testing"):
        write_rig_capture(person, tmp_path / "b", cameras=2, **{**draw, "frames": 1})
