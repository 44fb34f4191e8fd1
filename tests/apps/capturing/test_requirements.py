"""What a capture lacks for each model: what is said to be missing is what the model fails without."""

import pytest
import torch

import headfields as hf
from headfields.apps.capturing.requirements import capture_requirements
from headfields.data import load_capture
from headfields.data.formats.insta_writer import write_insta
from tests.data.formats import vhap_folder
from tests.data.tiny import blob, tiny_frames


def _capture(folder, **options):
    vertices, faces = blob(open_mouth=True)
    write_insta(folder, tiny_frames(4, open_mouth=True, **options), vertices, faces, test_frames=1)
    return load_capture(folder)


def _by_model(capture):
    return {each.model.split(" ")[0]: each for each in capture_requirements(capture)}


def test_a_whole_capture_is_ready(tmp_path):
    models = _by_model(_capture(tmp_path / "whole"))
    assert {"insta", "monoavatar", "vp360", "gaussian_avatars", "flash_avatar", "rgb_avatar", "mononphm"} < set(models)
    lacking = {name: each.missing for name, each in models.items() if each.missing}
    assert list(lacking) == ["GaussianAvatars'"] and "362" in lacking["GaussianAvatars'"][0]
    assert models["insta"].line() == "insta: ready"


def test_what_is_missing_is_what_the_models_fail_without(tmp_path):
    capture = _capture(tmp_path / "bare", optional=False)
    models = _by_model(capture)
    for name in ("flash_avatar", "rgb_avatar", "vp360"):
        assert any("expression" in each for each in models[name].missing), name
        with pytest.raises(ValueError, match=f"{name}: expression_width is 5, and the states .* have 0"):
            getattr(hf.models, name)(capture.template, expression_width=5)
        avatar = getattr(hf.models, name)(capture.template.replace(expression_width=None), expression_width=5)
        with pytest.raises(ValueError, match="expression"):
            avatar.render(capture.camera(0), capture.state(0))
    avatar = hf.models.gaussian_avatars(capture.template, count=50)
    assert not models["gaussian_avatars"].missing
    assert torch.isfinite(avatar.render(capture.camera(0), capture.state(0)).rgb).all()
    assert models["mononphm"].missing == ("68 landmarks (landmark_path)",)
    assert any("depth prior" in each for each in models["insta"].weaker)
    with pytest.raises(ValueError, match="'mouth' is needed"):
        hf.models.insta(capture.template)
    assert "the mesh's region 'mouth'" in models["insta"].missing[0] and len(models["insta"].missing) == 2


def test_full_mattes_and_missing_splits_are_said(tmp_path):
    def full(frame):
        frame.image[..., 3] = 255
        return frame

    frames = [full(frame) for frame in tiny_frames(3)]
    write_insta(tmp_path / "full", frames, *blob(), test_frames=3)
    models = _by_model(load_capture(tmp_path / "full"))
    assert all(any("training frames" in each for each in models[name].missing) for name in ("insta", "monoavatar"))
    assert "mattes (3 of 3 images looked at are all foreground)" in models["gaussian_avatars"].line()


def test_captures_with_flame_parameters_can_be_exported(tmp_path):
    head = vhap_folder.tiny_head()
    capture = load_capture(vhap_folder.write(tmp_path / "vhap", head, steps=2), head=head, mouth="none")
    assert not _by_model(capture)["GaussianAvatars'"].missing
