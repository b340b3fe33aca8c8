"""The initial weight of a mechanism: the initial strength of its part beside plain attention, and how it may change.

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

import torch
from torch import Tensor

from miclab.config.mechanisms import ShareOptions

SHARE = "share"
"""Name of the parameter. A frozen weight has none."""


def share_shapes(options: ShareOptions, *shape: int) -> dict[str, tuple[int, ...]]:
    """Shape of the parameter, by its name; empty if the weight is frozen."""
    return {} if options.share == "frozen" else {SHARE: shape}


def initial_share(options: ShareOptions, shape: tuple[int, ...], start: float | None = None) -> Tensor:
    """Initial value of the parameter: the weight, or its logit.

    Arguments:
        start: the weight, if it differs from that of the options.
    """
    start = options.start if start is None else start
    return torch.full(shape, math.log(start / (1 - start)) if options.share == "bounded" else start)


def share_of(
    options: ShareOptions, parameters: Mapping[str, Tensor], *shape: int, like: Tensor, start: float | None = None
) -> Tensor:
    """The weight.

    Arguments:
        shape: of a frozen weight.
        like: a tensor with the type and device of a frozen weight.
        start: the initial weight, if it differs from that of the options.
    """
    if options.share == "frozen":
        return torch.full(shape, options.start if start is None else start, dtype=like.dtype, device=like.device)
    learnt = parameters[SHARE]
    return learnt.sigmoid() if options.share == "bounded" else learnt


def earlier(x: Tensor, back: int = 1) -> Tensor:
    """The values `back` positions earlier, along the last axis but one. The first positions keep their own."""
    return torch.cat([x[..., :back, :], x[..., :-back, :]], -2)
