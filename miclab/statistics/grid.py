"""Cells of a grid with the values of their seeds, and statistics over them as expressions whose bounds are visible.

    cells.interval(slope("icl", "eps"))
    slope("icl", "log2 K1", beside="log2 K2") - slope("icl", "log2 K2", beside="log2 K1") > 0

An expression says what is computed, whatever the cells; `Cells.interval` alone says how its interval is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from types import SimpleNamespace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from miclab.errors import MiclabError, nearest
from miclab.statistics.intervals import RESAMPLES, Interval, student_interval
from miclab.statistics.regression import fit, weighted

Key = tuple[Any, ...]
Means = Mapping[str, NDArray[np.floating]]
Statistic = Callable[[Means], NDArray[np.floating]]
"""From the means of each quantity [..., cell] to a number [...], or to one of each cell [..., cell]."""
Cell = SimpleNamespace
"""A cell with its values by the short names of its axes, and `key`, all of them in order."""
Predicate = Callable[[Cell], Any]
Rule = Literal["bootstrap", "student"]
"""How an interval is made: seeds resampled, and within a seed its sets of novel classes; or Student's t over seeds of
the statistic of each seed."""
RULE: Rule = "bootstrap"
"""How intervals are made where a claim does not say it."""


@dataclass(frozen=True)
class Cells:
    """Values of quantities by cell of a grid, seed, and set of novel classes.

    Arguments:
        keys: the planned cells, in grid order.
        values: for each cell that has rows, each quantity's values by seed [set].
        planned: for each cell, the name of the planned run of each seed.
        step: training step of the rows; -1: each run's last.
        axes: short names of the axes that make a key.
        rule: how intervals are made.
    """

    keys: tuple[Key, ...]
    values: Mapping[Key, Mapping[int, Mapping[str, NDArray[np.floating]]]]
    planned: Mapping[Key, Mapping[int, str]]
    step: int = -1
    axes: tuple[str, ...] = ()
    rule: Rule = RULE

    @cached_property
    def present(self) -> frozenset[str]:
        """Planned runs that have values."""
        return frozenset(
            name for key in self.keys for seed, name in self.planned[key].items() if seed in self.values.get(key, ())
        )

    @cached_property
    def used(self) -> frozenset[str]:
        """Those of them that statistics are made of: of the seeds that every cell has, if these suffice."""
        if not self.decidable:
            return self.present
        return frozenset(self.planned[key][seed] for key in self.keys for seed in self.seeds)

    @cached_property
    def absent(self) -> frozenset[str]:
        """Planned runs that have none."""
        return frozenset(name for key in self.keys for name in self.planned[key].values()) - self.present

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """The cells with their values by axis."""
        return tuple(SimpleNamespace(key=key, **dict(zip(self.axes, key, strict=False))) for key in self.keys)

    def axis(self, name: str) -> tuple[Any, ...]:
        """One axis of the cells, a value for each cell.

        Raises:
            MiclabError: the cells have no such axis.
        """
        if name not in self.axes:
            raise MiclabError(f"These cells have no axis {name!r}: {nearest(name, self.axes)}")
        return tuple(key[self.axes.index(name)] for key in self.keys)

    def numbers(self, name: str) -> NDArray[np.floating]:
        """One axis of the cells as numbers [cell]; `log2 NAME`: their logarithms to base 2."""
        scale, _, axis = name.rpartition(" ")
        values = np.array(self.axis(axis), dtype=float)
        return np.log2(values) if scale == "log2" else values

    def chosen(self, predicate: Predicate | None = None, /, **axes: Any) -> NDArray[np.bool_]:
        """Whether each cell is wanted [cell].

        Arguments:
            predicate: called with each cell.
            axes: values that a cell has to have.

        Raises:
            MiclabError: the cells have no such axis.
        """
        mine = np.ones(len(self.keys), dtype=bool)
        for name, value in axes.items():
            mine &= np.array([found == value for found in self.axis(name)], dtype=bool)
        if predicate is not None:
            mine &= np.array([bool(predicate(cell)) for cell in self.cells], dtype=bool)
        return mine

    def where(self, predicate: Predicate | None = None, /, **axes: Any) -> Self:
        """The cells that are wanted; see `chosen`."""
        mine = self.chosen(predicate, **axes)
        keys = tuple(key for key, wanted in zip(self.keys, mine, strict=True) if wanted)
        values = {key: self.values[key] for key in keys if key in self.values}
        return replace(self, keys=keys, values=values, planned={key: self.planned[key] for key in keys})

    def by(self, axes: str) -> Iterator[tuple[Any, Self]]:
        """Each value of an axis, numbers in their order, with its cells; of several axes, each tuple in grid order."""
        names = axes.split()
        columns = list(zip(*(self.axis(name) for name in names), strict=True))
        found = list(dict.fromkeys(columns))
        if len(names) == 1 and all(isinstance(value, (int, float)) for (value,) in found):
            found.sort()
        for value in found:
            yield (value[0] if len(names) == 1 else value), self.where(**dict(zip(names, value, strict=True)))

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Seeds that every cell has: statistics compare cells seed by seed."""
        found = [set(self.values.get(key, ())) for key in self.keys]
        return tuple(sorted(set.intersection(*found))) if found else ()

    @property
    def decidable(self) -> bool:
        """Whether every cell has the same two seeds, at least."""
        return len(self.seeds) >= 2

    @cached_property
    def by_seed(self) -> dict[str, NDArray[np.floating]]:
        """Means over sets of each quantity [seed, cell]."""
        names = next(iter(self.values[self.keys[0]].values()))
        return {
            name: np.array([[self.values[key][seed][name].mean() for key in self.keys] for seed in self.seeds])
            for name in names
        }

    @cached_property
    def draws(self) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
        """Means over seeds of each quantity [cell], and the same under resampling [resample, cell].

        Seeds are resampled, for all cells alike, and within a seed its sets of novel classes, for all quantities alike.
        """
        generator = np.random.default_rng(0)
        count = len(self.seeds)
        chosen = generator.integers(count, size=(RESAMPLES, count))
        sets: dict[int, NDArray] = {}
        means: dict[str, NDArray] = {}
        draws: dict[str, NDArray] = {}
        for name in next(iter(self.values[self.keys[0]].values())):
            columns, again = [], []
            for key in self.keys:
                values = [self.values[key][seed][name] for seed in self.seeds]
                size = len(values[0])
                if any(len(v) != size for v in values):
                    values, size = [v.mean(keepdims=True) for v in values], 1
                table = np.stack(values)
                if size not in sets:
                    sets[size] = generator.integers(size, size=(RESAMPLES, count, size))
                columns.append(table.mean())
                again.append(table[chosen[:, :, None], sets[size]].mean((1, 2)))
            means[name], draws[name] = np.array(columns), np.stack(again, -1)
        return means, draws

    def estimate(self, expression: Expression) -> NDArray[np.floating]:
        """An expression of the cells' means over seeds."""
        return expression.on(self)(self.draws[0])

    def interval(self, expression: Expression, level: float = 0.95) -> Interval | None:
        """An expression with its interval by the cells' rule; None where no seed has rows in every cell.

        With one seed its sets of novel classes are resampled, which decides nothing (unit `set`). The ends are NaN
        where the statistic is undefined in a resample or seed, as a share of nothing is.
        """
        if not self.seeds:
            return None
        statistic = expression.on(self)
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.rule == "student" and self.decidable:
                return student_interval(np.asarray(statistic(self.by_seed), dtype=float), level, expression.scale)
            means, draws = self.draws
            estimate, values = float(statistic(means)), np.asarray(statistic(draws), dtype=float)
        values = np.where(np.isfinite(values), values, np.nan)
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
        unit, count = ("seed", len(self.seeds)) if self.decidable else ("set", self._sets)
        return Interval(estimate, float(low), float(high), unit, count, level)

    def over_seeds(self, expression: Expression) -> Interval | None:
        """Like `interval`, but None with one seed, too."""
        return self.interval(expression) if self.decidable else None

    @property
    def _sets(self) -> int:
        """Sets of novel classes in the first seed that every cell has."""
        return max(len(value) for key in self.keys for value in self.values[key][self.seeds[0]].values())


