"""Means with bootstrap intervals that respect how the numbers were drawn: seeds hold sets of novel classes, and sets
hold sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its interval.

    Arguments:
        mean: the estimate.
        low: lower end, at `level`.
        high: upper end.
        unit: what was resampled: `seed`, `set` or `sequence`.
        count: number of these units.
        level: coverage that the percentile bootstrap aims at.
    """

    mean: float
    low: float
    high: float
    unit: str
    count: int
    level: float = 0.95

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def clustered_interval(seeds: Sequence[NDArray[np.floating]], level: float = 0.95) -> Interval:
    """Percentile bootstrap of a mean, clustered by set of novel classes, then by seed.

    Seeds are resampled if there are several, then within each the sets if there are several; sequences only where there
    is one seed and one set. With few sets (8 by default) the interval is somewhat too narrow, as every percentile
    bootstrap of few clusters is.

    Arguments:
        seeds: for each seed an array [set, sequence] (or [set] of means).
        level: coverage.
    """
    means = [np.asarray(s, dtype=float).reshape(len(s), -1) for s in seeds]
    generator = np.random.default_rng(0)
    if len(means) == 1 and len(means[0]) == 1:
        values = means[0][0]
        draws = values[generator.integers(len(values), size=(RESAMPLES, len(values)))].mean(1)
        unit, count = "sequence", len(values)
    else:
        sets = [m.mean(1) for m in means]
        chosen = generator.integers(len(sets), size=(RESAMPLES, len(sets)))
        drawn = np.empty((RESAMPLES, len(sets)))
        for index, values in enumerate(sets):
            # One fresh resample of its sets for every place in which this seed was chosen.
            again = values[generator.integers(len(values), size=(RESAMPLES, len(sets), len(values)))].mean(-1)
            drawn = np.where(chosen == index, again, drawn)
        draws = drawn.mean(1)
        unit, count = ("seed", len(sets)) if len(sets) > 1 else ("set", len(sets[0]))
    estimate = np.mean([m.mean() for m in means])
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(estimate), float(low), float(high), unit, count, level)
