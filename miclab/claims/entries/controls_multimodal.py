"""Controls on two modalities that the paper did not run. X5 compares order with stage 1, X6 and X7 test the basis of M7
and M8, and X8 seeks the configuration behind the paper's figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from miclab.claims import paper
from miclab.claims.entries.multimodal import INTACT, KEPT_SHARE, UNTOUCHED, WITHOUT, ZEROED, lead_of_k1
from miclab.claims.evidence import Evidence, EvidenceCells, grid
from miclab.claims.registry import claim
from miclab.claims.verdict import Finding
from miclab.statistics.grid import Cell, Expression, Means, accuracy, lowest, mean, slope

STUDY = "circuit_controls"
MEAN_UNTOUCHED = "probe.mean_knockout.untouched"
MEAN_WITHOUT = {name: column.replace("knockout", "mean_knockout") for name, column in WITHOUT.items()}
CONTROLS = {name: f"probe.knockout.control of {name}" for name in WITHOUT}
SWAPPED = ("m2", "m1")
SECOND, PRIMARY, BOTH = ZEROED.values()
PAPER = {
    "M2's items zeroed": paper.value("M8", "items of m2 zeroed"),
    "M1's items zeroed": paper.value("M8", "items of m1 zeroed"),
    "no previous-token head": paper.value("M7", "previous-token head"),
    "no induction head": paper.value("M7", "induction head"),
}
COLUMNS = {
    "M2's items zeroed": (SECOND,),
    # Labels live in M1's space: zeroing `M1` may have taken them along.
    "M1's items zeroed": (PRIMARY, BOTH),
    "no previous-token head": (WITHOUT["previous-token head"],),
    "no induction head": (WITHOUT["induction head"],),
}
GAP = TOLERANCE = 0.05
"""Of accuracy."""
SHARE = "accuracy as a share of the untouched decoder's"


def _swapped(cell: Cell) -> bool:
    """Whether M1 stands next to the label."""
    return tuple(cell.order or ()) == SWAPPED


def _cells(
    rows: Evidence, columns: Sequence[str], *, heads: int, bursts: int = 0, swapped: bool | None = None
) -> EvidenceCells:
    """Cells of the study of the circuit; 0 bursts, or `swapped` None: of any."""

    def keep(cell: Cell) -> bool:
        there = cell.heads == heads and bursts in (0, cell.B)
        return there and swapped in (None, _swapped(cell))

    return grid(rows, STUDY, "heads order B", columns, where=keep)


@claim(
    "X5",
    "With M1 next to the label M1 leads, whether it is trained first or both are trained from scratch.",
    paper="none: it keeps M2 next to the label",
    criterion=(
        "M6's slopes with the order M2 M1: K1's minus K2's above 0 from scratch (next to the label decides, not "
        "who draws the classes), and above 0 after stage 1 on M1. Each with its whole 95 % interval."
    ),
    studies=("early_fusion_swapped", "diversity_swapped"),
)
def x5(rows: Evidence) -> Iterator[Finding]:
    """Slope of ICL on log2 K1 minus that on log2 K2, M1 next to the label: from scratch, and after stage 1."""
    for study, text in (
        ("early_fusion_swapped", "both modalities are trained from scratch"),
        ("diversity_swapped", "M1 is trained first"),
    ):
        cells = grid(rows, study, "K1 K2", "icl")
        yield cells.condition(lead_of_k1() > 0, "slope of ICL on log2 K1 minus slope on log2 K2", text)
        for name, other in (("K1", "K2"), ("K2", "K1")):
            alone = slope("icl", f"log2 {name}", beside=f"log2 {other}")
            yield cells.comparison(alone, f"{study}: slope of ICL on log2 {name}")


@claim(
    "X6",
    "M7 does not rest on B = 4, on zeroing, or on cutting just any head.",
    paper="none: zero knockouts at one B, no control",
    criterion=(
        "At B = 1, 2, 4: accuracy over the untouched decoder's below 0.6 for each of the two heads, with zero and "
        "with the head's mean output in its place; and, with four heads a layer, accuracy without random other "
        "heads of the same layer (mean of up to 5 draws) minus accuracy without the head above 0.05. Each with its "
        "whole 95 % interval. At B = 4 and N = 8 two labels stand in the context: copying any scores about a half."
    ),
    studies=STUDY,
)
def x6(rows: Evidence) -> Iterator[Finding]:
    """Zero and mean knockouts at each B; with four heads, against random other heads of the same layers."""
    for bursts in (1, 2, 4):
        for words, intact, without in (
            ("zero", UNTOUCHED, WITHOUT),
            ("the head's mean output", MEAN_UNTOUCHED, MEAN_WITHOUT),
        ):
            cells = _cells(rows, [intact, *without.values()], heads=1, bursts=bursts, swapped=False)
            for name, column in without.items():
                yield cells.condition(
                    mean(column) / mean(intact) < KEPT_SHARE,
                    SHARE,
                    f"B is {bursts} and {words} stands in for the {name}",
                    f"{name} cut, {words}, B = {bursts}",
                )
        cells = _cells(rows, [UNTOUCHED, *WITHOUT.values(), *CONTROLS.values()], heads=4, bursts=bursts, swapped=False)
        for name, column in WITHOUT.items():
            yield cells.condition(
                mean(CONTROLS[name]) - mean(column) > GAP,
                "accuracy without random other heads minus accuracy without the head",
                f"B is {bursts} and the {name} is one of four in its layer",
                f"{name} of four, B = {bursts}",
            )
            yield cells.comparison(accuracy(column), f"four heads, B = {bursts}: accuracy without the {name}")


@claim(
    "X7",
    "Both modalities are needed at inference, whatever B and the order of the modalities.",
    paper="none: one B, one order",
    criterion=(
        "M8's shares (accuracy with a modality's items zeroed over untouched) below 0.6, for each modality, at "
        "B = 1, 2, 4 in both orders. Each with its whole 95 % interval."
    ),
    studies=STUDY,
)
def x7(rows: Evidence) -> Iterator[Finding]:
    """M8's shares at each B and in both orders."""
    for swapped, name in ((False, "M2"), (True, "M1")):
        for bursts in (1, 2, 4):
            cells = _cells(rows, [INTACT, *ZEROED.values()], heads=1, bursts=bursts, swapped=swapped)
            place = f"{name} stands next to the label and B is {bursts}"
            for modality, column in (("M2", SECOND), ("M1", PRIMARY)):
                yield cells.condition(
                    mean(column) / mean(INTACT) < KEPT_SHARE,
                    SHARE,
                    f"{place}, {modality}'s items zeroed",
                    f"{modality} zeroed, {name} last, B = {bursts}",
                )
            for what, column in (("untouched", INTACT), *ZEROED.items()):
                yield cells.comparison(accuracy(column), f"{place}: {what}")


