"""Interventions on attention patterns: where a head attends is replaced, while its values stay.

Setting a pattern to uniform shows whether it matters where a head looks. The ideal patterns show whether looking there
alone is enough. Shuffled offsets keep how sharp each row is. The pattern of another sequence keeps what does not depend
on the content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from miclab.circuits.find import PATTERNS, Head
from miclab.circuits.interventions import Edit
from miclab.errors import ConfigError, nearest
from miclab.measures.baselines import uniform_pattern
from miclab.seeds import stream
from miclab.worlds.roles import Roles

Pattern = Float[Tensor, "batch head query key"]
Replacement = Callable[[Pattern, Roles], Float[Tensor, "#batch #head query key"]]
"""From the patterns of a layer, and what each position is, to what takes the place of a head's pattern."""


def pattern_point(layer: int) -> str:
    """Name of the activation that holds the attention patterns of a layer's heads."""
    return f"blocks.{layer}.attention.pattern"


def uniform(value: Pattern, roles: Roles) -> Float[Tensor, "query key"]:
    """Every position attends alike to itself and to all before it."""
    return uniform_pattern(value.shape[-1]).to(value)


def previous_token(value: Pattern, roles: Roles) -> Float[Tensor, "query key"]:
    """Every position attends to the one before it; the first to itself."""
    pattern = torch.diag_embed(torch.ones(value.shape[-1] - 1), -1).to(value)
    pattern[0, 0] = 1
    return pattern


def own_item(value: Pattern, roles: Roles) -> Pattern:
    """Every label of the context attends to the items of its own example, alike if there are several. Other positions
    keep their rows."""
    labels = roles.label_spans()
    items = torch.stack([roles.item_spans(modality) for modality in roles.modalities]).sum(0)
    own = (labels @ items.transpose(-1, -2)).to(value)
    own = own / own.sum(-1, keepdim=True).clamp(min=1)
    return torch.where(roles.is_label[:, None], own, value)


def shuffled(value: Pattern, roles: Roles) -> Pattern:
    """Every row keeps its numbers and gives them to other offsets, in an order drawn for each row and sequence."""
    size = (len(value), 1, *value.shape[-2:])
    drawn = torch.rand(size, generator=stream(0, "shuffled offsets"))
    # What comes after a position stays behind what it may see, and keeps its place.
    later = torch.ones(size[-2:], dtype=torch.bool).triu(1)
    order = drawn.masked_fill(later, torch.inf).argsort(dim=-1, stable=True)
    return value.gather(-1, order.to(value.device).expand_as(value))


def other_sequence(value: Pattern, roles: Roles) -> Pattern:
    """Every sequence has the patterns of the one before it."""
    return value.roll(1, 0)


REPLACEMENTS: Mapping[str, Replacement] = {
    "uniform": uniform,
    "previous_token": previous_token,
    "own_item": own_item,
    "shuffled": shuffled,
    "other_sequence": other_sequence,
}
WORDS = {
    "uniform": "uniform",
    "previous_token": "ideal previous token",
    "own_item": "labels on own items",
    "shuffled": "shuffled offsets",
    "other_sequence": "of another sequence",
}
"""Each replacement in words."""


def set_patterns(heads: Iterable[Head], kind: str, roles: Roles) -> dict[str, Edit]:
    """Replaces the attention patterns of heads.

    Arguments:
        heads: layer and head, from 0.
        kind: of `REPLACEMENTS`.
        roles: what each position is, the same for all sequences.

    Raises:
        ConfigError: there is no such replacement.
    """
    if kind not in REPLACEMENTS:
        raise ConfigError("pattern", kind, nearest(kind, PATTERNS))
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)

    def edit(chosen: list[int]) -> Edit:
        def apply(value: Pattern) -> Tensor:
            mask = torch.zeros(value.shape[1], dtype=torch.bool, device=value.device)
            mask[chosen] = True
            return torch.where(mask[:, None, None], REPLACEMENTS[kind](value, roles), value)

        return apply

    return {pattern_point(layer): edit(chosen) for layer, chosen in by_layer.items()}
