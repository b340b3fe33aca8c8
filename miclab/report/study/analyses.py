"""Analyses of a study's runs: in-context learning under knockouts, zeroed inputs and other context lengths."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from miclab.circuits.find import read_name
from miclab.report.plots import BLACK, BLUE, Figure, axis_of, error_bars, faint, layout_of, rounded
from miclab.report.study.cells import StudyCells, estimates
from miclab.report.study.phases import style
from miclab.statistics.intervals import Interval
from miclab.tables import estimate

COLUMN = re.compile(r"probe\.(?P<analysis>[^.]+)\.(?P<name>.+)")
TITLES = {
    "knockout": "Heads knocked out (output set to zero)",
    "mean_knockout": "Heads knocked out (output set to its mean)",
    "uniform_knockout": "Attention patterns set to uniform",
    "ablation": "Inputs zeroed",
    "transplant": "Weights of a part from the other stage, from random places, or fresh",
    "context": "Other lengths of the context",
    "oracles": "What needs no network",
    "entropy": "How widely the circuit's heads look (1: at all positions alike)",
    "circuit": "Found circuit: its edges, its faithfulness, and its effect by the number of heads on paths",
    "cuts": "The top induction heads cut together, and as many random heads",
    "running_mean": "Layer 0 as a running mean, and where the query looks in layer 1",
    "joining": "Where each modality joins (layer, from 0), and its items hidden from a layer on",
}
LEFT_OUT = ("drift", "circuit_overlap")
"""Analyses without accuracies under interventions: claims show them."""
MEASURED = {
    "entropy": "entropy of attention on icl", "circuit": "share", "joining": "accuracy on icl, or layer",
    "running_mean": "accuracy on icl, or attention",
}  # fmt: skip
"""The quantity of an analysis, if it is not an accuracy."""
UNTOUCHED = "untouched"


@dataclass(frozen=True, kw_only=True)
class AnalysisOfStudy:
    """One kind of analysis.

    Arguments:
        name: `knockout`, `mean_knockout`, `ablation`, `context`, `oracles` or `entropy`.
        quantities: interventions in the order shown; for `context` the lengths.
        cells: for each cell that has it the accuracy on icl by quantity, with its interval.
    """

    name: str
    quantities: tuple[str, ...]
    cells: dict[int, dict[str, tuple[float, Interval | None]]]

    @property
    def title(self) -> str:
        """Its title in words."""
        return TITLES.get(self.name, self.name.replace("_", " "))


def analyses_of(cells: StudyCells) -> list[AnalysisOfStudy]:
    """Every kind of analysis that the last rows of the runs hold."""
    names: dict[str, list[str]] = {}
    for run in cells.runs:
        for column, value in (run.last or {}).items():
            match = COLUMN.fullmatch(column)
            if match and match["analysis"] not in LEFT_OUT and value is not None and not column.endswith(".sets"):
                known = names.setdefault(match["analysis"], [])
                if match["name"] not in known:
                    known.append(match["name"])
    found = []
    for analysis, quantities in names.items():
        # Untouched first, then knockouts of the circuit, single heads last; lengths in their order.
        quantities.sort(key=lambda q: (q != UNTOUCHED, q.startswith("head "), int(q) if q.isdigit() else 0, q))
        columns = {f"probe.{analysis}.{quantity}": quantity for quantity in quantities}
        by_cell = {}
        for cell, runs in enumerate(cells.members):
            rows = {run.seed: run.last for run in runs if run.last is not None}
            kept = estimates(rows, list(columns), cells.sequences)
            if kept:
                by_cell[cell] = {read_name(columns[column]): value for column, value in kept.items()}
        found.append(AnalysisOfStudy(name=analysis, quantities=tuple(map(read_name, quantities)), cells=by_cell))
    return sorted(
        found, key=lambda analysis: (list(TITLES).index(analysis.name) if analysis.name in TITLES else 9, analysis.name)
    )


def text(found: tuple[float, Interval | None] | None) -> str:
    """A mean with its interval."""
    return "" if found is None else str(estimate(*found))


def bars_figure(analysis: AnalysisOfStudy, cell: int) -> Figure:
    """Accuracy of one cell under each intervention, with intervals; the line is the untouched decoder."""
    found = analysis.cells[cell]
    shown = [q for q in analysis.quantities if q in found and q != UNTOUCHED]
    bar = {
        "type": "bar", "orientation": "h", "y": shown, "x": [rounded(found[q][0]) for q in shown],
        "marker": {"color": BLUE}, "customdata": [cell] * len(shown),
        "hovertext": [f"{q}: {text(found[q])}" for q in shown], "hovertemplate": "%{hovertext}<extra></extra>",
        "text": [f"{found[q][0]:.2f}" for q in shown], "textposition": "none",
        "error_x": error_bars([found[q] for q in shown], BLACK),
    }  # fmt: skip
    shapes, notes = [], []
    if UNTOUCHED in found:
        mean, interval = found[UNTOUCHED]
        upright = {"yref": "paper", "y0": 0, "y1": 1}
        shapes.append({"type": "line", "x0": mean, "x1": mean, "line": {"color": BLACK, "width": 1.5}, **upright})
        if interval is not None and interval.known:
            shapes.append({"type": "rect", "x0": interval.low, "x1": interval.high, "fillcolor": faint("#808080"),
                           "line": {"width": 0}, "layer": "below", **upright})  # fmt: skip
        side = "right" if mean > 0.5 else "left"
        notes.append({"x": mean, "yref": "paper", "y": 1, "yanchor": "bottom", "text": f"untouched {mean:.3f}",
                      "xanchor": side, "showarrow": False, "font": {"size": 12}})  # fmt: skip
    y = {"autorange": "reversed", "automargin": True, "ticks": "", "ticksuffix": "  ", "fixedrange": True}
    layout = layout_of(
        96 + 30 * len(shown), axis_of(MEASURED.get(analysis.name, "accuracy on icl"), range=[0, 1.03], dtick=0.2), y
    )
    more: dict[str, Any] = {"shapes": shapes, "annotations": notes, "showlegend": False, "hovermode": "closest",
                            "bargap": 0.35, "margin": {"l": 60, "r": 12, "t": 30, "b": 50}}  # fmt: skip
    return {"data": [bar], "layout": {**layout, **more, "meta": {"cells": True}}}


def context_figure(analysis: AnalysisOfStudy, cells: StudyCells) -> Figure:
    """Accuracy at each length of the context, a line with bars for each cell."""
    data: list[Figure] = []
    lengths = [q for q in analysis.quantities if q.isdigit()]
    for index, (cell, found) in enumerate(analysis.cells.items()):
        colour, dash, symbol = style(index)
        shown = [q for q in lengths if q in found]
        data.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": cells.label(cell), "x": [int(q) for q in shown],
                "y": [rounded(found[q][0]) for q in shown], "customdata": [cell] * len(shown),
                "line": {"color": colour, "width": 2, "dash": dash},
                "marker": {"color": colour, "size": 8, "symbol": symbol},
                "error_y": error_bars([found[q] for q in shown], colour),
                "hovertext": [f"{cells.label(cell)}<br>{q} examples: {text(found[q])}" for q in shown],
                "hovertemplate": "%{hovertext}<extra></extra>",
            }
        )  # fmt: skip
    ticks = {"type": "log", "tickvals": [int(q) for q in lengths], "ticktext": lengths}
    layout = layout_of(380, axis_of("examples in the context", **ticks), axis_of("icl", range=[-0.02, 1.04], dtick=0.2))
    legend = {"orientation": "h", "x": 0, "y": -0.2, "xanchor": "left", "yanchor": "top"}
    return {"data": data, "layout": {**layout, "hovermode": "closest", "showlegend": True, "legend": legend,
                                     "height": 380 + 20 * len(data), "meta": {"cells": True}}}  # fmt: skip
