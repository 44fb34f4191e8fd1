"""Priors: training, resuming, saving, fitting, pictures."""

import csv
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import headfields.apps.priors.fit
from headfields import Avatar
from headfields.apps.priors import PriorTrainer, fit_scans
from headfields.apps.priors.code_statistics import CodeStatistics
from headfields.apps.priors.code_table import CodeTable
from headfields.apps.priors.codes import PriorCodes, anchors_of
from headfields.apps.priors.evaluate import onto_surface, surface_errors
from headfields.apps.priors.losses import PriorWeights, prior_terms
from headfields.apps.priors.pictures import comparison, scan_camera, trace
from headfields.apps.priors.prior import Prior, load_prior
from headfields.apps.priors.scans.batch import PointCounts, ScanBatch, generator
from headfields.apps.priors.scans.meshes import MeshScans
from headfields.apps.priors.scans.points import PointScans
from headfields.apps.priors.step_draw import CodeRows
from headfields.apps.priors.trainer import PriorResult
from headfields.runs.progress import NanLossError
from tests.apps.priors.tiny import COUNTS, WEIGHTS, tiny_model, tiny_scans, trainer


def some_codes(avatar: Avatar, count: int, size: float = 0.1) -> PriorCodes:
    width = anchors_of(avatar).layout.width
    expression = avatar.deformer.expression_width
    return PriorCodes(*(size * torch.randn(count, w) for w in (width, width, expression)))


def test_terms_are_those_with_a_weight_and_all_finite(scans: MeshScans) -> None:
    avatar = tiny_model(scans)
    batch = scans.sample(torch.tensor([0, 4]), COUNTS, 0)
    codes = some_codes(avatar, 2)
    terms = prior_terms(avatar, batch, codes, WEIGHTS, generator(0))
    assert set(terms) == set(PriorWeights.__dataclass_fields__)
    assert all(bool(torch.isfinite(term)) and term.ndim == 0 for term in terms.values())
    published = prior_terms(avatar, batch, codes, PriorWeights(hyper=0), generator(0))
    assert set(terms) - set(published) == {"distance", "hyper"}
    assert terms["shape"].item() == pytest.approx(codes.geometry.square().sum(-1).mean().item())
    assert torch.equal(terms["still"], prior_terms(avatar, batch, codes, WEIGHTS, generator(0))["still"])


def test_terms_are_in_the_networks_units(scans: MeshScans) -> None:
    avatar = tiny_model(scans).eval()
    codes = some_codes(avatar, 1)
    batch = scans.sample(torch.tensor([1]), COUNTS, 0)
    field = avatar.field(codes.state())
    frame = torch.zeros(32, dtype=torch.long)
    _, values = field.signed_distance(batch.front_points[0], frame, create_graph=False)
    only = PriorWeights(**{name: 0.0 for name in PriorWeights.__dataclass_fields__} | {"surface": 1.0, "anchors": 1.0})
    behind = ("back_points", "back_normals", "back_rgb")
    none_behind = batch.replace(**{name: getattr(batch, name)[:, :0] for name in behind})
    terms = prior_terms(avatar, none_behind, codes, only, generator(0))
    assert terms["surface"].item() == pytest.approx(4 * values.distance.abs().mean().item(), rel=1e-4)
    off = anchors_of(avatar)(codes.geometry) - batch.anchors
    assert terms["anchors"].item() == pytest.approx(16 * off.square().mean().item(), rel=1e-4)


