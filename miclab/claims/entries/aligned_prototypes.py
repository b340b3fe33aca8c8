"""Alignment and in-context learning where pairs share more than the label: A3, with docs/findings/alignment.md.

CKA decides neither A1 nor D5, since a perfect projector reaches 0.01 there. Here prototypes of M2 are correlated with
those of their partners in M1 by rho (`miclab.worlds.class_pairs`), and it can be anything up to 1. ICL is of novel
classes, and so is CKA: training classes a projector can align by heart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from miclab.claims.evidence import Evidence, EvidenceCells, OverTraining, grid
from miclab.claims.plots import panels
from miclab.claims.plots.figures import accuracy_axis, need, new_figure
from miclab.claims.registry import claim
from miclab.claims.verdict import Finding
from miclab.statistics.grid import Cells, Expression, Means, Statistic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STUDY = "aligned_prototypes"
SHAPE = "encoder2 projector frozen"
"""What distinguishes runs of equal rho and K2."""
NOVEL, TRAINED = "alignment.m2.novel_cka", "alignment.m2.cka"
PARTS = 6
"""Parts of a training, at whose ends a run is looked at."""


def at_part(column: str, part: int) -> OverTraining:
    """A column at the end of a part of the training, counted from 1: the last row that is not beyond it."""

    def of(rows: Sequence[Mapping[str, Any]]) -> float:
        end = rows[-1]["step"] * part / PARTS
        return [row for row in rows if row["step"] <= end][-1][column]

    return OverTraining(of)


def name_of(column: str, part: int) -> str:
    """Name of the quantity that a column is at the end of a part."""
    return f"{column} {part}"


def everything(rows: Evidence) -> EvidenceCells:
    """The cells of the study, with ICL and the CKA of novel and of training classes at the end of every part."""
    columns = {name_of(c, part): at_part(c, part) for c in ("icl", NOVEL, TRAINED) for part in range(1, PARTS + 1)}
    return grid(rows, STUDY, f"rho K2 {SHAPE}", columns)


def pearson(x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.floating]:
    """Pearson's correlation along the last axis; NaN where one of the two does not vary."""
    x, y = (values - values.mean(-1, keepdims=True) for values in (x, y))
    with np.errstate(divide="ignore", invalid="ignore"):
        return (x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1))


def _over_parts(means: Means, column: str, parts: Sequence[int]) -> NDArray[np.floating]:
    """A column at the ends of some parts [..., cell, part]."""
    return np.stack([means[name_of(column, part)] for part in parts], -1)


def together(column: str, parts: Sequence[int] = range(1, PARTS + 1)) -> Expression:
    """Correlation of a column with ICL over all cells and parts."""

    def on(cells: Cells) -> Statistic:
        def of(means: Means) -> NDArray[np.floating]:
            x, y = (_over_parts(means, name, parts) for name in (column, "icl"))
            return pearson(x.reshape(*x.shape[:-2], -1), y.reshape(*y.shape[:-2], -1))

        return of

    return Expression(on)


def over_steps(column: str) -> Expression:
    """Correlation of a column with ICL over the parts of each run, the mean over cells."""
    parts = range(1, PARTS + 1)

    def on(cells: Cells) -> Statistic:
        return lambda means: pearson(_over_parts(means, column, parts), _over_parts(means, "icl", parts)).mean(-1)

    return Expression(on)


def _scatters(rows: Evidence) -> Figure:
    cells = everything(rows)
    found = list(cells.by("rho K2"))
    figure, axes = new_figure(len(found), 2.6)
    need(len(cells.values))
    for place, ((rho, classes), mine) in zip(axes, found, strict=True):
        x, y, groups = [], [], []
        for key, seeds in mine.values.items():
            encoder, projector, frozen = key[2:]
            label = f"{projector} projector{', encoder' * (encoder != 'none')}{', frozen decoder' * bool(frozen)}"
            for values in seeds.values():
                x += [float(values[name_of(NOVEL, part)].mean()) for part in range(1, PARTS + 1)]
                y += [float(values[name_of("icl", part)].mean()) for part in range(1, PARTS + 1)]
                groups += [label] * PARTS
        if x:
            panels.scatter(place, x, y, groups, "debiased CKA of novel classes", mine.over_seeds(together(NOVEL)))
        place.set_title(f"rho = {rho:g}, K2 = {classes}", fontsize=8, loc="left")
        accuracy_axis(place, ylabel="multimodal ICL")
        place.locator_params(axis="x", nbins=3)
    axes[0].legend(frameon=False, fontsize=6)
    return figure


@claim(
    "A3",
    "Where pairs share more than their label, runs that align M2 better with M1 read their context better.",
    paper="CKA below about 0.1 is named a sign of failure; no correlation is given",
    criterion=(
        "Prototypes of M2 are correlated by rho with those of their partners in M1. In each seed, Pearson correlation "
        "of M2's debiased CKA (1,024 novel classes with their partners) with ICL over the runs of equal rho and K2: "
        "all encoders, projectors and choices of trained parts, each at the ends of the six sixths of its training. "
        "Above 0 with its whole 95 % interval (Student's t over seeds); judged at each K2 and each rho above 0. "
        "Only reported: rho = 0, where novel pairs share their label alone; the correlation over steps within runs, "
        "and over last rows; that of the CKA of training classes; and the correlation across rho, since rho makes the "
        "task easier."
    ),
    studies=STUDY,
    figure=_scatters,
    meaning={
        "holds": "A reader can take CKA as a sign of what works, where pairs share more than a label.",
        "fails": "A reader should not take CKA as a sign of what works, even where alignment can be high.",
    },
)
def a3(rows: Evidence) -> Iterator[Finding]:
    """Correlation of CKA and ICL within equal rho and K2."""
    cells = everything(rows)
    quantity = "correlation of novel classes' CKA with ICL over encoders, trained parts and steps"
    for (rho, classes), mine in cells.by("rho K2"):
        where = f"rho = {rho:g}, K2 = {classes}"
        if rho:
            yield mine.condition(together(NOVEL) > 0, quantity, f"K2 is {classes} and rho is {rho:g}")
        else:
            yield mine.comparison(together(NOVEL), f"{quantity}, {where}")
        yield mine.comparison(over_steps(NOVEL), f"the same over steps within runs, {where}")
        yield mine.comparison(together(NOVEL, (PARTS,)), f"the same over last rows, {where}")
        yield mine.comparison(together(TRAINED), f"the same of training classes, {where}")
    yield cells.comparison(
        together(NOVEL, (PARTS,)), "correlation of CKA with ICL over the last rows of all rho and K2"
    )
