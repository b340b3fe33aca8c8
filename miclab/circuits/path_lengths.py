"""Through how many attention layers the answer of a circuit comes.

A path from the embedding to the logits passes a number of heads, and any MLPs between. Here the edges of a circuit
carry only what came through at most N heads; all others carry what is given instead (`circuit_search`). With N = 0 that
is the embedding and the MLPs that read it, with N = 2 the induction circuit, with N = layers the whole circuit.

    at most 0      at most 1      at most 2      ...      whole circuit
       |--------------|--------------|------------------------|
         1 head         2 heads         3 heads and more

The effect of paths of N heads is the answer with at most N minus that with at most N - 1. So the effects add up to that
of the circuit, and what takes short and long paths together counts for the longest of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from miclab.circuits.circuit_search import SEQUENCES, Ablation, Bench, bench_of, halves, judge_of, search
from miclab.circuits.corrupted_pairs import pairs_of_split
from miclab.circuits.corruption import find_corruption
from miclab.circuits.edges import Edge, Receiver, Sender
from miclab.circuits.graph import Graph
from miclab.circuits.patching import METRICS, Metric, answer_values
from miclab.circuits.path_result import check_layers
from miclab.circuits.receiver_inputs import wired_logits
from miclab.config.request import SplitSizes
from miclab.errors import RunError
from miclab.model.decoder import Decoder
from miclab.runs.run import Run
from miclab.worlds.world import world_from_tensors

CORRUPTION = "items_swapped"
FAITHFUL = 0.9
INTERPOLATIONS = 5


def limited_logits(
    graph: Graph,
    embedding: Float[Tensor, "batch position width"],
    instead: Mapping[Sender, Tensor],
    kept: Bool[Tensor, " edge"],
) -> Float[Tensor, "most batch label"]:
    """Logits of a circuit whose edges carry what came through at most 0, 1, ..., layers heads.

    The arguments are those of `miclab.circuits.receiver_inputs.circuit_logits`, of one circuit.
    """
    many, count = graph.layers + 1, len(embedding)
    live = dict(zip(graph.edges(), kept.tolist(), strict=True))

    def inputs(receivers: Sequence[Receiver], sent: Mapping[Sender, Tensor]) -> Tensor:
        senders = graph.before(receivers[0])
        length = sent[senders[0]].shape[1]
        base = torch.stack([instead[one][:, -length:] for one in senders]).sum(0)
        found = []
        for receiver in receivers:
            # [most batch position width]
            read = base.repeat(many, 1, 1, 1)
            for one in senders:
                if live[Edge(one, receiver)]:
                    read += sent[one].unflatten(0, (many, count)) - instead[one][:, -length:]
            if receiver.is_attention:
                # A head adds one to the heads passed: with at most N it reads what came through N - 1.
                read = torch.cat([base[None], read[:-1]])
            found.append(read.flatten(0, 1))
        return torch.stack(found)

    return wired_logits(graph, embedding.repeat(many, 1, 1), inputs).unflatten(0, (many, count))


@dataclass(frozen=True)
class PathLengths:
    """Effects of a circuit by the number of heads on their paths, on sequences that the search did not see.

    Arguments:
        edges: of the circuit.
        count: edges of the decoder.
        none: each metric without any edge, by set of novel classes [set].
        whole: the same with every edge.
        most: the same with the circuit's edges through at most 0, 1, ... heads [most set].
    """

    edges: tuple[Edge, ...]
    count: int
    none: dict[Metric, NDArray[np.floating]]
    whole: dict[Metric, NDArray[np.floating]]
    most: dict[Metric, NDArray[np.floating]]

    def faithfulness(self, metric: Metric) -> NDArray[np.floating]:
        """Share of the answer that the circuit keeps [set]."""
        return _share(self.most[metric][-1] - self.none[metric], self.whole[metric] - self.none[metric])

    def shares(self, metric: Metric) -> NDArray[np.floating]:
        """Share of the circuit's effect on paths of 0, 1, ... heads [heads set]; the shares add up to 1."""
        steps = np.diff(self.most[metric], axis=0, prepend=self.none[metric][None])
        return _share(steps, self.most[metric][-1] - self.none[metric])


def _share(part: NDArray[np.floating], whole: NDArray[np.floating]) -> NDArray[np.floating]:
    """A quotient; NaN where there is nothing to take a share of."""
    return part / np.where(whole == 0, np.nan, whole)


def circuit_path_lengths(
    run: Run, step: int | None = None, sizes: SplitSizes | None = None, *, faithful: float = FAITHFUL
) -> PathLengths:
    """Finds a circuit that keeps the accuracy, and the effect of its paths by the number of heads on them.

    Arguments:
        run: the run.
        step: the checkpoint; None: its last good one.
        sizes: sequences of novel classes; half the sets are searched on, half judged on.
        faithful: share of the accuracy to keep.

    Raises:
        RunError: the decoder has one layer, or other inputs than queries, keys and values. Or it does not answer from
            the context.
    """
    check_layers(run.config)
    made, modality = find_corruption(CORRUPTION, run.config)
    _, parameters = run.parameters(step)
    graph = Graph(Decoder(run.config), parameters)
    world = world_from_tensors(run.config, run.world_tensors())
    pairs = pairs_of_split(run.config, world, made, modality, "icl", sizes or SplitSizes())
    searching, checking = (bench_of(graph, half) for half in halves(pairs))
    ablation: Ablation = "resample"
    judge = judge_of(searching, ablation, "accuracy")
    if not judge(searching.ends())[1] > 0:
        raise RunError("With every edge the decoder answers no better than without any: it has no circuit.")
    scores = searching.attributions(ablation, INTERPOLATIONS)
    circuit = search(judge, list(scores.values()), faithful)
    edges = graph.edges()
    kept = torch.zeros(len(edges), dtype=torch.bool)
    kept[circuit] = True
    ends: dict[Metric, NDArray[np.floating]] = {
        name: np.array([one.mean(1) for one in rows])
        for name, rows in checking.values(ablation, searching.ends()).items()
    }
    most = _limited(checking, kept)
    return PathLengths(
        tuple(edges[place] for place in circuit), len(edges),
        {name: values[:, 0] for name, values in ends.items()},
        {name: values[:, 1] for name, values in ends.items()}, most,
    )  # fmt: skip


def _limited(bench: Bench, kept: Bool[Tensor, " edge"]) -> dict[Metric, NDArray[np.floating]]:
    """Each metric through at most 0, 1, ... heads, by set [most set]."""
    found: dict[Metric, list[NDArray[np.floating]]] = {metric: [] for metric in METRICS}
    with torch.no_grad():
        for index in range(len(bench.pairs.sets)):
            total: dict[Metric, list[Tensor]] = {metric: [] for metric in METRICS}
            for clean, corrupted in bench.pairs.chunks(index, SEQUENCES):
                embedding = bench.graph.outputs(clean).sent[bench.graph.senders[0]]
                logits = limited_logits(bench.graph, embedding, bench.instead("resample", corrupted), kept)
                values = [answer_values(one, clean, corrupted) for one in logits]
                for metric in METRICS:
                    total[metric].append(torch.stack([one[metric] for one in values]).double())
            for metric in METRICS:
                found[metric].append(torch.cat(total[metric], 1).mean(1).numpy())
    return {metric: np.stack(by_set, 1) for metric, by_set in found.items()}
