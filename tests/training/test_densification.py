"""Density control and MCMC on Gaussians whose result is derived by hand, and with any optimizer."""

import math
from types import SimpleNamespace

import pytest
import torch

import headfields as hf
from headfields.networks import Gaussians
from headfields.parts import Deformer
from headfields.training import MCMC, DensityControl
from headfields.training.mcmc import relocated
from headfields.training.processes import Processes
from tests.shapes import uv_sphere
from tests.tables import table

SIZE = 0.01  # meters that the unit of the coordinates has


class Canonical(Deformer):
    """A deformer whose coordinates are those of canonical space."""

    def rest(self, splats, face):
        return splats

    def attach(self, splats, face):
        return splats, face


def make(opacities, scales=None, face=None, optimizer=torch.optim.Adam):
    """Gaussians of some opacities and scales (meters), and a trainer of them with moments that are their numbers."""
    count = len(opacities)
    gaussians = Gaussians(count, degree=1)
    with torch.no_grad():
        gaussians.position.copy_(torch.arange(3.0 * count).reshape(count, 3))
        gaussians.opacity_logit.copy_(torch.logit(torch.tensor(opacities, dtype=torch.float64)))
        gaussians.log_scale.copy_((torch.tensor(scales or [0.001] * count) / SIZE).log()[:, None].expand(count, 3))
        gaussians.color.copy_(torch.arange(count)[:, None].expand(count, 3))
        if face is not None:
            gaussians.face.copy_(torch.tensor(face))
    built = optimizer([{"params": [p], "name": n, "lr": 0.0} for n, p in gaussians.named_parameters()])
    for parameter in gaussians.parameters():
        parameter.grad = torch.ones_like(parameter)
    built.step()
    for parameter, state in built.state.items():
        for moment in state.values():
            if isinstance(moment, torch.Tensor) and moment.shape == parameter.shape:
                numbers = 1.0 + torch.arange(count)
                moment.copy_(numbers.reshape(-1, *[1] * (parameter.ndim - 1)).expand_as(parameter))
    trainer = SimpleNamespace(
        avatar=SimpleNamespace(gaussians=gaussians, renderer=SimpleNamespace(absolute=False), deformer=Canonical()),
        optimizer=built,
        progress=SimpleNamespace(step=0), fraction=0.0, resized=lambda: None,
        processes=Processes(0, 1, torch.device("cpu")),
    )  # fmt: skip
    return gaussians, trainer


def step(control, trainer, gradients=None, drawn=None, at=1, size=(20, 40)):
    """A step whose screen gradients are (B, N, 2), in pixels."""
    gaussians = trainer.avatar.gaussians
    count = len(gaussians)
    gradients = torch.zeros(1, count, 2) if gradients is None else torch.as_tensor(gradients, dtype=torch.float32)
    screen = torch.zeros_like(gradients, requires_grad=True)
    screen.grad = gradients
    attached = gaussians().map(lambda tensor: tensor.detach()[None])
    splats = attached.replace(scales=attached.scales * SIZE)
    radii = torch.ones(gradients.shape[:2]) if drawn is None else torch.as_tensor(drawn, dtype=torch.float32)
    rendering = SimpleNamespace(
        means2d_offset=screen, means2d_absgrad=screen, splats=splats, attached=attached, opacity=torch.zeros(1, *size),
        rasterized=SimpleNamespace(radii=radii),
    )  # fmt: skip
    trainer.progress.step = at
    if isinstance(control, MCMC) or control._sum is None:
        control.on_start(trainer)
    control.on_launch(trainer, rendering, torch.tensor(True), at - 1)
    control.on_step(trainer, SimpleNamespace(not_finite="", rendering=rendering))


def always(**options):
    """A control that acts every step, from the first on."""
    return DensityControl(**{"start": 0, "every": 1, "reset_every": None, **options})


def moments(trainer, name="position"):
    parameter = getattr(trainer.avatar.gaussians, name)
    return trainer.optimizer.state[parameter]["exp_avg"].flatten(1)[:, 0] if parameter.ndim > 1 else (
        trainer.optimizer.state[parameter]["exp_avg"]
    )  # fmt: skip


