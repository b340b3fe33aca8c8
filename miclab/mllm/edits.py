"""Editing attention of production models: edges that are cut, and patterns of heads that are replaced.

A cut edge is masked before the softmax, so that the rest of its row sums to 1. A replaced pattern is one of
`miclab.circuits.patterns`; values stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from miclab.circuits.find import Head
from miclab.circuits.patterns import REPLACEMENTS
from miclab.measures.layer import causal
from miclab.mllm.ablation import heads_by_layer
from miclab.mllm.attention import visible, watching
from miclab.mllm.layers import AttentionLayer
from miclab.mllm.reading import Reading
from miclab.worlds.roles import OTHER, Roles


@dataclass
class Edits:
    """The watcher that changes attention on one batch.

    Arguments:
        layers: those that are edited.
        cut: edges that are cut in all of them; None: none.
        pattern: of `REPLACEMENTS`, for `heads`.
        heads: numbers of the heads whose pattern is replaced, by the layer's index.
        roles: of all positions of each sequence, for `pattern`.
    """

    layers: tuple[AttentionLayer, ...]
    cut: Bool[Tensor, "batch query key"] | None = None
    pattern: str = ""
    heads: Mapping[int, list[int]] = field(default_factory=dict)
    roles: tuple[Roles, ...] = ()
    seen: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.by_module = {id(layer.module): layer for layer in self.layers}

    def wants(self, module: nn.Module) -> AttentionLayer | None:
        """The layer of a module, if it is edited."""
        return self.by_module.get(id(module))

    def mask(self, layer: AttentionLayer, mask: Tensor | None) -> Tensor | None:
        """The layer's mask without the cut edges."""
        self.seen.add(layer.index)
        if self.cut is None:
            return mask
        assert mask is not None, "a layer of self-attention has a causal mask"
        if mask.dtype == torch.bool:
            return mask & ~self.cut[:, None].to(mask.device)
        return mask.masked_fill(self.cut[:, None].to(mask.device), torch.finfo(mask.dtype).min)

    def needs_maps(self, layer: AttentionLayer) -> bool:
        """Whether patterns of a layer are replaced."""
        return bool(self.heads.get(layer.index))

    def take(
        self,
        layer: AttentionLayer,
        row: int,
        first: int,
        attention: Float[Tensor, "1 head query key"],
        mask: Float[Tensor, "1 masks query key"] | None,
    ) -> Float[Tensor, "1 head query key"]:
        """The attention with replaced patterns, within what the layer's mask lets each head see."""
        chosen = [head - first for head in self.heads[layer.index] if 0 <= head - first < attention.shape[1]]
        if chosen:
            some, seen = attention[:, chosen], causal(attention.shape[-1], attention.device)
            if mask is not None:
                own = visible(mask)[0]
                # Padding may see nothing. It sees itself here, so that its attention has a sum.
                seen = (own[chosen] if len(own) > 1 else own) & seen | torch.eye(len(seen), device=seen.device).bool()
            else:
                seen = seen[None]
            attention[:, chosen] = REPLACEMENTS[self.pattern](some, self.roles[row], seen).to(some).expand_as(some)
        return attention

    def missing(self) -> list[AttentionLayer]:
        """Layers that were not seen."""
        return [layer for layer in self.layers if layer.index not in self.seen]


def whole_roles(reading: Reading, length: int, device: Any = None) -> Roles:
    """Roles of all `length` positions of a sequence: those of the answer and of padding are OTHER."""
    roles = reading.roles
    rest = (0, length - len(roles.kind))
    kind, exemplar = (
        nn.functional.pad(of, rest, value=fill) for of, fill in ((roles.kind, OTHER), (roles.exemplar, -1))
    )
    return Roles(roles.modalities, roles.context, kind.to(device), exemplar.to(device))


@contextmanager
def edges_cut(model: Any, layers: Iterable[AttentionLayer], cut: Bool[Tensor, "batch query key"]) -> Iterator[None]:
    """A context in which edges of one batch are cut in some layers, in all their heads. The model has to be
    `watchable`.

    Arguments:
        layers: in which.
        cut: the edges; a position's edge to itself must not be among them.

    Raises:
        ModelError: a layer's attention cannot be replaced.
    """
    edits = Edits(tuple(layers), cut)
    with watching(model, edits, edits.missing):
        yield


@contextmanager
def patterns_set(
    model: Any, layers: tuple[AttentionLayer, ...], heads: Iterable[Head], pattern: str, readings: Iterable[Reading],
    length: int,
) -> Iterator[None]:  # fmt: skip
    """A context in which the patterns of heads are replaced on one batch. The model has to be `watchable`.

    Arguments:
        layers: the model's.
        heads: as (layer, head) from 0.
        pattern: of `miclab.circuits.patterns.REPLACEMENTS`.
        readings: of the batch.
        length: of its sequences with padding.

    Raises:
        ModelError: there is no such head, or a layer's attention cannot be replaced.
    """
    chosen = heads_by_layer(layers, heads)
    roles = tuple(whole_roles(reading, length, model.device) for reading in readings)
    edits = Edits(tuple(chosen), None, pattern, {layer.index: of for layer, of in chosen.items()}, roles)
    with watching(model, edits, edits.missing):
        yield
