"""Records: shape errors, copies, and the camera's conventions."""

import math
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from headfields.mesh.mesh import Mesh
from headfields.parts import Rendering
from headfields.records import Camera, Canonical, Features, HeadState, PixelBatch, Rays, Samples, Template
from tests.shapes import rotation
from tests.tables import table


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
    with pytest.raises(ValueError, match=r"shape \(5, 3\); expected \(B, V, 3\) \(of one: vertices\[None\]\)"):
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


# ---------------------------------------------------------------- types and values


def state(frames: int = 2, **extra: object) -> HeadState:
    return HeadState(torch.rand(frames, 5, 3), **extra)  # type: ignore[arg-type]


POINTS, INDEX, MASK = torch.zeros(3, 3), torch.zeros(3, dtype=torch.long), torch.ones(3, dtype=torch.bool)
SAMPLES = Samples(INDEX, POINTS[0], POINTS[0])
LENS = torch.tensor([[50.0, 0, 10], [0, 50, 7], [0, 0, 1]])


@table(
    ("make", "message"),
    [
        (lambda: Canonical(POINTS, POINTS, POINTS, INDEX, MASK.float()),
         r"Canonical: valid has dtype torch.float32; expected bool \(valid > 0 makes a mask\)"),
        (lambda: Canonical(POINTS, POINTS, POINTS, INDEX.float(), MASK),
         r"Canonical: frame has dtype torch.float32; expected int64 \(frame.long\(\) converts\)"),
        (lambda: Rays(POINTS.long(), POINTS, INDEX), r"Rays: origins has dtype torch.int64; expected float32 \(orig"),
        (lambda: Rays(POINTS.numpy(), POINTS, INDEX), r" origins is a ndarray; pass .*torch.as_tensor\(origins\)"),
        (lambda: HeadState(None), r"HeadState: vertices is None; pass a torch.Tensor"),
        (lambda: state(frame_id=torch.zeros(2)), "HeadState: frame_id has dtype torch.float32; expected int64"),
        (lambda: state(codes={"light": torch.zeros(2, 3).numpy()}), r"HeadState: codes\['light'\] is a ndarray"),
        (lambda: Template(POINTS, INDEX[None], {"mouth": MASK[:1].float()}), r"regions\['mouth'\] has dtype torch.fl"),
        (lambda: PixelBatch(camera().rays()[:3], POINTS, MASK, POINTS), "PixelBatch: alpha has dtype torch.bool"),
        (lambda: Rendering(POINTS.numpy(), POINTS[0], POINTS[0]), "Rendering: rgb is a ndarray"),
        (lambda: Camera(torch.eye(4), LENS.long(), (14, 20)), "Camera: intrinsics has dtype torch.int64"),
        (lambda: Camera(torch.eye(4), LENS, (14.0, 20.0)), r"Camera: size is \(14.0, 20.0\); expected two integers"),
        (lambda: Camera(torch.eye(4), LENS, 14), "Camera: size is 14; expected two integers"),
    ],
)  # fmt: skip
def test_types_that_would_be_misread_are_refused(make: object, message: str, unchecked: None) -> None:
    with pytest.raises(TypeError, match=message):
        make()  # type: ignore[operator]


def changed(matrix: torch.Tensor, row: int, column: int, value: float) -> torch.Tensor:
    matrix = matrix.clone()
    matrix[row, column] = value
    return matrix


