"""A small set of edges that keeps an answer: greedy by attribution, every step checked by ablation.

Edges of a circuit carry what their senders add. All others are ablated. They carry the sender's output on the corrupted
sequence (resample), its mean over sequences at the same position (mean), or 0 (zero). Faithfulness is the share of the
answer that is kept, (circuit - no edge) / (every edge - no edge). See Hanna et al., arXiv 2403.17806, section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from miclab.circuits.attribution import attributed
from miclab.circuits.corrupted_pairs import Pairs
from miclab.circuits.edges import Edge, Sender
from miclab.circuits.graph import Graph
from miclab.circuits.patching import METRICS, Metric, answer_values
from miclab.circuits.paths import Pair
from miclab.circuits.receiver_inputs import circuit_logits
from miclab.worlds.sequences import Batch

Ablation = Literal["resample", "mean", "zero"]
ABLATIONS: dict[Ablation, str] = {
    "resample": "outputs on the corrupted sequence",
    "mean": "mean outputs over clean sequences, by position",
    "zero": "zeros",
}
SEQUENCES = 64
"""Sequences in one forward pass of a circuit."""
TOGETHER = 4
"""Circuits in one forward pass; more of them no longer fit into a processor's cache, and are slower."""
KEPT_BYTES = 2**30
"""Most memory for outputs of ablated senders that are kept between circuits; more are computed again each time."""
SINGLE = 64
"""Edges of a circuit up to which each is removed alone before the next round; beyond it the order is attribution's."""
Kept = Bool[Tensor, "circuit edge"]
Part = tuple[Batch, Batch, Tensor, dict[Sender, Tensor]]
"""Clean and corrupted sequences, the embedding of the clean ones, and what each sender adds when it is ablated."""


@dataclass(frozen=True)
class Bench:
    """Sequences on which circuits are judged.

    Arguments:
        graph: the decoder.
        pairs: clean and corrupted sequences.
        mean: what each sender adds on average at each position [1 position width].
    """

    graph: Graph
    pairs: Pairs
    mean: dict[Sender, Tensor]

    def instead(self, ablation: Ablation, corrupted: Batch) -> dict[Sender, Tensor]:
        """What each sender adds when it is ablated."""
        if ablation == "resample":
            return self.graph.outputs(corrupted).sent
        return self.mean if ablation == "mean" else {one: torch.zeros_like(v) for one, v in self.mean.items()}

    def values(self, ablation: Ablation, kept: Kept) -> dict[Metric, list[NDArray[np.floating]]]:
        """Every metric of circuits, by set [circuit sequence]."""
        found: dict[Metric, list[NDArray[np.floating]]] = {metric: [] for metric in METRICS}
        with torch.no_grad():
            for index in range(len(self.pairs.sets)):
                chunks = [self._chunk(kept, *part) for part in self._parts(index, ablation)]
                for metric in METRICS:
                    joined = torch.cat([chunk[metric] for chunk in chunks], 1)
                    found[metric].append(joined.double().numpy())
        return found

    def _parts(self, index: int, ablation: Ablation) -> Iterator[Part]:
        """The sequences of a set in pieces, with what does not depend on the circuit. It is kept if there is room."""
        if (index, ablation) in self._known:
            yield from self._known[index, ablation]
            return
        made = []
        for clean, corrupted in self.pairs.chunks(index, SEQUENCES):
            part = clean, corrupted, self.graph.embedding(clean), self.instead(ablation, corrupted)
            yield part
            if self._fits:
                made.append(part)
        if self._fits:
            self._known[index, ablation] = made

    @cached_property
    def _fits(self) -> bool:
        """Whether the outputs of all senders on all sequences may be kept."""
        sequences = sum(len(clean) for clean, _ in self.pairs.sets)
        return sequences * sum(value.nbytes for value in self.mean.values()) <= KEPT_BYTES

    @cached_property
    def _known(self) -> dict[tuple[int, Ablation], list[Part]]:
        return {}

    def _chunk(
        self, kept: Kept, clean: Batch, corrupted: Batch, embedding: Tensor, instead: dict[Sender, Tensor]
    ) -> dict[str, Tensor]:
        logits = torch.cat([circuit_logits(self.graph, embedding, instead, some) for some in kept.split(TOGETHER)])
        found = [answer_values(one, clean, corrupted) for one in logits]
        return {metric: torch.stack([one[metric] for one in found]) for metric in METRICS}

    def ends(self) -> Kept:
        """No edge, and every edge."""
        return torch.tensor([[False], [True]]).expand(2, len(self.graph.edges()))

    def attributions(self, ablation: Ablation, interpolations: int) -> dict[Edge, float]:
        """Effect of ablating each edge on the mean logit difference, as EAP-IG estimates it."""
        total, count = dict.fromkeys(self.graph.edges(), 0.0), 0
        for index in range(len(self.pairs.sets)):
            for clean, corrupted in self.pairs.chunks(index, SEQUENCES):
                with torch.no_grad():
                    own, instead = self.graph.outputs(clean), self.instead(ablation, corrupted)
                    changes = {one: instead[one].expand_as(value) - value for one, value in own.sent.items()}
                    pair = Pair(own, changes, {}, clean, corrupted, (own.logits, own.logits))
                    base = pair.values(own.logits)["logit_difference"].sum()
                    found = attributed(self.graph, pair, "logit_difference", interpolations)
                for estimate, values in found.items():
                    if estimate.method == "eap_ig":
                        total[estimate.edge] += float(values["logit_difference"].sum() - base)
                count += len(clean)
        return {edge: value / count for edge, value in total.items()}


