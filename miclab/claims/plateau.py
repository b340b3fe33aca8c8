"""The plateau of copying any label of the context: which seeds have left it, and when.

Before a decoder matches items, it copies some label of its context, and scores as copying does. A seed has left this
plateau or has not. Accuracy therefore has two values over seeds, and a t interval of their mean does not have its
stated coverage. A cell near the plateau is judged by the number of seeds that left (Clopper and Pearson). A condition
that one seed more or less would change stays undecided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from miclab.config.axes import field_of
from miclab.statistics.grid import Cells, Expression, Key
from miclab.statistics.intervals import Interval, share_interval

FACTOR = 4
"""A cell is near its threshold if a seed left the plateau within this factor of the step that is judged."""
READS = 0.75
"""Least share of the plateau's accuracy for a seed to count as on it. One below does not read its context."""
WANTED_SEEDS = 10
"""Seeds that a cell near its threshold should have."""


def copying(config: Mapping[str, Any]) -> float:
    """Accuracy of copying any label of the context: B of N examples have the right one."""
    return field_of(config, "B") / field_of(config, "N")


def leaving_level(config: Mapping[str, Any]) -> float:
    """Accuracy at which a seed has left the plateau: halfway between copying any label and always being right."""
    return (1 + copying(config)) / 2


@dataclass(frozen=True)
class Escape:
    """When one run left the plateau.

    Arguments:
        left: whether it has at the step that is judged.
        on_plateau: whether it is still there: neither above it nor clearly below.
        step: of its first row above the level; the last step, where there is none (censored).
        last: step that is judged.
    """

    left: bool
    on_plateau: bool
    step: float
    last: float

    @property
    def late(self) -> bool:
        """Whether it left within `FACTOR` of the step that is judged, or not at all."""
        return not self.left or self.step * FACTOR > self.last


def escapes(frame: pl.DataFrame, judged: Mapping[str, float], configs: Mapping[str, Mapping[str, Any]]) -> Mapping:
    """When each run left the plateau, by its name.

    Arguments:
        frame: all rows of the runs, with columns `run`, `step` and `icl`.
        judged: the step that is judged, by run.
        configs: configuration of each run.
    """
    curves: dict[str, list[tuple[float, float]]] = {}
    for run, step, icl in frame.select("run", "step", "icl").drop_nulls().sort("step").iter_rows():
        if step <= judged.get(run, -math.inf):
            curves.setdefault(run, []).append((step, icl))
    found = {}
    for name, curve in curves.items():
        last, level = judged[name], leaving_level(configs[name])
        final = curve[-1][1]
        on = READS * copying(configs[name]) <= final < level
        first = next((float(step) for step, icl in curve if icl >= level), last)
        found[name] = Escape(final >= level, on, first, last)
    return found


@dataclass(frozen=True)
class CellEscape:
    """How many seeds of a cell near its threshold have left the plateau.

    Arguments:
        cell: its values by axis, in words.
        key: its values by axis.
        left: how many seeds have left.
        seeds: how many there are.
    """

    cell: str
    key: Key
    left: int
    seeds: int

    @property
    def mixed(self) -> bool:
        """Whether some seeds have left and some have not."""
        return 0 < self.left < self.seeds

    @property
    def share(self) -> Interval:
        """Share of seeds that leave, by Clopper and Pearson."""
        return share_interval(self.left, self.seeds)

    def __str__(self) -> str:
        share = self.share
        return f"{self.cell}: {self.left} of {self.seeds} seeds left the plateau ({share.low:.2f} to {share.high:.2f})"

    def as_json(self) -> dict[str, Any]:
        """It as plain data."""
        share = self.share
        return {"cell": self.cell, "left": self.left, "seeds": self.seeds, "low": share.low, "high": share.high}


def together(cells: Sequence[CellEscape]) -> str:
    """Cells in one line, those with equal numbers of seeds together."""
    groups: dict[str, list[str]] = {}
    for cell in cells:
        name, _, seeds = str(cell).rpartition(": ")
        groups.setdefault(seeds, []).append(name)
    return "; ".join(f"{seeds}, in {_listed(names)}" for seeds, names in groups.items())


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} cells ({' | '.join(names)})"


def near(cells: Cells, leaving: Mapping[Key, Mapping[int, Escape]], keys: Sequence[Key]) -> tuple[CellEscape, ...]:
    """The cells in which a seed may or may not have left the plateau at the step that is judged.

    Arguments:
        leaving: when each run left, by cell and seed.
        keys: the cells that matter.
    """
    found = []
    for key in keys:
        runs = [leaving.get(key, {}).get(seed) for seed in cells.seeds]
        known = [run for run in runs if run is not None]
        left = sum(run.left for run in known)
        if not known or len(known) < len(runs):
            continue
        if any(run.late for run in known) if left else any(run.on_plateau for run in known):
            names = ", ".join(
                f"{axis} {value}" for axis, value in zip(cells.axes, key, strict=True) if _differs(cells, axis)
            )
            found.append(CellEscape(names or "the cell", key, left, len(known)))
    return tuple(found)


def _differs(cells: Cells, axis: str) -> bool:
    return len({str(value) for value in cells.axis(axis)}) > 1


def extremes(
    cells: Cells, expression: Expression, leaving: Mapping[Key, Mapping[int, Escape]], mixed: Sequence[CellEscape]
) -> tuple[Mapping, Mapping]:
    """Values of the cells if, in each mixed cell, either all seeds had left or none had. The first value gives the
    lowest expression, the second the highest. A seed that has to change gets the mean of those that need not."""
    middle = _estimate(cells, cells.values, expression)
    low, high = dict(cells.values), dict(cells.values)
    for cell in mixed:
        both = {state: _moved(cells.values[cell.key], leaving[cell.key], cells.seeds, state) for state in (True, False)}
        shift = {
            state: _estimate(cells, {**cells.values, cell.key: values}, expression) - middle
            for state, values in both.items()
        }
        ordered = sorted(both, key=lambda state: shift[state])
        low[cell.key], high[cell.key] = both[ordered[0]], both[ordered[1]]
    return low, high


def _estimate(cells: Cells, values: Mapping, expression: Expression) -> float:
    from dataclasses import replace

    found = replace(cells, values=values).interval(expression)
    return found.mean if found is not None and not math.isnan(found.mean) else 0.0


def _moved(
    values: Mapping[int, Mapping[str, NDArray]], leaving: Mapping[int, Escape], seeds: Sequence[int], state: bool
) -> Mapping[int, Mapping[str, NDArray]]:
    mine = [seed for seed in seeds if leaving[seed].left == state]
    names = values[mine[0]]
    means = {name: float(np.mean([values[seed][name].mean() for seed in mine])) for name in names}
    moved = {
        seed: {n: np.full_like(v, means[n]) for n, v in values[seed].items()} for seed in seeds if seed not in mine
    }
    return {**values, **moved}