@dataclass(frozen=True, eq=False)
class Expression:
    """A statistic of cells, by how it is computed.

    Arguments:
        on: from the cells to a function of their means.
        scale: on which its intervals are symmetric: a ratio's on `log`, so that its estimate is a geometric mean.
    """

    on: Callable[[Cells], Statistic]
    scale: Literal["linear", "log"] = "linear"

    def __add__(self, other: Expression | float) -> Expression:
        return _joined(np.add, self, other)

    def __sub__(self, other: Expression | float) -> Expression:
        return _joined(np.subtract, self, other)

    def __mul__(self, other: Expression | float) -> Expression:
        return _joined(np.multiply, self, other)

    def __truediv__(self, other: Expression | float) -> Expression:
        return _joined(np.divide, self, other)

    def __neg__(self) -> Expression:
        return self * -1.0

    def __gt__(self, low: float) -> Bound:
        return Bound(self, low=low)

    def __lt__(self, high: float) -> Bound:
        return Bound(self, high=high)

    def between(self, low: float, high: float) -> Bound:
        """The expression above `low` and below `high`."""
        return Bound(self, low=low, high=high)

    def on_log_scale(self) -> Expression:
        """The expression, whose estimate over seeds is a geometric mean."""
        return replace(self, scale="log")


@dataclass(frozen=True)
class Bound:
    """An expression with the open bounds that its whole interval has to lie between."""

    expression: Expression
    low: float = -np.inf
    high: float = np.inf