def bench_of(graph: Graph, pairs: Pairs) -> Bench:
    """Sequences with the mean outputs of every sender on the clean ones."""
    total: dict[Sender, Tensor] = {}
    count = 0
    with torch.no_grad():
        for index in range(len(pairs.sets)):
            for clean, _ in pairs.chunks(index, SEQUENCES):
                for one, value in graph.outputs(clean).sent.items():
                    total[one] = total.get(one, 0) + value.sum(0, keepdim=True)
                count += len(clean)
    return Bench(graph, pairs, {one: value / count for one, value in total.items()})


def halves(pairs: Pairs) -> tuple[Pairs, Pairs]:
    """Sequences to search on, and others to check on: every second set of novel classes, or halves of one set."""
    sets = pairs.sets
    if len(sets) > 1:
        return Pairs(sets[::2], pairs.kept), Pairs(sets[1::2], pairs.kept)
    clean, corrupted = next(iter(sets))
    middle = (len(clean) + 1) // 2
    parts = [slice(0, middle), slice(middle, None)]
    first, second = (Pairs(((clean.rows(some), corrupted.rows(some)),), pairs.kept) for some in parts)
    return first, second


Judge = Callable[[Kept], Float[Tensor, " circuit"]]
"""Faithfulness of circuits."""


def judge_of(bench: Bench, ablation: Ablation, metric: Metric) -> Judge:
    """Faithfulness on the bench's sequences. Where every edge is no better than none, it is not a number."""
    none, whole = _means(bench.values(ablation, bench.ends())[metric])

    def judge(kept: Kept) -> Tensor:
        found = _means(bench.values(ablation, kept)[metric])
        return torch.from_numpy((found - none) / (whole - none if whole != none else np.nan))

    return judge


def _means(by_set: Sequence[NDArray[np.floating]]) -> NDArray[np.floating]:
    """Mean over sets of the mean of each [circuit]."""
    return np.mean([values.mean(1) for values in by_set], axis=0)


def search(
    judge: Judge, scores: Sequence[float], faithful: float, on_step: Callable[[int], None] = lambda edges: None
) -> list[int]:
    """Numbers of the edges of a small circuit that is at least so faithful.

    Edges are added by the size of their score, until the circuit is faithful. Then those that are missed least are
    removed, as long as it stays so.

    Arguments:
        judge: faithfulness of circuits; of all edges it is 1.
        scores: of the edges.
        faithful: faithfulness to keep.
        on_step: called with the number of edges left after each step.
    """
    sizes = np.abs(np.asarray(scores, dtype=float))
    order = np.argsort(-sizes, kind="stable").tolist()
    low, high = 0, len(order)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _is_faithful(judge, [order[:middle]], len(order), faithful)[0] else (middle, high)
        on_step(high)
    circuit = order[:high]
    while len(circuit) > 1:
        ranked = circuit[::-1]
        if len(circuit) <= SINGLE:
            without = [[one for one in circuit if one != gone] for gone in circuit]
            left = judge(_masks(without, len(order)))
            ranked = [circuit[place] for place in torch.argsort(left, descending=True, stable=True).tolist()]
        smaller = _without_most(judge, circuit, ranked, len(order), faithful)
        on_step(len(smaller))
        if len(smaller) == len(circuit):
            break
        circuit = smaller
    return sorted(circuit)


def _without_most(judge: Judge, circuit: list[int], ranked: list[int], count: int, faithful: float) -> list[int]:
    """A circuit without as many of the first ranked edges as it can miss together."""
    low, high = 0, len(circuit)
    while high - low > 1:
        middle = (low + high) // 2
        gone = set(ranked[:middle])
        kept = [one for one in circuit if one not in gone]
        low, high = (middle, high) if _is_faithful(judge, [kept], count, faithful)[0] else (low, middle)
    gone = set(ranked[:low])
    return [one for one in circuit if one not in gone]


def _is_faithful(judge: Judge, circuits: Sequence[Sequence[int]], count: int, faithful: float) -> list[bool]:
    return (judge(_masks(circuits, count)) >= faithful).tolist()


def _masks(circuits: Sequence[Sequence[int]], count: int) -> Kept:
    """Circuits of edges' numbers as masks."""
    kept = torch.zeros(len(circuits), count, dtype=torch.bool)
    for row, circuit in enumerate(circuits):
        kept[row, list(circuit)] = True
    return kept


def controls(circuit: Sequence[int], count: int, draws: int, seed: int = 0) -> dict[str, Kept]:
    """Masks that a circuit is compared with: itself, all but it, itself without each edge, random ones of its size."""
    generator = np.random.default_rng(seed)
    whole = _masks([circuit], count)
    drawn = [generator.choice(count, len(circuit), replace=False).tolist() for _ in range(draws)]
    without = [[one for one in circuit if one != gone] for gone in circuit]
    return {"circuit": whole, "all but": ~whole, "without": _masks(without, count), "random": _masks(drawn, count)}
