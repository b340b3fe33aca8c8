"""Random other heads as a control for the heads of a circuit."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from miclab.circuits.find import CircuitHeads, Head, old_head_name
from miclab.seeds import stream_seed

CONTROL_DRAWS = 5
"""Draws of random other heads that a control averages, where there are so many."""


@dataclass(frozen=True)
class Control:
    """Random other heads, knocked out in the place of some of the circuit's.

    Arguments:
        draws: sets of heads, none of them the circuit's, each as many as are replaced; empty where there is no such
            set.
        note: why there is no draw, or that layers could not be matched; else empty.
    """

    draws: tuple[tuple[Head, ...], ...]
    note: str = ""


def control(circuit: CircuitHeads, heads: tuple[Head, ...], seed: int) -> Control:
    """Draws up to `CONTROL_DRAWS` different sets of other heads as controls for `heads`. A set has as many heads in
    each layer as `heads`, or as many of any layer where layers are too small.

    Arguments:
        circuit: the heads that are left alone.
        heads: of the circuit, what the control is for.
        seed: of the run; the draws are a function of it, of `circuit` and of `heads`.
    """
    candidates = [[other for other in circuit.rest if other[0] == head[0]] for head in heads]
    sets = {tuple(sorted(chosen)) for chosen in product(*candidates) if len(set(chosen)) == len(heads)}
    note = ""
    if not sets:
        sets = set(combinations(sorted(circuit.rest), len(heads)))
        note = "drawn from any layer: their own layers have too few other heads"
    if not sets:
        if not circuit.rest:
            return Control((), "none, since the decoder has no head beside these two")
        there = len(circuit.rest)
        return Control((), f"none, since it takes {len(heads)} heads beside the circuit's, and the decoder has {there}")
    ordered = sorted(sets)
    # The stream's name is frozen, with the old numbers: other draws would be other controls.
    generator = np.random.default_rng(stream_seed(seed, "control", *map(old_head_name, heads)))
    places = generator.permutation(len(ordered))[:CONTROL_DRAWS]
    return Control(tuple(ordered[place] for place in sorted(places.tolist())), note)
