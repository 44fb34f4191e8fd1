"""Landmark files that are wrong: each is an error that names the file and the entry."""

import json

import numpy as np
import pytest
import torch

from headfields.apps.rigging.landmarks import ScanLandmarks, read_scan_landmarks
from headfields.apps.rigging.rig import _check_near
from headfields.apps.tracking.prior.landmarks import LandmarkPoints
from headfields.files.arrays import load_arrays, save_arrays
from tests.tables import table

TIP = {"30": [0, 0, 0.1]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"landmarks": {"nose_tip": [0, 0, 0.1], "30": [0, 0, 0.2]}}, "'30' is landmark 30, which is there twice"),
        ({"landmarks": [[0, 0, 0.1]] * 51}, "a list of 51 landmarks; expected 68"),
        ({"landmarks": [[0, 0, 0.1]] * 69}, "a list of 69"),
        ({"landmarks": {"30": [True, 0, 0.1]}}, "30 is .*expected three finite numbers"),
        ({"landmarks": {"30": ["1", 0, 0.1]}}, "three finite numbers"),
        ({"landmarks": {"30": "123"}}, "three finite numbers"),
        ({"landmarks": {"30": [float("nan"), 0, 0.1]}}, "three finite numbers"),
        ({"landmarks": {"30": [0, 0.1]}}, "three finite numbers"),
        ({"landmarks": {"68": [0, 0, 0.1]}}, "'68' is neither"),
        ({"landmarks": {"²": [0, 0, 0.1]}}, "'²' is neither"),
        ({"landmarks": TIP, "lips": [[0, 0, 0]]}, "lips is .*three or more points"),
        ({"landmarks": TIP, "lips": 5}, "lips is 5"),
        ({"landmarks": TIP, "lips": [[0, 0, float("inf")]] * 3}, "lips is .*finite"),
        ({"landmarks": TIP, "eye": "closed"}, "has the entry 'eye'"),
        ({"landmarks": TIP, "eyes": True}, "eyes is True"),
    ],
)
def test_a_wrong_file_of_scan_landmarks(tmp_path, content, reason):
    path = tmp_path / "scan.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"scan\.json.*{reason}"):
        read_scan_landmarks(path)


def test_landmarks_in_another_unit_than_the_scan():
    vertices = torch.rand(9, 3) * 0.3
    points = torch.rand(4, 3, dtype=torch.float64) * 0.3
    _check_near(ScanLandmarks(points, torch.arange(4)), vertices)
    with pytest.raises(ValueError, match=r"landmark \d is at .*off the scan.*meters"):
        _check_near(ScanLandmarks(points * 1000, torch.arange(4)), vertices)


@table(
    ("changes", "reason"),
    [
        ({"base": np.full((2, 3), np.nan)}, "base at .* is nan"),
        ({"by_anchors": np.full((3, 6), np.inf)}, "by_anchors at"),
        ({"number": np.array([0, -1])}, "number is"),
        ({"number": np.array([1, 1])}, "number is"),
        ({"number": np.array([0, 1.5])}, "number at .* is 1.5"),
        ({"base": np.zeros((1, 3))}, "number has shape"),
        ({"by_anchors": np.zeros((4, 6))}, "by_anchors has shape"),
        ({"base": np.array([["a"] * 3] * 2)}, "base has dtype"),
        ({"base": np.random.default_rng(0).random((2, 3)) * 400}, "base extends over .*multiply by 0.001"),
        ({"code": np.zeros(2)}, "lacks by_code"),
    ],
)
def test_wrong_landmark_points(tmp_path, changes, reason):
    points = LandmarkPoints(torch.rand(2, 3), torch.rand(1, 3), torch.rand(3, 6), torch.arange(2))
    raw = load_arrays(points.save(tmp_path / "whole.npz"))
    assert torch.equal(LandmarkPoints.load(tmp_path / "whole.npz").base, points.base)
    save_arrays(tmp_path / "points.npz", raw | changes)
    with pytest.raises(ValueError, match=rf"points\.npz.*{reason}"):
        LandmarkPoints.load(tmp_path / "points.npz")
