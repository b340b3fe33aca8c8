"""Cells of a grid with the values of their seeds, and statistics over them as expressions whose bounds are visible.

cells.interval(slope("icl", "log2 K1", beside="log2 K2") - slope("icl", "log2 K2", beside="log2 K1"))

"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from miclab.errors import MiclabError, nearest
from miclab.statistics.intervals import Interval, Scale, exact_mean, student_interval, student_p
from miclab.statistics.regression import fit, weighted

Key = tuple[Any, ...]
Means = Mapping[str, NDArray[np.floating]]
Statistic = Callable[[Means], NDArray[np.floating]]
"""From the means of each quantity [..., cell] to a number [...], or to one of each cell [..., cell]."""
Cell = SimpleNamespace
"""A cell with its values by the short names of its axes, and `key`, all of them in order."""
Predicate = Callable[[Cell], Any]


@dataclass(frozen=True)
class Cells:
    """Values of quantities by cell of a grid, seed, and set of novel classes.

    Arguments:
        keys: the planned cells, in grid order.
        values: for each cell that has rows, each quantity's values by seed [set].
        planned: for each cell, the name of the planned run of each seed.
        step: training step of the rows; -1: each run's last.
        axes: short names of the axes that make a key.
        sequences: sequences of each set of novel classes.
    """

    keys: tuple[Key, ...]
    values: Mapping[Key, Mapping[int, Mapping[str, NDArray[np.floating]]]]
    planned: Mapping[Key, Mapping[int, str]]
    step: int = -1
    axes: tuple[str, ...] = ()
    sequences: int = 100

    @cached_property
    def present(self) -> frozenset[str]:
        """Planned runs that have values."""
        return frozenset(
            name for key in self.keys for seed, name in self.planned[key].items() if seed in self.values.get(key, ())
        )

    @cached_property
    def used(self) -> frozenset[str]:
        """The runs that statistics use: those of seeds that every cell has, if these suffice."""
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
        """Whether all cells have at least two seeds in common."""
        return len(self.seeds) >= 2

    @cached_property
    def quantities(self) -> tuple[str, ...]:
        """Names of the measured quantities."""
        return tuple(next(iter(next(iter(self.values.values())).values()))) if self.values else ()

    @cached_property
    def by_seed(self) -> dict[str, NDArray[np.floating]]:
        """Means over sets of each quantity [seed, cell]."""
        return {
            name: np.array([[exact_mean(self.values[key][seed][name]) for key in self.keys] for seed in self.seeds])
            for name in self.quantities
        }

    @cached_property
    def by_set(self) -> dict[str, NDArray[np.floating]]:
        """Each quantity in the first seed's sets of novel classes [set, cell]; one row where cells differ in number."""
        seed = self.seeds[0]
        columns = {name: [self.values[key][seed][name] for key in self.keys] for name in self.quantities}
        sizes = {len(values) for parts in columns.values() for values in parts} - {1}
        if len(sizes) != 1:
            return {name: np.array([[exact_mean(values) for values in parts]]) for name, parts in columns.items()}
        (count,) = sizes
        return {
            name: np.stack([np.broadcast_to(values, count) for values in parts], -1) for name, parts in columns.items()
        }

    @cached_property
    def means(self) -> dict[str, NDArray[np.floating]]:
        """Means over seeds of each quantity [cell]."""
        return {name: np.array([exact_mean(one) for one in table.T]) for name, table in self.by_seed.items()}

    def estimate(self, expression: Expression) -> NDArray[np.floating]:
        """An expression of the cells' means over seeds."""
        return expression.on(self)(self.means)

    def each_seed(self, expression: Expression) -> tuple[float, ...]:
        """An expression in each of the seeds that every cell has."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return tuple(np.asarray(expression.on(self)(self.by_seed), dtype=float).tolist()) if self.seeds else ()

    def interval(self, expression: Expression, level: float = 0.95) -> Interval | None:
        """An expression with Student's t over seeds; None where no seed has rows in every cell. With one seed it is
        over sets of novel classes and decides nothing. An undefined value gives no ends."""
        if not self.seeds:
            return None
        trials = self._trials(expression)
        if self.decidable:
            return student_interval(self.each_seed(expression), level, expression.scale, trials=trials)
        with np.errstate(divide="ignore", invalid="ignore"):
            sets = np.asarray(expression.on(self)(self.by_set), dtype=float).tolist()
        return student_interval(sets, level, expression.scale, trials=trials // len(sets), unit="set")

    def p_value(self, bound: Bound) -> float | None:
        """Two-sided p of the nearer bound of an expression, over seeds; None with fewer than two."""
        one = bound.expression
        values = self.each_seed(one) if self.decidable else ()
        return student_p(values, bound.low, bound.high, one.scale, trials=self._trials(one)) if values else None

    def _trials(self, expression: Expression) -> int:
        """Sequences of which an accuracy of one seed is; 0 of what is none."""
        if not (name := expression.accuracy):
            return 0
        mine = [self.values[key] for key in self.used_by(expression)]
        return self.sequences * min(sum(len(cell[seed][name]) for cell in mine) for seed in self.seeds)

    def used_by(self, expression: Expression) -> tuple[Key, ...]:
        """Keys of the cells that an expression uses."""
        return tuple(key for key, used in zip(self.keys, expression.uses(self), strict=True) if used)

    def over_seeds(self, expression: Expression) -> Interval | None:
        """Like `interval`, but None with one seed."""
        return self.interval(expression) if self.decidable else None


def every_cell(cells: Cells) -> NDArray[np.bool_]:
    """All of the cells [cell]."""
    return np.ones(len(cells.keys), dtype=bool)


@dataclass(frozen=True, eq=False)
class Expression:
    """A statistic of cells, by how it is computed.

    Arguments:
        on: from the cells to a function of their means.
        scale: on which its intervals are symmetric: a ratio's on `log`, so that its estimate is a geometric mean.
        uses: which cells it is made of [cell].
        accuracy: the quantity whose mean it is, on the scale `logit`.
    """

    on: Callable[[Cells], Statistic]
    scale: Scale = "linear"
    uses: Callable[[Cells], NDArray[np.bool_]] = every_cell
    accuracy: str = ""

    def __add__(self, other: Expression | float) -> Expression:
        return _joined(np.add, self, other)

    def __sub__(self, other: Expression | float) -> Expression:
        return _joined(np.subtract, self, other)

    def __mul__(self, other: Expression | float) -> Expression:
        return _joined(np.multiply, self, other)

    def __truediv__(self, other: Expression | float) -> Expression:
        return _joined(_share, self, other)

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


def _share(one: Any, other: Any) -> Any:
    """A quotient; NaN where there is nothing to take a share of."""
    return np.divide(one, np.where(other == 0, np.nan, other))


def _joined(function: Callable, one: Expression | float, other: Expression | float) -> Expression:
    def on(cells: Cells) -> Statistic:
        parts = [part.on(cells) if isinstance(part, Expression) else None for part in (one, other)]
        return lambda means: function(*(p(means) if p else v for p, v in zip(parts, (one, other), strict=True)))

    def uses(cells: Cells) -> NDArray[np.bool_]:
        return np.logical_or.reduce([part.uses(cells) for part in (one, other) if isinstance(part, Expression)])

    return Expression(on, uses=uses)


def column(name: str) -> Expression:
    """A quantity of every cell [..., cell]."""
    return Expression(lambda cells: lambda means: means[name])


def _column(one: str | Expression) -> Expression:
    return column(one) if isinstance(one, str) else one


def smaller(one: str, other: str) -> Expression:
    """The smaller of two quantities of every cell [..., cell]."""
    return _joined(np.minimum, column(one), column(other))


def _reduced(function: Callable, quantity: str | Expression, predicate: Predicate | None, axes: Any) -> Expression:
    def on(cells: Cells) -> Statistic:
        mine, values = cells.chosen(predicate, **axes), _column(quantity).on(cells)
        return lambda means: function(values(means)[..., mine])

    return Expression(on, uses=lambda cells: cells.chosen(predicate, **axes))


def mean(quantity: str | Expression, predicate: Predicate | None = None, /, **axes: Any) -> Expression:
    """Mean of a quantity over the cells that are wanted (see `Cells.chosen`)."""
    return _reduced(lambda values: values.mean(-1), quantity, predicate, axes)


def accuracy(quantity: str, predicate: Predicate | None = None, /, **axes: Any) -> Expression:
    """Mean of an accuracy over the cells that are wanted, its interval on the scale of logits."""
    return replace(mean(quantity, predicate, **axes), scale="logit", accuracy=quantity)


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
    """Least-squares slope along an axis over the cells that are wanted; `log2 NAME`: per doubling.

    Arguments:
        beside: another axis that is fitted together with it.
    """

    def on(cells: Cells) -> Statistic:
        mine, values = cells.chosen(predicate, **axes), _column(quantity).on(cells)
        columns = {name: cells.numbers(name)[mine] for name in (axis, beside) if name}
        weights = np.zeros(len(cells.keys))
        weights[mine] = fit(columns, axis)
        return lambda means: weighted(values(means), weights)

    return Expression(on, uses=lambda cells: cells.chosen(predicate, **axes))
