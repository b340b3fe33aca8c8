"""Common parts of the reports' figures: colours, and the template of axes and layout, as plain dictionaries for Plotly.

Colours are those of Okabe and Ito, which readers with any colour vision can distinguish."""

from __future__ import annotations

from typing import Any

from miclab.statistics import palette
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


def axis_of(title: str, **more: Any) -> dict[str, Any]:
    """An axis with a title; `more` are Plotly's own settings."""
    return {"title": {"text": title}, **more}


def layout_of(height: int, x: dict[str, Any], y: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A figure's layout: `height` in pixels, both axes, and `more` of Plotly's own settings."""
    return {"height": height, "xaxis": x, "yaxis": y, **more}
