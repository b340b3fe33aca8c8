"""A checkpoint in the names and shapes of `miclab/interop/exported/decoder.py`: its `config.json` and its tensors.

Weights that miclab keeps as [input, output] become one matrix a head where they belong to heads:

    decoder.blocks.0.attention.query [width, width]  ->  blocks.0.attn.W_Q [head, width, dimension]
    decoder.blocks.0.attention.output [width, width] ->  blocks.0.attn.W_O [head, dimension, width]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from miclab.config.options import option_text
from miclab.config.positions import position_options
from miclab.config.run import RunConfig
from miclab.errors import ConfigError, RunError
from miclab.model.attention.mechanism import Mechanism, build_attention
from miclab.model.decoder import Decoder
from miclab.model.positions import build_positions
from miclab.model.projector import DEPTH

CODES = ("none", "onehot", "learned", "sinusoidal", "rope", "rope_released", "partial_rope", "yarn", "pope", "alibi",
         "fire", "hybrid")  # fmt: skip
"""Position codes that the exported module has."""
MECHANISMS = ("softmax", "sliding_window", "grouped_query", "multi_query", "qk_norm", "sink", "smeared",
              "previous_token")  # fmt: skip
"""Attention mechanisms that the exported module has."""
INSTEAD = "In Python `run.model()` gives the checkpoint as a module that needs miclab"
"""What to do where a checkpoint cannot be exported."""
MLP = {"gate": "gate", "value": "in", "out": "out"}
"""Names of the maps of an MLP there."""
SMEARED = {"keys": "k", "values": "v", "both": "kv", "all": "qkv"}
"""Of each value of `on` of `smeared`, the projections that it mixes."""


def check_exportable(config: RunConfig) -> None:
    """Refuses what the exported module does not have.

    Raises:
        RunError: the run has no decoder.
        ConfigError: it has a part of an extension, or one that is not exported; the message names it.
    """
    if config.is_classification:
        raise RunError(f"This run pretrains an encoder and has no decoder to export. {INSTEAD}.")
    for name, modality in config.modalities.items():
        if config.encodes(name):
            allowed = f"'none', or one that is frozen: encoders are not exported. {INSTEAD}"
            raise ConfigError(f"modalities.{name}.encoder", modality.encoder, allowed)
    code = config.decoder.position_name
    if code not in CODES:
        raise ConfigError("decoder.positions", config.decoder.positions, f"for export one of {_listed(CODES)}")
    for mechanism in build_attention(config):
        if mechanism.options.name not in MECHANISMS:
            text = option_text(mechanism.options.name, mechanism.options)
            raise ConfigError("decoder.attention", text, f"for export one of {_listed(MECHANISMS)}")


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names)}. {INSTEAD}"


# -- configuration ------------------------------------------------------------------------------------------------
def network_config(config: RunConfig) -> dict[str, Any]:
    """What `config.json` of an exported decoder holds: plain numbers and names, for any number of examples.

    Raises:
        RunError, ConfigError: as `check_exportable`.
    """
    check_exportable(config)
    options, shapes = config.decoder, Decoder(config).shapes()
    own = {
        "input_map": shapes.get("decoder.input"),
        "first_token": shapes.get("decoder.first_token"),
        "constant": shapes.get("decoder.constant"),
        "jitter": shapes.get("decoder.jitter"),
    }
    return {
        "items": [
            {"name": name, "dimension": config.item_dimension(name), "projector": _projector(config, shapes, name)}
            for name in config.order
        ],
        "context": config.sequence.context,
        "item_width": config.item_width,
        "width": options.residual_width(config.item_width),
        "layers": options.layers,
        "heads": options.heads,
        "labels": config.label_count,
        "positions": _positions(config),
        "attention": [_attention(config, mechanism, layer) for layer, mechanism in enumerate(build_attention(config))],
        "output_projection": options.has_output_projection,
        "centre_keys": options.centre_keys,
        "norm": options.norm,
        "mlp": options.mlp,
        "mlp_hidden": options.mlp_hidden or options.residual_width(config.item_width),
        "mlp_bias": options.mlp == "released" and options.mlp_bias == "on",
        "constant_on": options.token_constant_on,
        "parameters": {name: list(shape) for name, shape in own.items() if shape is not None},
    }


def _projector(config: RunConfig, shapes: Mapping[str, tuple[int, ...]], name: str) -> list[list[int]]:
    if name == config.host_name:
        return []
    return [list(shapes[f"bridge.{name}.{layer}"]) for layer in range(DEPTH[config.bridge.projector])]


def _positions(config: RunConfig) -> dict[str, Any]:
    options, code = config.decoder, build_positions(config)
    own = asdict(position_options(options.positions))
    shapes = {name: list(shape) for name, shape in code.shapes().items()}
    return {
        **own, "theta": options.rope_theta, "slots": options.slots, "placement": options.placement,
        "parameters": shapes,
    }  # fmt: skip


def _attention(config: RunConfig, mechanism: Mechanism, layer: int) -> dict[str, Any]:
    options, name = mechanism.options, mechanism.options.name
    biased = config.decoder.biased(layer)
    found = {"name": name, "query_bias": "query" in biased, "key_bias": "key" in biased}
    head = [config.decoder.residual_width(config.item_width) // config.decoder.heads]
    parameters = {
        "qk_norm": {"query_gain": head, "key_gain": head},
        "sink": {"sink": [config.decoder.heads]},
        "smeared": {"share": [config.decoder.heads]},
    }.get(name, {})
    if name == "sliding_window":
        found["window"] = options.window
    if name in ("grouped_query", "multi_query"):
        found["groups"] = 1 if name == "multi_query" else options.groups
    if name == "smeared":
        found |= {"smeared": SMEARED[options.on], "back": options.back}
    return {**found, "parameters": parameters}


# -- tensors ------------------------------------------------------------------------------------------------------
def network_tensors(config: RunConfig, parameters: Mapping[str, Tensor], label_embeddings: Tensor) -> dict[str, Tensor]:
    """The state dict of the exported decoder.

    Arguments:
        parameters: of the checkpoint, by name.
        label_embeddings: of the run's world [label, item width].
    """
    left = dict(parameters)
    found = {"label_embeddings": label_embeddings, "W_U": left.pop("decoder.readout")}
    for index, name in enumerate(config.order):
        for layer in range(DEPTH[config.bridge.projector]) if name != config.host_name else ():
            found[f"projectors.{index}.W.{layer}"] = left.pop(f"bridge.{name}.{layer}")
    names = {"input": "input_map", "first_token": "first_token", "constant": "constant", "jitter": "jitter"}
    for name in [name for name in left if name.startswith("decoder.")]:
        part = name.split(".")[1:]
        if part[0] == "positions":
            found[name.removeprefix("decoder.")] = left.pop(name)
        elif part[0] == "norm":
            found[f"ln_final.{_norm(part[1])}"] = left.pop(name)
        elif part[0] != "blocks":
            found[names[part[0]]] = left.pop(name)
    for layer, mechanism in enumerate(build_attention(config)):
        start = f"decoder.blocks.{layer}."
        own = {name.removeprefix(start): left.pop(name) for name in list(left) if name.startswith(start)}
        found |= {f"blocks.{layer}.{name}": value for name, value in _block(config, mechanism, layer, own).items()}
    if left:
        raise RunError(f"These parameters have no place in the exported decoder: {', '.join(left)}. {INSTEAD}.")
    return {name: value.detach().clone().contiguous() for name, value in found.items()}


def _norm(part: str) -> str:
    return {"gain": "w", "bias": "b"}[part]


def _block(config: RunConfig, mechanism: Mechanism, layer: int, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A block's tensors by their names within it."""
    head = mechanism.width // mechanism.heads
    attention = {name.removeprefix("attention."): value for name, value in own.items() if name[:9] == "attention"}
    found = {}
    for name, value in own.items():
        part = name.split(".")
        if part[0] in ("norm1", "norm2"):
            found[f"ln{part[0][-1]}.{_norm(part[1])}"] = value
        elif part[0] == "mlp":
            found[f"mlp.{'W' if part[2] == 'weight' else 'b'}_{MLP[part[1]]}"] = value
    for part, letter in (("query", "Q"), ("key", "K"), ("value", "V")):
        if part in attention:
            found[f"attn.W_{letter}"] = attention[part].unflatten(1, (-1, head)).transpose(0, 1)
        if f"{part}_bias" in attention:
            found[f"attn.b_{letter}"] = attention[f"{part}_bias"].unflatten(0, (-1, head))
    if "output" in attention:
        found["attn.W_O"] = attention["output"].unflatten(0, (-1, head))
    return found | {f"attn.{name}": value for name, value in _extras(mechanism, layer, attention).items()}


def _extras(mechanism: Mechanism, layer: int, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a variant has beside its projections, in effect: a bounded share is its sigmoid, a frozen one a number."""
    name = mechanism.options.name
    if name == "qk_norm":
        start = torch.full((mechanism.width // mechanism.heads,), mechanism.options.start)
        return {f"{part}_gain": own.get(f"{part}_gain", start) for part in ("query", "key")}
    if name in ("sink", "smeared"):
        weight = mechanism.weight(own, layer)
        assert weight is not None
        return {"sink" if name == "sink" else "share": weight}
    if name == "previous_token":
        # Its pattern is a mask, whatever the scores are.
        nothing = own["value"].new_zeros((mechanism.heads, mechanism.width, mechanism.width // mechanism.heads))
        return {"W_Q": nothing, "W_K": nothing}
    return {}
