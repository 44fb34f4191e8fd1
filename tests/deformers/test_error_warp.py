"""The error-correction warp: formula, schedule, frame ids, exact Jacobian, and its place in a chain."""

import pytest
import torch

from headfields.deformers import Chain, ErrorWarp, NearSurface, SurfaceCanonicalizer
from headfields.deformers.error_warp import FrameCodes
from headfields.ops.frequency import frequency_window
from headfields.ops.rotations import axis_angle, rotation_from_log_quaternion
from headfields.records import HeadState, Rays
from tests.shapes import uv_sphere

VERTICES, FACES = uv_sphere(6, 8, radius=0.1)
BOX = torch.tensor([[-0.1, -0.2, -0.1], [0.2, 0.2, 0.1]])  # half of its longest side is 0.2 m


def warp(seed: int = 0, spread: float = 0.3, double: bool = True, **options) -> ErrorWarp:
    """One that has learned something."""
    torch.manual_seed(seed)
    made = ErrorWarp(BOX, 5, **{"bands": 3, "hidden": 12, "layers": 2, "start": 0, "coarse_to_fine": 0, **options})
    with torch.no_grad():
        for head in made.heads.values():
            head[-1].weight.uniform_(-spread, spread)
            head[-1].bias.uniform_(-spread, spread)
    return made.double() if double else made


def state(ids=(1, 3), dtype: torch.dtype = torch.float64) -> HeadState:
    vertices = VERTICES.to(dtype).expand(len(ids), -1, -1)
    return HeadState(vertices, frame_id=torch.tensor(ids, dtype=torch.long))


def points(count: int = 6, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    where = 0.1 * torch.randn(count, 3, generator=generator, dtype=torch.float64)
    along = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=-1)
    return where.to(dtype), along.to(dtype), torch.arange(count) % 2


def constant(log=(0.0, 0.0, 0.0), center=(0.0, 0.0, 0.0), shift=(0.0, 0.0, 0.0)) -> ErrorWarp:
    """One whose networks give the same everywhere."""
    made = warp(spread=0.0)
    with torch.no_grad():
        for name, value in (("rotation", log), ("center", center), ("translation", shift)):
            made.heads[name][-1].bias.copy_(torch.tensor(value))
    return made


def inside(where: torch.Tensor) -> torch.Tensor:
    return ((where > BOX[0]) & (where < BOX[1])).all(dim=1)


def test_the_papers_formula_sign_for_sign() -> None:
    """q' = R(q + c) - c + t in half sides of the box (0.2 m) about its middle: the rotation is about -c."""
    where, along, frame = points()
    log, center, shift = (0.1, -0.2, 0.3), (0.5, 0.0, -0.25), (0.0, 0.1, 0.0)
    made = constant(log, center, shift)
    out = made(where, along, frame, made.prepare(state()))
    turn = rotation_from_log_quaternion(torch.tensor(log).double())
    middle, c, t = BOX.mean(0).double(), 0.2 * torch.tensor(center).double(), 0.2 * torch.tensor(shift).double()
    wanted = (where - middle + c) @ turn.T - c + t + middle
    torch.testing.assert_close(out.points, wanted)
    torch.testing.assert_close(out.directions, along @ turn.T)
    assert float(axis_angle(turn).norm()) == pytest.approx(2 * torch.tensor(log).norm().item())
    pivot = (middle - c)[None]
    still = constant(log, center)
    moved = still(pivot, along[:1], frame[:1], still.prepare(state())).points
    torch.testing.assert_close(moved, pivot)  # what lies at -c stays
    assert torch.equal(out.posed_points, where) and bool(out.valid.all()) and out.face is None


