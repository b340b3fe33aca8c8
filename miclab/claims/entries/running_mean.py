"""How a decoder reads its context through a layer that averages: X24 and X25.

The criteria are those of docs/findings/running-mean.md, committed before the runs of the study.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from miclab.claims.evidence import Evidence, EvidenceCells, grid
from miclab.claims.plots.figures import need, new_figure
from miclab.claims.plots.panels import curve, points
from miclab.claims.registry import claim
from miclab.claims.verdict import Finding
from miclab.statistics.grid import mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STUDY = "running_mean"
CODES = {"rope": "rope", "none": "no position code", "learned": "learnt positions", "onehot": "one-hot positions"}
ONCE = "once: "
"""Before the conditions in whose contexts each class is shown once."""
MARGIN = 0.1
"""Of accuracy."""


def icl(name: str) -> str:
    """Column of accuracy in a condition."""
    return f"probe.running_mean.{name}"


UNTOUCHED, FALLING = icl("untouched"), icl("falling weights")
ITEMS, LABELS, BY_KEYS, BY_OTHERS = map(icl, ("items alone", "labels alone", "by keys alone", "by all but keys"))
ONCE_UNTOUCHED, ONCE_FALLING, ONCE_EQUAL, ONCE_RISING = (
    icl(ONCE + name) for name in ("untouched", "falling weights", "equal weights", "rising weights")
)
ATTENTION = {place: icl(f"attention at {place:+d}") for place in range(-7, 8)}
"""Columns of the query's attention by distance, in examples, of a label from that of the query's class."""
COLUMNS = (
    UNTOUCHED, FALLING, ITEMS, LABELS, BY_KEYS, BY_OTHERS,
    ONCE_UNTOUCHED, ONCE_FALLING, ONCE_EQUAL, ONCE_RISING, *ATTENTION.values(),
)  # fmt: skip


def attention_by_distance(rows: Evidence) -> Figure:
    """Attention of the query on labels by their distance from the own one, a curve for each position code; a panel for
    each depth."""
    cells = grid(rows, STUDY, "layers code", list(ATTENTION.values()))
    need(cells.values)
    depths = [2, 4]
    figure, axes = new_figure(len(depths))
    for place, layers in zip(axes, depths, strict=True):
        for index, (code, words) in enumerate(CODES.items()):
            mine = cells.where(layers=layers, code=code)
            found = {at: points(mine, column) for at, column in ATTENTION.items()}
            if all(found.values()):
                curve(place, list(found), [one[0] for one in found.values()], words, index)
        place.set(xlabel="examples after the query's own", ylabel="attention on the label", ylim=(-0.02, None))
        place.set_title(f"{layers} layers, layer 0 uniform, each class once", fontsize=8, loc="left")
        if place.lines:
            place.legend(frameon=False, fontsize=7)
    return figure


def _of(cells: EvidenceCells, code: str, layers: int) -> EvidenceCells:
    return cells.where(code=code, layers=layers)


@claim(
    "X24",
    "A layer that averages binds a label to its item by a running mean, whose falling weights show the order.",
    paper="none: it takes layer 1 for a previous-token head",
    criterion=(
        "Rope, two layers, one head, K = 8192, B = 4, step 1,500, layer 0 intervened on, whole intervals. Its pattern "
        "is redundant: ICL minus ICL with uniform attention is below 0.1. Its values are the items': with uniform "
        "attention, ICL minus ICL with the values of items alone is below 0.1, and minus ICL with those of labels "
        "alone above 0.1. It speaks to keys: with uniform attention, ICL if layer 1's keys alone see it minus ICL if "
        "all but these keys do is above 0.2. Its falling weights (1/n) show the order: with each class of a context "
        "once, ICL with them minus ICL with equal weights is above 0.1, and ICL with equal weights minus ICL with "
        "rising ones above 0. The own label stands out: with uniform attention and each class once, the query's "
        "attention in layer 1 on its own label minus that on the label after it, and minus that on the label before "
        "it, is above 0."
    ),
    studies=STUDY,
    figure=attention_by_distance,
)
def x24(rows: Evidence) -> Iterator[Finding]:
    """Differences of ICL between interventions on layer 0, and of attention between labels."""
    everything = grid(rows, STUDY, "code layers", list(COLUMNS))
    rope = _of(everything, "rope", 2)
    yield rope.condition(mean(UNTOUCHED) - mean(FALLING) < MARGIN, "ICL minus ICL with uniform attention in layer 0",
                         "the pattern of layer 0 is uniform")  # fmt: skip
    uniform = "ICL with uniform attention minus ICL with"
    yield rope.condition(
        mean(FALLING) - mean(ITEMS) < MARGIN, f"{uniform} values of items alone", "layer 0 averages items alone"
    )
    yield rope.condition(
        mean(FALLING) - mean(LABELS) > MARGIN, f"{uniform} values of labels alone", "layer 0 averages labels alone"
    )
    yield rope.condition(
        mean(BY_KEYS) - mean(BY_OTHERS) > 2 * MARGIN,
        "ICL if the keys of layer 1 alone see the average minus ICL if all but these do",
        "only some parts of layer 1 see the average",
    )
    once = "each class is in the context once"
    yield rope.condition(
        mean(ONCE_FALLING) - mean(ONCE_EQUAL) > MARGIN, "ICL with falling weights minus ICL with equal weights", once
    )
    yield rope.condition(
        mean(ONCE_EQUAL) - mean(ONCE_RISING) > 0, "ICL with equal weights minus ICL with rising weights", once
    )
    for place, words in ((1, "after"), (-1, "before")):
        yield rope.condition(
            mean(ATTENTION[0]) - mean(ATTENTION[place]) > 0,
            "attention of the query on its own label minus that on another",
            f"the other label is the one {words} it",
        )
    for layers in (2, 4):
        for code, words in CODES.items():
            cells = _of(everything, code, layers)
            where = f"{layers} layers, {words}"
            yield cells.comparison(mean(UNTOUCHED), f"ICL, {where}")
            yield cells.comparison(mean(FALLING), f"ICL, layer 0 uniform, {where}")
            yield cells.comparison(mean(BY_KEYS), f"ICL, uniform and seen by keys of layer 1 alone, {where}")
            for column, kind in ((ONCE_UNTOUCHED, "as it is"), (ONCE_FALLING, "uniform"), (ONCE_EQUAL, "equal"),
                                 (ONCE_RISING, "rising")):  # fmt: skip
                yield cells.comparison(mean(column), f"ICL with each class once, layer 0 {kind}, {where}")


@claim(
    "X25",
    "Contexts of two classes hide how much better absolute position codes read.",
    paper="none: it gives ICL at the burstiness of training",
    criterion=(
        "Two layers, one head, K = 8192, trained at B = 4, step 1,500: ICL with each class of a context once (N = 8 "
        "classes), one-hot positions minus rope, minus the same difference at B = 4 (two classes), is above 0.1, whole "
        "interval; learnt positions likewise."
    ),
    studies=STUDY,
)
def x25(rows: Evidence) -> Iterator[Finding]:
    """The lead of absolute codes over rope with each class once, minus their lead at B = 4."""
    cells = grid(rows, STUDY, "code layers", [UNTOUCHED, ONCE_UNTOUCHED]).where(layers=2)
    for code in ("onehot", "learned"):
        both = cells.where(lambda cell, code=code: cell.code in (code, "rope"))
        lead, hidden = (mean(c, code=code) - mean(c, code="rope") for c in (ONCE_UNTOUCHED, UNTOUCHED))
        yield both.condition(
            lead - hidden > MARGIN,
            "lead over rope with each class once minus lead at a burstiness of 4",
            f"{CODES[code]} are compared with rope",
        )
        yield both.comparison(lead, f"lead over rope with each class once, {CODES[code]}")
        yield both.comparison(hidden, f"lead over rope at a burstiness of 4, {CODES[code]}")
