"""Gaussians: activations, offsets, and rows that are kept, copied and dropped together with their moments."""

import pytest
import torch

from headfields.networks.gaussians import DC, ROW, Gaussians, offsets_of
from headfields.part_names import part_class


def test_parameters_become_splats() -> None:
    gaussians = Gaussians(3, degree=1)
    with torch.no_grad():
        gaussians.log_scale.fill_(-2.0)
        gaussians.opacity_logit.copy_(torch.tensor([-1.0, 0.0, 2.0]))
        gaussians.color.fill_(0.25 / DC)
        gaussians.harmonics.fill_(0.5)
    splats = gaussians()
    torch.testing.assert_close(splats.scales, torch.full((3, 3), -2.0).exp())
    torch.testing.assert_close(splats.opacities, torch.tensor([-1.0, 0.0, 2.0]).sigmoid())
    assert splats.harmonics is not None and splats.harmonics.shape == (3, 4, 3)
    torch.testing.assert_close(0.5 + DC * splats.harmonics[:, 0], torch.full((3, 3), 0.75))
    assert bool((splats.harmonics[:, 1:] == 0.5).all())
    assert Gaussians(0)().count == 0
    assert part_class("headfields.networks.gaussians.Gaussians") is Gaussians


def test_training_reaches_degrees_one_after_the_other() -> None:
    gaussians = Gaussians(3, degree=2, degree_every=10)
    for step, values in ((0, 1), (9, 1), (10, 4), (19, 4), (20, 9), (1000, 9)):
        gaussians.at_step(step)
        harmonics = gaussians().harmonics
        assert harmonics is not None and harmonics.shape == (3, values, 3), step
    gaussians.at_step(12)
    torch.autograd.backward(gaussians().harmonics.sum())
    assert gaussians.harmonics.grad is not None
    assert bool((gaussians.harmonics.grad[:, :3] == 1).all()) and bool((gaussians.harmonics.grad[:, 3:] == 0).all())
    assert gaussians.eval()().harmonics.shape == (3, 9, 3)
    with pytest.raises(ValueError, match="degree_every is 0; expected a number of steps"):
        Gaussians(3, degree_every=0)


def test_offsets_of_frames_are_added_before_activation() -> None:
    gaussians = Gaussians(4)
    rows = torch.randn(2, 4, ROW)
    splats = gaussians(offsets_of(rows))
    assert splats.means.shape == (2, 4, 3) and splats.harmonics is not None and splats.harmonics.shape == (2, 4, 1, 3)
    torch.testing.assert_close(splats.means, rows[..., :3])
    torch.testing.assert_close(splats.scales, rows[..., 3:6].exp())
    torch.testing.assert_close(splats.opacities, rows[..., 10].sigmoid())
    one = gaussians({"opacity_logit": torch.ones(2, 4)})
    assert one.means.shape == (2, 4, 3) and one.opacities.shape == (2, 4)
    with pytest.raises(ValueError, match=r"offsets of \['size'\]; expected some of position, log_scale"):
        gaussians({"size": torch.zeros(4, 3)})


def test_blendshapes_change_position_rotation_and_color_alone() -> None:
    gaussians = Gaussians(3, blendshapes=2)
    tables = [gaussians.blend_position, gaussians.blend_quaternion, gaussians.blend_color]
    for table in tables:
        torch.nn.init.normal_(table)
    offsets = gaussians.blended(torch.tensor([[0.0, 0.0], [1.0, -2.0]]))
    expected = torch.cat([table[..., 0] - 2 * table[..., 1] for table in tables], dim=-1)
    rows = torch.cat([offsets[name][1] for name in ("position", "quaternion", "color")], dim=-1)
    torch.testing.assert_close(rows, expected)
    splats = gaussians(offsets)
    assert bool((splats.scales == 1).all()) and bool((splats.opacities == 0.5).all())
    torch.testing.assert_close(splats.means[0], gaussians.position)
    with pytest.raises(ValueError, match="no blendshapes; build it with blendshapes=K"):
        Gaussians(3).blended(torch.zeros(1, 2))


def test_blendshapes_mix_from_a_step_of_training_on() -> None:
    gaussians = Gaussians(3, blendshapes=2, blend_from=5).train()
    row = torch.ones(1, 2)
    for step, mixes in ((4, False), (5, True)):
        gaussians.at_step(step)
        assert bool(gaussians.blended(row)) == mixes
    gaussians.at_step(0)
    assert gaussians.eval().blended(row).keys() == {"position", "quaternion", "color"}


def test_rows_are_taken_with_their_points_of_attachment() -> None:
    gaussians = Gaussians(3, anchored=True)
    gaussians.barycentric.copy_(torch.eye(3))
    gaussians.take(torch.tensor([2, 0]))
    assert torch.equal(gaussians.barycentric, torch.eye(3)[[2, 0]])
    assert torch.equal(gaussians().barycentric, gaussians.barycentric)


@pytest.mark.parametrize("fused", [False, True])
def test_rows_move_with_their_moments(fused: bool) -> None:
    gaussians = Gaussians(4, degree=1, blendshapes=2)
    gaussians.face.copy_(torch.tensor([5, 6, 7, 8]))
    groups = [{"params": [each], "lr": 0.1} for each in gaussians.parameters()]
    optimizer = torch.optim.Adam(groups, fused=fused)
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0])

    def step() -> None:
        optimizer.zero_grad()
        splats = gaussians()
        loss = (splats.means.sum(-1) * weight[: len(gaussians)]).square().sum()
        (loss + (splats.means.sum(-1) * weight[: len(gaussians)]).sum()).backward()
        optimizer.step()

    step()
    held = gaussians()  # a graph of the old rows, which must not be in the way
    moments = optimizer.state[gaussians.position]["exp_avg"].clone()
    before = gaussians.position.detach().clone()
    index, fresh = torch.tensor([2, 0, 2]), torch.tensor([False, False, True])
    gaussians.take(index, fresh, optimizer, color=torch.full((3, 3), 0.5))
    assert len(gaussians) == 3 and gaussians.arguments["count"] == 3 and held.count == 4
    assert gaussians.face.tolist() == [7, 5, 7]
    assert torch.equal(gaussians.position, before[index]) and bool((gaussians.color == 0.5).all())
    expected = moments[index]
    expected[2] = 0
    assert torch.equal(optimizer.state[gaussians.position]["exp_avg"], expected)
    assert {id(p) for p in gaussians.parameters()} == {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert set(optimizer.state) <= set(gaussians.parameters())
    step()
    assert not torch.equal(gaussians.position, before[index])


def test_as_many_rows_as_a_file_has() -> None:
    source, other = Gaussians(6), Gaussians(2)
    other.adopt_sizes(source.state_dict())
    other.load_state_dict(source.state_dict())
    assert len(other) == 6 and other.arguments["count"] == 6


def test_errors_name_the_argument(unchecked: None) -> None:
    with pytest.raises(TypeError, match=r"Gaussians: count is 2\.5; expected an integer"):
        Gaussians(2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="degree=4"):
        Gaussians(2, degree=4)
    gaussians = Gaussians(2)
    with pytest.raises(IndexError, match=r"index has rows 0 to 2, and there are 2"):
        gaussians.take(torch.tensor([0, 2]))
    with pytest.raises(ValueError, match=r"color has shape \(2, 2\); expected \(1, 3\)"):
        gaussians.take(torch.tensor([1]), color=torch.zeros(2, 2))
    with pytest.raises(ValueError, match="size has shape"):
        gaussians.take(torch.tensor([1]), size=torch.zeros(1))
