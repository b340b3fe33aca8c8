"""Edge attribution patching: the effect of every edge, estimated by gradients.

EAP multiplies what a sender changes by the gradient of the answer with respect to what the receiver reads (Syed et al.,
arXiv 2310.10348). EAP-IG takes the mean gradient over runs whose embeddings lie between the two (Hanna et al., arXiv
2403.17806, section 3). One backward pass gives every edge; exact patching needs a forward pass for each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from miclab.circuits.corrupted_pairs import Values
from miclab.circuits.graph import Edge, Graph, Receiver, Sender
from miclab.circuits.patching import Metric
from miclab.circuits.paths import Pair
from miclab.circuits.receiver_inputs import wired_logits
from miclab.errors import ConfigError

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
        x = torch.stack([sent[one] for one in graph.before(receivers[0])]).sum(0)
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
    steps = [gradients(graph, pair, metric, number / interpolations) for number in range(1, interpolations + 1)]
    mean = {receiver: torch.stack([step[receiver] for step in steps]).mean(0) for receiver in plain}
    found: dict[Estimate, Values] = {}
    by_method: dict[Method, dict[Receiver, Tensor]] = {"eap": plain, "eap_ig": mean}
    for method, by_receiver in by_method.items():
        for receiver, gradient in by_receiver.items():
            senders = graph.before(receiver)
            changes = torch.stack([pair.changes[one][:, -gradient.shape[1] :] for one in senders])
            moved = torch.einsum("sbpw,bpw->sb", changes, gradient)
            for sender, change in zip(senders, moved, strict=True):
                found[Estimate(Edge(sender, receiver), method)] = {metric: base + change}
    return found


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


def chosen_edges(edges: Sequence[Edge], sizes: Sequence[float], count: int) -> list[Edge]:
    """Edges to compare with exact patching: all, or half those with the largest estimates and half others at random."""
    if count >= len(edges):
        return list(edges)
    order = np.argsort(-np.abs(np.asarray(sizes)), kind="stable")
    largest = order[: (count + 1) // 2]
    others = np.random.default_rng(0).choice(order[len(largest) :], count // 2, replace=False)
    return [edges[place] for place in sorted([*largest.tolist(), *others.tolist()])]
