import torch

from headfields.apps.tracking.rig.body import BodyPose, TrackedBody


def test_the_reduced_body_is_the_rig(rig):
    body = TrackedBody(rig)
    assert body.names == ["head", "jaw"] and body.width == 6 + 6 + 2
    pose = BodyPose(torch.eye(4), torch.randn(2, 3) * 0.3, torch.randn(2))
    torch.testing.assert_close(body.posed(pose).vertices, body.state([pose]).vertices[0], atol=1e-6, rtol=0)
    assert body.state([]).vertices.shape == (0, len(rig.template_vertices), 3)


def test_the_jacobian_is_that_of_finite_steps(rig):
    body = TrackedBody(rig)
    torch.manual_seed(0)
    view = torch.eye(4)
    view[:3, 3] = torch.tensor([0.1, 0.0, 1.0])
    pose = BodyPose(view, torch.randn(2, 3) * 0.3, torch.randn(2) * 0.5)
    posed = body.posed(pose)
    corners, weights = rig.faces[::37], torch.full((len(rig.faces[::37]), 3), 1 / 3)
    slope, center = body.jacobian(pose, posed, corners, weights)
    for column in range(body.width):
        step = torch.zeros(body.width)
        step[column] = 2e-3
        ends = [body.posed(pose.moved(sign * step, center)).local[corners].mean(1) for sign in (1, -1)]
        torch.testing.assert_close((ends[0] - ends[1]) / 4e-3, slope[..., column], atol=3e-4, rtol=0.03)
