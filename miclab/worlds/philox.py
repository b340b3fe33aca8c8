"""Counter-based random numbers: Philox-4x32-10 (Salmon et al. 2011) in integer operations on tensors.

    key      64 bits    seed and name of a stream
    counter  128 bits   (index of the block, number of the draw, step low, step high)
    block    128 bits   four words of 32 bits

No number depends on what was drawn before it, so all numbers of all runs can be computed at once. Integers are exact:
they are the same on every device, and in every place of a larger tensor.
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from miclab.seeds import stream_seed

WORD = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
"""What is added to the two words of the key after each round."""
ROUNDS = 10

Words = Int[Tensor, "..."]
"""Whole numbers from 0 to 2^32 - 1, in int64."""


def philox(counter: tuple[Words, Words, Words, Words], key: tuple[Words, Words]) -> tuple[Words, Words, Words, Words]:
    """Four random words for each counter; all shapes broadcast."""
    a, b, c, d = counter
    low, high = key
    for _ in range(ROUNDS):
        # The product has 64 bits and wraps around the sign; shift and mask take its halves out all the same.
        first, second = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b, c, d = (second >> 32 & WORD) ^ b ^ low, second & WORD, (first >> 32 & WORD) ^ d ^ high, first & WORD
        low, high = low + WEYL[0] & WORD, high + WEYL[1] & WORD
    return a, b, c, d


class CounterGenerator:
    """A stream of random numbers, each a function of (key, step, number of the draw, index).

    Arguments:
        key: the two words that `stream_key` gives.
        step: a whole number from 0, as a tensor without axes.
    """

    def __init__(self, key: Int[Tensor, " 2"], step: Int[Tensor, ""]):
        self.key, self.step, self.draws = key, step, 0

    def words(self, count: int) -> Int[Tensor, " count"]:
        """The next draw: so many words of 32 bits."""
        index = torch.arange((count + 3) // 4, device=self.key.device)
        draw = torch.full_like(index, self.draws)
        self.draws += 1
        counter = (index, draw, self.step & WORD, self.step >> 32)
        return torch.stack(philox(counter, (self.key[0], self.key[1])), -1).flatten()[:count]


def stream_key(seed: int, *name: str) -> Int[Tensor, " 2"]:
    """The key of the stream `name` of `seed`."""
    number = stream_seed(seed, *name)
    return torch.tensor([number & WORD, number >> 32])
