"""Statistics of paired comparisons: intervals, corrected p-values, verdicts, and the seeds that a study needs.

Two rows are compared by the differences of their scores in the same capture, from the same seed, on the same frames.
Two methods look at them, and a verdict needs both, so that neither the small number of seeds nor frames that resemble
their neighbors make one:

- Student's t on the differences of the runs, each capture a stratum of its own: about these captures.
- A hierarchical bootstrap (Davison & Hinkley 1997, section 3.8) that draws captures, then seeds, and, for all seeds of
  a capture alike, blocks of consecutive frames (Künsch 1989, the moving-block bootstrap): about captures and frames as
  these.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

Verdict = Literal["better", "worse", "equivalent", "undetermined"]
REPLICATES = 10_000
"""Of the bootstrap."""


@dataclass(frozen=True)
class Difference:
    """How a row differs from the baseline in one measure; positive is better.

    Attributes:
        mean: of the captures' means.
        interval: (low, high) of Student's t at the level; NaN with too few pairs.
        bootstrap: (low, high) of the hierarchical bootstrap.
        p: two-sided, the larger one of both methods; 1 with too few pairs.
        p_equivalent: the larger one of both methods of two one-sided tests against the margin; 1 without a margin.
        deviation: of the runs' differences within a capture.
        pairs, captures: how many of them.
    """

    mean: float
    interval: tuple[float, float]
    bootstrap: tuple[float, float]
    p: float
    p_equivalent: float
    deviation: float
    pairs: int
    captures: int


def paired_difference(
    differences: Mapping[str, np.ndarray], margin: float | None = None, level: float = 0.05, seed: int = 0
) -> Difference:
    """The difference of two rows, from those of their frames.

    Args:
        differences: by capture, (S, F): for S seeds and F frames the score of the row less that of the baseline, its
            sign such that positive is better. Frames are in the order of the video.
        margin: largest difference that counts as none; None asks for no equivalence.
        level: the interval covers with probability 1 − level.
        seed: of the bootstrap.

    Raises:
        ValueError: there is no capture, an array is empty or not (S, F), or a number is not finite.

    >>> import numpy as np
    >>> from headfields.compare.statistics import paired_difference
    >>> gains = 0.3 + 0.02 * np.random.default_rng(0).standard_normal((5, 20))
    >>> found = paired_difference({"someone": gains})
    >>> round(found.mean, 1), found.pairs, found.p < 0.01
    (0.3, 5, True)
    """
    arrays = {name: np.asarray(value, dtype=np.float64) for name, value in differences.items()}
    if not arrays:
        raise ValueError("paired_difference: differences is empty; give those of one capture or more")
    for name, array in arrays.items():
        if array.ndim != 2 or not array.size:
            raise ValueError(
                f"paired_difference: the differences of {name!r} have shape {array.shape}; expected (seeds, frames), "
                "one or more of each"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"paired_difference: the differences of {name!r} are not all finite")
    runs = [array.mean(axis=1) for array in arrays.values()]
    mean = float(np.mean([run.mean() for run in runs]))
    freedom = sum(len(run) - 1 for run in runs)
    if freedom:
        variance = sum(float(((run - run.mean()) ** 2).sum()) for run in runs) / freedom
        error = math.sqrt(variance * sum(1 / len(run) for run in runs)) / len(runs)
        replicates = _bootstrap(list(arrays.values()), np.random.default_rng(seed))
        half = float(stats.t.ppf(1 - level / 2, freedom)) * error
        p = max(_two_sided(mean, error, freedom), _tail(replicates, 0.0))
        equivalent = 1.0
        if margin is not None:
            low = max(_upper_tail((mean + margin), error, freedom), _share(replicates <= -margin))
            high = max(_upper_tail((margin - mean), error, freedom), _share(replicates >= margin))
            equivalent = max(low, high)
        low_quantile, high_quantile = np.quantile(replicates, [level / 2, 1 - level / 2])
        return Difference(
            mean, (mean - half, mean + half), (float(low_quantile), float(high_quantile)), p, equivalent,
            math.sqrt(variance), sum(map(len, runs)), len(runs),
        )  # fmt: skip
    unknown = (math.nan, math.nan)
    return Difference(mean, unknown, unknown, 1.0, 1.0, math.nan, sum(map(len, runs)), len(runs))


def _bootstrap(arrays: Sequence[np.ndarray], random: np.random.Generator) -> np.ndarray:
    """(REPLICATES,) means of data drawn again: captures, then their seeds and, crossed with them, blocks of frames."""
    chosen = random.integers(len(arrays), size=(REPLICATES, len(arrays)))
    total = np.zeros(REPLICATES)
    for slot in range(len(arrays)):
        for capture, array in enumerate(arrays):
            rows = np.flatnonzero(chosen[:, slot] == capture)
            seeds = _counts(random, len(array), len(rows))
            frames = _block_counts(random, array.shape[1], len(rows))
            total[rows] += np.einsum("bs,sf,bf->b", seeds, array, frames) / (len(array) * frames.sum(axis=1))
    return total / len(arrays)


def _counts(random: np.random.Generator, size: int, count: int) -> np.ndarray:
    """(count, size): how often each of `size` entries is drawn in `size` draws with replacement."""
    return random.multinomial(size, np.full(size, 1 / size), size=count).astype(np.float64)


def _block_counts(random: np.random.Generator, frames: int, count: int) -> np.ndarray:
    """(count, frames): how often each frame is drawn, in blocks of √frames that continue at the first frame."""
    length = max(1, round(math.sqrt(frames)))
    starts = random.multinomial(math.ceil(frames / length), np.full(frames, 1 / frames), size=count)
    return np.stack([np.roll(starts, shift, axis=1) for shift in range(length)]).sum(axis=0).astype(np.float64)


def _two_sided(mean: float, error: float, freedom: int) -> float:
    return min(1.0, 2 * _upper_tail(abs(mean), error, freedom))


def _upper_tail(distance: float, error: float, freedom: int) -> float:
    """Probability of a mean so far above what is tested, by Student's t."""
    if error == 0:
        return 0.0 if distance > 0 else 1.0
    return float(stats.t.sf(distance / error, freedom))


