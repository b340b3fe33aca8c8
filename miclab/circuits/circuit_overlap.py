"""Overlap of the circuits that are found in a run and in the run that it started from.

Both are searched in the same way (see `miclab.circuits.circuit_search`), each on its own sequences. An edge is a sender
with a receiver's input. Roles of positions are left out, so that stage 1 and stage 2 have the same edges.

    overlap        edges of both / edges of either
    chance         the same for random sets of edges of these sizes, on average (hypergeometric)
    any_faithful   the same with a circuit of the later run that is as faithful, sought from a random order of edges
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import hypergeom

from miclab.circuits.checkpoint_pair import CheckpointPair
from miclab.circuits.circuit_search import bench_of, controls, halves, judge_of, search
from miclab.circuits.corrupted_pairs import pairs_of_split
from miclab.circuits.corruption import find_corruption
from miclab.circuits.graph import Graph
from miclab.config.request import SplitSizes
from miclab.errors import RunError
from miclab.model.decoder import Decoder
from miclab.runs.run import Run
from miclab.seeds import stream_seed

CORRUPTION = "items_swapped"
FAITHFUL = 0.9
INTERPOLATIONS = 5
"""Gradients that EAP-IG averages."""


def overlap(one: frozenset[str], other: frozenset[str]) -> float:
    """Edges of both circuits over edges of either; 0 where both are empty."""
    return len(one & other) / len(one | other) if one | other else 0.0


def chance_overlap(first: int, second: int, edges: int) -> float:
    """Mean overlap of random sets of so many edges of all of them."""
    common = np.arange(max(0, first + second - edges), min(first, second) + 1)
    either = first + second - common
    shares = np.divide(common, either, out=np.zeros(len(common)), where=either > 0)
    return float((hypergeom.pmf(common, edges, first, second) * shares).sum())


@dataclass(frozen=True)
class Overlap:
    """How far two found circuits are the same.

    Arguments:
        earlier: edges of the circuit of the run that was started from.
        later: of the run.
        edges: number of edges of the decoder.
        faithfulness: of both, on the sequences of the search.
        faithful: edges of a circuit of the later run that was sought from a random order.
    """

    earlier: frozenset[str]
    later: frozenset[str]
    edges: int
    faithfulness: tuple[float, float]
    faithful: frozenset[str]

    @property
    def chance(self) -> float:
        """Mean overlap of random circuits of equal sizes."""
        return chance_overlap(len(self.earlier), len(self.later), self.edges)

    def beyond_chance(self, later: frozenset[str] | None = None) -> float:
        """Overlap of the earlier circuit with the later one, or another: 0 by chance, 1 the same circuit."""
        other = self.later if later is None else later
        chance = chance_overlap(len(self.earlier), len(other), self.edges)
        return (overlap(self.earlier, other) - chance) / (1 - chance) if chance < 1 else 0.0

    def stored(self) -> dict[str, float]:
        """Numbers under the names of stored analyses."""
        return {
            "overlap": overlap(self.earlier, self.later),
            "chance": self.chance,
            "beyond chance": self.beyond_chance(),
            "any faithful beyond chance": self.beyond_chance(self.faithful),
            "edges earlier": len(self.earlier),
            "edges later": len(self.later),
            "faithfulness earlier": self.faithfulness[0],
            "faithfulness later": self.faithfulness[1],
        }


def _searched(
    checkpoints: CheckpointPair, is_later: bool, sizes: SplitSizes, split: str
) -> tuple[frozenset[str], frozenset[str], float, int]:
    """The circuit of one checkpoint, one sought from a random order, the first one's faithfulness, and all edges."""
    run, parameters = (
        (checkpoints.later, checkpoints.weights[1]) if is_later else (checkpoints.earlier, checkpoints.weights[0])
    )
    made, modality = find_corruption(CORRUPTION, run.config)
    graph = Graph(Decoder(run.config), parameters)
    pairs = pairs_of_split(run.config, checkpoints.world(is_later), made, modality, split, sizes)
    searching = bench_of(graph, halves(pairs)[0])
    judge = judge_of(searching, "resample", "accuracy")
    edges = graph.edges()
    none, whole = np.mean([one.mean(1) for one in searching.values("resample", searching.ends())["accuracy"]], axis=0)
    if whole <= none:
        raise RunError(f"{run.path} answers no better with every edge than with none: there is no circuit to find.")
    scores = list(searching.attributions("resample", INTERPOLATIONS).values())
    circuit = search(judge, scores, FAITHFUL)
    kept = float(judge(controls(circuit, len(edges), 0)["circuit"])[0])
    others: frozenset[str] = frozenset()
    if is_later:
        drawn = np.random.default_rng(stream_seed(run.config.seed, "order of edges")).random(len(edges))
        others = frozenset(str(edges[place]) for place in search(judge, drawn.tolist(), FAITHFUL))
    return frozenset(str(edges[place]) for place in circuit), others, kept, len(edges)


def circuit_overlap(run: Run, *, step: int | None = None, sizes: SplitSizes | None = None) -> Overlap:
    """The circuits of a run and of the run that it started from, and how far they are the same.

    Arguments:
        run: a run of stage 2, or any that started from another run's weights.
        step: the run's checkpoint; None: the last good one.
        sizes: sequences of novel classes; half of the sets are searched on.

    Raises:
        RunError: the run started from random weights. Or a decoder answers no better with all edges than without, or
            its attention has other inputs than queries, keys and values.
    """
    return overlap_of(CheckpointPair.of(run, step), sizes or SplitSizes())


def overlap_of(checkpoints: CheckpointPair, sizes: SplitSizes, split: str = "icl") -> Overlap:
    """The circuits of two checkpoints on a split; errors are those of `circuit_overlap`."""
    first, _, before, count = _searched(checkpoints, False, sizes, split)
    second, others, after, _ = _searched(checkpoints, True, sizes, split)
    return Overlap(first, second, count, (before, after), others)