def test_it_starts_as_nearly_the_identity_and_codes_tell_frames_apart() -> None:
    torch.manual_seed(0)
    fresh = ErrorWarp(BOX, 5, start=0, coarse_to_fine=0)
    where, along, frame = points(500, torch.float32)
    moved = fresh(where, along, frame, fresh.prepare(state(dtype=torch.float32))).points - where
    distance = moved.detach().norm(dim=1)[inside(where)]
    assert 0 < float(distance.mean()) < 2e-4 and float(distance.max()) < 5e-4
    learned = warp()
    one, other = (learned(*points(), learned.prepare(state(ids))).points for ids in ((1, 3), (1, 4)))
    assert torch.equal(one[0::2], other[0::2]) and bool((one[1::2] != other[1::2]).any(dim=1).all())


def test_it_is_off_before_its_start_and_in_evaluation() -> None:
    made, (where, along, frame) = warp(start=10), points()
    for step, training, moves in ((0, True, False), (9, True, False), (10, True, True), (10, False, False)):
        made.train(training)
        made.at_step(step)
        ready = made.prepare(state())
        out = made(where, along, frame, ready)
        assert torch.equal(out.points, where) is not moves and torch.equal(out.directions, along) is not moves
        assert len(made.corrections(where, frame, ready)) == int(moves)
        after, jacobian = made.jacobian(where, frame, ready)
        assert torch.equal(after, where) is not moves
        assert torch.equal(jacobian, torch.eye(3).double().expand(6, 3, 3)) is not moves


def test_bands_open_one_after_the_other() -> None:
    made = warp(bands=4, start=0, coarse_to_fine=100)
    for step, wanted in ((0, [0, 0, 0, 0]), (25, [1, 0, 0, 0]), (100, [1, 1, 1, 1]), (1000, [1, 1, 1, 1])):
        made.at_step(step)
        torch.testing.assert_close(made.window(), torch.tensor(wanted).float())
    made.at_step(60)
    torch.testing.assert_close(made.window(), frequency_window(4, 0.6))
    assert made.window()[2] == pytest.approx(0.345, abs=1e-3) and made.window()[3] == 0
    assert made.state_dict()["step"] == 60  # so that a checkpoint has it
    assert float(warp(coarse_to_fine=0).window().min()) == 1


def test_a_closed_band_is_not_seen() -> None:
    made, (where, along, frame) = warp(bands=2, coarse_to_fine=100), points()
    made.at_step(50)
    before = made(where, along, frame, made.prepare(state())).points
    with torch.no_grad():
        made.trunk[0].weight[:, 9:15] += 1.0  # the second band's columns
    torch.testing.assert_close(made(where, along, frame, made.prepare(state())).points, before)
    made.at_step(100)
    assert float((made(where, along, frame, made.prepare(state())).points - before).abs().max()) > 1e-3


def test_frames_that_are_missing_or_unknown(unchecked: None) -> None:
    made = warp(start=100)  # missed from the first step on, not from the start on
    with pytest.raises(ValueError, match=r"ErrorWarp needs 'frame_id' of the HeadState.*a capture fills frame_id"):
        made.prepare(HeadState(VERTICES[None]))
    with pytest.raises(IndexError, match=r"index holds 5, and the table has rows 0 to 4"):
        made.prepare(state((0, 5)))
    made.eval()
    for nothing_needed in (HeadState(VERTICES[None]), state((0, 5))):
        assert made.prepare(nothing_needed) is None


