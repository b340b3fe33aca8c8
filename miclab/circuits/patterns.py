"""Interventions on attention patterns: where a head attends is replaced, while its values stay.

Setting a pattern to uniform shows whether it matters where a head looks. The ideal patterns show whether looking there
alone is enough. Shuffled offsets keep how sharp each row is. The pattern of another sequence keeps what does not depend
on the content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from miclab.circuits.find import PATTERNS, Head
from miclab.circuits.interventions import Edit
from miclab.errors import ConfigError, nearest
from miclab.measures.baselines import uniform_over
from miclab.seeds import stream
from miclab.worlds.roles import Roles

Pattern = Float[Tensor, "batch head query key"]
Seen = Bool[Tensor, "#head query key"]
"""Whether a query's position may see a key's."""
Replacement = Callable[[Pattern, Roles, Seen], Float[Tensor, "#batch #head query key"]]
"""From the patterns of a layer, what each position is, and what the layer may see, to what takes the place of a head's
pattern."""


def pattern_point(layer: int) -> str:
    """Name of the activation that holds the attention patterns of a layer's heads."""
    return f"blocks.{layer}.attention.pattern"


def uniform(value: Pattern, roles: Roles, seen: Seen) -> Float[Tensor, "#head query key"]:
    """Every position attends alike to all that it may see."""
    return uniform_over(seen).to(value)


def previous_token(value: Pattern, roles: Roles, seen: Seen) -> Float[Tensor, "query key"]:
    """Every position attends to the one before it; the first to itself."""
    pattern = torch.diag_embed(torch.ones(value.shape[-1] - 1), -1).to(value)
    pattern[0, 0] = 1
    return pattern


def own_item(value: Pattern, roles: Roles, seen: Seen) -> Pattern:
    """Every label of the context attends to the items of its own example, alike if there are several. Other positions
    keep their rows."""
    labels = roles.label_spans()
    items = torch.stack([roles.item_spans(modality) for modality in roles.modalities]).sum(0)
    own = (labels @ items.transpose(-1, -2)).to(value)
    own = own / own.sum(-1, keepdim=True).clamp(min=1)
    return torch.where(roles.is_label[:, None], own, value)


def shuffled(value: Pattern, roles: Roles, seen: Seen) -> Pattern:
    """Every row keeps its numbers and gives them to other offsets that it may see, in an order drawn for each row and
    sequence."""
    drawn = torch.rand((len(value), 1, *value.shape[-2:]), generator=stream(0, "shuffled offsets"))
    # What a row may not see stays behind what it sees, and keeps its place.
    hidden = ~seen.cpu().expand(len(value), -1, -1, -1)
    order = drawn.expand(hidden.shape).masked_fill(hidden, torch.inf).argsort(dim=-1, stable=True)
    places = hidden.int().argsort(dim=-1, stable=True)
    order, places = (one.to(value.device).expand_as(value) for one in (order, places))
    return torch.zeros_like(value).scatter(-1, places, value.gather(-1, order))


def other_sequence(value: Pattern, roles: Roles, seen: Seen) -> Pattern:
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


def set_patterns(heads: Iterable[Head], kind: str, roles: Roles, seen: Callable[[int], Seen]) -> dict[str, Edit]:
    """Replaces the attention patterns of heads.

    Arguments:
        heads: layer and head, from 0.
        kind: of `REPLACEMENTS`.
        roles: what each position is, the same for all sequences.
        seen: what a layer may see, such as `Decoder.visible`.

    Raises:
        ConfigError: there is no such replacement.
    """
    if kind not in REPLACEMENTS:
        raise ConfigError("pattern", kind, nearest(kind, PATTERNS))
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)

    def edit(layer: int, chosen: list[int]) -> Edit:
        def apply(value: Pattern) -> Tensor:
            mask = torch.zeros(value.shape[1], dtype=torch.bool, device=value.device)
            mask[chosen] = True
            return torch.where(mask[:, None, None], REPLACEMENTS[kind](value, roles, seen(layer)), value)

        return apply

    return {pattern_point(layer): edit(layer, chosen) for layer, chosen in by_layer.items()}