@table(
    ("pose", "lens", "message"),
    [
        (torch.eye(4), changed(LENS, 0, 0, 0.0), "intrinsics is .* positive focal lengths"),
        (torch.eye(4), changed(LENS, 1, 1, -50.0), "intrinsics is .* positive focal lengths"),
        (torch.eye(4), changed(LENS, 1, 2, torch.nan), "intrinsics is .* finite"),
        (changed(torch.eye(4), 3, 0, 0.5), LENS, r"last row \[0.5, 0.0, 0.0, 1.0\]; expected \[0, 0, 0, 1\]"),
        (changed(torch.eye(4), 3, 3, 0.0), LENS, "last row"),
        (torch.eye(4), LENS.T, r"intrinsics has the last row .*; expected \[0, 0, 1\] \(the principal"),
        (torch.diag(torch.tensor([1.0, 1, 0, 1])), LENS, "not rigid"),
        (torch.diag(torch.tensor([1.0, 1, -1, 1])), LENS, "not rigid.*mirroring"),
        (torch.diag(torch.tensor([2.0, 2, 2, 1])), LENS, "not rigid.*scale"),
        (changed(torch.eye(4), 0, 3, torch.nan), LENS, "not rigid"),
        (changed(torch.eye(4), 0, 0, torch.nan), LENS, "not rigid"),
    ],
)
def test_a_camera_that_cannot_be_is_refused(pose: torch.Tensor, lens: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"Camera: .*{message}"):
        Camera(pose, lens, (14, 20))
    with pytest.raises(ValueError, match=message):  # one of many
        Camera(torch.stack([torch.eye(4), pose]), torch.stack([LENS, lens]), (14, 20))


def test_a_camera_reads_no_value_where_it_is_traced(unchecked: None) -> None:
    def center(pose: torch.Tensor) -> torch.Tensor:
        return Camera(pose, LENS, (14, 20)).center

    poses = torch.stack([camera(seed).world_to_camera for seed in range(3)])
    expected = Camera(poses, LENS, (14, 20)).center
    torch.testing.assert_close(torch.func.vmap(center)(poses), expected)


def test_one_lens_serves_many_cameras(unchecked: None) -> None:
    poses = torch.stack([camera(0).world_to_camera, camera(1).world_to_camera])
    both = Camera(poses, LENS, [14, np.int64(20)])  # type: ignore[arg-type]
    assert both.size == (14, 20) and both[1].intrinsics.shape == (1, 3, 3)
    with pytest.raises(ValueError, match=r"intrinsics has shape \(3, 3, 3\), so its leading axes are \(3,\)"):
        Camera(poses, LENS.expand(3, 3, 3), (14, 20))


def test_matrices_of_two_precisions_make_rays_in_that_of_the_pose() -> None:
    one = camera()
    double = one.replace(world_to_camera=one.world_to_camera.double())
    assert double.rays().directions.dtype == torch.float64
    torch.testing.assert_close(double.rays().directions.float(), one.rays().directions)
    torch.testing.assert_close(double.project(torch.ones(2, 3).double())[0].float(), one.project(torch.ones(2, 3))[0])


def test_rays_and_projections_keep_their_precision_under_autocast() -> None:
    one, points = camera(), torch.rand(5, 3)
    rays, pixels, center = one.rays(), one.project(points)[0], one.center
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(one.rays().directions, rays.directions) and torch.equal(one.rays().origins, rays.origins)
        assert torch.equal(one.project(points)[0], pixels) and torch.equal(one.center, center)


def test_a_template_in_millimeters_or_with_nan_is_refused() -> None:
    vertices, faces = torch.rand(4, 3) * 0.2, torch.tensor([[0, 1, 2]])
    assert len(Template(vertices, faces).faces) == 1 and len(Template(vertices[:0], faces[:0]).faces) == 0
    with pytest.raises(ValueError, match=r"canonical_vertices extends over .* looks like millimeters: mult.* 0.001"):
        Template(vertices * 1000, faces)
    with pytest.raises(ValueError, match=r"it looks like centimeters: multiply by 0.01"):
        Template(vertices * 100, faces)
    with pytest.raises(ValueError, match="holds 1 of 4 vertices that are not finite"):
        Template(vertices.index_fill(0, torch.tensor([2]), torch.nan), faces)
    with pytest.raises(ValueError, match="faces holds indices from 0 to 4, but canonical_vertices has 4 rows"):
        Template(vertices, torch.tensor([[0, 1, 4]]))
    with pytest.raises(ValueError, match="uv_faces holds indices from -1 to 1, but uv has 2 rows"):
        Template(vertices, faces, uv=torch.rand(2, 2), uv_faces=torch.tensor([[0, 1, -1]]))


