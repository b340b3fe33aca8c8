"""The MLP of a block. Its parameters are [input, output] weights, used as `x @ weight`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from miclab.config.decoder import DecoderConfig
from miclab.model.attention.mechanism import scaled


def feed_forward_shapes(options: DecoderConfig, width: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter of one MLP; empty if the configuration has no MLP."""
    hidden = options.mlp_hidden or width
    shapes: dict[str, tuple[int, ...]] = {}
    if options.mlp == "none":
        return shapes
    for part, shape in {"gate": (width, hidden), "value": (width, hidden), "out": (hidden, width)}.items():
        shapes[f"{part}.weight"] = shape
        if options.mlp == "released" and options.mlp_bias == "on":
            shapes[f"{part}.bias"] = shape[1:]
    return shapes


def initial_feed_forward(
    options: DecoderConfig, width: int, name: str, shape: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    """Initial value of a parameter: PyTorch's default, uniform in +-1/sqrt(inputs)."""
    inputs = (options.mlp_hidden or width) if name.startswith("out.") else width
    return (torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(inputs)


def feed_forward(
    options: DecoderConfig, parameters: Mapping[str, Tensor], x: Float[Tensor, "*row width"], gain: Tensor | None
) -> Float[Tensor, "*row width"]:
    """`released`: out(SiLU(gate x * value x)) with biases, where they are on. `swiglu`: out(SiLU(gate x) * value x).

    Arguments:
        gain: factor that x must still be multiplied by; None: none.
    """
    weights = [parameters[f"{part}.weight"] for part in ("gate", "value", "out")]
    both = x @ scaled(gain, torch.cat(weights[:2], 1))
    if options.mlp == "swiglu":
        gate, value = both.chunk(2, -1)
        return (F.silu(gate) * value) @ weights[2]
    if options.mlp_bias == "off":
        gate, value = both.chunk(2, -1)
        return F.silu(gate * value) @ weights[2]
    biases = [parameters[f"{part}.bias"] for part in ("gate", "value", "out")]
    gate, value = _shifted(both, torch.cat(biases[:2])).chunk(2, -1)
    return _shifted(F.silu(gate * value) @ weights[2], biases[2])


def _shifted(x: Float[Tensor, "*row width"], bias: Float[Tensor, " width"]) -> Tensor:
    """x + bias, with the bias of every row from a product with ones. Its gradient, a sum over rows, is then a product
    as well. That is several times as fast as the compiler's own sum."""
    ones = torch.ones(x.shape[:-1].numel(), 1, dtype=x.dtype, device=x.device)
    return x + (ones @ bias[None]).view(x.shape)
