"""Statistics that claims and reports share: slopes, contrasts, the heads of the circuit in a row, correlations."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miclab.circuits.find import circuit_heads
from miclab.claims.evidence import Cells, Means, Statistic
from miclab.claims.verdict import Condition

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