# ---------------------------------------------------------------- cameras that are placed


@pytest.mark.parametrize("seed", range(3))
def test_look_at_puts_the_target_in_the_center_and_up_upward(seed: int) -> None:
    eye, target, up = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    one = Camera.look_at(eye, target, up, size=(40, 60), fov=30)
    pixels, depth = one.project(torch.stack([target, target + 1e-3 * up]))
    torch.testing.assert_close(one.center, eye)
    torch.testing.assert_close(pixels[0], torch.tensor([30.0, 20.0]).double())
    torch.testing.assert_close(depth[0], (target - eye).norm())
    assert abs(float(pixels[1, 0]) - 30) < 1e-3 and pixels[1, 1] < 20
    above = one.project(
        (eye + one.world_to_camera[2, :3] - math.tan(math.radians(15)) * one.world_to_camera[1, :3])[None]
    )
    torch.testing.assert_close(
        above[0][0], torch.tensor([30.0, 0.0]).double()
    )  # the field of view is the image's height


def test_look_at_is_differentiable_and_takes_many_eyes() -> None:
    eye = torch.tensor([[0.1, 0.2, 1.0], [-1.0, 0.0, 0.3]], dtype=torch.float64, requires_grad=True)
    many = Camera.look_at(eye, (0, 0, 0), size=(8, 8), focal=10)
    assert many.world_to_camera.shape == (2, 4, 4) and many.intrinsics.shape == (2, 3, 3)
    assert torch.autograd.gradcheck(lambda x: Camera.look_at(x, (0, 0, 0), size=(8, 8), focal=10).world_to_camera, eye)


@table(
    ("arguments", "message"),
    [
        ({"eye": (0, 0, 0), "target": (0, 0, 0), "fov": 20}, "eye and target must differ"),
        ({"eye": (0, 1, 0), "target": (0, 0, 0), "fov": 20}, "up must not be along the view"),
        ({"eye": (0, 0, 1), "target": (0, 0, 0), "fov": 20, "focal": 30}, "fov is 20 and focal is 30; pass one"),
        ({"eye": (0, 0, 1), "target": (0, 0, 0)}, "fov is None and focal is None; pass one"),
        ({"eye": (0, 0, 1), "target": (0, 0, 0), "fov": 180}, r"fov is 180; expected degrees in \(0, 180\)"),
        ({"eye": (0, 0, torch.nan), "target": (0, 0, 0), "fov": 20}, "give no direction"),
        ({"eye": (0, 0, 1), "target": (0, 0, 0), "focal": 0}, "positive focal lengths"),
    ],
)
def test_look_at_refuses_what_gives_no_camera(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"Camera.*{message}"):
        Camera.look_at(**arguments, size=(8, 8))


def test_an_orbit_is_what_carrying_the_camera_gives() -> None:
    target = torch.tensor([0.1, -0.2, 0.05])
    many = Camera.orbit(target, 0.9, yaw=torch.tensor([0.0, 40, 180]), pitch=20, size=(8, 8), fov=30)
    for row, yaw in enumerate((0.0, 40.0, 180.0)):
        carried = many[0].orbited(target, yaw)
        torch.testing.assert_close(carried.world_to_camera[0], many.world_to_camera[row], atol=1e-6, rtol=0)
        looked = Camera.look_at(many.center[row], target, size=(8, 8), fov=30)
        torch.testing.assert_close(looked.world_to_camera, many.world_to_camera[row], atol=1e-6, rtol=0)
    assert many.center[0, 1] > target[1], "from above"
    top = Camera.orbit(target, 0.9, pitch=90, size=(8, 8), fov=30)  # look_at has no right there
    torch.testing.assert_close(top.center, target + torch.tensor([0.0, 0.9, 0.0]))
    with pytest.raises(ValueError, match=r"Camera\.orbit: distance is 0"):
        Camera.orbit(target, 0, size=(8, 8), fov=30)


