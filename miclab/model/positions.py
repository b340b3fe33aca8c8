"""Position codes, each one small class behind one interface."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from miclab.config.run import RunConfig


class PositionCode:
    """No position code, and the interface of all.

    Arguments:
        config: run whose sequences are coded; their length is `config.sequence_length`.
    """

    def __init__(self, config: RunConfig):
        self.length = config.sequence_length
        self.slots = config.decoder.slots
        self.heads = config.decoder.heads
        self.width = config.decoder.residual_width(config.item_width)
        self.rotates = False
        self.is_fixed = config.decoder.placement == "fixed"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of what is learnt."""
        return {}

    def slot(self, placement: Float[Tensor, " batch"]) -> Int[Tensor, "batch position"]:
        """Slot of each position: a sequence starts where its placement says (at the first slot, where the
        configuration fixes it), and fits whole."""
        if self.is_fixed:
            placement = torch.zeros_like(placement)
        first = (placement * (self.slots - self.length + 1)).long()
        return first[:, None] + torch.arange(self.length, device=placement.device)

    def concatenate(
        self, tokens: Float[Tensor, "batch position item"], placement: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch position input"]:
        """Tokens with a code beside each."""
        return tokens

    def add(
        self,
        residual: Float[Tensor, "batch position width"],
        placement: Float[Tensor, " batch"],
        learnt: Tensor | None,
    ) -> Float[Tensor, "batch position width"]:
        """Tokens with a code added to each."""
        return residual

    def rotate(
        self, heads: Float[Tensor, "batch head row dimension"], rows: slice
    ) -> Float[Tensor, "batch head row dimension"]:
        """Queries or keys of the positions `rows`, rotated."""
        return heads

    def bias(self) -> Float[Tensor, "#head position position"] | None:
        """What is added to the scores [query position, key position] of each head."""
        return None


class OneHot(PositionCode):
    """A one-hot slot beside each token (`APE` in the paper)."""

    def concatenate(self, tokens, placement):
        code = torch.nn.functional.one_hot(self.slot(placement), self.slots)
        return torch.cat([tokens, code.to(tokens.dtype)], -1)


class Learned(PositionCode):
    """A learnt vector added to each token."""

    def shapes(self):
        return {"table": (self.slots, self.width)}

    def add(self, residual, placement, learnt):
        assert learnt is not None
        return residual + learnt[self.slot(placement)]


class Sinusoidal(PositionCode):
    """Sines and cosines (Vaswani et al. 2017, section 3.5), scaled to norm 1, the norm of the items."""

    def __init__(self, config: RunConfig):
        super().__init__(config)
        frequency = 10000.0 ** (-torch.arange(0, self.width, 2) / self.width)
        angle = torch.arange(self.slots)[:, None] * frequency
        self.table = torch.cat([angle.sin(), angle.cos()], -1) / math.sqrt(self.width / 2)

    def add(self, residual, placement, learnt):
        return residual + self.table.to(residual.device)[self.slot(placement)]


class Rotary(PositionCode):
    """Rotary positions (Su et al. 2021): dimension j of a head is rotated together with dimension j + d/2 by the angle
    position * theta^(-2j/d), so that a score depends on the offset alone."""

    def __init__(self, config: RunConfig):
        super().__init__(config)
        self.rotates = True
        half = self.width // self.heads // 2
        frequency = config.decoder.rope_theta ** (-torch.arange(half, dtype=torch.double) / half)
        angle = torch.arange(self.length)[:, None] * frequency
        self.cosine = torch.stack([angle.cos(), angle.cos()], 1).float()
        self.sine = torch.stack([-angle.sin(), angle.sin()], 1).float()

    def rotate(self, heads, rows):
        halves = heads.unflatten(-1, (2, -1))
        # Both halves at once: flipping swaps them, and the signed sine gives the rotation.
        return (halves * self.cosine[rows] + halves.flip(-2) * self.sine[rows]).flatten(-2)


class ReleasedRotary(Rotary):
    """The code that the paper's authors released, which is no rotation: dimensions are paired as even and odd but
    given angles that belong to halves. x * cos + concat(-x[1::2], x[0::2]) * sin; scores depend on absolute positions
    and norms change."""

    def rotate(self, heads, rows):
        crossed = torch.stack([heads[..., 1::2], heads[..., 0::2]], -2)
        return (heads.unflatten(-1, (2, -1)) * self.cosine[rows] + crossed * self.sine[rows]).flatten(-2)


class Alibi(PositionCode):
    """Attention with linear biases (Press et al. 2022): -slope * (query position - key position), with slope
    2^(-8 h / H) for head h = 1..H; 2^-8 for a single head."""

    def bias(self):
        slope = 2.0 ** (-8 * torch.arange(1, self.heads + 1) / self.heads)
        place = torch.arange(self.length)
        return -slope[:, None, None] * (place[:, None] - place[None, :]).float()


class Hybrid(Rotary, OneHot):
    """One-hot slots beside the tokens, and rotary queries and keys."""


CODES: dict[str, type[PositionCode]] = {
    "none": PositionCode,
    "onehot": OneHot,
    "learned": Learned,
    "sinusoidal": Sinusoidal,
    "rope": Rotary,
    "rope_released": ReleasedRotary,
    "alibi": Alibi,
    "hybrid": Hybrid,
}


def position_code(config: RunConfig) -> PositionCode:
    """The position code that `config.decoder.positions` names."""
    return CODES[config.decoder.positions](config)