def _joined(function: np.ufunc, one: Expression | float, other: Expression | float) -> Expression:
    def on(cells: Cells) -> Statistic:
        parts = [part.on(cells) if isinstance(part, Expression) else None for part in (one, other)]
        return lambda means: function(*(p(means) if p else v for p, v in zip(parts, (one, other), strict=True)))

    return Expression(on)


def column(name: str) -> Expression:
    """A quantity of every cell [..., cell]."""
    return Expression(lambda cells: lambda means: means[name])


def _column(quantity: str | Expression) -> Expression:
    return column(quantity) if isinstance(quantity, str) else quantity


def smaller(one: str, other: str) -> Expression:
    """The smaller of two quantities of every cell [..., cell]."""
    return _joined(np.minimum, column(one), column(other))


def _reduced(function: Callable, quantity: str | Expression, predicate: Predicate | None, axes: Any) -> Expression:
    def on(cells: Cells) -> Statistic:
        mine, values = cells.chosen(predicate, **axes), _column(quantity).on(cells)
        return lambda means: function(values(means)[..., mine])

    return Expression(on)


def mean(quantity: str | Expression, predicate: Predicate | None = None, /, **axes: Any) -> Expression:
    """Mean of a quantity over the cells that are wanted (see `Cells.chosen`)."""
    return _reduced(lambda values: values.mean(-1), quantity, predicate, axes)


def highest(quantity: str | Expression, predicate: Predicate | None = None, /, **axes: Any) -> Expression:
    """Highest value of a quantity over the cells that are wanted."""
    return _reduced(lambda values: values.max(-1), quantity, predicate, axes)


def lowest(quantity: str | Expression, predicate: Predicate | None = None, /, **axes: Any) -> Expression:
    """Lowest value of a quantity over the cells that are wanted."""
    return _reduced(lambda values: values.min(-1), quantity, predicate, axes)


def average(expressions: list[Expression]) -> Expression:
    """The mean of several expressions."""
    return reduce(lambda one, other: one + other, expressions) / len(expressions)


def slope(
    quantity: str | Expression, axis: str, predicate: Predicate | None = None, /, beside: str = "", **axes: Any
) -> Expression:
    """Least-squares slope of a quantity along an axis, over the cells that are wanted.

    Arguments:
        axis: its name; `log2 NAME`: along its logarithm, so that the slope is per doubling.
        beside: another axis that is fitted together with it.
    """

    def on(cells: Cells) -> Statistic:
        mine, values = cells.chosen(predicate, **axes), _column(quantity).on(cells)
        columns = {name: cells.numbers(name)[mine] for name in (axis, beside) if name}
        weights = np.zeros(len(cells.keys))
        weights[mine] = fit(columns, axis)
        return lambda means: weighted(values(means), weights)

    return Expression(on)