def test_small_ones_are_cloned_and_large_ones_split():
    gaussians, trainer = make([0.5, 0.5, 0.5, 0.5], [0.001, 0.001, 0.005, 0.005], face=[7, 8, 9, 9])
    before = gaussians.position.detach().clone()
    # Half a width of 40 pixels is 20 pixels: 1.1e-5 a pixel is 2.2e-4, 0.9e-5 is less than the threshold of 2e-4.
    over, under = [1.1e-5, 0.0], [0.9e-5, 0.0]
    control = always(size=0.003)
    step(control, trainer, [[over, under, over, under]])
    assert control.last == {"cloned": 1, "split": 1, "pruned": 0, "count": 6}
    assert gaussians.color[:, 0].tolist() == [0, 1, 3, 0, 2, 2]  # those that stay, the clone, the two children
    assert gaussians.face.tolist() == [7, 8, 9, 7, 9, 9]
    assert torch.equal(gaussians.position[:4], before[[0, 1, 3, 0]])
    scales = gaussians.log_scale.exp()[:, 0] * SIZE
    assert scales.tolist() == pytest.approx([0.001, 0.001, 0.005, 0.001, 0.005 / 1.6, 0.005 / 1.6], rel=1e-5)
    assert gaussians.opacity_logit.sigmoid().tolist() == pytest.approx([0.5] * 6)
    children = gaussians.position[4:] - before[2]
    assert (children.abs() > 0).all() and not torch.equal(children[0], children[1])
    for name in ("position", "opacity_logit", "harmonics"):
        assert moments(trainer, name).tolist() == [1, 2, 4, 0, 0, 0]
    assert not control._sum.any() and len(control._sum) == 6


def test_children_are_drawn_from_their_parent():
    gaussians, trainer = make([0.5] * 4000, [0.02] * 4000)
    with torch.no_grad():
        gaussians.position.zero_()
        gaussians.log_scale.copy_(torch.tensor([0.1, 1.0, 4.0]).log().expand(4000, 3))
        gaussians.quaternion.copy_(torch.tensor([1.0, 0.0, 0.0, 1.0]).expand(4000, 4))  # a quarter turn about z
    step(always(), trainer, torch.ones(1, 4000, 2))
    assert len(gaussians) == 8000
    assert gaussians.position.std(0).tolist() == pytest.approx([1.0, 0.1, 4.0], rel=0.05)  # 5 of its standard errors
    assert gaussians.position.mean(0).abs().max() < 0.2


def test_children_are_drawn_in_meters_where_coordinates_are_barycentric():
    vertices, faces = uv_sphere(8, 12, 0.1)
    gaussians, trainer = make([0.5] * 2000, [0.02] * 2000)  # which are 2 standard deviations of the coordinates
    binding = trainer.avatar.deformer = hf.deformers.EmbeddedBinding(vertices, faces)
    with torch.no_grad():
        gaussians.position.copy_(torch.tensor([0.3, 0.3, 0.0]))
        gaussians.log_scale.fill_(math.log(0.002))
        gaussians.face.fill_(40)
    center = binding.rest(gaussians(), gaussians.face).means.detach()[:1]
    step(always(size=1e-6), trainer, torch.ones(1, 2000, 2))
    away = binding.rest(gaussians(), gaussians.face).means.detach() - center
    assert len(away) == 4000 and away.std(0).tolist() == pytest.approx([0.002] * 3, rel=0.06)


