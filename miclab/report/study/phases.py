"""Phase diagrams of a study: heat maps over its two leading numeric axes, or curves over one, and the crossing of a
threshold by ICL. Every mark carries the number of its cell, by which the page finds the cell's runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from miclab.report.plots import (
    BLACK,
    DASHES,
    LINES,
    SPLIT_WORDS,
    Figure,
    axis_of,
    band_of,
    error_bars,
    faint,
    layout_of,
    rounded,
)
from miclab.report.study.cells import Axis, StudyCells, Value, shown_value
from miclab.statistics.palette import ACCURACY
from miclab.tables import estimate

SCORES = {split: SPLIT_WORDS[split] for split in ("icl", "iwl", "swapped", "train")}
"""Accuracies in a run's rows, in words."""
LIFT = 9
"""Pixels by which a cell's number is above its middle, where the line of the threshold may be."""
DIAGRAMS = ("icl", "iwl", "swapped")
"""Scores that have a phase diagram."""
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x")
BLANK = {"not planned": "·", "not run yet": "not run"}
"""The text of a cell without a value, by its reason; for any other reason `failed` or `no row`."""


def style(index: int) -> tuple[str, str, str]:
    """Colour, dash and marker of the series of an index."""
    return LINES[index % len(LINES)], DASHES[index // len(LINES) % len(DASHES)], SYMBOLS[index % len(SYMBOLS)]


def panels(cells: StudyCells) -> list[tuple[Value, ...]]:
    """The panels of phase diagrams: planned combinations of the axes other than x and y."""
    rest = cells.rest(cells.x, cells.y)
    found = [tuple(cells.value(cell, axis) for axis in rest) for cell in range(len(cells.keys))]
    return list(dict.fromkeys(found))


def panel_name(cells: StudyCells, panel: tuple[Value, ...]) -> str:
    """A panel in words; empty if it is the only one."""
    rest = cells.rest(cells.x, cells.y)
    return ", ".join(f"{axis.short} = {shown_value(value)}" for axis, value in zip(rest, panel, strict=True))


def in_panel(cells: StudyCells, panel: tuple[Value, ...]) -> list[int]:
    """Cells of a panel."""
    rest = cells.rest(cells.x, cells.y)
    return [c for c in range(len(cells.keys)) if tuple(cells.value(c, axis) for axis in rest) == panel]


def cell_text(cells: StudyCells, cell: int, score: str) -> str:
    """A cell's mean with its interval, its seeds, and what is missing, in words."""
    found = cells.scores[cell].get(score)
    runs = cells.members[cell]
    if found is None:
        return cells.blank(cell) or "not measured"
    seeds = sum(run.row is not None for run in runs)
    noun = "seed" if seeds == 1 else "seeds"
    return f"{estimate(*found)}, {seeds} {noun}{'' if found[1] else ' (no interval)'}{trouble(cells, cell)}"


def trouble(cells: StudyCells, cell: int) -> str:
    """How many runs of a cell failed or are missing, as a remark after its numbers."""
    runs = cells.members[cell]
    counts = {s: sum(run.status == s for run in runs) for s in ("failed", "missing")}
    return "".join(f", {n} {status}" for status, n in counts.items() if n)


def _ink(score: float) -> str:
    """The colour of a text on the scale's colour of a score."""
    return "#000000" if score > 0.5 else "#fdfdfd"


def _blank_mark(reason: str) -> str:
    return BLANK.get(reason, "no row" if reason.startswith("no row") else "failed")


def heatmap_figure(
    cells: StudyCells, score: str, panel: tuple[Value, ...], x: Axis, y: Axis, threshold: float
) -> Figure:
    """A score over two axes in one panel, with the line at which ICL passes the threshold.

    Cells are at 0, 1, 2 ... in the order of their values, so the line between two neighbours is linear in that place.
    """
    at = {(cells.value(c, x), cells.value(c, y)): c for c in in_panel(cells, panel)}
    grid: dict[str, list[list[Any]]] = {"z": [], "line": [], "hover": [], "cell": []}
    notes: list[dict[str, Any]] = []
    for row, below in enumerate(y.values):
        for name in grid.values():
            name.append([])
        for column, left in enumerate(x.values):
            cell = at.get((left, below))
            found = None if cell is None else cells.scores[cell].get(score)
            icl = None if cell is None else cells.scores[cell].get("icl")
            where = f"{x.short} = {shown_value(left)}, {y.short} = {shown_value(below)}"
            remark = "not planned" if cell is None else cell_text(cells, cell, score)
            mark = "" if cell is None or not trouble(cells, cell) else "*"
            grid["z"][-1].append(rounded(found[0]) if found else None)
            grid["line"][-1].append(rounded(icl[0], 6) if icl else None)
            grid["hover"][-1].append(f"{where}<br>{score} {remark}")
            grid["cell"][-1].append(-1 if cell is None else cell)
            # Plotly's own texts in heatmaps have too little contrast in the middle of the scale.
            text, colour = (f"{found[0]:.2f}{mark}", _ink(found[0])) if found else (_blank_mark(remark), "#5f5f5f")
            font = {"size": 12 if found else 10.5, "color": colour}
            notes.append({"x": column, "y": row, "text": text, "showarrow": False, "font": font, "yshift": LIFT})
    heat = {
        "type": "heatmap", "z": grid["z"], "hovertext": grid["hover"], "customdata": grid["cell"],
        "hovertemplate": "%{hovertext}<extra></extra>", "colorscale": ACCURACY.capitalize(), "zmin": 0,
        "zmax": 1, "xgap": 2, "ygap": 2, "hoverongaps": True,
        "colorbar": {"thickness": 10, "len": 1, "outlinewidth": 0, "dtick": 0.5, "tickfont": {"size": 11}},
    }  # fmt: skip
    data = [heat]
    if len(x.values) > 1 and len(y.values) > 1:
        # A white line within a dark one is visible on every colour of the scale.
        for colour, width in ((BLACK, 5), ("#fdfdfd", 2.5)):
            level = {"start": threshold, "end": threshold, "size": 1, "coloring": "none"}
            line = {"color": colour, "width": width, "smoothing": 0}
            data.append(
                {"type": "contour", "z": grid["line"], "contours": level, "line": line, "showscale": False,
                 "showlegend": False, "hoverinfo": "skip", "connectgaps": False}
            )  # fmt: skip
    return {"data": data, "layout": _heat_layout(score, x, y, notes)}


def _heat_layout(score: str, x: Axis, y: Axis, notes: list[dict[str, Any]]) -> dict[str, Any]:
    def ticks(axis: Axis) -> dict[str, Any]:
        # A little room keeps whole cells inside.
        span = [-0.52, len(axis.values) - 0.48]
        texts = [shown_value(v) for v in axis.values]
        return {"tickvals": list(range(len(texts))), "ticktext": texts, "showgrid": False, "range": span,
                "fixedrange": True, "ticks": ""}  # fmt: skip

    height = 118 + 46 * max(3, min(8, len(y.values)))
    layout = layout_of(height, axis_of(x.name, **ticks(x)), axis_of(y.name, **ticks(y)), annotations=notes)
    title = {"text": SCORES[score], "x": 0, "xref": "paper", "xanchor": "left", "y": 0.97, "yanchor": "top"}
    return {**layout, "title": {**title, "font": {"size": 14}}, "plot_bgcolor": "#ececec", "hovermode": "closest",
            "margin": {"l": 56, "r": 8, "t": 38, "b": 48}, "meta": {"cells": True}}  # fmt: skip


def places(axis: Axis) -> dict[Value, float]:
    """Places of an axis' values in a curve: numbers at their value (log2 in doublings), others side by side."""
    if not axis.numeric:
        return {value: float(place) for place, value in enumerate(axis.values)}
    return {value: math.log2(value) if axis.doubling else float(value) for value in axis.values}


def curve_figure(cells: StudyCells, score: str, threshold: float) -> Figure:
    """A score over the study's one leading axis: a line with a 95 % band for each combination of the other axes. If the
    axis has no order, or a value has no neighbour, there are marks with bars."""
    x = cells.x
    at = places(x) if x else {None: 0.0}
    data: list[Figure] = []
    for index, panel in enumerate(panels(cells)):
        colour, dash, symbol = style(index)
        found = [(at[cells.value(c, x) if x else None], c) for c in in_panel(cells, panel)]
        found = sorted((place, c) for place, c in found if score in cells.scores[c])
        means = [(place, *cells.scores[c][score]) for place, c in found]
        joined = x is not None and x.numeric and len(means) > 1
        if joined:
            data += band_of([p for p, _, _ in means], [i for _, _, i in means], faint(colour))
        errors = error_bars([(m, i) for _, m, i in means], colour, visible=not joined)
        data.append(
            {
                "type": "scatter", "mode": "lines+markers" if joined else "markers",
                "name": panel_name(cells, panel) or score, "x": [p for p, _, _ in means],
                "y": [rounded(m) for _, m, _ in means], "line": {"color": colour, "width": 2, "dash": dash},
                "marker": {"color": colour, "size": 8, "symbol": symbol}, "error_y": errors,
                "customdata": [c for _, c in found], "hovertemplate": "%{hovertext}<extra></extra>",
                "hovertext": [f"{cells.label(c)}<br>{score} {cell_text(cells, c, score)}" for _, c in found],
            }
        )  # fmt: skip
    return {"data": data, "layout": _curve_layout(cells, score, at, threshold)}


def _curve_layout(cells: StudyCells, score: str, at: dict[Value, float], threshold: float) -> dict[str, Any]:
    x, low, high = cells.x, min(at.values()), max(at.values())
    room = 0.06 * (high - low) or 0.5
    ticks = {"tickvals": list(at.values()), "ticktext": [shown_value(v) if x else "" for v in at]}
    across = axis_of(x.name if x else "", range=[low - room, high + room], **ticks)
    layout = layout_of(360, across, axis_of("accuracy", range=[-0.02, 1.04], dtick=0.2))
    title = {"text": SCORES[score], "x": 0, "xref": "paper", "xanchor": "left", "y": 0.98, "yanchor": "top"}
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": threshold, "y1": threshold, "layer": "below",
            "line": {"color": "#8a8a8a", "width": 1.5, "dash": "dot"}}  # fmt: skip
    many = len(panels(cells))
    legend = {"orientation": "h", "x": 0, "y": -0.22, "xanchor": "left", "yanchor": "top"}
    return {
        **layout, "title": {**title, "font": {"size": 14}}, "hovermode": "closest", "showlegend": many > 1,
        "height": 360 + 20 * (many if many > 1 else 0), "shapes": [line] if score == "icl" else [], "legend": legend,
        "margin": {"l": 56, "r": 12, "t": 38, "b": 52}, "meta": {"cells": True},
    }  # fmt: skip


