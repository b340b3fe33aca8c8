"""Normal noise from raw random bits.

Only the bits come from a generator (`miclab.worlds.draws.draw_bits`). The rest is arithmetic on tensors, which a
compiled training step fuses with its other work.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

Bits = Int[Tensor, "*shape 2 pair"]


def normal(bits: Bits, dimension: int) -> Float[Tensor, "*shape dimension"]:
    """Independent Normal(0, 1) vectors, each of `dimension` numbers, by the transformation of Box and Muller (1958).

    The upper 24 bits are used, so that every uniform number is exact and the largest normal one is 5.8, as in
    PyTorch's own generator.
    """
    uniform = ((bits >> 8) & 0xFFFFFF).float() * 2.0**-24
    # 1 - u lies in (0, 1]: the logarithm is finite.
    radius = torch.sqrt(-2 * torch.log(1 - uniform[..., 0, :]))
    angle = 2 * math.pi * uniform[..., 1, :]
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], -1)[..., :dimension]


def noise_scales(noise: float, dimension: int) -> Float[Tensor, " 2"]:
    """The factors of a standard normal vector and of its sum with a prototype. They are tensors, so that one compiled
    step serves every noise."""
    return torch.tensor([noise / math.sqrt(dimension), 1 / math.sqrt(1 + noise**2)])


def items_around(
    centres: Float[Tensor, "*shape dimension"], bits: Bits, scales: Float[Tensor, " 2"]
) -> Float[Tensor, "*shape dimension"]:
    """Items of a Gaussian source around the prototypes of their classes, with the noise that random bits give."""
    return (centres + normal(bits, centres.shape[-1]) * scales[0]) * scales[1]
