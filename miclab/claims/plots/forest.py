"""A figure for any claim: every condition and every figure reported apart, with its interval and bounds."""

from __future__ import annotations

import math
import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from miclab.claims.verdict import Apart, Condition, Findings
from miclab.statistics.intervals import Interval

COLOURS = {"holds": "#0072B2", "does not hold": "#D55E00", "not decided": "#666666"}
MARKERS = {"holds": "o", "does not hold": "X", "not decided": "D"}
"""Colour and shape both tell the verdict, for those who see no colours."""


def known(interval: Interval | None) -> bool:
    """Whether there is a number to draw: the figure's intervals are over seeds, so that of one seed is not."""
    if interval is None or interval.unit == "set":
        return False
    return not math.isnan(interval.mean + interval.low + interval.high)


def forest(findings: Findings) -> Figure:
    """The conditions of a claim, and below them the figures reported apart, a line each.

    Arguments:
        findings: what the claim's rows say; at least one condition or figure has to be measured.
    """
    conditions = [c for c in findings.conditions if known(c.measured)]
    apart = [a for a in findings.apart if known(a.measured)]
    height = 0.9 + 0.34 * (len(conditions) + len(apart)) + 0.5 * bool(apart)
    figure = Figure(figsize=(7.0, height), layout="constrained")
    parts = [part for part in (conditions, apart) if part]
    places = figure.subplots(len(parts), 1, squeeze=False, height_ratios=[len(part) for part in parts])[:, 0]
    for place, part in zip(places, parts, strict=True):
        _lines(place, part)
        place.set_xlabel("conditions: blue circle holds, orange cross fails, grey diamond is not decided"
                         if part is conditions else "reported apart", fontsize=7)  # fmt: skip
    return figure


def _lines(place: Axes, part: list[Condition] | list[Apart]) -> None:
    for row, item in enumerate(part):
        measured, verdict = item.measured, item.verdict if isinstance(item, Condition) else "not decided"
        assert measured is not None
        colour = COLOURS[verdict] if isinstance(item, Condition) else "#000000"
        place.plot([measured.low, measured.high], [row, row], color=colour, lw=1.4)
        place.plot(measured.mean, row, MARKERS[verdict] if isinstance(item, Condition) else "s", color=colour, ms=4)
        if isinstance(item, Condition):
            for bound in (item.low, item.high):
                if math.isfinite(bound):
                    place.plot([bound, bound], [row - 0.4, row + 0.4], color="0.4", lw=0.8, ls=":")
    names = [f"{i.clause}: {i.quantity}" if isinstance(i, Condition) else i.quantity for i in part]
    place.set_yticks(range(len(part)), ["\n".join(textwrap.wrap(name, 72)[:2]) for name in names], fontsize=6)
    place.set_ylim(len(part) - 0.4, -0.6)
    place.tick_params(axis="x", labelsize=6)