# ---------------------------------------------------------------- rows


@table("index", [1, -1, np.int64(1), torch.tensor(1), torch.tensor([1]), [1], slice(1, None)])
def test_every_index_of_a_row_is_that_row(index: object, unchecked: None) -> None:
    two = state(frame_id=torch.tensor([7, 9]))
    assert two[index].frame_id.tolist() == [9] and two[index].vertices.shape == (1, 5, 3)


@pytest.mark.parametrize("index", [2, -3, np.int64(2)])
def test_a_row_that_is_not_there_is_an_error(index: int) -> None:
    with pytest.raises(IndexError, match=r"HeadState: row -?\d is out of range; there are 2"):
        state()[index]


def test_a_loop_over_a_record_ends() -> None:
    assert [int(row.frame_id) for row in state(3, frame_id=torch.arange(3))] == [0, 1, 2]


# ---------------------------------------------------------------- joining


def batch(pixels: int = 4, **extra: object) -> PixelBatch:
    return PixelBatch(
        camera().rays()[:pixels], torch.rand(pixels, 3), torch.rand(pixels), torch.ones(pixels, 3), **extra
    )


def test_cat_undoes_indexing() -> None:
    three = state(3, expression=torch.rand(3, 2), codes={"light": torch.rand(3, 4)}, frame_id=torch.arange(3))
    again = HeadState.cat([three[:1], three[1:1], three[1:]])
    assert torch.equal(again.vertices, three.vertices) and torch.equal(again.codes["light"], three.codes["light"])
    assert again.frame_id.tolist() == [0, 1, 2] and again.pose is None
    pixels = batch(label=torch.arange(4))
    joined = PixelBatch.cat([pixels[:1], pixels[1:]])
    assert torch.equal(joined.rays.directions, pixels.rays.directions) and torch.equal(joined.label, pixels.label)
    features = Features(torch.rand(5, 2), torch.rand(3, 4), torch.tensor([0, 2, 1, 1, 0]))
    assert torch.equal(Features.cat([features[:2], features[2:]]).joined(), features.joined())
    plain = Features(torch.rand(5, 2))
    assert torch.equal(Features.cat([plain[:2], plain[2:]]).joined(), plain.joined())


def test_cat_has_a_gradient() -> None:
    vertices = torch.rand(2, 5, 3, requires_grad=True)
    HeadState.cat([HeadState(vertices), HeadState(vertices)]).vertices.sum().backward()
    assert vertices.grad is not None and bool((vertices.grad == 2).all())


def test_stack_adds_an_axis() -> None:
    cameras = Camera.stack([camera(0), camera(1)])
    assert cameras.world_to_camera.shape == (2, 4, 4) and cameras.size == (14, 20)
    images = [Rendering(torch.rand(4, 6, 3), torch.rand(4, 6), torch.rand(4, 6)) for _ in range(3)]
    assert Rendering.stack(images).rgb.shape == (3, 4, 6, 3) and Rendering.stack(images).normal is None


