"""Measures against in-context learning over the runs of a study: values, correlations, and the scatter's frame."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from miclab.circuits.find import measure_of
from miclab.measures.registry import describe
from miclab.report.plots import Figure, axis_of, layout_of, rounded
from miclab.report.study.cells import RunOfStudy, StudyCells, finite, shown_value
from miclab.report.study.phases import style
from miclab.statistics.correlation import Correlation, correlate

ALIGNMENT = re.compile(r"alignment\.(?P<modality>.+)\.(?P<kind>cka|distance)")
ALIGNMENT_WORDS = {
    "cka": ("CKA with the host", "debiased, projected items against host prototypes of the same label"),
    "distance": ("L2 distance to the host", "mean distance of projected items to host prototypes of the same label"),
}
CONTEXT = "cla.icl"
"""Column of the share of answers that are a label of the context."""


@dataclass(frozen=True, kw_only=True)
class MeasureOfRuns:
    """One measure over the runs of a study.

    Arguments:
        name: its name in the table, with the layer for measures of heads.
        title: in words.
        text: its explanation.
        values: by index of the run; None if a run has none.
        correlation: with ICL.
    """

    name: str
    title: str
    text: str
    values: Sequence[float | None]
    correlation: Correlation

    @property
    def rank(self) -> float:
        """Size of Pearson's coefficient; -1 if there is none."""
        return abs(self.correlation.pearson) if np.isfinite(self.correlation.pearson) else -1.0


def _groups(columns: Sequence[str]) -> dict[str, tuple[str, str, list[str]]]:
    """Title, text and columns of every measure. Among several heads of a layer the strongest counts, as in the ledger.
    For entropies that is the lowest, which is the sharpest."""
    found: dict[str, tuple[str, str, list[str]]] = {}
    for column in columns:
        if place := measure_of(column):
            measure, (layer, _) = place
            title, text = describe(measure)
            found.setdefault(f"{measure}.{layer}", (f"{title}, layer {layer}", text, []))[2].append(column)
        elif match := ALIGNMENT.fullmatch(column):
            title, text = ALIGNMENT_WORDS[match["kind"]]
            found[column] = (f"{title} ({match['modality']})", text, [column])
        elif column == CONTEXT:
            found[column] = ("Answers from the context (CLA)", "share of answers that are a label of the context",
                             [column])  # fmt: skip
    return found


def _strongest(row: Mapping[str, Any] | None, columns: Sequence[str], lowest: bool) -> float | None:
    values = [v for c in columns if row is not None and (v := finite(row.get(c))) is not None]
    if not values:
        return None
    return min(values) if lowest else max(values)


def measures_of_runs(cells: StudyCells) -> list[MeasureOfRuns]:
    """Every measure of the runs' rows, the one with the highest correlation with ICL first."""
    rows = [run.row for run in cells.runs]
    columns = list(dict.fromkeys(name for row in rows if row is not None for name in row))
    icl = [None if row is None else finite(row.get("icl")) for row in rows]
    found = []
    for name, (title, text, group) in _groups(columns).items():
        lowest = "entropy" in name
        values = [_strongest(row, group, lowest) for row in rows]
        kept = [(v, score, run.cell) for v, score, run in zip(values, icl, cells.runs, strict=True)
                if v is not None and score is not None]  # fmt: skip
        if not kept:
            continue
        x, y, cell = (np.array(part) for part in zip(*kept, strict=True))
        if max(sum(row.get(c) is not None for c in group) for row in rows if row is not None) > 1:
            title += f" ({'lowest' if lowest else 'highest'} of its heads)"
        found.append(MeasureOfRuns(name=name, title=title, text=text, values=values, correlation=correlate(x, y, cell)))
    return sorted(found, key=lambda measure: (-measure.rank, measure.title))


def _series(cells: StudyCells) -> dict[str, list[int]]:
    """Runs with a row, by the series that they are drawn in: by the y axis, or by the axes except x."""
    axes = (cells.y,) if cells.y is not None else cells.rest(cells.x)
    found: dict[str, list[int]] = {}
    for index, run in enumerate(cells.runs):
        if run.row is not None:
            found.setdefault(cells.label(run.cell, axes) if axes else "runs", []).append(index)
    return found


def run_text(cells: StudyCells, run: RunOfStudy) -> str:
    """A run in words: its cell, its seed and the start of its hash."""
    return f"{cells.label(run.cell)}, seed {shown_value(run.seed)} ({run.hash[:12]})"


def scatter_figure(cells: StudyCells) -> Figure:
    """The frame of the scatter of a measure against ICL: a point for each run; the page fills in the measure."""
    data = []
    series = _series(cells)
    for index, (name, runs) in enumerate(series.items()):
        colour, _, symbol = style(index)
        chosen = [cells.runs[i] for i in runs]
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": name, "x": [], "meta": {"runs": runs}, "customdata": runs,
                "y": [rounded(finite(run.row["icl"])) for run in chosen if run.row is not None],
                "hovertext": [run_text(cells, run) for run in chosen],
                "hovertemplate": "%{hovertext}<br>measure %{x:.3f}, icl %{y:.3f}<extra></extra>",
                "marker": {"color": colour, "symbol": symbol, "size": 9, "opacity": 0.8, "line": {"width": 0}},
            }
        )  # fmt: skip
    layout = layout_of(400, axis_of(""), axis_of("icl (novel classes)", range=[-0.03, 1.05], dtick=0.2))
    return {"data": data, "layout": {**layout, "hovermode": "closest", "showlegend": len(series) > 1,
                                     "meta": {"runs": True}}}  # fmt: skip
