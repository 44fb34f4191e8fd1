"""OpenCV's axes of a camera to OpenGL's: y and z change their signs, of poses, views and directions."""

import numpy as np
import torch

from headfields.records.opengl_axes import flip_y_z


def test_the_flip_is_its_matrix_on_either_side() -> None:
    generator = np.random.default_rng(0)
    for size in (3, 4):
        matrices, flip = generator.normal(size=(2, size, size)), np.diag([1.0, -1, -1, 1][:size])
        for axis, expected in ((-1, matrices @ flip), (-2, flip @ matrices)):
            np.testing.assert_array_equal(flip_y_z(matrices, axis), expected)
            single = flip_y_z(torch.from_numpy(matrices).float(), axis)
            assert torch.equal(single, torch.from_numpy(expected).float())
    assert flip_y_z(torch.tensor([1.0, 2, 3])).tolist() == [1, -2, -3]