def test_the_gradient_is_that_of_an_image_averaged_over_where_a_gaussian_is_drawn():
    gaussians, trainer = make([0.5, 0.5])
    control = always(every=2, gradient=1.0)
    # The loss is a mean over two frames, so each frame's own gradient is twice what is seen.
    step(control, trainer, [[[0.03, 0], [0, 0.04]], [[0.0, 0.04], [0, 0]]], [[1, 1], [1, 0]], at=1)
    assert control._sum.tolist() == pytest.approx([2 * (0.03 * 20 + 0.04 * 10), 2 * 0.04 * 10])
    assert control._drawn.tolist() == [2, 1]
    step(control, trainer, [[[0.0, 0], [0, 0]]], [[1, 0]], at=2)
    assert control.last["cloned"] == 0 and len(gaussians) == 2  # 2.0 over 3, and 0.8 over 1
    control = always(every=1, gradient=0.8 - 1e-6)
    step(control, trainer, [[[0.0, 0], [0, 0.08]]], at=1)
    assert gaussians.color[:, 0].tolist() == [0, 1, 1]


def test_what_is_due_when():
    gaussians, trainer = make([0.5, 0.9])
    control = DensityControl(start=2, stop=7, every=2, reset_every=3)
    for at, count, opacity in ((1, 2, 0.9), (2, 2, 0.9), (3, 2, 0.01), (4, 4, 0.01), (5, 4, 0.01), (6, 8, 0.01)):
        step(control, trainer, torch.ones(1, len(gaussians), 2), at=at)
        assert len(gaussians) == count
        assert float(gaussians.opacity_logit.detach().sigmoid().max()) == pytest.approx(opacity, rel=1e-5)
    with torch.no_grad():
        gaussians.opacity_logit.fill_(0.0)
    step(control, trainer, torch.ones(1, 8, 2), at=9)
    assert len(gaussians) == 8 and not gaussians.opacity_logit.any()  # it has stopped
    # As in the released code, whose 600,000th and last step would else leave all of them transparent.
    for control in (DensityControl(start=0, stop=6, every=2, reset_every=3), chain(every=2, stop=6, growth=1.0)):
        step(control, trainer, torch.ones(1, 8, 2), at=6)
        assert len(gaussians) == 8 and not gaussians.opacity_logit.any()


def test_the_end_of_a_run_is_left_to_the_optimizer():
    gaussians, trainer = make([0.9])
    control = always(until=0.8, reset_every=1)
    for at, fraction, count in ((1, 0.7, 2), (2, 0.81, 2), (3, 0.8, 4)):
        trainer.fraction = fraction
        step(control, trainer, torch.ones(1, len(gaussians), 2), at=at)
        assert len(gaussians) == count, fraction
        if fraction == 0.7:
            with torch.no_grad():
                gaussians.opacity_logit.fill_(1.0)
        assert bool((gaussians.opacity_logit < 0).all()) == (fraction == 0.8)


def test_a_reset_keeps_what_is_lower_and_forgets_the_moments_of_opacity_alone():
    gaussians, trainer = make([0.5, 0.007])
    step(DensityControl(reset_every=5), trainer, at=5)
    assert gaussians.opacity_logit.sigmoid().tolist() == pytest.approx([0.01, 0.007], rel=1e-5)
    assert moments(trainer, "opacity_logit").tolist() == [0, 0] and moments(trainer).tolist() == [1, 2]


def test_a_triangle_keeps_its_most_opaque_one():
    opacities, face = [0.004, 0.002, 0.003, 0.5, 0.004, 0.001], [3, 5, 5, 6, 6, -1]
    gaussians, trainer = make(opacities, face=face)
    control = always(least_opacity=0.005)
    step(control, trainer)
    assert gaussians.color[:, 0].tolist() == [0, 2, 3] and gaussians.face.tolist() == [3, 5, 6]
    assert control.last["pruned"] == 3 and moments(trainer).tolist() == [1, 3, 4]
    gaussians, trainer = make(opacities, face=face)
    step(always(keep_bound=None), trainer)
    assert gaussians.color[:, 0].tolist() == [3]
    gaussians, trainer = make(opacities, face=face)
    step(always(keep_bound="all"), trainer)  # 4 goes, because 3 stays on its triangle; 5 is on none
    assert gaussians.color[:, 0].tolist() == [0, 1, 2, 3]
    gaussians, trainer = make([0.001, 0.002])  # none is left, and training goes on
    step(always(), trainer)
    assert len(gaussians) == 0
    step(always(), trainer)


