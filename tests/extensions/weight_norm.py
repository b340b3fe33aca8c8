"""A measure of weights: how much of a head's query-key product lies in its strongest direction."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from miclab.config.run import RunConfig
from miclab.measures.registry import measure


def all_alike(config: RunConfig) -> list[tuple[float, str]]:
    """The guide line: every direction of a head has the same share."""
    dimension = config.decoder.residual_width(config.item_width) // config.decoder.heads
    return [(1 / dimension, "all directions alike")]


@measure(
    "strongest_direction",
    needs=("parameters",),
    range=(0, 1),
    title="Strongest direction of W_Q W_K'",
    words="largest squared singular value of a head's query-key product over the sum of all",
    guides=all_alike,
)
def strongest_direction(parameters: Mapping[str, Tensor], head_count: int) -> Tensor:
    """One value for each head [head]. Weights are [input, output]; a head's outputs are neighbours."""
    query, key = (parameters[f"attention.{part}"].unflatten(1, (head_count, -1)) for part in ("query", "key"))
    product = torch.einsum("ihd,jhd->hij", query, key)
    squares = torch.linalg.svdvals(product).square()
    return squares[:, 0] / squares.sum(1)
