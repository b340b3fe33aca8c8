"""Attention measured inside the layers: each head's map is made, reduced to its strengths, and dropped.

The measures are those of `miclab.measures.attention`, which take one layer's attention [batch, head, query, key]. Here
they get a few heads of one sequence at a time, so that the maps of a layer never exist together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

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

NAME = "miclab_measured"
SHARE = 8
"""One head in this many is held at once, if a layer has that many."""
SMALL = 2**18
"""Numbers of attention that may always be held at once, since loops over heads would be slow on short texts."""


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

    def take(
        self,
        layer: AttentionLayer,
        row: int,
        first: int,
        attention: Float[Tensor, "1 head query key"],
        mask: Float[Tensor, "1 masks query key"] | None,
    ) -> None:
        """Reduces the attention of some heads of one sequence, from head `first` on, under this mask."""
        reading = self.readings[row]
        part = attention[..., : reading.length, : reading.length]
        roles, device = reading.roles, part.device
        moved = type(roles)(roles.modalities, roles.context, roles.kind.to(device), roles.exemplar.to(device))
        labels, target = reading.labels[None].to(device), torch.tensor([reading.target], device=device)
        visible = None
        if mask is not None:
            # A mask is added to scores; a key is visible unless the mask is far below 0.
            visible = mask[..., : reading.length, : reading.length] > torch.finfo(mask.dtype).min / 2
        reduced = {name: value[0].cpu() for name, value in strengths(part, moved, labels, target, visible).items()}
        rows = self.found.setdefault(layer.index, [[] for _ in self.readings])
        rows[row].append(reduced)
        for head in range(part.shape[1]):
            if (layer.index, first + head) in self.keep:
                self.maps[row, (layer.index, first + head)] = part[0, head].cpu()

    def values(self, index: int) -> dict[str, Float[Tensor, "batch head"]]:
        """Strengths of one layer by name."""
        rows = self.found[index]
        return {name: torch.stack([torch.cat([p[name] for p in parts]) for parts in rows]) for name in rows[0][0]}


_ACTIVE: ContextVar[Recorder | None] = ContextVar("recorder", default=None)


def readings_measured() -> tuple[Reading, ...]:
    """The readings of the batch that is being measured; empty if none is."""
    recorder = _ACTIVE.get()
    return recorder.readings if recorder else ()


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


def measured_attention(
    module: nn.Module,
    query: Float[Tensor, "batch head query size"],
    key: Float[Tensor, "batch pair key size"],
    value: Float[Tensor, "batch pair key size"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention in the form that transformers calls: output [batch, query, head, size]. In a measured layer each
    head's map goes to the recorder; other layers, such as a vision tower's, are computed as `sdpa` does.
    """
    recorder = _ACTIVE.get()
    layer = recorder.by_module.get(id(module)) if recorder else None
    if recorder is None or layer is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    batch, heads, length, size = query.shape
    scale = float(size**-0.5 if scaling is None else scaling)
    sinks = options.get("s_aux")
    mask, groups = _mask_of(attention_mask, module, query, key), heads // key.shape[1]
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
            output[row, :, some] = torch.matmul(weights.to(value.dtype), value[row, there]).transpose(1, 2)[0]
            recorder.take(layer, row, first, weights, of_heads)
            del weights
    return output, None


AttentionInterface.register(NAME, measured_attention)
AttentionMaskInterface.register(NAME, eager_mask)


def _configs(model: nn.Module) -> list[Any]:
    found = {id(m.config): m.config for m in model.modules() if hasattr(getattr(m, "config", None), "sub_configs")}
    return list(found.values())


@contextmanager
def measuring(
    model: Any, layers: tuple[AttentionLayer, ...], readings: tuple[Reading, ...], keep: Collection[Head] = ()
) -> Iterator[Recorder]:
    """A context in which one forward pass fills the recorder.

    Raises:
        ModelError: the model's attention cannot be replaced, so there is no map to measure.
    """
    before = [(config, config._attn_implementation) for config in _configs(model)]
    recorder = Recorder(layers, readings, keep)
    token = _ACTIVE.set(recorder)
    try:
        try:
            model.set_attn_implementation(NAME)
        except (ValueError, AttributeError) as error:
            raise _no_eager(model, str(error)) from error
        yield recorder
        missing = [layer.path for layer in layers if layer.index not in recorder.found]
        if missing:
            raise _no_eager(model, f"{missing[0]} did not request it")
    finally:
        _ACTIVE.reset(token)
        for config, implementation in before:
            config._attn_implementation = implementation


def _no_eager(model: Any, why: str) -> ModelError:
    return ModelError(
        f"{type(model).__name__} has no eager attention that can be measured: {why}. Its class has to take attention "
        "functions of transformers' AttentionInterface; classes that come with their own code (trust_remote_code) or "
        "with a fused kernel alone do not. Use the class of transformers itself."
    )
