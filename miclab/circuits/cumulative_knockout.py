"""Cumulative knockouts: the top 1, 2, ... induction heads together, beside as many random heads."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np

from miclab.circuits.controls import CONTROL_DRAWS
from miclab.circuits.effects import Effect
from miclab.circuits.find import NO_PATTERN, Head
from miclab.circuits.knockout import Interventions
from miclab.errors import RunError
from miclab.seeds import stream_seed

MOST = 6
"""Heads that are knocked out together at most."""


def ranked_heads(work: Interventions) -> list[Head]:
    """All heads, the one with the highest summed induction strength first.

    Raises:
        RunError: the decoder has one head, or its attention gives no pattern.
    """
    strength = work.measures.get("induction_total")
    if strength is None:
        raise RunError(f"There are no induction heads to knock out: {NO_PATTERN}.")
    if strength.size < 2:
        raise RunError("The decoder has a single head, so there is no other to compare it with.")
    order = np.argsort(-strength, axis=None, kind="stable")
    return [(int(layer), int(head)) for layer, head in zip(*np.unravel_index(order, strength.shape), strict=True)]


def drawn_heads(others: list[Head], count: int, seed: int) -> list[tuple[Head, ...]]:
    """Up to `CONTROL_DRAWS` different sets of so many of the other heads; all of them where there are no more."""
    if comb(len(others), count) <= CONTROL_DRAWS:
        return list(combinations(others, count))
    generator, drawn = np.random.default_rng(stream_seed(seed, "cuts", count)), set[tuple[Head, ...]]()
    while len(drawn) < CONTROL_DRAWS:
        drawn.add(tuple(sorted(others[place] for place in generator.choice(len(others), count, replace=False))))
    return sorted(drawn)


def cumulative_knockouts(work: Interventions, most: int = MOST) -> list[Effect]:
    """The untouched decoder; then the outputs of the 1, 2, ... top induction heads set to zero. Beside each, as many
    of the other heads, the mean over several draws. One head is left at least.

    Raises:
        RunError: see `ranked_heads`.
    """
    heads = ranked_heads(work)
    effects = [work.effect("untouched", None)]
    for count in range(1, min(most, len(heads) - 1) + 1):
        effects.append(work.knocked(f"top {count}", tuple(heads[:count])))
        draws = drawn_heads(heads[count:], count, work.config.seed) if len(heads) >= 2 * count else []
        if draws:
            found = [work.knocked("drawn", some) for some in draws]
            correct, copied = (np.mean([getattr(one, part) for one in found], axis=0) for part in ("correct", "copied"))
            effects.append(Effect(f"random {count}", (), correct, copied, work.untouched.correct, tuple(draws)))
    return effects
