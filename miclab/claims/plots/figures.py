"""Figures of claims and studies, drawn from rows: heat maps, curves and bars. A claim uses one of them or its own
function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from miclab import storage
from miclab.claims.evidence import At, Evidence, EvidenceCells, grid
from miclab.claims.plots import panels
from miclab.claims.plots.panels import points, scale
from miclab.config.axes import axis_name
from miclab.errors import MiclabError
from miclab.statistics.grid import Predicate
from miclab.statistics.style import DATES, STYLE, figure_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from miclab.claims.registry import Claim

Drawing = Callable[[Evidence], "Figure"]


class NoRowsError(MiclabError):
    """A figure of a claim whose studies have no rows yet."""


def new_figure(columns: int, width: float = 3.4, height: float = 2.9) -> tuple[Figure, Any]:
    """A figure with its panels side by side; sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height), layout="constrained")
    return figure, np.atleast_1d(figure.subplots(1, columns))


def need(found: object) -> None:
    """Raises NoRowsError unless there is something to draw."""
    if not found:
        raise NoRowsError("none of its studies has rows in this preset. `miclab reproduce` makes them.")


def accuracy_axis(place: Any, **texts: str) -> None:
    """The limits of a panel whose y axis is an accuracy, with its texts."""
    place.set(ylim=(-0.02, 1.02), **texts)


def heatmaps(places: Sequence[tuple[str, str, str]], *, x: str, y: str, at: At = "last") -> Drawing:
    """A heat map for each (study, score, title).

    Arguments:
        x: short name of the axis from left to right.
        y: of that from bottom to top.
        at: which row stands for a run.
    """

    def draw(rows: Evidence) -> Figure:
        found = [points(grid(rows, study, f"{x} {y}", score, at=at), score) for study, score, _ in places]
        need(any(found))
        widest = max(len({p.key[0] for p in cells}) for cells in found)
        figure, axes = new_figure(len(places), 1.4 + 0.62 * widest)
        for place, cells, (_, _, title) in zip(axes, found, places, strict=True):
            if cells:
                image = panels.heatmap(place, cells, title, axis_name(x), axis_name(y))
                figure.colorbar(image, ax=place, label="accuracy", shrink=0.8)
        return figure

    return draw


def curves(studies: str, *, x: str, by: str = "", scores: str = "icl", at: At = "last") -> Drawing:
    """A panel for each score: curves over `x`, one for each value of `by`.

    Arguments:
        studies: names of studies, separated by spaces.
        x: short name of the axis from left to right.
        by: of that which distinguishes the curves; empty: there is one curve.
        scores: columns, separated by spaces.
        at: which row stands for a run: `common` among those of one curve.
    """

    def draw(rows: Evidence) -> Figure:
        names = scores.split()
        figure, axes = new_figure(len(names))
        keys = f"{by} {x}" if by else x
        planned = grid(rows, studies, keys, ()).keys
        drawn = 0
        for place, score in zip(axes, names, strict=True):
            for index, series in enumerate(dict.fromkeys(key[:-1] for key in planned)):
                cells = grid(rows, studies, keys, score, at=at, where=lambda cell, s=series: cell.key[:-1] == s)
                found = points(cells, score)
                if found:
                    label = ", ".join(_series(by, value) for value in series)
                    panels.curve(place, [p.key[-1] for p in found], found, label, index)
                    drawn += 1
            scale(place, x, [key[-1] for key in planned])
            accuracy_axis(place, xlabel=axis_name(x), ylabel=score.upper())
            if by and place.lines:
                place.legend(frameon=False, fontsize=7)
        need(drawn)
        return figure

    return draw


def curves_of(
    cells_of: Callable[[Evidence], EvidenceCells], kinds: Mapping[str, Predicate], *, x: str, scores: str = "icl"
) -> Drawing:
    """A panel for each score: curves over `x`, one for each kind of cell.

    Arguments:
        cells_of: the cells, with all scores.
        kinds: the name of each curve and the cells that lie on it, at most one for each value of `x`.
        x: short name of the axis from left to right.
        scores: columns, separated by spaces.
    """

    def draw(rows: Evidence) -> Figure:
        names, cells = scores.split(), cells_of(rows)
        figure, axes = new_figure(len(names))
        need(cells.values)
        for place, score in zip(axes, names, strict=True):
            for index, (label, kind) in enumerate(kinds.items()):
                found = points(cells.where(kind), score)
                if found:
                    panels.curve(place, [p.key[cells.axes.index(x)] for p in found], found, label, index)
            scale(place, x, list(cells.axis(x)))
            accuracy_axis(place, xlabel=axis_name(x), ylabel=score.upper())
            place.legend(frameon=False, fontsize=7)
        return figure

    return draw


def _series(axis: str, value: Any) -> str:
    return value if isinstance(value, str) else f"{axis_name(axis).split(',')[0]} = {value:g}"


def bars(study: str, axes: str, columns: Mapping[str, str], paper: Mapping[str, Any]) -> Drawing:
    """A bar for each column of the only cell of a study, the paper's figures beside them.

    Arguments:
        columns: name of each bar and its column.
        paper: the paper's figures by the names of their bars.
    """

    def draw(rows: Evidence) -> Figure:
        figure, (place,) = new_figure(1, 5.2, 2.4)
        cells = grid(rows, study, axes, list(columns.values()))
        need(cells.values)
        found = {name: points(cells, column)[0] for name, column in columns.items()}
        panels.bars(place, found, paper, "accuracy on novel classes")
        place.set_xlim(0, 1.02)
        return figure

    return draw


def write(make: Callable[[], Figure], title: str, folder: Path, stem: str, kinds: Sequence[str]) -> list[Path]:
    """Writes a figure, the same bytes from the same rows.

    Arguments:
        make: draws it.
        title: a line above it.
        stem: the files' name without ending.
        kinds: endings: `pdf`, `svg`, `png`.
    """
    import matplotlib as mpl

    # Axes take part of their style when they are made and part when the file is written.
    with mpl.rc_context(STYLE):
        figure = make()
        figure.suptitle(title, fontsize=8, x=0.01, ha="left")
        written = []
        for kind in kinds:
            path = folder / f"{stem}.{kind}"
            dpi = 160 if kind == "png" else None
            storage.write_bytes(path, figure_bytes(figure, kind, metadata=DATES[kind], dpi=dpi))
            written.append(path)
    return written


def draw(evidence: Evidence, claim: Claim, folder: Path, kinds: Sequence[str] = ("pdf", "svg")) -> list[Path]:
    """Writes a claim's figure.

    Raises:
        NoRowsError: the studies of the claim have no rows.
    """
    title = f"{claim.id}, preset {evidence.profile}; 95 % intervals over {claim.theme.over}"
    return write(lambda: claim.draw(evidence), title, folder, f"{claim.id}-{evidence.profile}", kinds)
