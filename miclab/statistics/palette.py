"""The colours of every figure: those of Okabe and Ito, which readers with any colour vision can distinguish.

Figures never rely on colour alone: each series also has a marker or a dash of its own.
"""

from __future__ import annotations

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK = "#E69F00", "#56B4E9", "#000000"
DARK, GREY = "#333333", "#666666"
"""Near black for lines and text on screens, and what is neither good nor bad."""
SERIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
"""Colours of series in their order; the seventh is BLACK on paper and DARK on screens."""
