"""Verdicts of paired comparisons: their false ones, what they find, and what their intervals cover, by simulation."""

import math

import numpy as np
import pytest

from benchmarks.studies import figures
from headfields.compare import Study, statistics
from headfields.compare.report import frame_scores
from headfields.compare.statistics import Difference, holm, is_narrow, paired_difference, seeds_needed, verdicts
from headfields.compare.study import LOOKS


@pytest.fixture(autouse=True)
def few_replicates(monkeypatch) -> None:
    monkeypatch.setattr(statistics, "REPLICATES", 400)


def cells(random: np.random.Generator, captures: int, seeds: int, effect: float, deviation: float = 0.3, frames=24):
    """Differences of (seeds, frames) by capture: a run's own, a frame's own that resembles its neighbors', noise."""
    made = {}
    for capture in range(captures):
        walk = np.convolve(random.standard_normal(frames + 4), np.ones(5) / math.sqrt(5), "valid")
        own = deviation * random.standard_normal((seeds, 1))
        made[str(capture)] = effect + own + 0.1 * (walk - walk.mean()) + 0.1 * random.standard_normal((seeds, frames))
    return made


@pytest.mark.parametrize(("captures", "seeds"), [(1, 4), (2, 3)])
def test_null_studies_have_few_false_verdicts(captures: int, seeds: int) -> None:
    random = np.random.default_rng(5)
    false = 0
    for _ in range(100):
        rows = {name: paired_difference(cells(random, captures, seeds, 0.0)) for name in "abc"}
        false += any(verdict != "undetermined" for verdict in verdicts(rows).values())
    assert false <= 5


@pytest.mark.parametrize("captures", [1, 2])
def test_a_planted_difference_is_found_by_the_planned_number_of_seeds(captures: int) -> None:
    random, deviation = np.random.default_rng(6), 0.25
    seeds = seeds_needed(deviation, 0.3, captures)
    found = 0
    for _ in range(100):
        worse = paired_difference(cells(random, captures, seeds, -0.3, deviation))
        found += verdicts({"worse": worse})["worse"] == "worse"
    assert found >= 90


def test_intervals_cover() -> None:
    random = np.random.default_rng(7)
    inside = bootstrap = 0
    for _ in range(200):
        found = paired_difference(cells(random, 1, 12, 0.4))
        inside += found.interval[0] <= 0.4 <= found.interval[1]
        bootstrap += found.bootstrap[0] <= 0.4 <= found.bootstrap[1]
    assert inside >= 182 and bootstrap >= 176  # 190 of 200; the bootstrap of 12 seeds is somewhat short


@pytest.fixture(scope="module")
def real() -> dict[str, list[np.ndarray]]:
    """By row and capture, the primary measure (seeds, frames) of trained cells: the kept figures of `equals.toml`."""
    path = figures.FOLDER / "equals.json"
    measure, rows = Study.load(path.with_suffix(".toml")).primary, {}
    for name, runs in figures.kept_results(path).items():
        captures: dict[str, list[list[float]]] = {}
        for (capture, _), run in runs.items():
            captures.setdefault(capture, []).append(list(frame_scores(run, measure).values()))
        rows[name] = [np.array(scores, dtype=np.float64) for scores in captures.values()]
    return rows


def resampled(random: np.random.Generator, cells: list[np.ndarray], seeds: int, loss: float = 0.0):
    """Differences of two rows that are one: of seeds drawn from its cells by capture, the second worse by `loss`."""
    return {
        str(capture): scores[random.integers(len(scores), size=seeds)]
        - scores[random.integers(len(scores), size=seeds)]
        - loss
        for capture, scores in enumerate(cells)
    }


def test_there_are_real_cells_of_several_rows_captures_and_seeds(real) -> None:
    assert len(real) >= 3 and all(len(cells) == 2 for cells in real.values())
    assert all(len(scores) >= 5 and np.isfinite(scores).all() for cells in real.values() for scores in cells)


