"""A figure for any claim: every condition and every number shown for comparison, with its interval and bounds."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

from miclab.claims.plots.figures import need
from miclab.claims.plots.panels import SEEDS
from miclab.claims.verdict import Comparison, Condition, Findings, kind_of
from miclab.statistics.intervals import Interval
from miclab.statistics.palette import BLACK, KIND_MARKERS, KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COMPARED = 24
"""Numbers shown for comparison, at most; the claim's page has all."""


def known(interval: Interval | None) -> bool:
    """Whether there is a number to draw. The figure's intervals are over seeds, so a number of one seed is not
    drawn."""
    if interval is None or interval.unit == "set":
        return False
    return math.isfinite(interval.mean + interval.low + interval.high)


def forest(findings: Findings) -> Figure:
    """The conditions of a claim, and below them the numbers shown for comparison, a line each.

    Arguments:
        findings: of the claim's rows; at least one condition or figure must be measured.
    """
    from matplotlib.figure import Figure

    conditions = [c for c in findings.conditions if known(c.measured)]
    measured = [a for a in findings.comparisons if known(a.measured)]
    compared = measured[:COMPARED]
    more = f", the first {COMPARED} of {len(measured)}" if len(measured) > COMPARED else ""
    height = 0.9 + 0.34 * (len(conditions) + len(compared)) + 0.5 * bool(compared)
    figure = Figure(figsize=(7.0, height), layout="constrained")
    parts = [part for part in (conditions, compared) if part]
    places = figure.subplots(len(parts), 1, squeeze=False, height_ratios=[len(part) for part in parts])[:, 0]
    for place, part in zip(places, parts, strict=True):
        _lines(place, part)
        place.set_xlabel("conditions: blue circle holds, orange cross fails, grey diamond is undecided"
                         if part is conditions else f"reported apart{more}", fontsize=7)  # fmt: skip
    return figure


def conditions_figure(findings: Findings) -> Figure:
    """`forest` of everything that is measured.

    Raises:
        NoRowsError: nothing is.
    """
    need(any(known(item.measured) for item in (*findings.conditions, *findings.comparisons)))
    return forest(findings)


def _lines(place: Axes, part: list[Condition] | list[Comparison]) -> None:
    for row, item in enumerate(part):
        measured = item.measured
        assert measured is not None
        # Colour and shape both show the verdict.
        kind = kind_of(item.verdict) if isinstance(item, Condition) else None
        colour, shape = (KINDS[kind], KIND_MARKERS[kind]) if kind else (BLACK, "s")
        place.plot([measured.low, measured.high], [row, row], color=colour, lw=1.4)
        if item.values:
            place.plot(item.values, [row] * len(item.values), color=colour, **SEEDS)
        place.plot(measured.mean, row, shape, color=colour, ms=4)
        if isinstance(item, Condition):
            for bound in (item.low, item.high):
                if math.isfinite(bound):
                    place.plot([bound, bound], [row - 0.4, row + 0.4], color="0.4", lw=0.8, ls=":")
    names = [f"{i.text}: {i.quantity}" if isinstance(i, Condition) else i.quantity for i in part]
    place.set_yticks(range(len(part)), ["\n".join(textwrap.wrap(name, 72)[:2]) for name in names], fontsize=6)
    place.set_ylim(len(part) - 0.4, -0.6)
    place.tick_params(axis="x", labelsize=6)
