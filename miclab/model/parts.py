"""Which weights belong to which part of a decoder: query, key, value and output of each head, MLPs, norms, readout.

A part is a mask of every parameter that it has weights in, True where they are its own:

    head 1.0 query     columns of `decoder.blocks.1.attention.query` (and of its bias)
    head 1.0 output    rows of `decoder.blocks.1.attention.output`
    head 1.0           its query, key, value and output together
    mlp 0              all of `decoder.blocks.0.mlp`

No two of the smallest parts share a weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Bool
from torch import Tensor

from miclab.config.options import SOFTMAX
from miclab.config.run import RunConfig
from miclab.errors import RunError

Shapes = Mapping[str, tuple[int, ...]]
Mask = dict[str, Bool[Tensor, "..."]]
"""For each parameter, which of its weights are meant."""
INPUTS = ("query", "key", "value")
HEADS, MLPS, READOUT, NORMS = "all heads", "all mlps", "readout", "norms"


def _input_mask(shape: tuple[int, ...], own: slice) -> Tensor:
    found = torch.zeros(shape, dtype=torch.bool)
    found[..., own] = True
    return found


def head_masks(config: RunConfig, shapes: Shapes, layer: int, head: int) -> dict[str, Mask]:
    """The weights of a head: `query`, `key`, `value`, and `output` where there is an output projection.

    Raises:
        RunError: the layer's attention is no plain softmax attention.
    """
    if config.decoder.attention.name != SOFTMAX:
        name = config.decoder.attention.name
        raise RunError(f"Which weights are a head's is known of softmax attention alone, and this decoder has {name}.")
    start, found = f"decoder.blocks.{layer}.attention", dict[str, Mask]()
    for part in INPUTS:
        shape = shapes[f"{start}.{part}"]
        size = shape[-1] // config.decoder.heads
        own = slice(head * size, (head + 1) * size)
        names = (name for name in (f"{start}.{part}", f"{start}.{part}_bias") if name in shapes)
        found[part] = {name: _input_mask(shapes[name], own) for name in names}
        if part == "value" and f"{start}.output" in shapes:
            rows = torch.zeros(shapes[f"{start}.output"], dtype=torch.bool)
            rows[own] = True
            found["output"] = {f"{start}.output": rows}
    return found


def joined(masks: Iterable[Mask]) -> Mask:
    """All weights of several masks."""
    found: Mask = {}
    for mask in masks:
        for name, own in mask.items():
            found[name] = found[name] | own if name in found else own
    return found


def decoder_parts(config: RunConfig, shapes: Shapes) -> dict[str, Mask]:
    """The parts of a decoder by name: of each head its four parts and itself, each MLP, all heads, all MLPs, the norms,
    the readout.

    Raises:
        RunError: its attention is no plain softmax attention.
    """
    found: dict[str, Mask] = {}
    heads: list[Mask] = []
    for layer in range(config.decoder.layers):
        for head in range(config.decoder.heads):
            own = head_masks(config, shapes, layer, head)
            found |= {f"head {layer}.{head} {part}": mask for part, mask in own.items()}
            heads.append(joined(own.values()))
            found[f"head {layer}.{head}"] = heads[-1]
    mlps = [_under(shapes, f"decoder.blocks.{layer}.mlp") for layer in range(config.decoder.layers)]
    found |= {f"mlp {layer}": mask for layer, mask in enumerate(mlps) if mask}
    found[HEADS] = joined(heads)
    if any(mlps):
        found[MLPS] = joined(mlps)
    norms = {n: torch.ones(s, dtype=torch.bool) for n, s in shapes.items() if n.startswith("decoder.") and ".norm" in n}
    if norms:
        found[NORMS] = norms
    found[READOUT] = _under(shapes, "decoder.readout")
    return found


def _under(shapes: Shapes, start: str) -> Mask:
    mine = [name for name in shapes if name == start or name.startswith(f"{start}.")]
    return {name: torch.ones(shapes[name], dtype=torch.bool) for name in mine}


def size(mask: Mask) -> int:
    """Number of weights of a part."""
    return sum(int(own.sum()) for own in mask.values())