@pytest.mark.parametrize(
    ("captures", "seeds"),
    [(2, 3), *(pytest.param(*design, marks=pytest.mark.slow) for design in ((1, 3), (1, 5), (2, 6)))],
)
def test_null_studies_of_real_cells_have_few_false_verdicts(real, captures: int, seeds: int) -> None:
    random = np.random.default_rng(11)
    false = 0
    for _ in range(1000):
        rows = {name: paired_difference(resampled(random, cells[:captures], seeds)) for name, cells in real.items()}
        false += any(verdict != "undetermined" for verdict in verdicts(rows).values())
    assert false <= 50  # 30 to 44 by design


@pytest.mark.parametrize("captures", [1, 2])
def test_a_loss_planted_into_real_cells_is_found(real, captures: int) -> None:
    random = np.random.default_rng(2)
    for name, cells in real.items():
        variances = [2 * scores.mean(axis=1).var(ddof=1) for scores in cells[:captures]]
        seeds, found = seeds_needed(math.sqrt(np.mean(variances)), 0.3, captures), 0
        for _ in range(100):
            row = paired_difference(resampled(random, cells[:captures], seeds, loss=0.3))
            found += verdicts({"worse": row})["worse"] == "worse"
        assert found >= 90, name


@pytest.mark.slow
def test_studies_that_add_seeds_keep_the_level() -> None:
    random, level, ended = np.random.default_rng(3), 0.05, []
    false = 0
    for _ in range(100):
        most = {name: cells(random, 2, 12, 0.0) for name in "abc"}
        for seeds in (3, 5, 8, 12):
            drawn = {name: {place: gains[:seeds] for place, gains in row.items()} for name, row in most.items()}
            rows = {name: paired_difference(gains, level=level / LOOKS) for name, gains in drawn.items()}
            if is_narrow(rows.values(), 0.35):
                break
        ended.append(seeds)
        false += any(verdict != "undetermined" for verdict in verdicts(rows, level / LOOKS).values())
    assert false <= 5 and len(set(ended)) > 1


def test_equivalent_within_the_margin_and_not_beyond() -> None:
    random = np.random.default_rng(8)
    same = cells(random, 2, 8, 0.02, 0.03)
    assert verdicts({"same": paired_difference(same, margin=0.1)}) == {"same": "equivalent"}
    assert verdicts({"same": paired_difference(same, margin=0.001)})["same"] != "equivalent"
    off = cells(random, 2, 8, 0.3, 0.03)
    assert verdicts({"off": paired_difference(off, margin=0.1)}) == {"off": "better"}


def test_one_run_decides_nothing() -> None:
    one = paired_difference({"a": np.full((1, 5), 3.0)}, margin=10.0)
    assert one.mean == 3.0 and one.p == 1.0 and math.isnan(one.deviation)
    assert verdicts({"row": one}) == {"row": "undetermined"}
    equal = paired_difference({"a": np.zeros((4, 5))})
    assert equal.p == 1.0 and equal.interval == (0.0, 0.0)


def test_the_family_is_corrected() -> None:
    row = Difference(0.2, (0.0, 0.4), (0.0, 0.4), 0.03, 1.0, 0.1, 4, 1)
    assert verdicts({"a": row}) == {"a": "better"}
    assert set(verdicts({"a": row, "b": row}).values()) == {"undetermined"}
    assert holm({}) == {}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: paired_difference({}), "differences is empty"),
        (lambda: paired_difference({"a": np.zeros(3)}), r"'a' have shape \(3,\)"),
        (lambda: paired_difference({"a": np.zeros((2, 0))}), r"shape \(2, 0\)"),
        (lambda: paired_difference({"a": np.array([[1.0, math.nan]])}), "not all finite"),
        (lambda: seeds_needed(0.3, 0.0), "difference 0.0"),
        (lambda: seeds_needed(100.0, 0.001), "cannot be seen"),
    ],
)
def test_refusals(call, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
