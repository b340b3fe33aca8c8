"""T5's relative position bias (Raffel et al. 2020): one learnt number for each head and each range of distances."""

from __future__ import annotations

import math

import torch

from miclab.model.positions import PositionCode, position_code

BUCKETS, FARTHEST = 32, 128
"""Ranges of distances. The first half of them hold one distance each; the last one holds all from `FARTHEST` on."""


@position_code("t5_bias")
class RelativeBias(PositionCode):
    """A learnt number for each head and each range of distances, added to the scores (T5)."""

    def shapes(self):
        return {"table": (self.heads, BUCKETS)}

    def bias(self, parameters):
        place = torch.arange(self.length, device=parameters["table"].device)
        return parameters["table"][:, bucket(place[:, None] - place)]


def bucket(distance):
    """Range of each distance of a query from a key; of keys after the query, which it does not see, the first."""
    near = BUCKETS // 2
    share = (distance.clamp(min=near) / near).log() / math.log(FARTHEST / near)
    far = (near + (share * (BUCKETS - near)).long()).clamp(max=BUCKETS - 1)
    return torch.where(distance < near, distance.clamp(min=0), far)