def test_large_ones_are_dropped_once_opacities_have_been_reset():
    for at, count in ((4, 2), (6, 1)):
        gaussians, trainer = make([0.5, 0.5], [0.001, 0.031])
        step(DensityControl(start=0, every=2, reset_every=5, largest=0.03), trainer, at=at)
        assert len(gaussians) == count


def test_a_budget_is_kept_and_goes_to_the_largest_gradients():
    gaussians, trainer = make([0.5] * 4)
    step(always(most=6), trainer, [[[1.0, 0], [4, 0], [2, 0], [3, 0]]])
    assert gaussians.color[:, 0].tolist() == [0, 1, 2, 3, 1, 3]
    step(always(most=3), trainer, torch.ones(1, 6, 2))
    assert len(gaussians) == 6


def test_its_statistics_come_back_to_the_bit():
    _, trainer = make([0.5] * 3)
    control = always(every=10)
    step(control, trainer, torch.rand(1, 3, 2), [[1, 0, 1]], at=1)
    restored = always(every=10)
    restored.load_state_dict(control.state_dict())
    assert torch.equal(restored._sum, control._sum) and torch.equal(restored._drawn, control._drawn)
    assert always().state_dict() == {}
    for state in ({"gradient": 3, "drawn": ""}, {"gradient": "A", "drawn": ""}, {"drawn": ""}):
        with pytest.raises(ValueError, match="DensityControl: gradient of its state"):
            always().load_state_dict(state)
    with pytest.raises(ValueError, match="its statistics are of 3 Gaussians, and the avatar has 2"):
        restored.on_start(make([0.5, 0.5])[1])


def test_the_same_step_gives_the_same_children():
    results = []
    for seed in (0, 0, 1):
        gaussians, trainer = make([0.5] * 3, [0.02] * 3)
        step(always(seed=seed), trainer, torch.ones(1, 3, 2), at=7)
        results.append(gaussians.position.detach())
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def stack(opacity, scale, copies):
    """The image of coincident Gaussians in front of a camera."""
    camera = hf.Camera.look_at((0, 0, 1), (0, 0, 0), size=(64, 64), focal=320.0)
    rows = (torch.zeros(copies, 3), torch.tensor([[1.0, 0, 0, 0]]).expand(copies, 4),
            torch.full((copies, 3), float(scale)), torch.full((copies,), float(opacity)))  # fmt: skip
    return hf.ops.rasterize_gaussians(*rows, torch.ones(copies, 1), camera, low_pass=0.0).color[0, ..., 0]


@table(("opacity", "copies"), [(0.5, 2), (0.5, 3), (0.9, 2), (0.9, 3), (0.9, 10)])
def test_a_stack_looks_like_the_one_that_it_replaces(opacity, copies):
    before = stack(opacity, 0.03, 1)
    part, shrink = (float(value) for value in relocated(torch.tensor([opacity]), torch.tensor([copies])))
    after, naive, unscaled = stack(part, 0.03 * shrink, copies), stack(opacity, 0.03, copies), stack(part, 0.03, copies)
    # Equal at the center and in the integral along a line through it, as equation 9 demands (alpha stops at 1/255).
    assert float(after[32, 32]) == pytest.approx(float(before[32, 32]), rel=5e-3)
    assert float(after[32].sum()) == pytest.approx(float(before[32].sum()), rel=3e-2)
    error, worse, worst = ((image - before).square().mean() for image in (after, unscaled, naive))
    assert error < worse < worst


def test_relocation_by_the_double_sum_of_the_paper():
    for opacity in (0.01, 0.4, 0.99):
        for number in (1, 2, 7, 51):
            part = 1 - (1 - opacity) ** (1 / number)
            total = math.fsum(
                math.comb(i - 1, k) * (-1) ** k / math.sqrt(k + 1) * part ** (k + 1)
                for i in range(1, number + 1)
                for k in range(i)
            )
            arguments = torch.tensor([opacity], dtype=torch.float64), torch.tensor([number])
            result = [float(value) for value in relocated(*arguments)]
            assert result == pytest.approx([part, opacity / total], rel=1e-6)
    edges = relocated(torch.tensor([0.0, 1.0, 0.5]), torch.tensor([3, 3, 80]))
    assert all(value.isfinite().all() for value in edges) and float(edges[0][0]) == 0
    assert relocated(torch.zeros(0), torch.zeros(0, dtype=torch.long))[0].shape == (0,)


