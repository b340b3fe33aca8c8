"""Attention seen inside the layers, measured or edited: a few heads' maps are made at a time, used, and dropped.

A `Watcher` sees the attention of the layers that it wants. `Recorder` reduces each map to its strengths. The measures
are those of `miclab.measures.attention`, which take one layer's attention [batch, head, query, key]. Here they get a
few heads of one sequence at a time, so that the maps of a layer never exist together. `miclab.mllm.edits` has the
watcher that changes attention.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.modeling_utils import AttentionInterface

from miclab.circuits.find import Head
from miclab.measures.attention import strengths
from miclab.mllm.errors import ModelError
from miclab.mllm.layers import AttentionLayer
from miclab.mllm.reading import Reading

NAME = "miclab_watched"
SHARE = 8
"""One head in this many is held at once, if a layer has that many."""
SMALL = 2**18
"""Numbers of attention that may always be held at once, since loops over heads would be slow on short texts."""


def visible(mask: Tensor) -> Tensor:
    """Whether a query may see a key, of a mask that is added to scores: a hidden one is far below 0."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


@runtime_checkable
class Watcher(Protocol):
    """What sees or changes attention while a model reads a batch."""

    def wants(self, module: nn.Module) -> AttentionLayer | None:
        """The layer of a module whose attention it sees; None: it leaves the module alone."""
        ...

    def mask(self, layer: AttentionLayer, mask: Tensor | None) -> Tensor | None:
        """The mask to use in the place of a layer's own. It is added to scores [batch or 1, head or 1, query, key].
        None: all is visible."""
        ...

    def needs_maps(self, layer: AttentionLayer) -> bool:
        """Whether `take` is to be called for a layer."""
        ...

    def take(
        self,
        layer: AttentionLayer,
        row: int,
        first: int,
        attention: Float[Tensor, "1 head query key"],
        mask: Float[Tensor, "1 masks query key"] | None,
    ) -> Float[Tensor, "1 head query key"]:
        """Sees the attention of some heads of one sequence, from head `first` on, and returns what is to be used."""
        ...