def test_hair_that_is_not_trusted_counts_as_in_the_release(scans: MeshScans) -> None:
    """Of scans whose hair is not that of the canonical head, distances and colors on the back count; normals there and
    colors off the surface do not."""
    avatar = tiny_model(scans)
    codes, batch = some_codes(avatar, 2), scans.sample(torch.tensor([0, 4]), COUNTS, 0)
    trusted = torch.tensor([True, False])

    def terms(second: ScanBatch) -> dict[str, float]:
        given = second.replace(trusted_back=trusted)
        return {name: term.item() for name, term in prior_terms(avatar, given, codes, WEIGHTS, generator(0)).items()}

    def second_row(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> ScanBatch:
        values = getattr(batch, name)
        return batch.replace(**{name: torch.where(trusted[:, None, None], values, change(values))})

    before = terms(batch)
    assert terms(second_row("back_normals", torch.neg)) == before
    assert terms(second_row("near_rgb", lambda rgb: 1 - rgb)) == before
    assert terms(second_row("back_rgb", lambda rgb: 1 - rgb))["color"] != before["color"]
    assert terms(second_row("back_points", lambda points: 1.1 * points))["surface"] != before["surface"]


def test_terms_reach_every_network_and_code(scans: MeshScans) -> None:
    avatar = tiny_model(scans)
    codes = some_codes(avatar, 2)
    for value in vars(codes).values():
        value.requires_grad_()
    batch = scans.sample(torch.tensor([0, 5]), COUNTS, 0)
    terms = prior_terms(avatar, batch, codes, WEIGHTS, generator(0))
    torch.stack([WEIGHTS.of(name) * term for name, term in terms.items()]).sum().backward()
    for name, parameter in (*avatar.deformer.named_parameters(), *avatar.decoder.named_parameters()):
        assert parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()), name
    for value in vars(codes).values():
        assert value.grad.abs().sum() > 0


@pytest.mark.parametrize("padded", [False, True])
def test_rows_of_codes_move_as_adam_moves_them_and_others_stay(padded: bool) -> None:
    table, whole = CodeTable(3, 4), torch.nn.Parameter(torch.zeros(3, 4))
    adam = torch.optim.Adam([whole], lr=0.1)
    for step in range(4):
        rows = CodeRows.draw(torch.tensor([2, 0, 2]), generator(step), padded=padded)
        assert rows.position.tolist() == [1, 0, 1] and len(rows.numbers) == (3 if padded else 2)
        leaf, gradient = table.rows(rows.numbers), torch.randn(3, 4, generator=generator(step))
        (rows.codes(leaf, table.table) * gradient).sum().backward()
        of_rows = rows.gradient(leaf.grad)
        table.step(rows.numbers, of_rows, 0.1, torch.tensor(False))
        table.step(rows.numbers, of_rows, torch.tensor(0.1), torch.tensor(True))
        whole.grad = torch.zeros(3, 4).index_add(0, torch.tensor([2, 0, 2]), gradient)
        adam.step()
    assert torch.allclose(table.table, whole, atol=1e-6)
    assert (table.table[1] == 0).all()
    assert table.steps.tolist() == [4, 0, 4]


def test_training_lowers_the_loss_and_leaves_a_log_and_pictures(trained: tuple[PriorResult, Path]) -> None:
    result, out = trained
    assert result.step == 80
    assert not result.interrupted
    with open(out / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert result.loss < 0.95 * float(rows[0]["loss"])  # smoothed over more steps than there are
    assert float(rows[0]["surface"]) > 0
    assert (out / "images" / "step_000080.png").is_file()
    assert (out / "checkpoint" / "last.safetensors").is_file()


def test_a_run_that_goes_on_ends_with_the_weights_of_an_unbroken_one(scans: MeshScans, tmp_path: Path) -> None:
    whole = trainer(scans).fit(steps=8).prior
    trainer(scans, tmp_path / "run", shown=0).fit(steps=8, minutes=0)
    first = trainer(scans, tmp_path / "run", shown=0)
    first.progress.step = 0
    while first.progress.step < 5:  # as a run of 8 that is stopped after 5
        fraction = first.progress.step / 8
        first.step(first.schedule.factor(fraction), first.schedule.correspondence(fraction))
        first.progress.step += 1
    first.save()
    second = trainer(scans, tmp_path / "run", seed=0, shown=0)
    torch.nn.init.ones_(second.model["geometry"].table)
    broken = second.fit(steps=8, resume=True)
    assert broken.step == 8
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, broken.prior.state_dict()[name]), name
    assert whole.geometry.abs().sum() > 0
    assert second.fit(steps=8, resume=True).step == 8


