"""Views that a teacher draws: where from, of what, and what a student of them has lost."""

import math
import signal

import numpy as np
import pytest
import torch
from PIL import Image

import headfields as hf
from headfields.apps.distillation import TeacherViews, loss_of_quality, view_sheet
from headfields.losses import L1DSSIM
from headfields.training import Trainer
from tests.avatar.test_splat_avatar import Colored, avatar
from tests.tables import table


@pytest.fixture(scope="module")
def capture():
    return Colored()


def teacher(seed=1):
    made = avatar(400)
    with torch.no_grad():
        made.gaussians.color.copy_(torch.randn(400, 3, generator=torch.Generator().manual_seed(seed)))
        made.gaussians.opacity_logit.fill_(3.0)
    return made


def test_views_are_spread_around_the_head_and_over_the_states(capture):
    views = TeacherViews(teacher(), capture, 64, degrees=120, pitch=40)
    own = capture.camera([0]).center[0].norm()
    centers = views.camera(range(64)).center
    state = views.state(torch.arange(64))
    assert state.frame_id.tolist() == [view * 3 // 64 for view in range(64)]
    middle = (state.vertices.amin(1) + state.vertices.amax(1)) / 2
    away = centers - middle
    base = torch.stack([capture.camera([int(frame)]).center[0] for frame in state.frame_id]) - middle
    torch.testing.assert_close(away.norm(dim=-1), base.norm(dim=-1))  # on a sphere around the head
    assert float(own) > 0.5
    own_views = torch.arange(64) % 4 == 0
    torch.testing.assert_close(centers[own_views], (base + middle)[own_views])
    yaw = torch.atan2(away[:, 0], away[:, 2]).rad2deg() - torch.atan2(base[:, 0], base[:, 2]).rad2deg()
    pitch = torch.asin(away[:, 1] / away.norm(dim=-1)).rad2deg()
    pitch = pitch - torch.asin(base[:, 1] / base.norm(dim=-1)).rad2deg()
    for angle, half in ((yaw, 60), (pitch, 20)):
        others = angle[~own_views]
        assert float(others.abs().max()) <= half + 0.5
        counts = torch.histc(others, 4, -half, half)
        assert counts.sum() == 48 and counts.min() >= 9  # a quarter of the range has a quarter of them
    pixels, depth = views.camera(range(64)).project(middle[:, None])
    torch.testing.assert_close(pixels[:, 0], torch.full((64, 2), 8.0), atol=1.5, rtol=0)
    assert (depth > 0.4).all()


def test_splits_are_of_the_views(capture):
    views = TeacherViews(teacher(), capture, 16)
    assert views.splits["test"].tolist() == [7, 15] and len(views.splits["train"]) == 14
    assert TeacherViews(teacher(), capture, 3).splits["test"].tolist() == [2]
    assert len(TeacherViews(teacher(), capture, 1).splits["test"]) == 0


def test_images_are_the_teachers_and_stay_in_their_folder(capture, tmp_path):
    made = teacher()
    views = TeacherViews(made, capture, 4, size=12, folder=tmp_path)
    assert views.size == (12, 12)
    with pytest.raises(RuntimeError, match="view 1 is not drawn"):
        views.image(1)
    assert views.draw()
    for background in (0.0, 0.7):
        rgba = views.image(1)
        expected = made.render(views.camera([1])[0], views.state([1]), background).rgb.clamp(0, 1)
        shown = rgba[..., :3] * rgba[..., 3:] + background * (1 - rgba[..., 3:])
        torch.testing.assert_close(shown, expected, atol=1.5 / 255, rtol=0)
    batch, frames = views.sample_images(torch.tensor([1, 3]), torch.Generator().manual_seed(0))
    assert torch.equal(batch.rgb[0], views.image(1)[..., :3]) and frames.tolist() == [1, 3]
    assert torch.equal(batch.camera.world_to_camera, views.camera([1, 3]).world_to_camera)
    white, _ = views.sample_images([0], torch.Generator(), "white")
    assert torch.equal(white.background, torch.ones(1, 3))
    other = TeacherViews(teacher(seed=2), capture, 4, size=12, folder=tmp_path)
    assert other.draw() and torch.equal(other.image(2), views.image(2))  # not drawn again
    Image.fromarray(np.zeros((5, 5, 4), np.uint8)).save(tmp_path / "00002.png")
    with pytest.raises(ValueError, match="00002"):
        TeacherViews(made, capture, 4, size=12, folder=tmp_path).draw()


def test_ctrl_c_ends_drawing_after_an_image(capture, tmp_path):
    made, drawn = teacher(), []

    class Interrupting(torch.nn.Module):
        def render(self, *arguments):
            drawn.append(1)
            signal.raise_signal(signal.SIGINT)
            return made.render(*arguments)

    views = TeacherViews(Interrupting(), capture, 4, folder=tmp_path)
    assert not views.draw() and len(drawn) == 1 and len(list(tmp_path.iterdir())) == 1
    again = TeacherViews(made, capture, 4, folder=tmp_path)
    assert again.draw()


def test_a_student_learns_the_teachers_colors(capture):
    made = teacher()
    views = TeacherViews(made, capture, 16, degrees=60, pitch=10)
    views.draw()
    student = avatar(200)
    before = loss_of_quality(made, student, views, capture, [3])
    rates = {"color": 0.1, "opacity_logit": 0.1, "position": 1e-3, "log_scale": 1e-3}
    options = {"learning_rates": rates, "ema": 0, "weight_decay": 0.0, "bar": False, "device": "cpu"}
    Trainer(student, views, [L1DSSIM(0.0)], **options).fit(steps=30)
    after = loss_of_quality(made, student, views, capture, [3])
    assert after["psnr_teacher"] > before["psnr_teacher"] + 3
    assert after["psnr_of_teacher"] == before["psnr_of_teacher"]
    assert after["lost"] == pytest.approx(after["psnr_of_teacher"] - after["psnr_of_student"])
    assert after["views"] == 2 and after["frames"] == 1
    rendering = student.render(capture.camera([3])[0], capture.state([3]), 1.0).rgb.clamp(0, 1)
    rgba = capture.image(3)
    truth = rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]
    assert after["psnr_of_student"] == pytest.approx(hf.metrics.psnr(rendering, truth), abs=1e-4)
    nothing = loss_of_quality(made, student, views, capture, [])
    assert nothing["lost"] is None and nothing["frames"] == 0
    sheet = view_sheet(student, views)
    assert sheet.shape == (2 * 16, 3 * 16, 3) and bool(sheet.isfinite().all())


@table(
    ("options", "message"),
    [
        ({"count": 0}, "count is 0"),
        ({"size": 0}, "size is 0"),
        ({"degrees": 361}, "degrees is 361"),
        ({"degrees": math.nan}, "degrees is nan"),
        ({"pitch": 180}, "pitch 180"),
    ],
)
def test_bad_arguments(capture, options, message):
    with pytest.raises(ValueError, match=f"TeacherViews: .*{message}"):
        TeacherViews(None, capture, **options)
    empty = Colored.__new__(Colored)
    empty.splits = {"train": torch.tensor([], dtype=torch.long)}
    with pytest.raises(ValueError, match="'ball' has no training frames"):
        TeacherViews(None, empty)
