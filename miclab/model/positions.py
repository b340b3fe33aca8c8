"""Position codes, each a small class with the same interface.

A new code is a subclass of `PositionCode` with the decorator `position_code`, in a file given by `--plugin`.
`decoder.positions` then accepts its name. Its parameters are called `decoder.positions.NAME`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from miclab.config.positions import KNOWN, POSITION_CODES, PositionFacts, PositionOptions, position_options
from miclab.config.run import RunConfig

Learnt = Mapping[str, Tensor]
"""Parameters of a code by the names in its `shapes`."""
Heads = Float[Tensor, "batch head row dimension"]
Coded = Float[Tensor, "batch head row coded"]
"""Queries or keys with the code applied, which may change their dimension."""
Code = TypeVar("Code", bound="type[PositionCode]")


class PositionCode:
    """The interface of position codes, and a code that does nothing.

    Arguments:
        config: run whose sequences are coded; their length is `config.sequence_length`.
    """

    Options: type[PositionOptions] = PositionOptions
    """Dataclass of the code's options; a subclass of `PositionOptions` if it has any."""
    slots_used = False
    """Whether it is absolute, with slots; a sequence has to fit into them."""
    even = ""
    """The width that must be even: that of a `head`, the `width` of the residual stream, or none."""
    rotates = False
    """Whether `queries` or `keys` change their input; set automatically."""

    def __init_subclass__(cls) -> None:
        own = (cls.rotate, cls.queries, cls.keys)
        cls.rotates = own != (PositionCode.rotate, PositionCode.queries, PositionCode.keys)

    def __init__(self, config: RunConfig):
        self.length = config.sequence_length
        self.slots = config.decoder.slots
        self.heads = config.decoder.heads
        self.width = config.decoder.residual_width(config.item_width)
        self.is_fixed = config.decoder.placement == "fixed"
        name = config.decoder.position_name
        self.options: Any = None if name in KNOWN else position_options(config.decoder.positions)

    @classmethod
    def facts(cls) -> PositionFacts:
        """The facts about the code that a configuration needs."""
        return PositionFacts(
            slots=cls.slots_used,
            beside=cls.concatenate is not PositionCode.concatenate,
            rotates=cls.rotates,
            learnt=cls.shapes is not PositionCode.shapes,
            even=cls.even,  # type: ignore[arg-type]
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of parameters, by name."""
        return {}

    def initial(self, name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Initial value of a parameter; by default vectors of norm about 1, the norm of the items."""
        return torch.randn(shape, generator=generator) * (1 / math.sqrt(self.width))

    def slot(self, placement: Float[Tensor, " batch"]) -> Int[Tensor, "batch position"]:
        """Slot of each position. A sequence starts at its placement, or at the first slot if the configuration fixes
        it, and always fits."""
        if self.is_fixed:
            placement = torch.zeros_like(placement)
        first = (placement * (self.slots - self.length + 1)).long()
        return first[:, None] + torch.arange(self.length, device=placement.device)

    def concatenate(
        self, tokens: Float[Tensor, "batch position item"], placement: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch position input"]:
        """Tokens with a code beside each, one column a slot."""
        return tokens

    def add(
        self, residual: Float[Tensor, "batch position width"], placement: Float[Tensor, " batch"], parameters: Learnt
    ) -> Float[Tensor, "batch position width"]:
        """Tokens with a code added to each."""
        return residual

    def rotate(self, heads: Heads, rows: slice, parameters: Learnt) -> Coded:
        """Queries or keys of the positions `rows`, rotated."""
        return heads

    def queries(self, heads: Heads, rows: slice, parameters: Learnt) -> Coded:
        """Queries of the positions `rows` with their code; for codes that treat queries and keys alike, `rotate`."""
        return self.rotate(heads, rows, parameters)

    def keys(self, heads: Heads, rows: slice, parameters: Learnt) -> Coded:
        """Keys of the positions `rows` with their code."""
        return self.rotate(heads, rows, parameters)

    def bias(self, parameters: Learnt) -> Float[Tensor, "#head position position"] | None:
        """The bias of the scores [query position, key position] of each head; None: none."""
        return None


def position_code(name: str) -> Callable[[Code], Code]:
    """A decorator that registers a position code, so that `decoder.positions` takes `name`.

    Raises:
        MiclabError: the name is not a plain word, or is taken.
    """

    return POSITION_CODES.register(name)


def build_positions(config: RunConfig) -> PositionCode:
    """The position code that `config.decoder.positions` names."""
    return POSITION_CODES.find(config.decoder.position_name)(config)


@position_code("none")
class NoCode(PositionCode):
    """No position code."""


@position_code("onehot")
class OneHot(PositionCode):
    """A one-hot slot beside each token (`APE` in the paper)."""

    slots_used = True

    def concatenate(self, tokens, placement):
        # As `one_hot`, which looks at the values on a CPU, so that lanes could not share it.
        code = (self.slot(placement)[..., None] == torch.arange(self.slots, device=placement.device)).long()
        return torch.cat([tokens, code.to(tokens.dtype)], -1)


@position_code("learned")
class Learned(PositionCode):
    """A learnt vector added to each token."""

    slots_used = True

    def shapes(self):
        return {"table": (self.slots, self.width)}

    def add(self, residual, placement, parameters):
        return residual + parameters["table"][self.slot(placement)]


@position_code("sinusoidal")
class Sinusoidal(PositionCode):
    """Sines and cosines (Vaswani et al. 2017, section 3.5), scaled to norm 1, the norm of the items."""

    slots_used, even = True, "width"

    def __init__(self, config: RunConfig):
        super().__init__(config)
        frequency = 10000.0 ** (-torch.arange(0, self.width, 2) / self.width)
        angle = torch.arange(self.slots)[:, None] * frequency
        self.table = torch.cat([angle.sin(), angle.cos()], -1) / math.sqrt(self.width / 2)

    def add(self, residual, placement, parameters):
        return residual + self.table.to(residual.device)[self.slot(placement)]


@position_code("rope")
class Rotary(PositionCode):
    """Rotary positions (Su et al. 2021). Dimensions j and j + d/2 of a head are rotated together by the angle position
    * theta^(-2j/d). So a score depends on the offset alone."""

    even = "head"

    def __init__(self, config: RunConfig):
        super().__init__(config)
        self.theta = config.decoder.rope_theta
        half = self.width // self.heads // 2
        self.cosine, self.sine = self._table(half)
        # Some mechanisms rotate each half of a head separately.
        self.tables = {half: (self.cosine, self.sine), half // 2: self._table(half // 2)}

    def _table(self, half: int) -> tuple[Tensor, Tensor]:
        angle = torch.arange(self.length)[:, None] * self.frequencies(half)
        return (
            torch.stack([angle.cos(), angle.cos()], 1).float(),
            torch.stack([-angle.sin(), angle.sin()], 1).float(),
        )

    def frequencies(self, half: int) -> Float[Tensor, " half"]:
        """Angle by which each pair of dimensions turns from one position to the next."""
        return self.theta ** (-torch.arange(half, dtype=torch.double) / half)

    def rotate(self, heads, rows, parameters):
        halves = heads.unflatten(-1, (2, -1))
        cosine, sine = self.tables[halves.shape[-1]]
        # Both halves at once: flipping swaps them, and the signed sine gives the rotation.
        return (halves * cosine[rows] + halves.flip(-2) * sine[rows]).flatten(-2)


@position_code("rope_released")
class ReleasedRotary(Rotary):
    """The code that the paper's authors released. It is not a rotation: dimensions are paired as even and odd, but
    their angles belong to halves. It gives x * cos + concat(-x[1::2], x[0::2]) * sin. Scores depend on absolute
    positions and norms change."""

    def rotate(self, heads, rows, parameters):
        crossed = torch.stack([heads[..., 1::2], heads[..., 0::2]], -2)
        cosine, sine = self.tables[crossed.shape[-1]]
        return (heads.unflatten(-1, (2, -1)) * cosine[rows] + crossed * sine[rows]).flatten(-2)


@position_code("alibi")
class Alibi(PositionCode):
    """Attention with linear biases (Press et al. 2022): -slope * (query position - key position). The slope is 2^(-8 h
    / H) for head h = 1..H, and 2^-8 for a single head."""

    def bias(self, parameters):
        slope = 2.0 ** (-8 * torch.arange(1, self.heads + 1) / self.heads)
        place = torch.arange(self.length)
        return -slope[:, None, None] * (place[:, None] - place[None, :]).float()


@position_code("hybrid")
class Hybrid(Rotary, OneHot):
    """One-hot slots beside the tokens, and rotary queries and keys."""