@pytest.mark.parametrize("gradient", [False, True])
def test_a_step_that_is_not_finite_is_skipped_and_ten_in_a_row_end_training(
    scans: MeshScans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gradient: bool
) -> None:
    bad_steps, step = {2}, 0

    def spoiled(*arguments, **options):
        terms = prior_terms(*arguments, **options)
        if step in bad_steps and gradient:
            terms["surface"].register_hook(lambda slope: slope * math.nan)
        elif step in bad_steps:
            terms["surface"] = terms["surface"] * math.inf
        return terms

    monkeypatch.setattr("headfields.apps.priors.trainer.prior_terms", spoiled)
    run = trainer(scans, tmp_path, pictures=0)
    for step in range(4):
        before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
        run.step()
        run.progress.step += 1
        same = all(torch.equal(tensor, before[name]) for name, tensor in run.model.state_dict().items())
        assert same == (step == 2)
    bad_steps, step, run.progress.step = {5}, 5, 5
    named = r"^step 14: (loss surface|gradient of deformer).*not finite \(scans 00.*10th"
    with pytest.raises(NanLossError, match=named):
        run.fit(steps=99)
    assert all(bool(tensor.isfinite().all()) for tensor in run.prior().state_dict().values())
    assert len([entry for entry in run.folder.read_log() if entry.get("event") == "skipped"]) == 10


def test_a_bad_scan_is_named_and_the_others_are_learned(scans: MeshScans, tmp_path: Path) -> None:
    broken = tiny_scans()
    broken.rgb[1, :] = math.nan
    with pytest.warns(UserWarning, match=r"steps were skipped.*\(scans 001/00"):
        result = trainer(broken, tmp_path, scans_per_step=1).fit(steps=24)
    assert 3 < result.skipped < 16 and all(name.startswith("001/") for name in result.skipped_scans)
    prior = load_prior_of(result.prior, tmp_path)
    assert all(bool(tensor.isfinite().all()) for tensor in prior.state_dict().values())


def load_prior_of(prior: Prior, folder: Path) -> Prior:
    prior.save(folder / "prior.safetensors")
    return load_prior(folder)


def test_a_fit_skips_steps_that_are_not_finite(scans: MeshScans, monkeypatch: pytest.MonkeyPatch) -> None:
    run, bad = trainer(scans, pictures=0), {1, 2}
    for name in ("geometry", "appearance", "expression"):
        torch.nn.init.normal_(run.model[name].table, std=0.1)
    prior = run.prior()
    calls = iter(range(99))

    def spoiled(*arguments, **options):
        terms = prior_terms(*arguments, **options)
        if next(calls) in bad:
            terms["surface"].register_hook(lambda slope: slope * math.nan)
        return terms

    monkeypatch.setattr("headfields.apps.priors.fit.prior_terms", spoiled)
    fitted = fit_scans(prior, scans, torch.tensor([0]), steps=4, counts=COUNTS)
    assert fitted.skipped == 2 and bool(fitted.codes.geometry.isfinite().all())
    bad = range(99)
    with pytest.raises(NanLossError, match=r"step 9: the loss or a gradient is not finite \(scan 000/000\)"):
        fit_scans(prior, scans, torch.tensor([0]), steps=20, counts=COUNTS)


def test_weights_that_are_not_finite_are_not_saved(scans: MeshScans, tmp_path: Path) -> None:
    run = trainer(scans, tmp_path, pictures=0)
    run.fit(steps=1)
    before = run.folder.checkpoint.read_bytes()
    with torch.no_grad():
        run.avatar.deformer.out.bias[0] = math.nan
    with pytest.raises(NanLossError, match=r"avatar\.deformer\.out\.bias are not.*last\.safetensors \(step 1\)"):
        run.save()
    assert run.folder.checkpoint.read_bytes() == before
    run.folder.checkpoint.unlink()
    run.folder.previous_checkpoint.unlink()
    with pytest.raises(NanLossError, match="there is no checkpoint"):
        run.save()


def test_another_run_in_the_folder_is_put_aside_and_other_options_are_told(scans: MeshScans, tmp_path: Path) -> None:
    trainer(scans, tmp_path, pictures=0).fit(steps=1)
    with pytest.warns(UserWarning, match=r"held another run.*replaced\.safetensors"):
        trainer(scans, tmp_path, pictures=0).fit(steps=2)
    with pytest.warns(UserWarning, match=r"other options than before: scans_per_step=3 \(now 2\)"):
        trainer(scans, tmp_path, pictures=0, scans_per_step=2).fit(steps=3, resume=True)


