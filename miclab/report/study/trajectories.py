"""Curves over training by cell of a study: means over seeds with their 95 % bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from miclab.report.plots import Figure, axis_of, band_of, faint, layout_of, rounded
from miclab.report.study.cells import RunOfStudy, StudyCells, estimates, finite, shown_value
from miclab.report.study.phases import SCORES, style
from miclab.statistics.intervals import Interval
from miclab.tables import estimate

Trajectory = dict[int, tuple[float, Interval | None, int]]
"""By step: the mean over seeds, its interval, and how many seeds it is over."""


def training_panels(cells: StudyCells) -> list[tuple[str, list[int]]]:
    """Names of the panels, with their cells: one for each combination of the axes except x. A panel's lines are the
    values of x. If only x varies, there is one panel without a name."""
    x = cells.x
    rest = cells.rest(x)
    found: dict[str, list[int]] = {}
    for cell in range(len(cells.keys)):
        found.setdefault(cells.label(cell, rest) if rest else "", []).append(cell)
    return list(found.items())


def trajectories(cells: StudyCells) -> list[dict[str, Trajectory]]:
    """Each accuracy over training, for every cell."""
    return [{score: _trajectory(runs, score, cells.sequences) for score in SCORES} for runs in cells.members]


def _trajectory(runs: Sequence[RunOfStudy], score: str, sequences: int) -> Trajectory:
    rows: dict[int, dict[int, Mapping[str, Any]]] = {}
    for run in runs:
        for row in run.rows:
            if finite(row.get(score)) is not None:
                rows.setdefault(row["step"], {})[run.seed] = row
    return {step: (*estimates(rows[step], (score,), sequences)[score], len(rows[step])) for step in sorted(rows)}


def training_figure(
    cells: StudyCells, members: list[int], over: Sequence[Mapping[str, Trajectory]], score: str
) -> Figure:
    """A score over training, a line with its band for each of some cells; lines are named by x.

    Arguments:
        over: the trajectories of all cells.
    """
    data: list[Figure] = []
    for index, cell in enumerate(members):
        found = over[cell][score]
        if not found:
            continue
        colour, dash, symbol = style(index)
        name = f"{cells.x.short} = {shown_value(cells.value(cell, cells.x))}" if cells.x else score
        data += band_of(list(found), [interval for _, interval, _ in found.values()], faint(colour), legendgroup=name)
        marks = {"size": 5, "symbol": symbol, "color": colour}
        data.append(
            {
                "type": "scatter", "mode": "lines+markers" if len(found) <= 60 else "lines", "name": name,
                "legendgroup": name, "x": list(found), "y": [rounded(mean) for mean, _, _ in found.values()],
                "line": {"color": colour, "width": 2, "dash": dash}, "marker": marks, "meta": {"cell": cell},
                "hovertext": [trajectory_text(*one) for one in found.values()],
                "hovertemplate": "step %{customdata:,}: %{hovertext}<extra>" + name + "</extra>",
            }
        )  # fmt: skip
    return {"data": data, "layout": training_layout(SCORES[score])}


def training_layout(title: str, height: int = 340) -> dict[str, Any]:
    """The layout of a score over training; the page places the steps."""
    y = axis_of(title, range=[-0.02, 1.04], dtick=0.2)
    layout = layout_of(height, axis_of("training step"), y)
    return {**layout, "hovermode": "closest", "meta": {"steps": True, "cells": True},
            "showlegend": True, "margin": {"l": 56, "r": 12, "t": 34, "b": 50}}  # fmt: skip


def trajectory_text(mean: float, interval: Interval | None, seeds: int) -> str:
    """A point of a trajectory in words."""
    return f"{estimate(mean, interval)}, {seeds} seed{'' if seeds == 1 else 's'}"
