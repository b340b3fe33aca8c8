"""Dilated attention: a query sees its own position and every so many positions before it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from miclab.config.checks import check_whole
from miclab.config.options import AttentionOptions
from miclab.model.attention.mechanism import attention
from miclab.model.attention.softmax import Softmax


@dataclass(frozen=True, kw_only=True)
class DilatedOptions(AttentionOptions):
    """Options of `dilated`."""

    stride: int = 2
    """Positions from one that a query sees to the next."""

    def check(self, owner):
        super().check(owner)
        check_whole(owner, self, "stride", 1, 100_000)


@attention("dilated")
class Dilated(Softmax):
    """Softmax attention to every so many positions, counted back from the query."""

    Options = DilatedOptions

    def score_bias(self, parameters, positions, layer):
        place = torch.arange(self.length, device=positions.score_bias.device)
        between = (place[:, None] - place) % self.options.stride != 0
        return positions.score_bias.masked_fill(between, -math.inf)