def test_a_run_has_a_checkpoint_of_its_start(scans: MeshScans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trainer(scans, pictures=0).fit(steps=3).prior

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(PriorTrainer, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer(scans, tmp_path, pictures=0).fit(steps=3)
    monkeypatch.undo()
    other = trainer(scans, tmp_path, pictures=0)
    torch.nn.init.ones_(other.model["geometry"].table)
    resumed = other.fit(steps=3, resume=True).prior
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_trainers_refuse_what_does_not_fit(scans: MeshScans) -> None:
    with pytest.raises(ValueError, match="scans_per_step is 0"):
        trainer(scans, scans_per_step=0)
    with pytest.raises(ValueError, match="anchors"):
        trainer(scans.with_anchors(torch.arange(4)))
    with pytest.raises(ValueError, match="pass a limit, steps=5000"):
        trainer(scans).fit()


def test_a_prior_is_kept_in_one_file_that_is_an_avatar_too(prior: Prior, tmp_path: Path) -> None:
    prior.about["note"] = "tiny"
    prior.save(tmp_path / "prior.safetensors")
    read = load_prior(tmp_path)
    assert read.people == ("000", "001", "002")
    assert read.scans == prior.scans
    assert read.about == prior.about
    for name, tensor in prior.state_dict().items():
        assert torch.equal(tensor, read.state_dict()[name]), name
    state = read.state(read.codes(torch.tensor([4])))
    points, frame = torch.randn(20, 3) * 0.05, torch.zeros(20, dtype=torch.long)
    before = prior.avatar.eval().field(state).signed_distance(points, frame, create_graph=False)[1]
    after = Avatar.load(tmp_path / "prior.safetensors").eval().field(state)
    assert torch.equal(before.distance, after.signed_distance(points, frame, create_graph=False)[1].distance)
    with pytest.raises(FileNotFoundError, match=r"has no prior\.safetensors"):
        Prior.load(tmp_path / "..")
    prior.avatar.save(tmp_path / "avatar.safetensors")
    with pytest.raises(ValueError, match=r"headfields\.prior"):
        load_prior(tmp_path / "avatar.safetensors")


def test_the_mean_and_the_ranges_around_it(prior: Prior) -> None:
    mean, ranges = prior.mean(), prior.statistics()
    assert torch.allclose(mean.geometry[0], prior.geometry.mean(0))
    assert torch.allclose(mean.expression[0], prior.expression[prior.neutral].mean(0))
    for found, codes in ((ranges.appearance, prior.appearance), (ranges.expression, prior.expression)):
        gram = found.axes.T @ found.axes
        assert torch.allclose(gram, torch.diag(gram.diagonal()), atol=1e-5 * float(gram.max()))
        # what is left out is small, and the rest has the codes' own covariance
        assert torch.allclose(
            found.axes @ found.axes.T, torch.cov(codes.T, correction=0), atol=1e-3 * float(gram.max())
        )
        assert found.axes.shape[1] <= len(codes) - 1
    some = torch.randn(2, ranges.expression.axes.shape[1])
    assert torch.allclose(
        ranges.expression.at(some) - ranges.expression.mean, some @ ranges.expression.axes.T, atol=1e-6
    )
    assert len(prior.state()) == 1
    assert prior.state().vertices.shape == (1, 0, 3)


def test_directions_along_which_nobody_differs_are_left_out() -> None:
    codes = torch.tensor([[0.0, 1.0, 5.0], [2.0, 1.0, 5.0], [4.0, 1.0, 5.001]])
    found = CodeStatistics.of(codes, codes.mean(0))
    assert found.axes.shape == (3, 1)
    assert float(found.axes.norm()) == pytest.approx((8 / 3) ** 0.5, rel=1e-3)
    assert CodeStatistics.of(codes[:1], codes[0]).axes.shape == (3, 0)
    assert torch.equal(CodeStatistics.of(codes[:1], codes[0]).at(torch.zeros(2, 0)), codes[:1].expand(2, -1))


def test_training_scans_are_reconstructed(prior: Prior, scans: MeshScans) -> None:
    which = torch.arange(9)
    found = surface_errors(prior.avatar, scans, which, prior.codes(which), points=200).summary()
    assert found["front_mm"] < 3
    assert found["lost"] < 0.02
    assert found["normal_degrees"] < 25
    none = surface_errors(prior.avatar, scans, which[:0], prior.codes(which[:0]))
    assert none.face.shape == (0,)


def test_points_are_moved_onto_the_surface(prior: Prior) -> None:
    field = prior.avatar.eval().field(prior.state())
    points = torch.nn.functional.normalize(torch.randn(50, 3), dim=-1) * torch.tensor([0.07, 0.11, 0.09])
    ends, missed = onto_surface(field, points[points[:, 1] > -0.03], steps=12)
    frame = torch.zeros(len(ends), dtype=torch.long)
    distance = field.decode(field.canonicalize(ends, ends, frame), color=False).distance
    assert (distance.abs()[~missed] < 6e-4).all()
    assert missed.float().mean() < 0.2


@pytest.mark.slow
def test_codes_of_someone_new_come_closer_than_the_mean(prior: Prior, scans: MeshScans) -> None:
    which = torch.tensor([6, 8])
    rows = PriorCodes(*(value.expand(2, -1) for value in vars(prior.mean()).values()))
    before = surface_errors(prior.avatar, scans, which, rows, points=300).summary()
    found = fit_scans(prior, scans, which, steps=60, counts=PointCounts().scaled(0.15), rate=0.1)
    assert found.errors.summary()["front_mm"] < 0.8 * before["front_mm"]
    assert torch.equal(found.codes.geometry[0], found.codes.geometry[1])
    assert not torch.equal(found.codes.expression[0], found.codes.expression[1])
    assert found.losses[-1] < found.losses[0]
    assert all(parameter.requires_grad for parameter in prior.avatar.parameters())
    batch = scans.sample(torch.tensor([6]), PointCounts(face=400, static=400), 0)
    cloud = PointScans(batch.front_points, batch.front_normals, batch.front_rgb)
    alone = fit_scans(prior, cloud, steps=40, counts=PointCounts().scaled(0.15), rate=0.1)
    assert alone.errors.summary()["front_mm"] < before["front_mm"]
    with pytest.raises(ValueError, match="of 3 people"):
        fit_scans(prior, scans)


@pytest.mark.slow
def test_a_rare_expression_is_within_reach(prior: Prior, scans: MeshScans, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wink is 6 standard deviations from the mean of scans that rarely wink; Adam's steps have a bounded length."""
    statistics = prior.statistics().expression
    far = torch.zeros(statistics.axes.shape[1])
    far[0] = 6.0
    target = statistics.at(far)

    def pulled(
        avatar: Avatar, batch: ScanBatch, codes: PriorCodes, *_: object, **__: object
    ) -> dict[str, torch.Tensor]:
        return {"surface": (codes.expression - target).square().sum()}

    monkeypatch.setattr(headfields.apps.priors.fit, "prior_terms", pulled)
    fitted = fit_scans(prior, scans, torch.tensor([1]), counts=COUNTS)
    along = (
        (fitted.codes.expression[0] - statistics.mean) @ statistics.axes[:, 0] / statistics.axes[:, 0].square().sum()
    )
    assert float(along) > 5.0


def test_rays_meet_the_surface_and_pictures_show_it(prior: Prior, scans: MeshScans) -> None:
    avatar = prior.avatar.eval()
    rays = scan_camera(scans.center, 10.0, 0.0, 24).rays()
    field = avatar.field(prior.state())
    along, hit = trace(field, rays)
    assert 0.1 < hit.float().mean() < 0.6
    points = (rays.origins + along[:, None] * rays.directions)[hit]
    values = field.decode(field.canonicalize(points, points, rays.frame[hit]), color=False)
    assert values.distance.abs().quantile(0.9) < 2.1e-4
    assert values.distance.abs().max() < 2e-3
    which = torch.tensor([0, 2])
    sheet = comparison(avatar, scans, which, prior.codes(which), size=32)
    assert sheet.shape == (64, 8 * 32, 3)
    truth, model = sheet[:32, 64:96], sheet[:32, 96:128]
    assert ((truth < 1).any(-1) == (model < 1).any(-1)).float().mean() > 0.85