@pytest.mark.parametrize("bands", [0, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_jacobian_is_the_derivative(dtype: torch.dtype, bands: int) -> None:
    made = warp(double=dtype == torch.float64, bands=bands)
    where, along, frame = points(dtype=dtype)
    where.requires_grad_()
    ready = made.prepare(state(dtype=dtype))
    moved = made(where, along, frame, ready).points
    after, jacobian = made.jacobian(where, frame, ready)
    rows = [torch.autograd.grad(moved[:, i].sum(), where, retain_graph=True)[0] for i in range(3)]
    exact = dtype == torch.float64
    torch.testing.assert_close(after, moved, atol=1e-12 if exact else 1e-6, rtol=0)
    torch.testing.assert_close(jacobian, torch.stack(rows, dim=1), atol=1e-10 if exact else 2e-4, rtol=1e-4)
    if exact:  # and by differences
        step, still = 1e-6, where.detach()
        for axis in range(3):
            shift = torch.zeros(3, dtype=dtype).index_fill(0, torch.tensor(axis), step)
            ends = [made(still + sign * shift, along, frame, ready).points for sign in (1, -1)]
            difference = (ends[0] - ends[1]) / (2 * step)
            torch.testing.assert_close(jacobian[:, :, axis], difference, atol=1e-6, rtol=1e-6)


def test_the_mean_of_a_centered_warp_over_its_frames_is_zero() -> None:
    """Of frames that training has drawn; without `centered` the same networks move all frames alike."""
    where, along, _ = points(20)
    still = torch.arange(20) * 0
    shifts = {}
    for centered in (True, False):
        made = warp(centered=centered, spread=0.005, code_std=1.0)
        if centered:
            for ids in ((0, 1), (1, 3)):  # 2 and 4 are test frames: their codes do not count
                made.prepare(state(ids))
            assert made.drawn.tolist() == [True, True, False, True, False]
            made.requires_grad_(False)
        moves = []
        for frame in (0, 1, 3):
            with torch.no_grad():
                moves.append(made(where, along, still, made.prepare(state((frame,)))).points - where)
        mean, each = torch.stack(moves).mean(0).norm(dim=1).mean(), torch.stack(moves).norm(dim=2).mean()
        shifts[centered] = float(mean / each)
    assert shifts[True] < 0.05 and shifts[False] > 0.3, shifts


def test_the_jacobian_of_a_centered_warp_is_the_derivative() -> None:
    made = warp(centered=True)
    where, along, frame = points()
    where.requires_grad_()
    ready = made.prepare(state())
    moved = made(where, along, frame, ready).points
    after, jacobian = made.jacobian(where, frame, ready)
    rows = [torch.autograd.grad(moved[:, i].sum(), where, retain_graph=True)[0] for i in range(3)]
    torch.testing.assert_close(after, moved)
    torch.testing.assert_close(jacobian, torch.stack(rows, dim=1))
    assert "drawn" in made.state_dict() and "drawn" not in warp().state_dict()  # earlier files have no such tensor


def test_a_centered_warp_of_no_points_keeps_its_graph() -> None:
    made = warp(centered=True)
    where, along, frame = (x[:0] for x in points())
    ready = made.prepare(state())
    assert made.jacobian(where, frame, ready)[1].shape == (0, 3, 3)
    made(where, along, frame, ready).points.sum().backward()
    assert made.codes.table.grad is not None


def test_a_rigid_motion_has_a_rotation_for_its_jacobian() -> None:
    made, (where, _, frame) = constant((0.2, 0.1, -0.3), (0.3, 0.0, 0.0), (0.1, 0.0, 0.0)), points()
    _, jacobian = made.jacobian(where, frame, made.prepare(state()))
    turn = rotation_from_log_quaternion(torch.tensor((0.2, 0.1, -0.3)).double())
    torch.testing.assert_close(jacobian, turn.expand(6, 3, 3))


def test_derivatives_of_points_and_jacobians() -> None:
    made, (where, along, frame) = warp(hidden=4, bands=1, layers=1, head_layers=1, code_width=1), points(2)
    names, values = zip(*((n, p.detach()) for n, p in made.named_parameters()), strict=True)

    def both(where: torch.Tensor, *parameters: torch.Tensor):
        stood_in = dict(zip(names, parameters, strict=True))
        codes = stood_in["codes.table"][torch.tensor([1, 3])]
        ready = FrameCodes(codes, made.window().double())
        warped = torch.func.functional_call(made, stood_in, (where, along, frame, ready))
        return warped.points, warped.directions

    inputs = [where.requires_grad_(), *(value.clone().requires_grad_() for value in values)]
    assert torch.autograd.gradcheck(both, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(both, inputs, fast_mode=True)


def test_the_jacobians_own_derivatives() -> None:
    """What the elastic loss follows: d/dparameters of J, against finite differences."""
    made, (where, _, frame) = warp(hidden=6, bands=2), points(4)
    along = torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def value() -> torch.Tensor:
        return (made.jacobian(where, frame, made.prepare(state()))[1] * along).sum()

    value().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        place = int(parameter.grad.abs().flatten().argmax())
        with torch.no_grad():
            flat, found = parameter.view(-1), float(parameter.grad.flatten()[place])
            ends = []
            for sign in (1, -1):
                flat[place] += sign * 1e-6
                ends.append(float(value()))
                flat[place] -= sign * 1e-6
        assert found == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-6), name


def test_in_a_chain_it_is_asked_at_the_points_that_reach_it() -> None:
    posed = VERTICES + torch.tensor([0.05, 0.0, 0.0])
    surface, made = SurfaceCanonicalizer(VERTICES, FACES), warp(double=False)
    made.train()
    chain = Chain(surface, made)
    assert chain.corrects and chain.gives_faces and not surface.corrects
    head = HeadState(posed[None], frame_id=torch.tensor([2]))
    ready = chain.prepare(head)
    where = posed[FACES].mean(dim=1)[:7]
    frame, along = torch.zeros(7, dtype=torch.long), torch.tensor([[0.0, 0, -1]]).expand(7, 3)
    out = chain(where, along, frame, ready)
    assert out.face is not None and torch.equal(out.posed_points, where)
    (found,) = chain.corrections(where, frame, ready, jacobians=True)
    torch.testing.assert_close(found.before, surface(where, along, frame, ready[0]).points)
    torch.testing.assert_close(found.after, out.points, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.jacobian, made.jacobian(found.before, frame, ready[1])[1])
    (plain,) = chain.corrections(where, frame, ready)
    assert plain.jacobian is None
    torch.testing.assert_close(plain.after, found.after, atol=1e-6, rtol=0)
    assert Chain(surface).corrections(where, frame, [ready[0]]) == []
    torch.testing.assert_close(Chain(NearSurface(VERTICES, FACES), made).bounds(), BOX)


def test_alone_it_samples_its_box() -> None:
    made = warp(double=False)
    rays = Rays(torch.tensor([[0.0, 0, 1], [1, 0, 1]]), torch.tensor([[0.0, 0, -1]]).expand(2, 3),
                torch.zeros(2, dtype=torch.long))  # fmt: skip
    near, far = made.near_far(rays, None)
    torch.testing.assert_close(near[0], torch.tensor(0.9))
    torch.testing.assert_close(far[0], torch.tensor(1.1))
    assert near[1] == far[1] == 0
    assert torch.equal(made.bounds(), BOX) and torch.equal(made.posed_bounds(None), BOX)


def test_no_points() -> None:
    made, (where, along, frame) = warp(), points(0)
    where.requires_grad_()
    ready = made.prepare(state())
    out, (after, jacobian) = made(where, along, frame, ready), made.jacobian(where, frame, ready)
    assert len(out) == len(after) == 0 and jacobian.shape == (0, 3, 3)
    (out.points.sum() + jacobian.sum()).backward()
    assert where.grad is not None


def test_errors_name_the_argument(unchecked: None) -> None:
    with pytest.raises(ValueError, match="ErrorWarp: box is"):
        ErrorWarp(BOX.flip(0), 2)
    for name, value in (("bands", -1), ("hidden", 0), ("layers", 0), ("head_layers", -1), ("start", -1)):
        with pytest.raises(ValueError, match=f"ErrorWarp: {name} is {value}; it must be at least"):
            ErrorWarp(BOX, 2, **{name: value})
    with pytest.raises(ValueError, match="count is 0"):
        ErrorWarp(BOX, 0)
