"""Which classes and exemplars are kept apart: rules that a reader can repeat by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def held_out_names(names: Sequence[str], count: int) -> frozenset[str]:
    """The `count` names whose SHA-256 is smallest.

    A name's place depends on that name alone: adding or leaving out other classes moves few across the border.
    """
    ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return frozenset(ranked[:count])


def held_out_count(classes: int, wanted: int) -> int:
    """How many classes to hold out: as many as wanted, at most a fifth of them, at least one."""
    return max(1, min(wanted, classes // 5))


def held_out_last(exemplars: int) -> int:
    """How many of a class's exemplars to hold out, the last in the order of their files: a fifth, at least one."""
    return max(1, exemplars // 5)
