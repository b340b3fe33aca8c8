"""PoPE, polar positions: the content of a dimension is a magnitude, and the token's position is an angle
(Gopalakrishnan et al. 2025, arXiv 2509.10534)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from miclab.model.positions import PositionCode, position_code


@position_code("pope")
class Polar(PositionCode):
    """A score is the sum over dimensions c of softplus(q_c) softplus(k_c) cos((s - t) theta^(-c/d) + phase_c), for a
    query at t and a key at s. The phases are learnt, between -2 pi and 0, and begin at 0."""

    def __init__(self, config):
        super().__init__(config)
        size = self.width // self.heads
        self.angles = {part: self._angles(part, config.decoder.rope_theta) for part in (size, size // 2)}

    def _angles(self, size, theta):
        frequency = theta ** (-torch.arange(size, dtype=torch.double) / size)
        return (torch.arange(self.length)[:, None] * frequency).float()

    def shapes(self):
        return {"phase": (self.heads, self.width // self.heads)}

    def initial(self, name, shape, generator):
        return torch.zeros(shape)

    def queries(self, heads, rows, parameters):
        return _polar(heads, self.angles[heads.shape[-1]][rows])

    def keys(self, heads, rows, parameters):
        # A mechanism whose heads share keys has their first phases.
        phase = parameters["phase"].clamp(-2 * math.pi, 0)[: heads.shape[1], None, : heads.shape[-1]]
        return _polar(heads, self.angles[heads.shape[-1]][rows] + phase)


def _polar(heads, angle):
    magnitude = F.softplus(heads)
    return torch.cat([magnitude * angle.cos(), magnitude * angle.sin()], -1)