def chain(**options):
    return MCMC(**{"start": 0, "every": 1, "noise": 0.0, "growth": 0.0, **options})


def test_dead_ones_move_to_others_with_their_triangle():
    gaussians, trainer = make([0.004, 0.6, 0.001], [0.001, 0.002, 0.001], face=[3, 4, 5])
    control = chain()
    step(control, trainer)
    assert control.last == {"relocated": 2, "added": 0, "count": 3}
    part, shrink = (float(value) for value in relocated(torch.tensor([0.6]), torch.tensor([3])))
    assert gaussians.color[:, 0].tolist() == [1, 1, 1] and gaussians.face.tolist() == [4, 4, 4]
    assert gaussians.opacity_logit.sigmoid().tolist() == pytest.approx([part] * 3, rel=1e-5)
    assert (gaussians.log_scale.exp()[:, 0] * SIZE).tolist() == pytest.approx([0.002 * shrink] * 3, rel=1e-5)
    assert moments(trainer).tolist() == [0, 0, 0]


def test_one_that_none_moves_to_stays_as_it_is():
    gaussians, trainer = make([0.5, 0.004, 0.5])
    step(chain(seed=3), trainer)
    goal = int(gaussians.color[1, 0].detach())
    other = 2 - goal
    assert moments(trainer)[other] == other + 1 and moments(trainer)[goal] == moments(trainer)[1] == 0
    assert float(gaussians.opacity_logit[other].detach().sigmoid()) == pytest.approx(0.5)
    assert float(gaussians.log_scale[other, 0].detach().exp()) * SIZE == pytest.approx(0.001, rel=1e-5)


def test_it_grows_by_a_share_up_to_its_budget_in_proportion_to_opacity():
    gaussians, trainer = make([0.01, 0.99] * 50)
    control = chain(growth=0.05, most=107)
    step(control, trainer)
    assert control.last["added"] == 5 and len(gaussians) == 105
    step(control, trainer, at=2)
    assert len(gaussians) == 107
    step(control, trainer, at=3)
    assert len(gaussians) == 107
    gaussians, trainer = make([0.01, 0.99] * 500)
    step(chain(growth=0.9, most=5000), trainer)
    bright = (gaussians.color[1000:, 0] % 2).mean()
    assert float(bright) == pytest.approx(0.99, abs=0.02)


def test_with_none_alive_nothing_moves():
    gaussians, trainer = make([0.001, 0.002])
    control = chain(growth=1.0)
    step(control, trainer)
    assert control.last == {"relocated": 0, "added": 0, "count": 2} and gaussians.color[:, 0].tolist() == [0, 1]


def test_the_noise_is_that_of_the_formula():
    count = 4000
    gaussians, trainer = make([0.005] * count, [0.01] * count)
    with torch.no_grad():
        gaussians.position.zero_()
        gaussians.log_scale.copy_(torch.tensor([0.5, 1.0, 2.0]).log().expand(count, 3))
        gaussians.quaternion.copy_(torch.tensor([1.0, 0.0, 0.0, 1.0]).expand(count, 4))
    for group in trainer.optimizer.param_groups:
        group["lr"] = 1e-3
    step(chain(noise=50.0, unit=0.02, every=1000), trainer)
    factor = 1e-3 * 50.0 * (SIZE / 0.02) ** 2 * 0.5  # the switch is at its half where opacity is 0.005
    assert gaussians.position.std(0).tolist() == pytest.approx([factor, factor * 0.25, factor * 4.0], rel=0.05)
    gaussians, trainer = make([0.5] * 10)
    before = gaussians.position.detach().clone()
    step(chain(noise=5e5, every=1000), trainer)  # opaque ones stay
    torch.testing.assert_close(gaussians.position, before, atol=1e-12, rtol=0)


