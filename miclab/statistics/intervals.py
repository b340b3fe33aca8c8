"""Means with bootstrap intervals that respect how the numbers were drawn: seeds hold sets of novel classes, and sets
hold sequences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

RESAMPLES = 2000
DECIMALS = 12
"""Of an interval's numbers: what lies beyond is what rounding leaves of a sum."""


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its interval.

    Arguments:
        mean: the estimate.
        low: lower end, at `level`.
        high: upper end.
        unit: what was resampled: `seed`, `set`, `sequence`, or `draw` of pairs.
        count: number of these units.
        level: coverage that the percentile bootstrap aims at.
    """

    mean: float
    low: float
    high: float
    unit: str
    count: int
    level: float = 0.95

    def __post_init__(self):
        # 0.0875 and 0.08749999999999998 are one number, and must be printed, and compared with a bound, as one.
        for name in ("mean", "low", "high"):
            # Adding 0 makes -0 a 0.
            object.__setattr__(self, name, round(float(getattr(self, name)), DECIMALS) + 0.0)

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def as_json(self) -> dict[str, Any]:
        """The interval as plain data, with six decimals."""
        return {k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(self).items()}


def _resampled(seeds: Sequence[NDArray[np.floating]]) -> tuple[NDArray[np.floating], str, int]:
    """Bootstrap means of several statistics measured together [resample, statistic], what was resampled, and how many
    there are of it. Every statistic sees the same resamples.

    Arguments:
        seeds: for each seed an array [statistic, set, sequence].
    """
    generator = np.random.default_rng(0)
    if len(seeds) == 1 and seeds[0].shape[1] == 1:
        values = seeds[0][:, 0]
        count = values.shape[1]
        chosen = generator.integers(count, size=(RESAMPLES, count))
        return np.stack([row[chosen].mean(1) for row in values], 1), "sequence", count
    sets = [seed.mean(2) for seed in seeds]
    chosen = generator.integers(len(sets), size=(RESAMPLES, len(sets)))
    drawn = np.empty((RESAMPLES, len(sets), len(sets[0])))
    for index, values in enumerate(sets):
        # One fresh resample of its sets for every place in which this seed was chosen.
        count = values.shape[1]
        places = generator.integers(count, size=(RESAMPLES, len(sets), count))
        again = np.stack([row[places].mean(-1) for row in values], -1)
        drawn = np.where((chosen == index)[:, :, None], again, drawn)
    unit, count = ("seed", len(sets)) if len(sets) > 1 else ("set", sets[0].shape[1])
    return drawn.mean(1), unit, count


def _stacked(seed: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.asarray(seed, dtype=float).reshape(1, len(seed), -1)


def _ends(draws: NDArray[np.floating], level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def clustered_interval(seeds: Sequence[NDArray[np.floating]], level: float = 0.95) -> Interval:
    """Percentile bootstrap of a mean, clustered by set of novel classes, then by seed.

    Seeds are resampled if there are several, then within each the sets if there are several; sequences only where there
    is one seed and one set. With few sets (8 by default) the interval is somewhat too narrow, as every percentile
    bootstrap of few clusters is.

    Arguments:
        seeds: for each seed an array [set, sequence] (or [set] of means).
        level: coverage.
    """
    values = [_stacked(seed) for seed in seeds]
    draws, unit, count = _resampled(values)
    estimate = float(np.mean([v.mean() for v in values]))
    return Interval(estimate, *_ends(draws[:, 0], level), unit, count, level)


def ratio_interval(
    numerators: Sequence[NDArray[np.floating]], denominators: Sequence[NDArray[np.floating]], level: float = 0.95
) -> Interval | None:
    """Percentile bootstrap of a ratio of means, clustered as in `clustered_interval`.

    Both means are taken of the same resampled seeds, sets or sequences, so what moves both together (a hard set of
    classes) moves the ratio little. Resamples whose denominator is 0 have no ratio and are left out.

    Arguments:
        numerators: for each seed an array [set, sequence].
        denominators: the same sequences, measured otherwise.
        level: coverage.

    Returns:
        The interval; None where the denominator's mean is 0, so that there is nothing to take a share of.
    """
    pairs = [
        np.concatenate([_stacked(above), _stacked(below)])
        for above, below in zip(numerators, denominators, strict=True)
    ]
    above, below = np.mean([pair.mean((1, 2)) for pair in pairs], axis=0)
    if below == 0:
        return None
    draws, unit, count = _resampled(pairs)
    draws = draws[draws[:, 1] != 0]
    return Interval(float(above / below), *_ends(draws[:, 0] / draws[:, 1], level), unit, count, level)


def student_interval(
    values: NDArray[np.floating], level: float = 0.95, scale: Literal["linear", "log"] = "linear"
) -> Interval:
    """Student's t interval of the mean of a statistic over seeds.

    Arguments:
        values: the statistic of each seed [seed], at least two; an infinite one makes estimate and ends infinite.
        level: coverage.
        scale: `log`: of the geometric mean; values have to be above 0.
    """
    count = len(values)
    if np.isinf(values).any():
        return Interval(np.inf, np.inf, np.inf, "seed", count, level)
    # math's functions, one number at a time: NumPy's differ in the last bit from processor to processor.
    shown = np.array([math.log(value) for value in values]) if scale == "log" else values
    centre = shown.mean()
    half = stdtrit(count - 1, (1 + level) / 2) * shown.std(ddof=1) / np.sqrt(count)
    ends = np.array([centre, centre - half, centre + half])
    estimate, low, high = (float(end) for end in (map(math.exp, ends) if scale == "log" else ends))
    return Interval(estimate, low, high, "seed", count, level)
