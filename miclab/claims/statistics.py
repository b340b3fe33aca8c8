"""Statistics that several claims share: slopes, contrasts, and the heads of the circuit in a row."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miclab.claims.evidence import Cells, Means, Statistic
from miclab.claims.verdict import Condition

MEASURE = re.compile(r"measure\.(?P<name>.+)\.(?P<layer>\d+)\.(?P<head>\d+)")


def fit(axes: Mapping[str, NDArray], axis: str) -> NDArray[np.floating]:
    """Weights of the cells whose sum is the least-squares slope along `axis`, beside the other axes and a constant."""
    design = np.column_stack([np.ones(len(axes[axis])), *axes.values()])
    return np.linalg.pinv(design)[1 + list(axes).index(axis)]


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
    return contrast(cells, lambda means: means[score] @ weights, quantity, clause=clause, **bound)


def best(cells: Cells, score: Callable[[Means], NDArray], values: NDArray, name: str, axis: str) -> tuple[str, ...]:
    """A note on where a score's mean is highest; none where the cells do not suffice."""
    if not cells.decidable:
        return ()
    means = score(cells.draws[0])
    top = int(means.argmax())
    return (f"{name} is highest, {means[top]:.3f}, at {axis} = {values[top]:g}",)


def heads(row: Mapping[str, Any]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Induction head and previous-token head, as (layer, head) from 1, by the measures of a row.

    The induction head has the highest summed induction strength. The previous-token head is, in the layers before it
    (in any, if it is in the first), the one whose labels look most at their own items.
    """
    totals: dict[tuple[int, int], float] = {}
    looking: dict[tuple[int, int], float] = {}
    for column, value in row.items():
        found = MEASURE.fullmatch(column)
        if not found or value is None:
            continue
        place = int(found["layer"]), int(found["head"])
        if found["name"] == "induction_total":
            totals[place] = value
        elif found["name"].startswith("label_to_item."):
            looking[place] = max(value, looking.get(place, -np.inf))
    induction = max(totals, key=lambda place: totals[place])
    before = {place: v for place, v in looking.items() if place[0] < induction[0]}
    before = before or {place: v for place, v in looking.items() if place != induction}
    return induction, max(before, key=lambda place: before[place])
