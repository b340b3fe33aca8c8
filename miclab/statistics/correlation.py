"""Pearson's and Spearman's correlations over runs, with corrected bootstraps (BCa) over configurations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from miclab.statistics.intervals import RESAMPLES, Interval, Resampled

FEWEST_RUNS = 3
"""Fewer runs have no correlation: two points always lie on a line."""
FEWEST_CONFIGURATIONS = 5
"""Fewer configurations give no interval, since few resamples differ."""


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """The correlation of two numbers over runs.

    Arguments:
        pearson: Pearson's coefficient; NaN where one of the two does not vary, or there are fewer than `FEWEST_RUNS`.
        spearman: Spearman's, with mean ranks for equal values.
        pearson_interval: bootstrap over configurations; None with fewer than `FEWEST_CONFIGURATIONS`.
        spearman_interval: the same of Spearman's.
        runs: how many there are.
        configurations: how many different ones, seeds aside.
    """

    pearson: float
    spearman: float
    pearson_interval: Interval | None
    spearman_interval: Interval | None
    runs: int
    configurations: int


def correlate(x: NDArray[np.floating], y: NDArray[np.floating], groups: NDArray[np.integer]) -> Correlation:
    """Pearson's and Spearman's correlation over runs, with BCa bootstraps over configurations: all seeds of one are
    drawn together, since they are not independent.

    Arguments:
        x: a number of each run [run].
        y: another one [run].
        groups: configuration of each run, seeds aside [run].
    """
    count = len(np.unique(groups))
    if len(x) < FEWEST_RUNS:
        return Correlation(pearson=np.nan, spearman=np.nan, pearson_interval=None, spearman_interval=None, runs=len(x),
                           configurations=count)  # fmt: skip
    found = []
    for ranked in (False, True):
        one = resampled(x, y, groups, ranked=ranked)
        sure = count >= FEWEST_CONFIGURATIONS and np.isfinite(one.estimate)
        found.append((one.estimate, one.interval("configuration", count) if sure else None))
    (pearson, pearson_interval), (spearman, spearman_interval) = found
    return Correlation(
        pearson=pearson, spearman=spearman, pearson_interval=pearson_interval, spearman_interval=spearman_interval,
        runs=len(x), configurations=count,
    )  # fmt: skip


def resampled(
    x: NDArray[np.floating], y: NDArray[np.floating], groups: NDArray[np.integer], *, ranked: bool = False
) -> Resampled:
    """Pearson's correlation over runs, or Spearman's, with its values over resampled configurations. Arguments are
    those of `correlate`."""
    names, member = np.unique(groups, return_inverse=True)
    count = len(names)
    drawn = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    # A run drawn twice has the weight 2.
    weights = np.stack([np.bincount(row, minlength=count) for row in drawn])[:, member].astype(float)
    without = (member != np.arange(count)[:, None]).astype(float)
    whole, draws, left = (_pearson(x, y, of, ranked) for of in (np.ones((1, len(x))), weights, without))
    return Resampled(float(whole[0]), draws, left)


def pearson(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """Pearson's correlation; NaN where one of the two does not vary."""
    return float(_pearson(x, y, np.ones((1, len(x))), ranked=False)[0])


def _ranks(values: NDArray, weights: NDArray) -> NDArray[np.floating]:
    """Mean ranks of values in samples that hold each of them `weights` times [sample, value]."""
    names, member = np.unique(values, return_inverse=True)
    # Whole numbers: exact in any order.
    held = weights @ (member[:, None] == np.arange(len(names)))
    return (held.cumsum(1) - held + (held + 1) / 2)[:, member]


def _pearson(x: NDArray, y: NDArray, weights: NDArray, ranked: bool) -> NDArray[np.floating]:
    """Pearson's coefficient of values, or of their ranks, in samples that hold each `weights` times [sample]."""
    parts, spreads = [], []
    for values in (x, y):
        table = _ranks(values, weights) if ranked else np.broadcast_to(values, weights.shape)
        centred = table - (weights * table).sum(1, keepdims=True) / weights.sum(1, keepdims=True)
        spread = (weights * centred**2).sum(1)
        # A spread within rounding error counts as none.
        size = (weights * table**2).sum(1)
        parts.append(centred)
        spreads.append(np.where(spread > 1e-20 * size, spread, np.nan))
    with np.errstate(invalid="ignore"):
        return (weights * parts[0] * parts[1]).sum(1) / np.sqrt(spreads[0] * spreads[1])
