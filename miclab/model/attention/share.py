"""The initial weight of a mechanism: how strong its part beside plain attention is at first, and how it may change.

Five starts are usual, and the findings of a mechanism are reported from each of them:

| name | option |
| --- | --- |
| zero | `start=0,share=free` |
| small | `start=0.02,share=bounded` |
| one half, frozen | `start=0.5,share=frozen` |
| one half, learnt | `start=0.5,share=bounded` |
| unconstrained | `start=0.5,share=free` |
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from miclab.config.checks import check_known, check_number
from miclab.config.options import AttentionOptions
from miclab.errors import ConfigError

SHARE = "share"
"""Name of the parameter; there is none where the weight is frozen."""


@dataclass(frozen=True, kw_only=True)
class ShareOptions(AttentionOptions):
    """Options of a mechanism with an initial weight."""

    start: float = 0.5
    """The weight at first."""
    share: Literal["bounded", "free", "frozen"] = "bounded"
    """`bounded`: learnt, and kept between 0 and 1 by a sigmoid. `free`: learnt, any number. `frozen`: never changes."""

    kinds: ClassVar[tuple[str, ...]] = ("bounded", "free", "frozen")
    """Values of `share` that make sense for the mechanism."""
    by_layer: ClassVar[float | None] = None
    """The value of `start` that stands for one that depends on the layer, if there is one."""

    def check(self, owner: str) -> None:
        """Raises ConfigError for values that cannot be."""
        super().check(owner)
        check_known(owner, self, "share", self.kinds)
        check_number(owner, self, "start", -1e6, 1e6)
        if self.share == "bounded" and self.start != self.by_layer and not 0 < self.start < 1:
            allowed = f"a number between 0 and 1 with {owner}.share = 'bounded', or {owner}.share = 'free' or 'frozen'"
            raise ConfigError(f"{owner}.start", self.start, allowed)


def share_shapes(options: ShareOptions, *shape: int) -> dict[str, tuple[int, ...]]:
    """Shape of the parameter, by its name; none where the weight is frozen."""
    return {} if options.share == "frozen" else {SHARE: shape}


def initial_share(options: ShareOptions, shape: tuple[int, ...], start: float | None = None) -> Tensor:
    """First value of the parameter: the weight, or what the sigmoid makes into it.

    Arguments:
        start: the weight, where it is not the options' own.
    """
    start = options.start if start is None else start
    return torch.full(shape, math.log(start / (1 - start)) if options.share == "bounded" else start)


def share_of(
    options: ShareOptions, parameters: Mapping[str, Tensor], *shape: int, like: Tensor, start: float | None = None
) -> Tensor:
    """The weight.

    Arguments:
        shape: of the weight, where it is frozen.
        like: a tensor whose type and device it has, where it is frozen.
        start: the weight at first, where it is not the options' own.
    """
    if options.share == "frozen":
        return torch.full(shape, options.start if start is None else start, dtype=like.dtype, device=like.device)
    learnt = parameters[SHARE]
    return learnt.sigmoid() if options.share == "bounded" else learnt


def earlier(x: Tensor, back: int = 1) -> Tensor:
    """What stands `back` positions earlier, along the last axis but one; the first positions keep their own."""
    return torch.cat([x[..., :back, :], x[..., :-back, :]], -2)