OPTIMIZERS = {
    "sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "adamax": torch.optim.Adamax,
    "nadam": torch.optim.NAdam, "radam": torch.optim.RAdam, "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta, "rmsprop": torch.optim.RMSprop, "asgd": torch.optim.ASGD,
    "momentum": lambda groups: torch.optim.SGD(groups, lr=1e-3, momentum=0.9),
    "amsgrad": lambda groups: torch.optim.Adam(groups, amsgrad=True),
    "fused": lambda groups: torch.optim.Adam(groups, fused=True),
}  # fmt: skip


@table("control", [always, lambda: chain(growth=0.5)])
@table("name", OPTIMIZERS)
def test_any_optimizer_goes_on_with_other_rows(name, control):
    gaussians, trainer = make([0.5, 0.001, 0.5, 0.5], optimizer=OPTIMIZERS[name])
    control = control()
    control.on_start(trainer)
    step(control, trainer, torch.ones(1, 4, 2))
    assert len(gaussians) == 6
    assert {id(p) for group in trainer.optimizer.param_groups for p in group["params"]} == {
        id(p) for p in gaussians.parameters()
    }
    for parameter in gaussians.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = gaussians.position.detach().clone()
    trainer.optimizer.param_groups[0]["lr"] = 0.1
    for _ in range(2):  # ASGD finds the rate of a step in the one before
        trainer.optimizer.step()
    assert (gaussians.position != before).all() and gaussians.position.isfinite().all()


@pytest.mark.parametrize("control", [always, chain], ids=["density", "mcmc"])
@pytest.mark.parametrize(
    ("optimizer", "message"),
    [(torch.optim.Rprop, "Rprop keeps 'step_size'"), (torch.optim.Adafactor, "Adafactor keeps 'row_var' of position")],
)
def test_optimizers_that_cannot_follow_are_named(optimizer, message, control):
    _, trainer = make([0.5, 0.5], optimizer=optimizer)
    with pytest.raises(TypeError, match=message):
        step(control(), trainer)


@pytest.mark.parametrize("kind", [DensityControl, MCMC])
def test_what_they_need_of_the_trainer(kind):
    _, trainer = make([0.5])
    kind().on_start(trainer)
    trainer.avatar.gaussians = None
    with pytest.raises(ValueError, match=f"{kind.__name__}: the avatar, a SimpleNamespace, has no Gaussians"):
        kind().on_start(trainer)


@table(
    ("kind", "options", "message"),
    [
        (DensityControl, {"every": 0}, "every is 0"),
        (DensityControl, {"start": 5, "stop": 4}, "start is 5 and stop 4"),
        (DensityControl, {"gradient": -1.0}, "gradient is -1"),
        (DensityControl, {"size": 0.0}, "size is 0"),
        (DensityControl, {"largest": 0.0}, "largest is 0"),
        (DensityControl, {"reset_every": 0}, "reset_every is 0"),
        (DensityControl, {"least_opacity": 1.0}, "least_opacity is 1"),
        (DensityControl, {"reset_opacity": 0.0}, "reset_opacity 0"),
        (DensityControl, {"most": 0}, "most is 0"),
        (DensityControl, {"until": 0}, "until is 0"),
        (MCMC, {"every": 0}, "every is 0"),
        (MCMC, {"noise": float("nan")}, "noise=nan"),
        (MCMC, {"growth": -0.1}, "growth=-0.1"),
        (MCMC, {"unit": 0.0}, "unit is 0"),
        (MCMC, {"least_opacity": 0.0}, "least_opacity is 0"),
    ],
)
def test_bad_arguments(kind, options, message):
    with pytest.raises(ValueError, match=f"{kind.__name__}: .*{message}"):
        kind(**options)


def test_a_skipped_step_changes_nothing():
    gaussians, trainer = make([0.5, 0.001])
    for control in (always(), chain()):
        trainer.progress.step = 1
        control.on_step(trainer, SimpleNamespace(not_finite="loss color", rendering=None))
        assert len(gaussians) == 2 and control.last == {}
