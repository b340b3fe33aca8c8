"""FIRE: a learnt function of the distance, relative to the query's position (Li et al. 2024, arXiv 2310.04418)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from miclab.config.checks import check_number, check_whole
from miclab.config.positions import PositionOptions
from miclab.model.positions import PositionCode, position_code


@dataclass(frozen=True, kw_only=True)
class FireOptions(PositionOptions):
    """Options of `fire`."""

    hidden: int = 32
    """Hidden units of the function."""
    slope: float = 0.1
    """c of log(c x + 1) at first; it is learnt."""
    threshold: float = 16.0
    """Initial position up to which distances are not relative; it is learnt too."""

    def check(self, owner):
        check_whole(owner, self, "hidden", 1, 65_536)
        check_number(owner, self, "slope", 0.0, open_low=True)
        check_number(owner, self, "threshold", 0.0, open_low=True)


@position_code("fire")
class Fire(PositionCode):
    """f(log(c (i - j) + 1) / log(c max(i, L) + 1)) is added to the score of query i and key j. The network f has one
    hidden layer of ReLUs and one output per head. Its weights begin as PyTorch's."""

    Options = FireOptions

    def shapes(self):
        hidden = self.options.hidden
        return {
            "slope": (), "threshold": (), "in_weight": (1, hidden), "in_bias": (hidden,),
            "out_weight": (hidden, self.heads), "out_bias": (self.heads,),
        }  # fmt: skip

    def initial(self, name, shape, generator):
        if not shape:
            return torch.tensor(getattr(self.options, name))
        bound = 1.0 if name.startswith("in_") else 1 / math.sqrt(self.options.hidden)
        return torch.rand(shape, generator=generator) * 2 * bound - bound

    def bias(self, parameters):
        slope = parameters["slope"].abs()
        place = torch.arange(self.length, device=slope.device)
        distance = (place[:, None] - place).clamp(min=0)
        farthest = torch.maximum(place, parameters["threshold"].abs())[:, None]
        relative = (slope * distance + 1).log() / (slope * farthest + 1).log().clamp(min=1e-6)
        hidden = (relative[..., None] @ parameters["in_weight"] + parameters["in_bias"]).relu()
        return (hidden @ parameters["out_weight"] + parameters["out_bias"]).permute(2, 0, 1)
