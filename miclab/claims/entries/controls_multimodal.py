"""Controls that the paper did not run, on two modalities: X5 (order against stage 1), X6 and X7 (what M7 and M8 rest
on), X8 (which configuration gives the paper's figures)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from miclab.claims.entries.multimodal import (
    INTACT,
    KEPT_SHARE,
    PRIMARY,
    SECONDARY,
    UNTOUCHED,
    WITHOUT,
    ZEROED,
    first,
    share,
)
from miclab.claims.evidence import Cells, Evidence, Key, Means
from miclab.claims.statistics import contrast, fit, weighted
from miclab.claims.verdict import Apart, Entry, Findings

STUDY = "circuit_controls"
AXES = ("decoder.heads", "sequence.order", "sequence.burstiness")
MEAN_UNTOUCHED = "probe.mean_knockout.untouched"
MEAN_WITHOUT = {name: column.replace("knockout", "mean_knockout") for name, column in WITHOUT.items()}
CONTROLS = {name: f"probe.knockout.control of {name}" for name in WITHOUT}
SWAPPED = ("m2", "m1")
PAPER = {
    "M2's items zeroed": 0.336,
    "M1's items zeroed": 0.063,
    "no previous-token head": 0.199,
    "no induction head": 0.062,
}
GAP = TOLERANCE = 0.05
"""Of accuracy."""


def judge_x5(evidence: Evidence) -> Findings:
    """Slope of ICL on log2 K1 minus that on log2 K2, M1 next to the label: from scratch, and after stage 1."""
    conditions, apart = [], []
    for study, clause in (
        ("early_fusion_swapped", "both modalities are trained from scratch"),
        ("diversity_swapped", "M1 is trained first"),
    ):
        cells = evidence.cells((study,), (PRIMARY, SECONDARY), ("icl",))
        axes = {"log2 K1": np.log2(cells.column(0)), "log2 K2": np.log2(cells.column(1))}
        one, two = fit(axes, "log2 K1"), fit(axes, "log2 K2")
        conditions.append(
            contrast(cells, lambda m, w=one - two: weighted(m["icl"], w),
                     "slope of ICL on log2 K1 minus slope on log2 K2", clause=clause, low=0.0)
        )  # fmt: skip
        for name, weights in (("K1", one), ("K2", two)):
            apart.append(
                Apart(quantity=f"{study}: slope of ICL on log2 {name}",
                      measured=cells.interval(lambda m, w=weights: weighted(m["icl"], w)))
            )  # fmt: skip
    return Findings(conditions=tuple(conditions), apart=tuple(apart))


def _cells(evidence: Evidence, columns: list[str], keep: Callable[[int, tuple[str, ...], int], bool]) -> Cells:
    """Cells of the study of the circuit; `keep` is asked with heads, order (empty: M1 first) and B."""

    def where(key: Key) -> bool:
        order = tuple(key[1] or ())
        return keep(key[0], order if order == SWAPPED else (), key[2])

    return evidence.cells((STUDY,), AXES, columns, where=where)


def judge_x6(evidence: Evidence) -> Findings:
    """Zero and mean knockouts at each B; with four heads, against random other heads of the same layers."""
    conditions, apart = [], []
    for bursts in (1, 2, 4):
        for told, intact, without in (
            ("zero", UNTOUCHED, WITHOUT),
            ("the head's mean output", MEAN_UNTOUCHED, MEAN_WITHOUT),
        ):
            cells = _cells(
                evidence, [intact, *without.values()], lambda h, o, b, want=bursts: (h, o, b) == (1, (), want)
            )
            for name, column in without.items():
                conditions.append(
                    contrast(cells, share(column, intact), "accuracy as a share of the untouched decoder's",
                             clause=f"B is {bursts} and {told} stands in for the {name}", high=KEPT_SHARE)
                )  # fmt: skip
        cells = _cells(
            evidence, [UNTOUCHED, *WITHOUT.values(), *CONTROLS.values()],
            lambda h, o, b, want=bursts: (h, o, b) == (4, (), want),
        )  # fmt: skip
        for name, column in WITHOUT.items():
            conditions.append(
                contrast(cells, lambda m, c=CONTROLS[name], w=column: first(c)(m) - first(w)(m),
                         "accuracy without random other heads minus accuracy without the head",
                         clause=f"B is {bursts} and the {name} is one of four in its layer", low=GAP)
            )  # fmt: skip
            apart.append(
                Apart(quantity=f"four heads, B = {bursts}: accuracy without the {name}",
                      measured=cells.interval(first(column)))
            )  # fmt: skip
    return Findings(conditions=tuple(conditions), apart=tuple(apart))


def judge_x7(evidence: Evidence) -> Findings:
    """M8's shares at each B and in both orders."""
    conditions, apart = [], []
    second, primary, _ = ZEROED.values()
    for order, told in (((), "M2"), (SWAPPED, "M1")):
        for bursts in (1, 2, 4):
            cells = _cells(
                evidence, [INTACT, *ZEROED.values()],
                lambda h, o, b, want=bursts, order=order: (h, o, b) == (1, order, want),
            )  # fmt: skip
            where = f"{told} stands next to the label and B is {bursts}"
            for name, column in (("M2", second), ("M1", primary)):
                conditions.append(
                    contrast(cells, share(column, INTACT), "accuracy as a share of the untouched decoder's",
                             clause=f"{where}, {name}'s items zeroed", high=KEPT_SHARE)
                )  # fmt: skip
            for name, column in (("untouched", INTACT), *ZEROED.items()):
                apart.append(Apart(quantity=f"{where}: {name}", measured=cells.interval(first(column))))
    return Findings(conditions=tuple(conditions), apart=tuple(apart))


