"""The memory that a model needs, computed from its configuration alone. No weights are read or made.

Weights are counted exactly, on the `meta` device. The further need of a pass is estimated from the widths: the most
that one layer holds at once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import nn

from miclab.errors import ConfigError
from miclab.mllm.adapters import base_of, is_adapter
from miclab.mllm.errors import ModelError, require
from miclab.mllm.layers import AttentionLayer, attention_layers
from miclab.mllm.loading import place, quiet
from miclab.tables import Number, Table, Tabled, table

GIB = 2**30
BYTES = {"float32": 4.0, "bfloat16": 2.0}
FOUR_BIT = 0.5 + 4 / 64
"""Bytes of a weight in NF4: four bits, and one float32 scale for every 64."""
KEPT = 4
"""Maps of float32 that measuring holds for each of these heads: scores, weights, and two inside a measure."""


@dataclass(frozen=True)
class Needs:
    """Memory of one way to hold a model, in bytes.

    Arguments:
        weights: of the model.
        plain: beside them, for a plain pass with eager attention over one sequence.
        measured: beside them, for the same pass with every head's strengths.
    """

    weights: float
    plain: float
    measured: float


@dataclass(frozen=True)
class Memory(Tabled):
    """The memory of a model, by the format of its weights.

    Arguments:
        model: its name.
        parameters: number of parameters, tied ones once.
        linear: how many of them are in linear maps of the layers, which can be held in four bits.
        vision: how many are outside the decoder and the readout.
        layers: number of attention layers.
        heads: heads a layer.
        key_value_heads: key and value heads a layer.
        head_size: dimension of a head.
        tokens: length of the sequence.
        needs: for `float32`, `bfloat16` and `4-bit`.
    """

    model: str
    parameters: int
    linear: int
    vision: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    tokens: int
    needs: dict[str, Needs]

    def tables(self) -> tuple[Table, ...]:
        """A row for each way to hold the weights, in GiB."""
        title = (
            f"{self.model}: {self.parameters:,} parameters ({self.vision:,} outside the decoder), {self.layers} layers"
            f" of {self.heads} heads of {self.head_size}, {self.key_value_heads} for keys and values; GiB, one sequence"
            f" of {self.tokens} tokens"
        )
        columns = ["weights as", "weights", "a plain pass", "a pass of `heads`", "weights and `heads`"]
        rows = [
            [held, *(Number(size / GIB, 2) for size in (n.weights, n.plain, n.measured, n.weights + n.measured))]
            for held, n in self.needs.items()
        ]
        return (table(title, columns, rows),)


def known() -> dict[str, Any]:
    """Configurations of models that are not part of miclab, by name: the numbers that their makers publish."""
    return json.loads(files("miclab.mllm").joinpath("configurations.json").read_text(encoding="utf-8"))


def configuration(name: str) -> Any:
    """A configuration by a name in `known`, from a folder, or from the hub.

    Raises:
        ModelError: there is none.
    """
    from transformers import AutoConfig

    if name in known() and not Path(name).exists():
        body = dict(known()[name])
        return AutoConfig.for_model(body.pop("model_type"), **body)
    try:
        where = place(name)
        return AutoConfig.from_pretrained(
            place(base_of(where)) if is_adapter(where) else where, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        first = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{name} has no configuration that can be read: {first} Give the folder of a model, a hub id, or one of "
            f"{', '.join(known())}."
        ) from error


def _pass(config: Any, layer: AttentionLayer, tokens: int, bytes_each: float) -> tuple[float, float]:
    """Memory beside the weights, plain and measured: the larger of attention and MLP."""
    from miclab.mllm.attention import SHARE

    text = getattr(config, "text_config", config)
    stream = 3 * tokens * text.hidden_size * bytes_each
    mlp = 3 * tokens * text.intermediate_size * bytes_each
    projected = (2 * layer.heads + 2 * layer.key_value_heads) * layer.head_size * tokens * bytes_each
    square = float(tokens) ** 2
    mask = square * bytes_each
    eager = layer.heads * square * (bytes_each + 4)
    reduced = max(1, layer.heads // SHARE) * square * 4 * KEPT
    return stream + max(mlp, projected + mask + eager), stream + max(mlp, projected + mask + reduced)


def memory(name: str, tokens: int = 2000) -> Memory:
    """The memory that a model needs.

    Arguments:
        name: folder, hub id, or a name in `known`.
        tokens: length of a sequence, pictures included.

    Raises:
        ModelError: there is no such configuration, or its attention layers cannot be found.
        ConfigError: `tokens` is not a length.
    """
    require()
    quiet()
    if tokens < 1:
        raise ConfigError("tokens", tokens, "1 and more")
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    config = configuration(name)
    kind = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    try:
        with torch.device("meta"):
            model: Any = kind.from_config(config, trust_remote_code=False)
    except ValueError as error:
        first = " ".join(str(error).split())[:200]
        raise ModelError(f"{name} is no model that writes behind a prompt: {first}") from error
    model.tie_weights()
    layers = attention_layers(model)
    total = sum(parameter.numel() for parameter in model.parameters())
    readout = model.get_output_embeddings()
    maps = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not readout]
    linear = sum(m.weight.numel() for m in maps)
    decoder = {id(p) for p in model.get_decoder().parameters()} | {id(p) for p in readout.parameters()}
    vision = sum(p.numel() for p in model.parameters() if id(p) not in decoder)
    weights = {kind: total * each for kind, each in BYTES.items()}
    weights["4-bit"] = linear * FOUR_BIT + (total - linear) * BYTES["bfloat16"]
    needs = {}
    for held, size in weights.items():
        plain, measured = _pass(config, layers[0], tokens, BYTES.get(held, BYTES["bfloat16"]))
        needs[held] = Needs(size, plain, measured)
    first = layers[0]
    return Memory(name, total, linear, vision, len(layers), first.heads, first.key_value_heads, first.head_size, tokens,
                  needs)  # fmt: skip
