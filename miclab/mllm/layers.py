"""The attention layers of a decoder, found by walking its modules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from miclab.circuits.find import Head
from miclab.mllm.errors import ModelError


@dataclass(frozen=True)
class Form:
    """A family's names for the linear maps of its attention.

    Arguments:
        output: the map that reads the concatenated outputs of the heads.
        inputs: those to queries, keys and values, in this order; one name if they are fused.
    """

    output: str
    inputs: tuple[str, ...]

    def of(self, module: Any) -> tuple[nn.Module, ...] | None:
        """A module's maps, those to queries, keys and values first; None if it lacks one."""
        names = (*self.inputs, self.output)
        found = [one for name in names if isinstance(one := getattr(module, name, None), nn.Module)]
        return tuple(found) if len(found) == len(names) else None


FORMS = (
    Form("o_proj", ("q_proj", "k_proj", "v_proj")),
    Form("o_proj", ("qkv_proj",)),
    Form("out_proj", ("q_proj", "k_proj", "v_proj")),
    Form("dense", ("query_key_value",)),
    Form("c_proj", ("c_attn",)),
)
"""Llama and most others; Phi-3; OPT; GPT-NeoX and Pythia; GPT-2."""
LOOKED_FOR = (
    "modules with a `layer_idx` and the maps "
    + ", or ".join(" ".join(f"`{name}`" for name in (*form.inputs, form.output)) for form in FORMS)
    + ", whose `head_dim` (or the configuration's) divides the input of the last"
)


@dataclass(frozen=True)
class AttentionLayer:
    """One layer of self-attention.

    Arguments:
        index: the model's own number of the layer (`layer_idx`, from 0). Layers without attention, as in hybrids, leave
            gaps.
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
        return self.projections[-1]

    @property
    def projections(self) -> tuple[nn.Module, ...]:
        """Its linear maps: those to queries, keys and values, which may be fused, and the output's."""
        found = _maps(self.module)
        assert found is not None
        return found


def _maps(module: Any) -> tuple[nn.Module, ...] | None:
    """The linear maps of a module's attention, by the first form that it has."""
    return next((maps for form in FORMS if (maps := form.of(module)) is not None), None)


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
    return int(getattr(projection, "in_features", None) or getattr(projection, "nx", 0))


def width_out(projection: Any) -> int:
    """Number of outputs of a linear map, quantised and LoRA-wrapped ones included."""
    return int(getattr(projection, "out_features", None) or getattr(projection, "nf", 0))


def _head_size(module: Any) -> int:
    config = getattr(module, "config", None)
    text = getattr(config, "text_config", None) or config
    size = getattr(module, "head_dim", None) or getattr(module, "head_size", None) or getattr(text, "head_dim", None)
    if not size and text is not None:
        size = text.hidden_size // text.num_attention_heads
    return int(size or 0)


def is_cross_attention(module: Any) -> bool:
    """Whether a module reads keys and values of another input, such as a picture."""
    marked = getattr(module, "is_cross_attention", None)
    return bool(marked) if marked is not None else "crossattention" in type(module).__name__.lower().replace("_", "")


def _layer(path: str, module: Any) -> AttentionLayer | None:
    """The module as a layer of self-attention; None if it is not one of a known form."""
    maps, number = _maps(module), getattr(module, "layer_idx", None)
    if maps is None or number is None or not getattr(module, "is_causal", True) or is_cross_attention(module):
        return None
    *inputs, output = maps
    size = _head_size(module)
    if not size or width_in(output) % size:
        return None
    heads = width_in(output) // size
    both = 2 * width_out(inputs[1]) if len(inputs) > 1 else width_out(inputs[0]) - heads * size
    pairs = both // (2 * size)
    if pairs < 1 or heads % pairs:
        return None
    return AttentionLayer(int(number), path, module, heads, pairs, size)


def left_out(model: nn.Module) -> tuple[str, ...]:
    """Names of layers of cross-attention, such as those of Llama 3.2 Vision. They are not measured, since their keys
    are not positions of the text."""
    return tuple(
        path for path, module in model.named_modules()
        if getattr(module, "layer_idx", None) is not None and _maps(module) is not None and is_cross_attention(module)
    )  # fmt: skip


def _candidates(model: nn.Module) -> Iterator[AttentionLayer]:
    for path, module in model.named_modules():
        found = _layer(path, module)
        if found is not None:
            yield found


def decoder_of(model: Any) -> nn.Module:
    """The decoder that a model names, else the model."""
    getter = getattr(model, "get_decoder", None)
    decoder = getter() if callable(getter) else None
    return decoder if isinstance(decoder, nn.Module) else model


def attention_layers(model: nn.Module) -> tuple[AttentionLayer, ...]:
    """The decoder's layers of self-attention, in their order; those of vision towers are not among them.

    Raises:
        ModelError: none is found, or two have the same number; the message says what was sought.
    """
    root = decoder_of(model)
    found = sorted(_candidates(root), key=lambda layer: layer.index)
    if not found and root is not model:
        found = sorted(_candidates(model), key=lambda layer: layer.index)
    name = type(model).__name__
    if not found:
        seen = sorted({type(m).__name__ for m in model.modules() if "ttention" in type(m).__name__})
        raise ModelError(
            f"No attention layers were found in {name}. Looked for {LOOKED_FOR}. Its attention modules are "
            f"{', '.join(seen) or 'none by name'}; add a form for them in miclab/mllm/layers.py."
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
