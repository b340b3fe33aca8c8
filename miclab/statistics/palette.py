"""The colours of every figure and page: those of Okabe and Ito, which readers with any colour vision can distinguish.

Figures never rely on colour alone: each series also has a marker or a dash of its own.
"""

from __future__ import annotations

from typing import Literal

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK = "#E69F00", "#56B4E9", "#000000"
DARK, GREY = "#333333", "#666666"
"""Near black for lines and text on screens, and what is neither good nor bad."""
SERIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
"""Colours of series in their order; the seventh is BLACK on paper and DARK on screens."""

SPLITS = {"icl": BLUE, "train": DARK, "swapped": VERMILLION, "iwl": GREEN}
"""Colours of curves that stand for evaluation splits."""

Kind = Literal["good", "bad", "plain"]
"""What a mark says: a verdict that holds is good, one that fails is bad, every other is plain."""
KINDS: dict[Kind, str] = {"good": BLUE, "bad": VERMILLION, "plain": GREY}
"""Colours of the three kinds in figures."""
KIND_MARKERS: dict[Kind, str] = {"good": "o", "bad": "X", "plain": "D"}
"""Shapes of the three kinds, for those who see no colours."""
TEXT = {"blue": BLUE, "good": "#00795a", "bad": "#b84e00", "soft": GREY}
"""Colours of words on a white page: dark enough to be read."""

Scale = tuple[tuple[float, str], ...]
"""A scale of colours: places from 0 to 1 with their colours."""
ACCURACY = "cividis"
"""The scale of accuracies, by its name in matplotlib and Plotly. In grey it goes from dark to bright."""
WEIGHTS: Scale = ((0, "#ffffff"), (0.25, "#cfe3f1"), (0.5, "#7db4d8"), (0.75, "#1f7ab8"), (1, "#062a4a"))
"""The scale of attention weights and strengths: light is little, dark is much."""
SIGNED: Scale = ((0, VERMILLION), (0.5, "#ffffff"), (1, BLUE))
"""The scale of numbers of both signs: blue is above 0, vermillion below."""


def series(index: int) -> str:
    """The colour of the series of an index; after seven they begin anew."""
    return (*SERIES, BLACK)[index % (len(SERIES) + 1)]