def _distances(means: Means, figure: str) -> NDArray[np.floating]:
    return np.min([np.abs(means[column] - PAPER[figure]) for column in COLUMNS[figure]], axis=0)


def distance_of(*figures: str) -> Expression:
    """The largest distance of any of the paper's figures in every cell [..., cell]."""
    return Expression(lambda cells: lambda means: np.max([_distances(means, figure) for figure in figures], axis=0))


@claim(
    "X8",
    "A configuration that the paper may have used gives its figures of M7 and M8.",
    paper="0.336 and 0.063 with M2 and M1 zeroed; 0.199 and 0.062 without the two heads",
    criterion=(
        "Over B = 1, 2, 4 and both orders (one head, `rope`), M1's items zeroed with or without the labels: the "
        "configuration nearest to each figure is within 0.05 of it, and one is within 0.05 of all four. Each with "
        "its whole 95 % interval, which the choice of the nearest makes too short."
    ),
    studies=STUDY,
)
def x8(rows: Evidence) -> Iterator[Finding]:
    """For each of the paper's four figures the configuration that comes nearest to it, and that nearest to all four."""
    cells = _cells(rows, [INTACT, UNTOUCHED, *ZEROED.values(), *WITHOUT.values()], heads=1)
    for figure, value in PAPER.items():
        yield cells.condition(
            lowest(distance_of(figure)) < TOLERANCE,
            "distance of the nearest configuration",
            f"{figure} ({value}) is looked at alone",
        )
    yield cells.condition(
        lowest(distance_of(*PAPER)) < TOLERANCE,
        "largest distance of the four in the configuration nearest to all",
        "all four are looked at together",
    )
    if cells.decidable:
        for name, figures in {**{figure: (figure,) for figure in PAPER}, "all four": tuple(PAPER)}.items():
            nearest = cells.cells[int(cells.estimate(distance_of(*figures)).argmin())]
            yield f"{name}: nearest is B = {nearest.B}, {'M1' if _swapped(nearest) else 'M2'} next to the label"
