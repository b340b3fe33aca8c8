"""Rules for held-out classes and exemplars, which a reader can repeat by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def held_out_names(names: Sequence[str], count: int) -> frozenset[str]:
    """The `count` names whose SHA-256 is smallest.

    A name's rank depends on that name alone. Adding or removing other classes moves few across the border.
    """
    ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return frozenset(ranked[:count])


def held_out_count(classes: int, wanted: int) -> int:
    """The number of classes to hold out: the requested number, at most a fifth of them, at least one."""
    return max(1, min(wanted, classes // 5))


def held_out_last(exemplars: int) -> int:
    """The number of a class's exemplars to hold out, the last in the order of their files: a fifth, at least one."""
    return max(1, exemplars // 5)


def last_exemplars(class_of: Int[Tensor, " exemplar"]) -> Bool[Tensor, " exemplar"]:
    """Marks the last fifth (at least one) of the exemplars of each class.

    Arguments:
        class_of: class of each exemplar.
    """
    order = class_of.argsort(stable=True)
    counts = torch.bincount(class_of)
    place = torch.empty_like(class_of)
    place[order] = torch.arange(len(class_of)) - (counts.cumsum(0) - counts)[class_of[order]]
    kept = torch.tensor([count - held_out_last(count) for count in counts.tolist()])
    return place >= kept[class_of]