@dataclass
class Recorder:
    """A recorder of the strengths of every head on one batch.

    Arguments:
        layers: the layers that are measured.
        readings: of the batch; positions after each `length` are ignored.
        keep: heads whose maps are kept whole.
    """

    layers: tuple[AttentionLayer, ...]
    readings: tuple[Reading, ...]
    keep: Collection[Head] = ()
    found: dict[int, list[list[dict[str, Tensor]]]] = field(default_factory=dict)
    maps: dict[tuple[int, Head], Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.by_module = {id(layer.module): layer for layer in self.layers}

    def wants(self, module: nn.Module) -> AttentionLayer | None:
        """The layer of a module, if it is measured."""
        return self.by_module.get(id(module))

    def mask(self, layer: AttentionLayer, mask: Tensor | None) -> Tensor | None:
        """The layer's own mask."""
        return mask

    def needs_maps(self, layer: AttentionLayer) -> bool:
        """True: every layer is measured."""
        return True

    def take(
        self,
        layer: AttentionLayer,
        row: int,
        first: int,
        attention: Float[Tensor, "1 head query key"],
        mask: Float[Tensor, "1 masks query key"] | None,
    ) -> Float[Tensor, "1 head query key"]:
        """Reduces the attention of some heads of one sequence, from head `first` on, under this mask."""
        reading = self.readings[row]
        part = attention[..., : reading.length, : reading.length]
        roles, device = reading.roles, part.device
        moved = type(roles)(roles.modalities, roles.context, roles.kind.to(device), roles.exemplar.to(device))
        labels, target = reading.labels[None].to(device), torch.tensor([reading.target], device=device)
        seen = None if mask is None else visible(mask[..., : reading.length, : reading.length])
        reduced = {name: value[0].cpu() for name, value in strengths(part, moved, labels, target, seen).items()}
        rows = self.found.setdefault(layer.index, [[] for _ in self.readings])
        rows[row].append(reduced)
        for head in range(part.shape[1]):
            if (layer.index, first + head) in self.keep:
                self.maps[row, (layer.index, first + head)] = part[0, head].cpu()
        return attention

    def values(self, index: int) -> dict[str, Float[Tensor, "batch head"]]:
        """Strengths of one layer by name."""
        rows = self.found[index]
        return {name: torch.stack([torch.cat([p[name] for p in parts]) for parts in rows]) for name in rows[0][0]}


_ACTIVE: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


def readings_measured() -> tuple[Reading, ...]:
    """The readings of the batch that is being measured; empty if none is."""
    watcher = _ACTIVE.get()
    return watcher.readings if isinstance(watcher, Recorder) else ()


def _weights(
    query: Tensor, key: Tensor, mask: Tensor | None, scaling: float, softcap: float | None, sinks: Tensor | None
) -> Float[Tensor, "1 head query key"]:
    """Attention of some heads of one sequence, in float32. A head's sink is one more score without a position. It takes
    attention from the positions."""
    scores = torch.matmul(query, key.transpose(-1, -2))
    scores *= scaling
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores += mask
    if sinks is None:
        return torch.softmax(scores, -1, dtype=torch.float32)
    own = sinks.to(scores.dtype)[None, :, None, None].expand(*scores.shape[:3], 1)
    return torch.softmax(torch.cat([scores, own], -1), -1, dtype=torch.float32)[..., :-1]


def _mask_of(mask: Tensor | None, module: nn.Module, query: Tensor, key: Tensor) -> Tensor | None:
    if mask is not None or not getattr(module, "is_causal", True):
        return mask
    ones = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
    lowest = torch.finfo(query.dtype).min
    return torch.zeros_like(ones, dtype=query.dtype).masked_fill(~ones.tril(key.shape[2] - query.shape[2]), lowest)[
        None, None
    ]


def _by_parts(
    take: Callable[[int, int, Tensor, Tensor | None], Tensor] | None, query: Tensor, key: Tensor, value: Tensor,
    mask: Tensor | None, scale: float, options: dict[str, Any],
) -> Float[Tensor, "batch query head size"]:  # fmt: skip
    """Attention of a layer, a few heads of one sequence at a time, each of which `take` sees."""
    batch, heads, length, _ = query.shape
    sinks, groups = options.get("s_aux"), heads // key.shape[1]
    pairs = torch.arange(heads, device=key.device) // groups
    chunk = max(1, min(heads, max(heads // SHARE, SMALL // (length * key.shape[2]))))
    output = torch.empty(batch, length, heads, value.shape[-1], dtype=query.dtype, device=query.device)
    for row in range(batch):
        own = None if mask is None else mask[row if mask.shape[0] > 1 else 0]
        for first in range(0, heads, chunk):
            some = slice(first, first + chunk)
            of_heads = None if own is None else own[some if own.shape[0] > 1 else slice(None)][None]
            there = pairs[some]
            weights = _weights(query[row : row + 1, some], key[row : row + 1, there], of_heads, scale,
                               options.get("softcap"), None if sinks is None else sinks[some])  # fmt: skip
            if take:
                weights = take(row, first, weights, of_heads)
            output[row, :, some] = torch.matmul(weights.to(value.dtype), value[row, there]).transpose(1, 2)[0]
            del weights
    return output


def watched_attention(
    module: nn.Module,
    query: Float[Tensor, "batch head query size"],
    key: Float[Tensor, "batch pair key size"],
    value: Float[Tensor, "batch pair key size"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention in the form that transformers calls: output [batch, query, head, size]. In a layer that the active
    watcher wants, it is given each head's map. Elsewhere, such as in a vision tower, it is computed as `sdpa` does. A
    layer with a cap or sinks is not, since `sdpa` lacks them.
    """
    watcher = _ACTIVE.get()
    layer = watcher.wants(module) if watcher else None
    mask, take = attention_mask, None
    if watcher is not None and layer is not None:
        mask = watcher.mask(layer, _mask_of(attention_mask, module, query, key))
        take = partial(watcher.take, layer) if watcher.needs_maps(layer) else None
    if take is None and options.get("softcap") is None and options.get("s_aux") is None:
        return sdpa_attention_forward(module, query, key, value, mask, dropout=dropout, scaling=scaling, **options)
    scale = float(query.shape[-1] ** -0.5 if scaling is None else scaling)
    return _by_parts(take, query, key, value, _mask_of(mask, module, query, key), scale, options), None


AttentionInterface.register(NAME, watched_attention)
AttentionMaskInterface.register(NAME, eager_mask)


def _configs(model: nn.Module) -> list[Any]:
    found = {id(m.config): m.config for m in model.modules() if hasattr(getattr(m, "config", None), "sub_configs")}
    return list(found.values())


@contextmanager
def watchable(model: Any) -> Iterator[None]:
    """A context in which a model's attention goes through `watched_attention`.

    Raises:
        ModelError: the model's attention cannot be replaced.
    """
    before = [(config, config._attn_implementation) for config in _configs(model)]
    try:
        try:
            model.set_attn_implementation(NAME)
        except (ValueError, AttributeError) as error:
            raise _no_eager(model, str(error)) from error
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation = implementation


@contextmanager
def watching(model: Any, watcher: Watcher, needed: Callable[[], Sequence[AttentionLayer]]) -> Iterator[None]:
    """A context in which a watcher sees the attention of a `watchable` model.

    Arguments:
        needed: layers that it should have seen at the end, and has not.

    Raises:
        ModelError: at the end of the context, if there is such a layer.
    """
    token = _ACTIVE.set(watcher)
    try:
        yield
        missing = needed()
        if missing:
            raise _no_eager(model, f"{missing[0].path} did not request it")
    finally:
        _ACTIVE.reset(token)


@contextmanager
def measuring(
    model: Any, layers: tuple[AttentionLayer, ...], readings: tuple[Reading, ...], keep: Collection[Head] = ()
) -> Iterator[Recorder]:
    """A context in which one forward pass fills the recorder.

    Raises:
        ModelError: the model's attention cannot be replaced, so there is no map to measure.
    """
    recorder = Recorder(layers, readings, keep)

    def missing() -> list[AttentionLayer]:
        return [layer for layer in layers if layer.index not in recorder.found]

    with watchable(model), watching(model, recorder, missing):
        yield recorder


def _no_eager(model: Any, why: str) -> ModelError:
    return ModelError(
        f"{type(model).__name__} has no eager attention that can be measured: {why}. Its class has to take attention "
        "functions of transformers' AttentionInterface; classes that come with their own code (trust_remote_code) or "
        "with a fused kernel alone do not. Use the class of transformers itself."
    )
