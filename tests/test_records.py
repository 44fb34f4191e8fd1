"""Records: shape errors, copies, and the camera's conventions."""

import pytest
import torch

from headfields.records import Camera, Canonical, HeadState, PixelBatch, Rays, Samples, Template
from tests.shapes import rotation


def camera(seed: int = 0) -> Camera:
    turn = rotation(seed).float()
    shift = torch.tensor([[0.02], [-0.03], [0.6]])
    pose = torch.cat([torch.cat([turn, shift], dim=1), torch.tensor([[0.0, 0, 0, 1]])])
    return Camera(pose, torch.tensor([[50.0, 0.7, 9.0], [0, 55.0, 6.5], [0, 0, 1]]), (14, 20))


@pytest.mark.parametrize("seed", range(3))
def test_project_undoes_rays(seed: int) -> None:
    seen = camera(seed)
    rays = seen.rays()
    assert len(rays) == 14 * 20
    distance = torch.linspace(0.2, 3.0, len(rays))
    pixels, depth = seen.project(rays.origins + distance[:, None] * rays.directions)
    row, column = torch.arange(14).repeat_interleave(20), torch.arange(20).repeat(14)
    torch.testing.assert_close(pixels, torch.stack([column, row], -1) + 0.5, atol=2e-3, rtol=0)
    forward = seen.world_to_camera[2, :3]  # the optical axis in world space
    torch.testing.assert_close(depth, distance * (rays.directions @ forward), atol=1e-4, rtol=0)
    torch.testing.assert_close(rays.origins, seen.center.expand(len(rays), 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(rays.directions.norm(dim=-1), torch.ones(len(rays)))


def test_rays_of_a_batch_belong_to_their_own_camera() -> None:
    one, two = camera(0), camera(1)
    both = Camera(torch.stack([one.world_to_camera, two.world_to_camera]), torch.stack([one.intrinsics] * 2), (14, 20))
    pixels = torch.tensor([[0, 0], [13, 19], [5, 7]])
    rays = both.rays(pixels, torch.tensor([1, 0, 1]))
    index = pixels[:, 0] * 20 + pixels[:, 1]
    for row, (single, frame) in enumerate(((two, 1), (one, 0), (two, 1))):
        torch.testing.assert_close(rays.directions[row], single.rays().directions[index[row]], atol=1e-6, rtol=0)
        torch.testing.assert_close(rays.origins[row], single.center, atol=1e-6, rtol=0)
        assert int(rays.frame[row]) == frame
        torch.testing.assert_close(rays.camera_rotation[row], single.world_to_camera[:3, :3])
    assert len(both) == 2 and len(both.rays(pixels[:0])) == 0
    with pytest.raises(ValueError, match="pixels is None with 2 cameras"):
        both.rays()
    torch.testing.assert_close(both[-1].rays().directions, two.rays().directions)


def test_a_scaled_camera_sees_the_same_at_another_size() -> None:
    full = camera()
    half = full.scaled(0.5)
    assert half.size == (7, 10)
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)) * 0.1
    pixels, depth = full.project(points)
    smaller, same = half.project(points)
    torch.testing.assert_close(smaller, pixels * 0.5, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(same, depth)
    odd = full.scaled(0.33)  # the size is rounded, and the intrinsics go with what it became
    torch.testing.assert_close(odd.project(points)[0], pixels * torch.tensor([odd.size[1] / 20, odd.size[0] / 14]),
                               atol=1e-4, rtol=1e-4)  # fmt: skip


def test_frame_ids_travel_with_the_state(unchecked: None) -> None:
    state = HeadState(torch.zeros(3, 4, 3), frame_id=torch.tensor([7, 0, 2]))
    assert state[1:].frame_id.tolist() == [0, 2] and state[0].frame_id.tolist() == [7]
    assert state.to("cpu").frame_id.dtype == torch.int64
    assert state.replace(frame_id=None)[0].frame_id is None
    assert state.need("ErrorWarp", "frame_id") is state.frame_id
    with pytest.raises(ValueError, match=r"frame_id has shape \(2,\), so B = 2, but vertices has B = 3"):
        HeadState(torch.zeros(3, 4, 3), frame_id=torch.tensor([7, 0]))


def test_need_says_who_needs_what() -> None:
    state = HeadState(torch.zeros(2, 4, 3), pose=torch.zeros(2, 5, 3), codes={"identity": torch.ones(2, 6)})
    assert state.need("Part", "identity").shape == (2, 6)
    assert state.need("Part", "pose").shape == (2, 5, 3)
    with pytest.raises(
        ValueError, match=r"RegionGate needs 'expression'.*\['vertices', 'pose', 'identity'\].*load_cap"
    ):
        state.need("RegionGate", "expression")


def test_shapes_that_disagree_are_named(unchecked: None) -> None:
    with pytest.raises(ValueError, match=r"HeadState: expression has shape \(3, 4\), so B = 3, but vertices has B = 2"):
        HeadState(torch.zeros(2, 5, 3), expression=torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"HeadState: vertices has shape \(5, 3\); expected \(B, V, 3\)"):
        HeadState(torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"codes\['id'\] has shape \(1, 4\), so B = 1"):
        HeadState(torch.zeros(2, 5, 3), codes={"id": torch.zeros(1, 4)})
    with pytest.raises(TypeError, match="Rays: origins is a list"):
        Rays([0.0, 0.0, 0.0], torch.zeros(1, 3), torch.zeros(1, dtype=torch.long))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Camera: intrinsics has shape \(4, 4\); expected \(\.\.\., 3, 3\)"):
        Camera(torch.eye(4), torch.eye(4), (2, 2))
    with pytest.raises(ValueError, match=r"Samples: end has shape \(2,\), so M = 2, but ray has M = 3"):
        Samples(torch.zeros(3, dtype=torch.long), torch.zeros(3), torch.zeros(2))
    with pytest.raises(ValueError, match=r"regions\['mouth'\] has shape \(3,\), so F = 3, but faces has F = 2"):
        Template(torch.zeros(4, 3), torch.zeros(2, 3, dtype=torch.long), {"mouth": torch.zeros(3, dtype=torch.bool)})


def test_replace_checks_again(unchecked: None) -> None:
    rays = camera().rays()
    with pytest.raises(ValueError, match="frame has shape"):
        rays.replace(frame=torch.zeros(1, dtype=torch.long))


def test_indexing_reaches_mappings_and_nested_records() -> None:
    state = HeadState(torch.arange(24.0).reshape(2, 4, 3), codes={"identity": torch.tensor([[1.0], [2.0]])})
    last = state[-1]
    assert len(last) == 1 and float(last.codes["identity"]) == 2
    assert bool((state[1].vertices == last.vertices).all()), "an index from the back is the same frame"
    batch = PixelBatch(camera().rays()[:6], torch.rand(6, 3), torch.rand(6), torch.ones(6, 3))
    some = batch[torch.tensor([4, 1])]
    assert len(some) == len(some.rays) == 2
    torch.testing.assert_close(some.rays.directions, batch.rays.directions[[4, 1]])
    torch.testing.assert_close(some.target, batch.target[[4, 1]])


def test_detach_cuts_every_tensor() -> None:
    vertices, code = torch.zeros(1, 4, 3, requires_grad=True), torch.zeros(1, 2, requires_grad=True)
    state = HeadState(vertices, codes={"a": code}).detach()
    assert not state.vertices.requires_grad and not state.codes["a"].requires_grad


def test_no_points_and_no_samples_are_legal() -> None:
    none, index = torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)
    canonical = Canonical(none, none, none, index, torch.zeros(0, dtype=torch.bool))
    samples = Samples(index, torch.zeros(0), torch.zeros(0))
    assert len(canonical) == len(samples) == 0 and samples.middle.shape == (0,)
