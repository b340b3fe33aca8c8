"""How far two circuits are the same: edges of both over edges of either, from chance (0) to the same circuit (1).

Numbers of heads mean nothing between decoders that started from different weights. MATCHED overlap renumbers the heads
within each layer of one circuit so that most edges agree; every renumbering is tried. Random circuits of the same sizes
are matched likewise, since the best of many agrees better than one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import combinations, permutations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

from miclab.circuits.edges import Edge

DRAWS = 20
"""Pairs of random circuits of which the chance of a matched overlap is the mean."""
MOST = 1_000_000
"""Renumberings of heads that are tried; four layers of four heads have 331,776."""


def overlap(one: Collection[object], other: Collection[object]) -> float:
    """Edges of both circuits over edges of either; 0 where both are empty."""
    first, second = set(one), set(other)
    return len(first & second) / len(first | second) if first | second else 0.0


def chance_overlap(first: int, second: int, edges: int) -> float:
    """Mean overlap of random sets of so many edges of all of them (hypergeometric)."""
    common = np.arange(max(0, first + second - edges), min(first, second) + 1)
    either = first + second - common
    shares = np.divide(common, either, out=np.zeros(len(common)), where=either > 0)
    return float((hypergeom.pmf(common, edges, first, second) * shares).sum())


def beyond(found: float, chance: float) -> float:
    """An overlap from chance, 0, to the same circuit, 1."""
    return (found - chance) / (1 - chance) if chance < 1 else 0.0


def renumberings(layers: int, heads: int) -> int:
    """Number of ways to renumber the heads within each layer."""
    return math.factorial(heads) ** layers


def matched_overlap(one: Collection[Edge], other: Collection[Edge], layers: int, heads: int) -> float | None:
    """The largest overlap over all ways to renumber heads within each layer of one circuit; None if they are more than
    `MOST`."""
    if renumberings(layers, heads) > MOST:
        return None
    if not one and not other:
        return 0.0
    common = _most_common(one, other, layers, heads)
    return common / (len(one) + len(other) - common)


def matched_chance(first: int, second: int, edges: Sequence[Edge], layers: int, heads: int) -> float | None:
    """Mean matched overlap of random circuits of so many of all edges, over `DRAWS` pairs; None as in
    `matched_overlap`."""
    if renumberings(layers, heads) > MOST:
        return None
    generator, found = np.random.default_rng(0), list[float]()
    for _ in range(DRAWS):
        one, other = (_drawn(generator, edges, size) for size in (first, second))
        found.append(matched_overlap(one, other, layers, heads) or 0.0)
    return float(np.mean(found))


def _drawn(generator: np.random.Generator, edges: Sequence[Edge], size: int) -> list[Edge]:
    return [edges[place] for place in generator.choice(len(edges), size, replace=False)]


def _most_common(one: Collection[Edge], other: Collection[Edge], layers: int, heads: int) -> int:
    """The most edges in common. How many agree is a sum over layers and over pairs of layers, each a table by the
    order of heads in these layers alone."""
    orders = np.array(list(permutations(range(heads))))
    first, second = _by_layers(one, heads), _by_layers(other, heads)
    axes = (len(orders),) * layers
    total = np.zeros(axes, dtype=np.int32)
    for place in (*combinations(range(layers), 1), *combinations(range(layers), 2), ()):
        mine, theirs = first.get(place, {}), second.get(place, {})
        for kind in mine.keys() & theirs.keys():
            shape = [len(orders) if layer in place else 1 for layer in range(layers)]
            total += _agreeing(mine[kind], theirs[kind], orders).reshape(shape)
    return int(total.max())


def _by_layers(circuit: Collection[Edge], heads: int) -> dict[tuple[int, ...], dict[str, NDArray[np.int32]]]:
    """Edges by the layers of the heads at their ends, and by what they are but for the numbers of these heads: 1 where
    there is an edge, of no head [], of one [head], or of two [head head]."""
    found: dict[tuple[int, ...], dict[str, NDArray[np.int32]]] = {}
    for edge in circuit:
        ends = [end for end in (edge.sender, edge.receiver) if end.head is not None]
        kind = " ".join(f"{end.kind} {end.layer}" for end in (edge.sender, edge.receiver))
        by_kind = found.setdefault(tuple(end.layer for end in ends), {})
        there = by_kind.setdefault(kind, np.zeros((heads,) * len(ends), dtype=np.int32))
        there[tuple(end.head for end in ends)] = 1
    return found


def _agreeing(one: NDArray[np.int32], other: NDArray[np.int32], orders: NDArray[np.intp]) -> NDArray[np.int32]:
    """Edges that agree for each order of the heads of each layer concerned [order ...]."""
    if one.ndim == 0:
        return one * other
    if one.ndim == 1:
        return (one[orders] * other).sum(-1)
    moved = one[orders[:, None, :, None], orders[None, :, None, :]]
    return (moved * other).sum((-2, -1))
