"""Panels of the claims' figures: heat maps, curves, bars and scatters, with 95 % intervals, readable with any colour
vision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from miclab.config.axes import DOUBLING, field_named
from miclab.statistics.grid import Cells, Expression, Key, accuracy, mean
from miclab.statistics.intervals import Interval
from miclab.statistics.palette import ACCURACY, BLACK, series
from miclab.statistics.style import marker

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ACCURACIES = ("icl", "iwl", "swapped", "train", "cla.", "probe.")
"""Prefixes of columns whose values lie between 0 and 1."""
OTHERS = ("probe.drift.", "probe.circuit_overlap.")
"""Prefixes of exceptions."""
SEEDS: dict[str, Any] = {"marker": ".", "ls": "none", "markersize": 3.5, "alpha": 0.6, "mec": "none", "zorder": 3}
"""How the seeds' values are drawn: dots without a line."""


@dataclass(frozen=True)
class Point:
    """One cell's mean with the ends of its interval. Without an interval the ends are the mean.

    Arguments:
        seeds: the value of each seed.
    """

    key: Key
    mean: float
    low: float
    high: float
    seeds: tuple[float, ...] = ()


def point(key: Key, interval: Interval | None, mean: float, seeds: tuple[float, ...] = ()) -> Point:
    """The point of an estimate; its ends are the mean where there is no interval."""
    low, high = (interval.low, interval.high) if interval is not None and interval.known else (mean, mean)
    return Point(key, mean, low, high, seeds)


def points(cells: Cells, quantity: str) -> list[Point]:
    """Every cell that has rows."""
    found = []
    for key in cells.keys:
        seeds = cells.values.get(key, {})
        if not seeds:
            continue
        dots = tuple(float(values[quantity].mean()) for values in seeds.values())
        level = float(np.mean(dots))
        interval = cells.where(lambda cell, key=key: cell.key == key).over_seeds(shown_mean(quantity))
        found.append(point(key, interval, level, dots))
    return found


def is_accuracy(quantity: str) -> bool:
    """Whether a column holds accuracies."""
    return quantity.startswith(ACCURACIES) and not quantity.startswith(OTHERS)


def shown_mean(quantity: str) -> Expression:
    """Mean of a quantity; of an accuracy with an interval that stays between 0 and 1."""
    return accuracy(quantity) if is_accuracy(quantity) else mean(quantity)


def shown(value: Any) -> str:
    """A value of an axis as text."""
    if isinstance(value, (tuple, list)):
        return " ".join(map(shown, value)) or "none"
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def scale(axes: Axes, axis: str, values: Sequence[Any]) -> None:
    """Scale and ticks of the x axis for an axis of studies."""
    if field_named(axis).split(".")[-1] in DOUBLING:
        axes.set_xscale("log", base=2)
    ticks = sorted(set(values))
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def heatmap(
    axes: Axes, found: Sequence[Point], title: str, x: str, y: str, limits: tuple[float, float] = (0.0, 1.0)
) -> Any:
    """Means in a grid, each cell with its mean and the ends of its interval; keys are (x, y).

    Arguments:
        limits: values at the two ends of the colours.
    """
    columns, rows = sorted({p.key[0] for p in found}), sorted({p.key[1] for p in found})
    grid = np.full((len(rows), len(columns)), np.nan)
    for point in found:
        grid[rows.index(point.key[1]), columns.index(point.key[0])] = point.mean
    image = axes.imshow(grid, origin="lower", cmap=ACCURACY, vmin=limits[0], vmax=limits[1], aspect="auto")
    for point in found:
        place = columns.index(point.key[0]), rows.index(point.key[1])
        colour = "black" if point.mean > limits[0] + 0.55 * (limits[1] - limits[0]) else "white"
        text = f"{point.mean:.2f}\n[{point.low:.2f}, {point.high:.2f}]"
        axes.text(*place, text, ha="center", va="center", fontsize=5.5, color=colour)
    axes.set_xticks(range(len(columns)), [shown(v) for v in columns])
    axes.set_yticks(range(len(rows)), [shown(v) for v in rows])
    axes.spines[:].set_visible(False)
    axes.set(xlabel=x, ylabel=y)
    axes.set_title(title, fontsize=8, loc="left")
    return image


def curve(axes: Axes, x: Sequence[float], found: Sequence[Point], label: str, index: int, line: bool = True) -> None:
    """One series with its intervals, in the colour and with the marker of its index; `line` joins its points."""
    order = np.argsort(x)
    middle, low, high = (np.array([getattr(p, end) for p in found])[order] for end in ("mean", "low", "high"))
    axes.errorbar(
        np.asarray(x, dtype=float)[order],
        middle,
        yerr=[np.maximum(middle - low, 0), np.maximum(high - middle, 0)],
        color=series(index),
        marker=marker(index),
        markersize=4,
        lw=1.3,
        ls="-" if line else "none",
        capsize=2,
        elinewidth=0.9,
        label=label,
    )
    dots = [(where, value) for where, point in zip(x, found, strict=True) for value in point.seeds]
    if dots:
        axes.plot(*zip(*dots, strict=True), color=series(index), **SEEDS)


def band(axes: Axes, steps: Sequence[int], found: Sequence[Point], label: str, index: int) -> None:
    """One series over training steps, its interval as a band."""
    colour = series(index)
    axes.plot(steps, [p.mean for p in found], color=colour, lw=1.3, label=label, marker=marker(index), markersize=3)
    axes.fill_between(steps, [p.low for p in found], [p.high for p in found], color=colour, alpha=0.2, lw=0)


def bars(axes: Axes, named: Mapping[str, Point], paper: Mapping[str, float], label: str) -> None:
    """Horizontal bars with intervals, the paper's figures as diamonds beside them."""
    names = list(named)
    found = list(named.values())
    errors = [[max(p.mean - p.low, 0) for p in found], [max(p.high - p.mean, 0) for p in found]]
    axes.barh(range(len(names)), [p.mean for p in found], xerr=errors, color=series(0), alpha=0.75, height=0.6,
              error_kw={"lw": 1, "capsize": 2}, label="ours")  # fmt: skip
    dots = [(value, place) for place, point in enumerate(found) for value in point.seeds]
    if dots:
        axes.plot(*zip(*dots, strict=True), color=BLACK, **SEEDS)
    shown = [(paper[name], place) for place, name in enumerate(names) if name in paper]
    if shown:
        axes.plot(*zip(*shown, strict=True), "D", color=series(1), markersize=5, ls="none", label="paper")
        axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(label)


def scatter(axes: Axes, x: Any, y: Any, groups: Sequence[str], title: str, interval: Interval | None) -> None:
    """Runs as points by group, with the correlation and its interval."""
    x, y = np.asarray(x), np.asarray(y)
    for index, group in enumerate(dict.fromkeys(groups)):
        mine = [other == group for other in groups]
        axes.plot(x[mine], y[mine], marker(index), color=series(index), markersize=3,
                  ls="none", alpha=0.7, label=group)  # fmt: skip
    axes.set_xlabel(title)
    text = "" if interval is None or math.isnan(interval.mean) else f"r = {interval}"
    axes.set_title(text, fontsize=8, loc="left")
