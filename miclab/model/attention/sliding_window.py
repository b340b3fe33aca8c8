"""Sliding-window attention: a query sees its own position and a few before it (Beltagy et al. 2020, arXiv
2004.05150)."""

from __future__ import annotations

import math

import torch

from miclab.config.mechanisms import WindowOptions
from miclab.model.attention.mechanism import attention
from miclab.model.attention.softmax import Softmax


@attention("sliding_window")
class SlidingWindow(Softmax):
    """Softmax attention to the last few positions alone."""

    Options = WindowOptions

    def score_bias(self, parameters, positions, layer):
        place = torch.arange(self.length, device=positions.score_bias.device)
        outside = place[:, None] - place >= self.options.window
        return positions.score_bias.masked_fill(outside, -math.inf)
