"""What is drawn of a stream of random numbers, whichever sampler the configuration names.

`host` draws one number after the other with PyTorch's generator on the CPU. `device` computes them from counters
(`miclab.worlds.philox`), on any device. The two give the same distributions and different numbers.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from miclab.config.run import RunConfig
from miclab.seeds import stream
from miclab.worlds.noise import Bits, normal
from miclab.worlds.philox import CounterGenerator, stream_key

Generator = torch.Generator | CounterGenerator
PLACES = 2**17
"""More than the places of any context, so that a key of a shuffle holds its place."""


def stream_of(config: RunConfig, seed: int, *name: str | int) -> Generator:
    """A generator at the start of the stream `name` of `seed`, of the sampler that the configuration names.

    Arguments:
        name: words, and one whole number: a training step, or the number of a set of sequences.
    """
    if config.numerics.sampler == "host":
        return stream(seed, *name)
    (step,) = (part for part in name if isinstance(part, int))
    return CounterGenerator(stream_key(seed, *map(str, _words(name))), torch.tensor(step))


def _words(name: tuple[str | int, ...]) -> list[str]:
    return [part for part in name if isinstance(part, str)]


def uniform(shape: tuple[int, ...], generator: Generator) -> Float[Tensor, "*shape"]:
    """Numbers in [0, 1) with 24 random bits."""
    if isinstance(generator, torch.Generator):
        return torch.rand(shape, generator=generator)
    return ((generator.words(math.prod(shape)) >> 8).float() * 2.0**-24).view(shape)


def uniform_double(shape: tuple[int, ...], generator: Generator) -> Float[Tensor, "*shape"]:
    """Numbers in [0, 1) with 53 random bits, in float64: for draws from many classes."""
    if isinstance(generator, torch.Generator):
        return torch.rand(shape, generator=generator, dtype=torch.double)
    high, low = generator.words(2 * math.prod(shape)).view(2, *shape)
    return ((high >> 5) * 2**26 + (low >> 6)).double() * 2.0**-53


def whole_numbers(low: int, end: int, shape: tuple[int, ...], generator: Generator) -> Int[Tensor, "*shape"]:
    """Whole numbers from `low` to `end` - 1, all alike (to 2^-32 with counters)."""
    if isinstance(generator, torch.Generator):
        return torch.randint(low, end, shape, generator=generator)
    return low + (generator.words(math.prod(shape)) * (end - low) >> 32).view(shape)


def shuffles(rows: int, length: int, generator: Generator) -> Int[Tensor, "row place"]:
    """A random order of 0 to `length` - 1 for each row."""
    if isinstance(generator, torch.Generator):
        return torch.rand((rows, length), generator=generator).argsort(1)
    # The place makes keys differ, so that every way to sort gives the same order.
    keys = generator.words(rows * length).view(rows, length) * PLACES
    return (keys + torch.arange(length, device=keys.device)).argsort(1)


def draw_bits(shape: tuple[int, ...], dimension: int, generator: Generator) -> Bits:
    """32 random bits for each number that `miclab.worlds.noise.normal` makes of them.

    On the host they come from a separate stream, whose seed is the next number of `generator`. It is SFC64: several
    times as fast as `generator`'s and, like every bit generator of NumPy, the same in all its versions.
    """
    pairs = (dimension + 1) // 2
    if isinstance(generator, torch.Generator):
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        bits = torch.from_numpy(np.random.SFC64(seed).random_raw(math.prod(shape) * pairs).view(np.int32))
    else:
        # Conversion to int32 keeps the lower 32 bits, also of numbers that do not fit.
        bits = generator.words(math.prod(shape) * pairs * 2).to(torch.int32)
    return bits.view(*shape, 2, pairs)


def normal_vectors(shape: tuple[int, int], generator: Generator) -> Float[Tensor, "row dimension"]:
    """Rows ~ Normal(0, I / dimension)."""
    if isinstance(generator, torch.Generator):
        drawn = torch.randn(shape, generator=generator)
    else:
        drawn = normal(draw_bits((shape[0],), shape[1], generator), shape[1])
    return drawn / math.sqrt(shape[1])
