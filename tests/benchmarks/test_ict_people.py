"""Mending the lips of a decimated face: a vertex that moves with the wrong lip is changed, the others stay."""

import numpy as np

from benchmarks.ict_people import mend_lips


def test_a_vertex_that_moves_with_the_wrong_lip_is_mended():
    columns, rows = 9, 4
    y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    grid = np.stack([0.003 * x.ravel(), 0.003 * y.ravel(), 0 * x.ravel()], -1).astype(np.float32)
    upper = grid + np.float32([0, 0.009, 0])  # two strips, an upper and a lower lip, that share no vertex
    corner = np.arange(rows * columns).reshape(rows, columns)
    quads = [corner[:-1, :-1], corner[:-1, 1:], corner[1:, 1:], corner[1:, :-1]]
    a, b, c, d = (q.ravel() for q in quads)
    strip = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)])
    template, faces = np.concatenate([grid, upper]), np.concatenate([strip, strip + len(grid)])
    expression = np.zeros((2, len(template), 3), np.float32)
    expression[0, : len(grid), 1] = -0.02  # the jaw takes the lower lip along
    expression[1, len(grid) :, 2] = 0.004  # and another one the upper lip
    wrong = len(grid) + 4
    torn = expression.copy()
    torn[:, wrong] = expression[:, 4]
    marks = np.zeros(68, np.int64)
    marks[60:] = [4, wrong, 3, 5, wrong - 1, wrong + 1, 2, 6]
    result, mended = mend_lips(template, faces, torn, 0, marks)
    assert mended == 1
    np.testing.assert_allclose(result, expression, atol=1e-7)
    unchanged, count = mend_lips(template, faces, expression, 0, marks)
    assert count == 0
    np.testing.assert_array_equal(unchanged, expression)
