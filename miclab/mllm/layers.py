"""The attention layers of a decoder, found by walking its modules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from miclab.circuits.find import Head
from miclab.mllm.errors import ModelError

OUTPUT = "o_proj"
SPLIT = ("q_proj", "k_proj", "v_proj")
FUSED = "qkv_proj"
LOOKED_FOR = (
    f"modules with a `layer_idx`, an output projection `{OUTPUT}` and either {', '.join(f'`{n}`' for n in SPLIT)} or "
    f"`{FUSED}`, whose `head_dim` (or the configuration's) divides the input of `{OUTPUT}`"
)


@dataclass(frozen=True)
class AttentionLayer:
    """One layer of self-attention.

    Arguments:
        index: number of the layer as the model counts it (`layer_idx`, from 0); layers without attention, as hybrids
            have, leave gaps.
        path: name of the module in its model.
        module: the module.
        heads: number of query heads.
        key_value_heads: number of key and value heads; `heads` is a multiple of it.
        head_size: dimension of a head's output.
    """

    index: int
    path: str
    module: nn.Module = field(repr=False, compare=False)
    heads: int
    key_value_heads: int
    head_size: int

    @property
    def output_projection(self) -> nn.Module:
        """The projection that reads the concatenated outputs of the heads."""
        return getattr(self.module, OUTPUT)

    @property
    def projections(self) -> tuple[nn.Module, ...]:
        """Its linear maps: those to queries, keys and values, in one where they are fused, and the output's."""
        inputs = (FUSED,) if isinstance(getattr(self.module, FUSED, None), nn.Module) else SPLIT
        return tuple(getattr(self.module, name) for name in (*inputs, OUTPUT))


def parse_head(text: str) -> Head:
    """The head that `head_name` names.

    Raises:
        ModelError: it is not of this form.
    """
    layer, dot, head = text.partition(".")
    if not (dot and layer.isdigit() and head.isdigit()):
        raise ModelError(f"{text!r} names no head: write LAYER.HEAD, both counted from 0, such as 19.11.")
    return int(layer), int(head)


def width_in(projection: Any) -> int:
    """Number of inputs of a linear map, quantised and LoRA-wrapped ones included."""
    return int(projection.in_features)


def width_out(projection: Any) -> int:
    """Number of outputs of a linear map, quantised and LoRA-wrapped ones included."""
    return int(projection.out_features)


def _head_size(module: Any) -> int:
    config = getattr(module, "config", None)
    text = getattr(config, "text_config", None) or config
    size = getattr(module, "head_dim", None) or getattr(text, "head_dim", None)
    if not size and text is not None:
        size = text.hidden_size // text.num_attention_heads
    return int(size or 0)


def _layer(path: str, module: Any) -> AttentionLayer | None:
    """The module as a layer of self-attention; None if it is not one of a known form."""
    output, number = getattr(module, OUTPUT, None), getattr(module, "layer_idx", None)
    if not isinstance(output, nn.Module) or number is None or not getattr(module, "is_causal", True):
        return None
    size = _head_size(module)
    if not size or width_in(output) % size:
        return None
    heads = width_in(output) // size
    if all(isinstance(getattr(module, name, None), nn.Module) for name in SPLIT):
        pairs = width_out(module.k_proj) // size
    elif isinstance(getattr(module, FUSED, None), nn.Module):
        pairs = (width_out(module.qkv_proj) - heads * size) // (2 * size)
    else:
        return None
    if pairs < 1 or heads % pairs:
        return None
    return AttentionLayer(int(number), path, module, heads, pairs, size)


def _candidates(model: nn.Module) -> Iterator[AttentionLayer]:
    for path, module in model.named_modules():
        found = _layer(path, module)
        if found is not None:
            yield found


def attention_layers(model: nn.Module) -> tuple[AttentionLayer, ...]:
    """The decoder's layers of self-attention, in their order; those of vision towers are not among them.

    Raises:
        ModelError: none is found, or two have the same number; the message says what was looked for.
    """
    getter = getattr(model, "get_decoder", None)
    decoder = getter() if callable(getter) else None
    root = decoder if isinstance(decoder, nn.Module) else model
    found = sorted(_candidates(root), key=lambda layer: layer.index)
    if not found and root is not model:
        found = sorted(_candidates(model), key=lambda layer: layer.index)
    name = type(model).__name__
    if not found:
        seen = sorted({type(m).__name__ for m in model.modules() if "ttention" in type(m).__name__})
        raise ModelError(
            f"No attention layers were found in {name}. Looked for {LOOKED_FOR}. Its attention modules are "
            f"{', '.join(seen) or 'none by name'}; a form of them can be added in miclab/mllm/layers.py."
        )
    numbers = [layer.index for layer in found]
    if len(set(numbers)) < len(numbers):
        raise ModelError(
            f"{name} has several attention layers of one number ({', '.join(layer.path for layer in found[:3])}, ...), "
            f"so its decoder is not clear. Looked for {LOOKED_FOR}, in what get_decoder() gives."
        )
    return tuple(found)


def all_heads(layers: tuple[AttentionLayer, ...]) -> tuple[Head, ...]:
    """Every head of the layers, in order."""
    return tuple((layer.index, head) for layer in layers for head in range(layer.heads))
