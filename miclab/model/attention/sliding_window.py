"""Sliding-window attention: a query sees its own position and a few before it (Beltagy et al. 2020, arXiv
2004.05150)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from miclab.config.checks import check_whole
from miclab.config.options import AttentionOptions
from miclab.model.attention.mechanism import attention
from miclab.model.attention.softmax import Softmax


@dataclass(frozen=True, kw_only=True)
class WindowOptions(AttentionOptions):
    """Options of `sliding_window`."""

    window: int = 3
    """Positions that a query sees: its own and those right before it."""

    def check(self, owner):
        super().check(owner)
        check_whole(owner, self, "window", 1, 100_000)


@attention("sliding_window")
class SlidingWindow(Softmax):
    """Softmax attention to the last few positions alone."""

    Options = WindowOptions

    def score_bias(self, parameters, positions, layer):
        place = torch.arange(self.length)
        outside = place[:, None] - place >= self.options.window
        return positions.score_bias.masked_fill(outside, -math.inf)
