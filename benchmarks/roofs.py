"""Arithmetic and memory traffic of a training step by formula, and what a device can do of both.

The formula covers the paper's kind of decoder: softmax attention, the feed-forward part `released` or `swiglu`, at
least two layers, and nothing that is trained before the first one. The last block is computed at the query alone.
With B sequences of T positions, width D, hidden width H and C labels, the products of matrices are

    R = B T                              rows
    a linear map of R rows from I to O   R I O forward, I R O for its weight, R O I for its input
    queries, keys, values                three maps D to D; the first block's input needs no gradient
    scores and mixture                   6 products T D T of each sequence: 2 forward and 4 backward
    feed-forward part                    maps D to 2 H and H to D; its biases are maps 1 to 2 H and 1 to D
    last block                           query, value and feed-forward part have B rows; keys have R if they are rotated
    readout                              B rows from D to C

A product m x k by k x n has 2 m k n operations. Its bytes are 4 (m k + k n + m n): both factors are read and the result
is written, as if no cache held them. An update of `adam` or `adamw` reads weight, gradient and two averages and writes
three of them: 28 bytes for each weight; one of `sgd` 12. Elementwise operations are in neither count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from miclab.config.run import RunConfig
from miclab.model.decoder import Decoder

Product = tuple[int, int, int, int]
"""How many products there are of an m x k by a k x n matrix: (count, m, k, n)."""
NUMBER = 4
"""Bytes of a number in float32."""


def linear(rows: int, inputs: int, outputs: int, through: bool = True) -> list[Product]:
    """Products of a linear map, forward and backward.

    Arguments:
        through: whether its input has a gradient.
    """
    found = [(1, rows, inputs, outputs), (1, inputs, rows, outputs)]
    return [*found, (1, rows, outputs, inputs)] if through else found


def products(config: RunConfig) -> list[Product]:
    """The products of matrices of one training step of one run."""
    decoder, options, batch = Decoder(config), config.decoder, config.optimiser.batch_size
    length, width = config.sequence_length, decoder.width
    hidden, rows = options.mlp_hidden or width, batch * length
    found: list[Product] = []
    for layer in range(options.layers):
        is_last, through = layer == options.layers - 1, layer > 0
        here = batch if is_last else rows
        if is_last:
            rotates = decoder.positions.rotates
            found += linear(batch, width, width) + linear(rows if rotates else batch, width, width)
            found += linear(batch, width, width)
        else:
            found += 3 * linear(rows, width, width, through)
            found += [(2 * batch, length, width, length), (4 * batch, length, length, width)]
        if options.has_output_projection:
            found += linear(here, width, width)
        if options.mlp != "none":
            found += linear(here, width, 2 * hidden) + linear(here, hidden, width)
            if options.mlp == "released" and options.mlp_bias != "off":
                found += linear(here, 1, 2 * hidden, False) + linear(here, 1, width, False)
    return found + linear(batch, width, config.label_count)


def step_flops(config: RunConfig) -> int:
    """Floating-point operations of the products of one run's training step."""
    return sum(2 * count * m * k * n for count, m, k, n in products(config))


def step_bytes(config: RunConfig) -> int:
    """Bytes that one run's training step moves, if no cache holds the factors of a product."""
    moved = sum(count * (m * k + k * n + m * n) for count, m, k, n in products(config))
    per_weight = 3 if config.optimiser.name == "sgd" else 7
    return NUMBER * (moved + per_weight * Decoder(config).parameter_count())


@dataclass(frozen=True)
class Roofs:
    """What a device can do.

    Arguments:
        flops: operations a second of a large product in float32.
        bytes: bytes a second that a large copy reads and writes.
    """

    flops: float
    bytes: float


def roofs(device: str, seconds: float = 1.0, size: int = 0) -> Roofs:
    """Measures the roofs of a device.

    Arguments:
        seconds: for each of the two, at least one call.
        size: rows of the product's square matrices; 0: 8,192 on a GPU, 1,024 on a CPU. The copy has four times as many
            bytes as such a matrix.
    """
    size = size or (1024 if device == "cpu" else 8192)
    one, other = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    result = torch.empty_like(one)
    large = torch.zeros(4 * size * size, device=device)
    copied = torch.empty_like(large)
    product = best(lambda: torch.mm(one, other, out=result), seconds, device)
    copy = best(lambda: copied.copy_(large), seconds, device)
    return Roofs(2 * size**3 / product, 2 * NUMBER * large.numel() / copy)


def best(call: Callable[[], object], seconds: float, device: str) -> float:
    """Least seconds of a call; on a CPU those of the processor, which other programs do not lengthen."""
    clock = time.process_time if device == "cpu" else time.perf_counter

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    call()
    wait()
    start, least = time.perf_counter(), float("inf")
    while least == float("inf") or time.perf_counter() - start < seconds:
        began = clock()
        call()
        wait()
        least = min(least, clock() - began)
    return max(least, 1e-9)
