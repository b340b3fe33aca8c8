"""The parts of a model that training can leave as they are: names that `frozen` may hold.

Most are prefixes of parameters' names. A head of plain softmax attention is LAYER.HEAD, both from 0. It is its columns
of the queries, keys and values, and its rows of the output projection.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from miclab.config.options import SOFTMAX
from miclab.errors import ConfigError, nearest

if TYPE_CHECKING:
    from miclab.config.run import RunConfig

_HEAD = re.compile(r"\d+\.\d+")


def is_head(part: str) -> bool:
    """Whether the name of a part is that of a head."""
    return _HEAD.fullmatch(part) is not None


def frozen_heads(config: RunConfig) -> tuple[tuple[int, int], ...]:
    """Layer and head of the frozen heads."""
    found = [tuple(map(int, part.split("."))) for part in config.frozen if is_head(part)]
    return tuple((layer, head) for layer, head in found)


def parts_of(config: RunConfig) -> tuple[str, ...]:
    """Names that `frozen` may hold."""
    decoder = config.decoder
    given = ("decoder.input",) * (decoder.input_map == "linear")
    given += ("decoder.positions",) * decoder.position_facts.learnt
    given += ("decoder.constant",) * bool(decoder.token_constant)
    given += ("decoder.first_token",) * (config.sequence.first_token != "none")
    blocks = tuple(f"decoder.blocks.{i}" for i in range(decoder.layers))
    norm = ("decoder.norm",) * (decoder.norm != "none")
    others = tuple(name for name in config.modalities if name != config.host_name)
    bridges = tuple(f"bridge.{name}" for name in others)
    encoders = tuple(f"encoder.{name}" for name in others if config.modalities[name].encoder != "none")
    inside = tuple(f"{block}.{part}" for block in blocks for part in _inside(config))
    whole = ("decoder", *given, "decoder.blocks", *blocks, *norm, "decoder.readout", *bridges, *encoders)
    return (*whole, *inside, *(f"{i}.{j}" for i, j in _heads(config)))


def _inside(config: RunConfig) -> tuple[str, ...]:
    """The parts of a block."""
    decoder = config.decoder
    has_mlp, has_norm = decoder.mlp != "none", decoder.norm != "none"
    return ("attention", *("mlp",) * has_mlp, *("norm1",) * has_norm, *("norm2",) * (has_norm and has_mlp))


def _heads(config: RunConfig) -> list[tuple[int, int]]:
    decoder = config.decoder
    if decoder.attention.name != SOFTMAX:
        return []
    return [(i, j) for i in range(decoder.layers) for j in range(decoder.heads)]


def check_frozen(config: RunConfig) -> None:
    """Raises ConfigError for a part that there is not, or if nothing is left to be trained."""
    if not config.frozen:
        return
    parts, heads = parts_of(config), _heads(config)
    for part in config.frozen:
        if part not in parts:
            raise ConfigError("frozen", part, nearest(part, parts))
    blocks = tuple(f"decoder.blocks.{i}" for i in range(config.decoder.layers))
    leaves = [part for part in parts if part not in ("decoder", "decoder.blocks", *blocks) and not is_head(part)]
    # The heads of a layer are all of its attention.
    whole = [
        f"{block}.attention" for i, block in enumerate(blocks)
        if heads and all(f"{i}.{j}" in config.frozen for j in range(config.decoder.heads))
    ]  # fmt: skip
    frozen = (*config.frozen, *whole)
    if all(any(leaf == part or leaf.startswith(f"{part}.") for part in frozen) for leaf in leaves):
        raise ConfigError("frozen", config.frozen, "at least one part that is trained")