def _tail(replicates: np.ndarray, value: float) -> float:
    return min(1.0, 2 * min(_share(replicates <= value), _share(replicates >= value)))


def _share(hits: np.ndarray) -> float:
    """Probability of a hit, never 0: what was drawn itself counts as one."""
    return float(hits.sum() + 1) / (len(hits) + 1)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p-values corrected for how many there are (Holm 1979): none is falsely below a level with more than that chance.

    >>> from headfields.compare.statistics import holm
    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    corrected, largest = {}, 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[name]))
        corrected[name] = largest
    return {name: corrected[name] for name in p}


def verdicts(differences: Mapping[str, Difference], level: float = 0.05) -> dict[str, Verdict]:
    """The verdict on each row of a family that asks one question of each, corrected by `holm`.

    A row is equivalent if both one-sided tests place it within the margin, even where it differs from zero; the
    correction is made within each of the two families of tests.
    """
    differ = holm({name: difference.p for name, difference in differences.items()})
    same = holm({name: difference.p_equivalent for name, difference in differences.items()})
    found: dict[str, Verdict] = {}
    for name, difference in differences.items():
        if same[name] < level:
            found[name] = "equivalent"
        elif differ[name] < level:
            found[name] = "better" if difference.mean > 0 else "worse"
        else:
            found[name] = "undetermined"
    return found


def is_narrow(differences: Iterable[Difference], margin: float | int) -> bool:
    """Whether the intervals of all rows, the wider one of both methods, reach no farther than the margin to either
    side of their middle: when a study that adds seeds may end.

    The rule looks at widths alone. Where it is asked at L numbers of seeds fixed beforehand, and intervals and verdicts
    are those of level / L, the chance of a false verdict at any look is at most the level (Bonferroni).
    """
    ends = [
        (min(each.interval[0], each.bootstrap[0]), max(each.interval[1], each.bootstrap[1])) for each in differences
    ]
    return all(high - low <= 2 * margin for low, high in ends)  # false for NaN, of one seed


def seeds_needed(
    deviation: float, difference: float, captures: int = 1, rows: int = 1, level: float = 0.05, power: float = 0.9
) -> int:
    """Seeds per capture with which a difference is found with probability `power`, by the noncentral t.

    The error is that of the bootstrap: drawing C captures again adds (C − 1) / C of the runs' own variance to it.

    Args:
        deviation: of the runs' differences within a capture.
        difference: what is to be found.
        captures: number of captures, each with as many seeds.
        rows: size of the family, whose first step of Holm's correction is planned for.
        level: of the verdicts.
        power: probability.

    Raises:
        ValueError: an argument is not positive, or more than 10,000 seeds are needed.

    >>> from headfields.compare.statistics import seeds_needed
    >>> seeds_needed(0.3, 0.3), seeds_needed(0.3, 0.2, captures=2)
    (13, 19)
    """
    if not (deviation >= 0 and difference > 0 and captures > 0 and rows > 0 and 0 < level < 1 and 0 < power < 1):
        raise ValueError(
            f"seeds_needed: deviation {deviation}, difference {difference}, captures {captures}, rows {rows}, level "
            f"{level}, power {power}; expected positive numbers, level and power below 1"
        )
    for seeds in range(2, 10_001):
        freedom = captures * (seeds - 1)
        bound = stats.t.ppf(1 - level / rows / 2, freedom)
        error = deviation * math.sqrt((2 - 1 / captures) / (captures * seeds))
        shift = difference / error if error else math.inf
        if shift == math.inf or stats.nct.sf(bound, freedom, shift) >= power:
            return seeds
    raise ValueError(f"seeds_needed: {difference} cannot be seen at a deviation of {deviation} with 10,000 seeds")
