"""Statistics that claims and reports share: slopes, contrasts, the heads of the circuit in a row, correlations."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miclab.circuits.strongest import circuit_heads
from miclab.claims.evidence import Cells, Means, Statistic
from miclab.claims.verdict import Condition
from miclab.intervals import RESAMPLES, Interval

MEASURE = re.compile(r"measure\.(?P<name>.+)\.(?P<layer>\d+)\.(?P<head>\d+)")


def fit(axes: Mapping[str, NDArray], axis: str) -> NDArray[np.floating]:
    """Weights of the cells whose sum is the least-squares slope along `axis`, beside the other axes and a constant."""
    design = np.column_stack([np.ones(len(axes[axis])), *axes.values()])
    return least_squares(design)[1 + list(axes).index(axis)]


def least_squares(design: NDArray[np.floating]) -> NDArray[np.floating]:
    """Weights [coefficient, cell] that make least-squares coefficients of values in cells, by Gram and Schmidt.

    A library's solver would do, but its last digits depend on the processor, as those of a matrix product do.

    Arguments:
        design: the columns that are fitted [cell, coefficient].

    Returns:
        The weights; NaN where the columns depend on each other, so that there is no one fit.
    """
    basis: list[NDArray] = []
    for column in design.T:
        rest = column
        # Twice: the first pass leaves what rounding makes of columns that are nearly the same.
        for other in basis * 2:
            rest = rest - other * (other * rest).sum()
        length = np.sqrt((rest**2).sum())
        basis.append(rest / (length if length > 1e-10 * np.sqrt((column**2).sum()) else np.nan))
    shares = [[(one * column).sum() for column in design.T] for one in basis]
    weights = np.array(basis)
    for i in reversed(range(len(basis))):
        for j in range(i + 1, len(basis)):
            weights[i] -= shares[i][j] * weights[j]
        weights[i] /= shares[i][i]
    return weights


def weighted(values: NDArray[np.floating], weights: NDArray[np.floating]) -> NDArray[np.floating]:
    """Sums of values times weights, added in the cells' order.

    A matrix product adds in an order that depends on the processor: a number halfway between two printed ones would be
    rounded up on one machine and down on another.

    Arguments:
        values: [..., cell].
        weights: [cell], or [cell, sum] for several sums.

    Returns:
        [...], or [..., sum].
    """
    # Sums come first while they are made, which leaves long rows to add: [cell, ...] and [sum, ...].
    rows = np.ascontiguousarray(np.moveaxis(values, -1, 0))
    total = np.zeros(np.shape(weights)[1:] + rows.shape[1:])
    for row, weight in zip(rows, weights, strict=True):
        total += np.multiply.outer(weight, row)
    return np.moveaxis(total, 0, -1) if np.ndim(weights) > 1 else total


def contrast(
    cells: Cells,
    statistic: Statistic,
    quantity: str,
    *,
    clause: str,
    low: float = -np.inf,
    high: float = np.inf,
) -> Condition:
    """A condition on any statistic of cells."""
    return Condition(
        clause=clause,
        quantity=quantity,
        measured=cells.interval(statistic),
        low=low,
        high=high,
        used=cells.used,
        absent=cells.absent,
    )


def slope(cells: Cells, score: str, axis: str, axes: Mapping[str, NDArray], *, rises: bool, clause: str) -> Condition:
    """A condition on the sign of a score's slope along one of several axes."""
    weights = fit(axes, axis)
    bound = {"low": 0.0} if rises else {"high": 0.0}
    unit = f"doubling of {axis.removeprefix('log2 ')}" if axis.startswith("log2 ") else f"unit of {axis}"
    quantity = f"slope of {score.upper()} per {unit}"
    return contrast(cells, lambda means: weighted(means[score], weights), quantity, clause=clause, **bound)


def best(cells: Cells, score: Callable[[Means], NDArray], values: NDArray, name: str, axis: str) -> tuple[str, ...]:
    """A note on where a score's mean is highest; none where the cells do not suffice."""
    if not cells.decidable:
        return ()
    means = score(cells.draws[0])
    top = int(means.argmax())
    return (f"{name} is highest, {means[top]:.3f}, at {axis} = {values[top]:g}",)


def heads(row: Mapping[str, Any]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Induction head and previous-token head by the measures of a row, as (layer, head) from 1; see `circuit_heads`."""
    values: dict[str, dict[tuple[int, int], float]] = {}
    for column, value in row.items():
        found = MEASURE.fullmatch(column)
        if found and value is not None:
            values.setdefault(found["name"], {})[int(found["layer"]) - 1, int(found["head"]) - 1] = value
    shape = tuple(max(place[i] for place in values["induction_total"]) + 1 for i in (0, 1))
    tables = {name: np.full(shape, -np.inf) for name in values}
    for name, table in tables.items():
        for place, value in values[name].items():
            table[place] = value
    circuit = circuit_heads({n: t for n, t in tables.items() if n.startswith(("induction_total", "label_to_item."))})
    (layer, head), (before, other) = circuit.induction, circuit.previous_token
    return (layer + 1, head + 1), (before + 1, other + 1)


FEWEST_RUNS = 3
"""With fewer there is no correlation: two points always lie on a line."""
FEWEST_CONFIGURATIONS = 5
"""With fewer a correlation has no interval: hardly any resample differs from another."""


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """How two numbers go together over runs.

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
    """Pearson's and Spearman's correlation over runs, with percentile bootstraps over configurations: all seeds of one
    are drawn together, since they are no independent evidence.

    Arguments:
        x: a number of each run [run].
        y: another one [run].
        groups: configuration of each run, seeds aside [run].
    """
    names, member = np.unique(groups, return_inverse=True)
    count = len(names)
    if len(x) < FEWEST_RUNS:
        return Correlation(pearson=np.nan, spearman=np.nan, pearson_interval=None, spearman_interval=None, runs=len(x),
                           configurations=count)  # fmt: skip
    whole = np.ones((1, len(x)))
    drawn = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    # To draw a run twice is to give it the weight 2.
    weights = np.stack([np.bincount(row, minlength=count) for row in drawn])[:, member].astype(float)
    found = []
    for ranked in (False, True):
        estimate = float(_pearson(x, y, whole, ranked)[0])
        interval = None
        if count >= FEWEST_CONFIGURATIONS and np.isfinite(estimate):
            low, high = np.nanquantile(_pearson(x, y, weights, ranked), [0.025, 0.975])
            interval = Interval(estimate, float(low), float(high), "configuration", count)
        found.append((estimate, interval))
    (pearson, pearson_interval), (spearman, spearman_interval) = found
    return Correlation(
        pearson=pearson, spearman=spearman, pearson_interval=pearson_interval, spearman_interval=spearman_interval,
        runs=len(x), configurations=count,
    )  # fmt: skip


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
        # What rounding leaves of a sample without spread is no spread.
        size = (weights * table**2).sum(1)
        parts.append(centred)
        spreads.append(np.where(spread > 1e-20 * size, spread, np.nan))
    with np.errstate(invalid="ignore"):
        return (weights * parts[0] * parts[1]).sum(1) / np.sqrt(spreads[0] * spreads[1])