@table(
    ("join", "message"),
    [
        (lambda: HeadState.cat([]), "HeadState.cat: records is empty"),
        (lambda: HeadState.cat([state(), state(expression=torch.zeros(2, 3))]),
         "HeadState.cat: expression is None in record 0 and not in record 1; give it to all or none"),
        (lambda: HeadState.cat([state(codes={"a": torch.zeros(2, 3)}), state(codes={"b": torch.zeros(2, 3)})]),
         r"HeadState.cat: codes has \['a'\] in record 0 and \['b'\] in record 1"),
        (lambda: HeadState.cat([state(), HeadState(torch.zeros(2, 6, 3))]),
         r"HeadState.cat: vertices has shape \(2, 5, 3\) in record 0 and \(2, 6, 3\) in record 1"),
        (lambda: HeadState.cat([state(), HeadState(torch.zeros(2, 5, 3).double())]),
         "vertices has dtype torch.float32 in record 0 and torch.float64 in record 1"),
        (lambda: Camera.stack([camera(), camera().scaled(0.5)]),
         r"Camera.stack: size is \(14, 20\) in record 0 and \(7, 10\) in record 1; it must agree in all"),
    ],
)  # fmt: skip
def test_records_that_disagree_are_not_joined(join: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        join()  # type: ignore[operator]


@table(
    ("join", "message"),
    [
        (lambda: Camera.cat([camera(), state()]), "Camera.cat: records are of Camera, HeadState"),
        (lambda: HeadState.stack([state(), state()]), "no room for another; HeadState.cat joins along the first"),
        (lambda: Mesh.cat([Mesh(POINTS, INDEX[None])] * 2), r"faces \(F, 3\) has no row for each row of vertices"),
        (lambda: Template.cat([Template(POINTS, INDEX[None])] * 2), "Template.cat: faces"),
        (lambda: default_collate([SAMPLES, SAMPLES]), "Samples.collate: ray counts the rays"),
        (lambda: Rendering.cat([Rendering(POINTS, POINTS[0], POINTS[0], samples=SAMPLES)] * 2),
         r"Rendering.cat: the rows of samples \(Samples\) are not those of rgb"),
    ],
)  # fmt: skip
def test_records_without_common_rows_are_not_joined(join: object, message: str, unchecked: None) -> None:
    with pytest.raises(TypeError, match=message):
        join()  # type: ignore[operator]


def test_default_collate_makes_a_batch_of_items() -> None:
    """Rays of item i see row i of the collated states."""
    one = camera()
    items = [
        {"state": state(1, frame_id=torch.tensor([index])), "pixels": batch(3), "camera": one, "frame": index}
        for index in range(2)
    ]
    out = default_collate(items)
    assert out["state"].frame_id.tolist() == [0, 1] and out["frame"].tolist() == [0, 1]
    assert out["pixels"].rays.frame.tolist() == [0, 0, 0, 1, 1, 1] and len(out["pixels"]) == 6
    assert out["camera"].world_to_camera.shape == (2, 4, 4) and out["camera"].size == (14, 20)
    batched = default_collate([Camera.stack([one]), Camera.stack([one])])
    assert batched.world_to_camera.shape == (2, 4, 4)
    images = [Rendering(torch.rand(4, 6, 3), torch.rand(4, 6), torch.rand(4, 6)) for _ in range(2)]
    assert default_collate(images).rgb.shape == (2, 4, 6, 3)
    with pytest.raises(ValueError, match=r"Rays.collate: frame of item 1 holds 1; items of one frame each have 0"):
        default_collate([batch(3).rays, batch(3).rays.replace(frame=torch.tensor([0, 1, 0]))])


def test_records_survive_a_pickle() -> None:
    for record in (state(codes={"a": torch.rand(2, 1)}), batch(), camera(), Features(torch.rand(2, 3))):
        again = pickle.loads(pickle.dumps(record))
        assert type(again) is type(record) and repr(again) == repr(record)


def test_a_record_prints_on_one_short_line() -> None:
    shown = repr(batch(1000))
    assert "\n" not in shown and len(shown) < 300
    assert shown.startswith("PixelBatch(rays=Rays(origins=(280, 3) float32, ") and "label" not in shown
    assert repr(state(frame_id=torch.tensor([3, 4]))) == (
        "HeadState(vertices=(2, 5, 3) float32, frame_id=tensor([3, 4]))"
    )
    assert repr(HeadState(torch.zeros(1, 5, 3, device="meta"))) == "HeadState(vertices=(1, 5, 3) float32 meta)"
    assert "(0, 5, 3) float32" in repr(state(0)) and "size=(14, 20)" in repr(camera())
    assert repr(Mesh(POINTS, INDEX[None])) == "Mesh(vertices=(3, 3) float32, faces=tensor([[0, 0, 0]]))"
