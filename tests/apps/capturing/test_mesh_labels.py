import numpy as np
import pytest
import torch

import headfields as hf
from headfields.apps.capturing.mesh_labels import MeshLabels, with_mesh_labels
from headfields.data.labels import Label
from tests.data.tiny import camera


def sheet():
    """Four upright squares of two triangles at z = 0, 5 cm wide, from x = -10 to 10 cm; the last closes the mouth."""
    x = torch.tensor([-0.10, -0.05, 0.0, 0.05, 0.10])
    vertices = torch.cat([torch.stack([x, torch.full_like(x, y), torch.zeros(5)], -1) for y in (-0.1, 0.1)])
    faces = torch.tensor([face for i in range(4) for face in ((i, i + 1, i + 6), (i, i + 6, i + 5))])
    column = torch.arange(4).repeat_interleave(2)
    regions = {"face": column == 0, "eyes": (column == 1) | (column == 2), "mouth": column == 3}
    return hf.Template(vertices, faces, regions, face_count=7)


def test_each_region_has_its_label_where_it_is_seen():
    template, view = sheet(), camera(0.0, 0.0)
    matte = np.ones(view.size, bool)
    matte[:, 0] = False
    drawn = MeshLabels(template)(template.canonical_vertices.numpy(), view, matte)
    assert drawn.dtype == np.uint8 and drawn.shape == view.size
    assert (drawn[:, 0] == Label.BACKGROUND).all()
    for x, y, label in (
        (-0.08, 0.0, Label.SKIN), (-0.02, 0.0, Label.RIGHT_EYE), (0.02, 0.0, Label.LEFT_EYE),
        (0.09, -0.08, Label.LOWER_LIP), (0.06, 0.08, Label.MOUTH_INTERIOR),
    ):  # fmt: skip
        column, row = view.project(torch.tensor([[[x, y, 0.0]]]))[0][0, 0].long().tolist()
        assert drawn[row, column] == label
    column, row = view.project(torch.tensor([[[0.0, 0.13, 0.0]]]))[0][0, 0].long().tolist()
    assert drawn[row, column] == Label.HAIR  # in the matte, beside the mesh


def test_labels_are_not_drawn_over_labels(tiny_folder):
    capture = hf.data.load_capture(tiny_folder)
    with pytest.raises(ValueError, match="has labels already"):
        with_mesh_labels(capture.recording, capture.template)