def judge_x8(evidence: Evidence) -> Findings:
    """For each of the paper's four figures the configuration that comes nearest to it, and that nearest to all four."""
    second, primary, both = ZEROED.values()
    columns = {
        "M2's items zeroed": (second,),
        # Labels live in M1's space: zeroing `M1` may have taken them along.
        "M1's items zeroed": (primary, both),
        "no previous-token head": (WITHOUT["previous-token head"],),
        "no induction head": (WITHOUT["induction head"],),
    }
    cells = _cells(
        evidence, [INTACT, UNTOUCHED, *ZEROED.values(), *WITHOUT.values()], lambda heads, order, bursts: heads == 1
    )

    def distances(means: Means, figure: str) -> NDArray[np.floating]:
        return np.min([np.abs(means[column] - PAPER[figure]) for column in columns[figure]], axis=0)

    def worst(means: Means) -> NDArray[np.floating]:
        return np.max([distances(means, figure) for figure in PAPER], axis=0)

    conditions = [
        contrast(cells, lambda m, f=figure: distances(m, f).min(-1), "distance of the nearest configuration",
                 clause=f"{figure} ({value}) is looked at alone", high=TOLERANCE)
        for figure, value in PAPER.items()
    ]  # fmt: skip
    conditions.append(
        contrast(cells, lambda m: worst(m).min(-1), "largest distance of the four in the configuration nearest to all",
                 clause="all four are looked at together", high=TOLERANCE)
    )  # fmt: skip
    notes = []
    if cells.decidable:
        means = cells.draws[0]
        for figure in PAPER:
            notes.append(f"{figure}: nearest is {_told(cells.keys[int(distances(means, figure).argmin())])}")
        notes.append(f"all four: nearest is {_told(cells.keys[int(worst(means).argmin())])}")
    return Findings(conditions=tuple(conditions), notes=tuple(notes))


def _told(key: Key) -> str:
    order = "M1" if tuple(key[1] or ()) == SWAPPED else "M2"
    return f"B = {key[2]}, {order} next to the label"


ENTRIES = (
    Entry(
        id="X5",
        statement="With M1 next to the label M1 leads, whether it is trained first or both are trained from scratch.",
        paper="none: it keeps M2 next to the label",
        criterion=(
            "M6's slopes with the order M2 M1: K1's minus K2's above 0 from scratch (next to the label decides, not "
            "who draws the classes), and above 0 after stage 1 on M1. Each with its whole 95 % interval."
        ),
        studies=("early_fusion_swapped", "diversity_swapped"),
        judge=judge_x5,
    ),
    Entry(
        id="X6",
        statement="M7 does not rest on B = 4, on zeroing, or on cutting just any head.",
        paper="none: zero knockouts at one B, no control",
        criterion=(
            "At B = 1, 2, 4: accuracy over the untouched decoder's below 0.6 for each of the two heads, with zero and "
            "with the head's mean output in its place; and, with four heads a layer, accuracy without random other "
            "heads of the same layer (mean of up to 5 draws) minus accuracy without the head above 0.05. Each with its "
            "whole 95 % interval. At B = 4 and N = 8 two labels stand in the context: copying any scores about a half."
        ),
        studies=(STUDY,),
        judge=judge_x6,
    ),
    Entry(
        id="X7",
        statement="Both modalities are needed at inference, whatever B and the order of the modalities.",
        paper="none: one B, one order",
        criterion=(
            "M8's shares (accuracy with a modality's items zeroed over untouched) below 0.6, for each modality, at "
            "B = 1, 2, 4 in both orders. Each with its whole 95 % interval."
        ),
        studies=(STUDY,),
        judge=judge_x7,
    ),
    Entry(
        id="X8",
        statement="A configuration that the paper may have used gives its figures of M7 and M8.",
        paper="0.336 and 0.063 with M2 and M1 zeroed; 0.199 and 0.062 without the two heads",
        criterion=(
            "Over B = 1, 2, 4 and both orders (one head, `rope`), M1's items zeroed with or without the labels: the "
            "configuration nearest to each figure is within 0.05 of it, and one is within 0.05 of all four. Each with "
            "its whole 95 % interval, which the choice of the nearest makes too short."
        ),
        studies=(STUDY,),
        judge=judge_x8,
    ),
)
