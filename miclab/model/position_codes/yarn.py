"""YaRN (Peng et al. 2023, arXiv 2309.00071, sections 3.2 and 3.3). Slow rotary frequencies are stretched for longer
sequences than in training, and scores are sharpened."""

from __future__ import annotations

import math
from dataclasses import dataclass

from miclab.config.checks import check_number, check_whole
from miclab.config.positions import PositionOptions
from miclab.errors import ConfigError
from miclab.model.positions import Rotary, position_code


@dataclass(frozen=True, kw_only=True)
class YarnOptions(PositionOptions):
    """Options of `yarn`."""

    factor: float = 4.0
    """Factor by which positions are stretched."""
    original: int = 17
    """Positions of the sequences that the plain code is for."""
    slow: float = 1.0
    """Frequencies with fewer turns than this within the original length are stretched fully."""
    fast: float = 32.0
    """Frequencies with more turns than this are unchanged."""

    def check(self, owner):
        check_number(owner, self, "factor", 1.0)
        check_whole(owner, self, "original", 1)
        check_number(owner, self, "slow", 0.0)
        check_number(owner, self, "fast", 0.0)
        if self.fast <= self.slow:
            raise ConfigError(f"{owner}.fast", self.fast, f"more than {owner}.slow = {self.slow:g}")


@position_code("yarn")
class Yarn(Rotary):
    """Rotary positions with the frequencies and the temperature of YaRN."""

    Options = YarnOptions

    def frequencies(self, half):
        plain, options = super().frequencies(half), self.options
        turns = options.original * plain / (2 * math.pi)
        kept = ((turns - options.slow) / (options.fast - options.slow)).clamp(0, 1)
        return plain * (kept + (1 - kept) / options.factor)

    def rotate(self, heads, rows, parameters):
        # Both queries and keys, so that scores are multiplied by its square, 1 / t.
        return super().rotate(heads, rows, parameters) * (0.1 * math.log(self.options.factor) + 1)
