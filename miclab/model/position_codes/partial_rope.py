"""Partial rotary positions: only the first dimensions of a head are rotated (Black et al. 2022, GPT-NeoX, arXiv
2204.06745). The other dimensions give every score a part that is independent of position."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from miclab.config.checks import check_number
from miclab.config.positions import PositionOptions
from miclab.errors import ConfigError
from miclab.model.positions import Rotary, position_code


@dataclass(frozen=True, kw_only=True)
class PartialOptions(PositionOptions):
    """Options of `partial_rope`."""

    fraction: float = 0.25
    """Share of a head's dimensions that is rotated, rounded down to an even number."""

    def check(self, owner):
        check_number(owner, self, "fraction", 0.0, 1.0, open_low=True)

    def check_shape(self, owner, head):
        if self.turned(head) < 2:
            raise ConfigError(f"{owner}.fraction", self.fraction, f"at least 2 of a head's {head} dimensions")

    def turned(self, head: int) -> int:
        """Number of rotated dimensions of a head."""
        return 2 * int(self.fraction * head / 2)


@position_code("partial_rope")
class PartialRotary(Rotary):
    """Rotary positions on the first dimensions of each head."""

    Options = PartialOptions

    def __init__(self, config):
        super().__init__(config)
        size = self.width // self.heads
        halves = {self.options.turned(part) // 2 for part in (size, size // 2)}
        self.tables |= {half: self._table(half) for half in halves}

    def rotate(self, heads, rows, parameters):
        turned = self.options.turned(heads.shape[-1])
        return torch.cat([super().rotate(heads[..., :turned], rows, parameters), heads[..., turned:]], -1)
