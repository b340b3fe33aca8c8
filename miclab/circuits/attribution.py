"""Edge attribution patching: the effect of every edge, estimated by gradients.

EAP multiplies what a sender changes by the gradient of the answer with respect to what the receiver reads (Syed et al.,
arXiv 2310.10348). EAP-IG takes the mean gradient over runs whose embeddings lie between the two (Hanna et al., arXiv
2403.17806, section 3). One backward pass gives every edge; exact patching needs a forward pass for each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from miclab.circuits.corrupted_pairs import Values
from miclab.circuits.edges import Edge, Receiver, Sender
from miclab.circuits.graph import Graph
from miclab.circuits.patching import Metric
from miclab.circuits.paths import Pair
from miclab.circuits.receiver_inputs import wired_logits
from miclab.errors import ConfigError

T = TypeVar("T")
Method = Literal["eap", "eap_ig"]
METHODS: dict[Method, str] = {"eap": "EAP", "eap_ig": "EAP-IG"}
INTERPOLATIONS = 5
"""Gradients that EAP-IG averages, as in the paper."""
TOP = 10
"""Edges with the largest effect whose agreement is printed."""
ENOUGH = 0.8
"""Rank correlation and overlap below which attribution is not to be relied on."""


@dataclass(frozen=True)
class Estimate:
    """An edge whose effect a method estimates."""

    edge: Edge
    method: Method


def check_metric(metric: str) -> None:
    """Raises ConfigError for a metric without a gradient."""
    if metric == "accuracy":
        raise ConfigError("metric", metric, "logit_difference or probability, since accuracy has no gradient")


def gradients(graph: Graph, pair: Pair, metric: Metric, share: float) -> dict[Receiver, Tensor]:
    """The gradient of a metric of each sequence with respect to what every receiver reads [batch position width].

    Arguments:
        share: of the way from the embedding of the run that is patched to that of the other.
    """
    first = graph.senders[0]
    embedding = pair.kept.sent[first] + share * pair.changes[first]
    leaves: dict[Receiver, Tensor] = {}

    def inputs(receivers: Sequence[Receiver], sent: Mapping[Sender, Tensor]) -> Tensor:
        # A sum of two at a time, since a stack would copy everything that was sent.
        x = reduce(torch.add, [sent[one] for one in graph.before(receivers[0])])
        each = [torch.zeros_like(x, requires_grad=True) for _ in receivers]
        leaves.update(zip(receivers, each, strict=True))
        return x + torch.stack(each)

    with torch.enable_grad():
        values = pair.values(wired_logits(graph, embedding, inputs))[metric].sum()
        found = torch.autograd.grad(values, list(leaves.values()))
    return dict(zip(leaves, found, strict=True))


def attributed(
    graph: Graph, pair: Pair, metric: Metric, interpolations: int = INTERPOLATIONS
) -> dict[Estimate, Values]:
    """The metric of each sequence with each edge patched, as EAP and EAP-IG estimate it."""
    base = pair.values(pair.kept.logits)[metric]
    plain = gradients(graph, pair, metric, 0.0)
    mean = {receiver: torch.zeros_like(gradient) for receiver, gradient in plain.items()}
    for number in range(1, interpolations + 1):
        for receiver, gradient in gradients(graph, pair, metric, number / interpolations).items():
            mean[receiver] += gradient / interpolations
    found: dict[Estimate, Values] = {}
    methods: list[Method] = ["eap", "eap_ig"]
    for receivers in _stages(graph):
        # All inputs of one stage read the same senders.
        senders, length = graph.before(receivers[0]), plain[receivers[0]].shape[1]
        changes = torch.stack([pair.changes[one][:, -length:].flatten(1) for one in senders], 1)
        read = torch.stack([by[receiver].flatten(1) for by in (plain, mean) for receiver in receivers], 2)
        # [batch sender (method receiver)]
        moved = (changes @ read).unflatten(2, (len(methods), len(receivers)))
        for place, method in enumerate(methods):
            for number, receiver in enumerate(receivers):
                for one, sender in enumerate(senders):
                    value = base + moved[:, one, place, number]
                    found[Estimate(Edge(sender, receiver), method)] = {metric: value}
    return {one: found[one] for one in _in_order(graph, methods)}


def _stages(graph: Graph) -> list[tuple[Receiver, ...]]:
    """Receivers in groups: the inputs of one layer's attention, and each other one alone."""
    stages = [graph.inputs_of(layer) for layer in range(graph.layers)]
    return [*stages, *((one,) for one in graph.receivers if not one.is_attention)]


def _in_order(graph: Graph, methods: Sequence[Method]) -> list[Estimate]:
    """Every edge by method, in the order of the receivers."""
    return [Estimate(edge, method) for method in methods for edge in graph.edges()]


@dataclass(frozen=True)
class Agreement:
    """How well estimated effects agree with exact ones.

    Arguments:
        correlation: Spearman's rank correlation of the sizes of effects; NaN if either does not vary.
        overlap: share of the `top` edges with the largest exact effect that are among those with the largest estimate;
            NaN with it.
        edges: number of edges that were compared.
        top: number of edges that the overlap is of.
    """

    correlation: float
    overlap: float
    edges: int
    top: int

    @property
    def is_enough(self) -> bool:
        """Whether both are at least `ENOUGH`."""
        return self.correlation >= ENOUGH and self.overlap >= ENOUGH


def agreement(estimated: Sequence[float], exact: Sequence[float], top: int = TOP) -> Agreement:
    """Agreement of effects of the same edges. Their sizes are ranked, since most effects are 0 but for noise of either
    sign."""
    from scipy.stats import rankdata

    sizes = [np.abs(np.asarray(values, dtype=float)) for values in (estimated, exact)]
    top = min(top, max(1, len(exact) // 2))
    if len(exact) < 2 or min(map(np.ptp, sizes)) == 0:
        return Agreement(math.nan, math.nan, len(exact), top)
    correlation = float(np.corrcoef(*map(rankdata, sizes))[0, 1])
    largest = [set(np.argsort(-values, kind="stable")[:top].tolist()) for values in sizes]
    return Agreement(correlation, len(largest[0] & largest[1]) / top, len(exact), top)


def chosen_edges(edges: Sequence[T], sizes: Sequence[float] | NDArray[np.floating], count: int) -> list[T]:
    """Edges to compare with exact patching: all, or half those with the largest estimates and half others at random."""
    if count >= len(edges):
        return list(edges)
    order = np.argsort(-np.abs(np.asarray(sizes)), kind="stable")
    largest = order[: (count + 1) // 2]
    others = np.random.default_rng(0).choice(order[len(largest) :], count // 2, replace=False)
    return [edges[place] for place in sorted([*largest.tolist(), *others.tolist()])]
