"""Named random streams. Each is a function of a seed and a name alone."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def stream_seed(seed: int, *name: str | int) -> int:
    """A number below 2^63 that is a function of `seed` and of the stream's `name`."""
    text = "/".join([str(seed), *map(str, name)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def stream(seed: int, *name: str | int) -> torch.Generator:
    """A generator at the start of the stream `name` of `seed`, for example `stream(0, "batch", step)`."""
    import torch

    return torch.Generator().manual_seed(stream_seed(seed, *name))