def crossings(values: Sequence[tuple[Value, float | None]], axis: Axis, threshold: float) -> list[float]:
    """Places at which a score crosses a threshold along an axis, between neighbours that have values. Interpolation is
    linear in accuracy; on the axis it is linear, or in log2 where the axis is drawn in doublings. Neighbours are those
    of the axis, not of the gaps.

    Arguments:
        values: score by value of the axis, in the axis' order; None if there is none.
    """
    at, found = places(axis), []
    for (left, below), (right, above) in pairwise(values):
        if below is None or above is None or (below < threshold) == (above < threshold):
            continue
        place = at[left] + (threshold - below) / (above - below) * (at[right] - at[left])
        found.append(2**place if axis.doubling else place)
    return found


def crossing_rows(cells: StudyCells, threshold: float) -> list[tuple[str, list[float], str]]:
    """For every line of cells along x: its values, the place where ICL crosses the threshold, and the same in words."""
    x = cells.x
    if x is None or not x.numeric or len(x.values) < 2:
        return []
    lines: dict[str, dict[Value, float]] = {}
    for cell in range(len(cells.keys)):
        line = lines.setdefault(cells.label(cell, cells.rest(x)) if cells.rest(x) else "all", {})
        if "icl" in cells.scores[cell]:
            line[cells.value(cell, x)] = cells.scores[cell]["icl"][0]
    found = []
    for name, scores in lines.items():
        at = crossings([(value, scores.get(value)) for value in x.values], x, threshold)
        if at:
            remark = " and ".join(f"{x.short} = {value:{',.0f' if value >= 100 else '.3g'}}" for value in at)
        elif not scores:
            remark = "no rows"
        else:
            side = "below" if max(scores.values()) < threshold else "at or above"
            mixed = min(scores.values()) < threshold <= max(scores.values())
            remark = "between values that are not neighbours" if mixed else f"{side} it everywhere"
        found.append((name, at, remark))
    return found
