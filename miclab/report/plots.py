"""What the figures of the reports share: colours, axes, layout, as plain dictionaries for Plotly.

Colours are those of Okabe and Ito, which readers with any colour vision can tell apart."""

from __future__ import annotations

from typing import Any

Figure = dict[str, Any]

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#333333",
)
LINES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
FONT = {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": "#2b2b2b"}


def rounded(value: float | None, digits: int = 4) -> float | None:
    """A number with so many decimals; None stays None."""
    return None if value is None else round(float(value), digits)


def axis_of(title: str, **more: Any) -> dict[str, Any]:
    """An axis in the report's style; `more` are Plotly's own settings."""
    axis = {
        "title": {"text": title, "standoff": 8},
        "gridcolor": "#ececec",
        "zeroline": False,
        "linecolor": "#b5b5b5",
    }
    return {**axis, "ticks": "outside", "ticklen": 4, "tickcolor": "#b5b5b5", "automargin": True, **more}


def layout_of(height: int, x: dict[str, Any], y: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A figure's layout in the report's style: `height` in pixels, both axes, and `more` of Plotly's own settings."""
    legend = {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom", "traceorder": "normal"}
    return {
        "height": height,
        "font": FONT,
        "margin": {"l": 60, "r": 16, "t": 40, "b": 52},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "legend": legend,
        "xaxis": x,
        "yaxis": y,
        **more,
    }
