"""Common parts of the reports' figures: colours, and the template of axes and layout, as plain dictionaries for Plotly.

Colours are those of Okabe and Ito, which readers with any colour vision can distinguish."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from miclab.statistics import palette
from miclab.statistics.intervals import Interval
from miclab.statistics.palette import BLUE, GREEN, ORANGE, PURPLE, SERIES, SKY, VERMILLION
from miclab.statistics.palette import DARK as BLACK

__all__ = ["BLACK", "BLUE", "GREEN", "ORANGE", "PURPLE", "SKY", "VERMILLION"]

Figure = dict[str, Any]

LINES = (*SERIES, BLACK)
SPLIT_WORDS = {
    "icl": "icl (novel classes)",
    "train": "train",
    "swapped": "swapped (labels shifted)",
    "iwl": "iwl (not in the context)",
}
"""Evaluation splits in words, in the order of legends."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_AXIS = {
    "gridcolor": "#ececec",
    # A zero line would run through the cells of heat maps.
    "zeroline": False,
    "linecolor": "#b5b5b5",
    "ticks": "outside",
    "ticklen": 4,
    "tickcolor": "#b5b5b5",
    "automargin": True,
    "title": {"standoff": 8},
}
TEMPLATE = {
    "layout": {
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": "#2b2b2b"},
        "margin": {"l": 60, "r": 16, "t": 40, "b": 52},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.02,
            "xanchor": "left",
            "yanchor": "bottom",
            "traceorder": "normal",
        },
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
}
"""Plotly's template of every page. A figure's own layout overrides it."""


def plotly_scale(scale: palette.Scale) -> list[list[Any]]:
    """A scale of the palette for Plotly."""
    return [list(part) for part in scale]


def faint(colour: str, share: float = 0.16) -> str:
    """A colour `#rrggbb` with the given opacity."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share:g})"


def rounded(value: float | None, digits: int = 4) -> float | None:
    """A number rounded to some decimals; None stays None."""
    return None if value is None else round(float(value), digits)


def arms_of(found: Iterable[tuple[float, Interval | None]]) -> dict[str, list[float | None]]:
    """The arms of error bars above and below estimates, of length 0 where there is no interval."""
    arms = [(i.high - m, m - i.low) if i is not None and i.known else (0, 0) for m, i in found]
    return {"array": [rounded(above) for above, _ in arms], "arrayminus": [rounded(below) for _, below in arms]}


def error_bars(found: Iterable[tuple[float, Interval | None]], colour: str, **more: Any) -> dict[str, Any]:
    """Error bars of estimates, each with its interval; `more` are Plotly's own settings."""
    style = {"symmetric": False, "color": colour, "thickness": 1.2, "width": 3}
    return {"type": "data", **style, **more, **arms_of(found)}


def band_of(x: Sequence[float], intervals: Iterable[Interval | None], fill: str, **more: Any) -> list[Figure]:
    """A band between the ends of intervals, as two lines without a width; places without an interval are left out.

    Arguments:
        x: the place of each interval.
        intervals: None, or without ends, where there is none.
        fill: colour of the band.
        more: Plotly's own settings of both lines.
    """
    kept = [(at, i) for at, i in zip(x, intervals, strict=True) if i is not None and i.known]
    if not kept:
        return []
    common = {"type": "scatter", "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False,
              "x": [at for at, _ in kept], **more}  # fmt: skip
    return [
        {**common, "y": [rounded(i.low) for _, i in kept]},
        {**common, "y": [rounded(i.high) for _, i in kept], "fill": "tonexty", "fillcolor": fill},
    ]


def axis_of(title: str, **more: Any) -> dict[str, Any]:
    """An axis with a title; `more` are Plotly's own settings."""
    return {"title": {"text": title}, **more}


def layout_of(height: int, x: dict[str, Any], y: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A figure's layout: `height` in pixels, both axes, and `more` of Plotly's own settings."""
    return {"height": height, "xaxis": x, "yaxis": y, **more}
