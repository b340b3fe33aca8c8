"""Exact path patching of edges in a production model, one edge at a time.

What one sender adds changes in what one receiver reads, and nowhere else: the receiver reads the norm of its stream
plus that change. Everything after the receiver is computed again. So an edge is the direct path alone, by the
definition of `miclab.circuits.paths`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from miclab.circuits.edges import Edge, Input, Receiver
from miclab.mllm.episode_pairs import answer_logits
from miclab.mllm.patch_points import Point
from miclab.mllm.replay import Replay
from miclab.mllm.residual_graph import Block, ResidualGraph
from miclab.mllm.sender_changes import Changes


@contextmanager
def receiver_changed(
    graph: ResidualGraph, receiver: Receiver, change: Float[Tensor, "row position width"]
) -> Iterator[None]:
    """A context in which one receiver reads its stream plus a change."""

    def add(x: Tensor) -> Tensor:
        # Some modules have rows and positions in one axis.
        return x + change.reshape(x.shape).to(x)

    if receiver.is_attention:
        with _head_changed(graph.blocks[receiver.layer], receiver, add):
            yield
        return
    norm = graph.norm if receiver.kind == "logits" else graph.blocks[receiver.layer].norms["mlp"]
    handle = Point(norm, "input").hook(add)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _head_changed(block: Block, receiver: Receiver, add: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """A context in which the queries, keys or values of one head are read from another stream."""
    norm, point = block.norms["attention"], block.projections[cast("Input", receiver.kind)]
    columns, streams = block.columns(receiver), list[Tensor]()

    def keep(x: Tensor) -> None:
        streams.append(x)

    def put(value: Tensor) -> Tensor:
        # `forward` itself, since a call of the module would come here again.
        made = point.module.forward(norm.forward(add(streams.pop())))
        changed = value.clone()
        changed[..., columns] = made[..., columns]
        return changed

    with ExitStack() as stack:
        stack.callback(Point(norm, "input").hook(keep).remove)
        stack.callback(point.hook(put).remove)
        yield


def lowest_layer(graph: ResidualGraph, edge: Edge) -> int:
    """The lowest layer that a pass with an edge patched computes."""
    return min(edge.receiver.layer, len(graph.blocks) - 1)


@torch.no_grad()
def edge_differences(
    graph: ResidualGraph,
    changes: Changes,
    replay: Replay,
    edges: Sequence[Edge],
    on_edge: Callable[[int], None] | None = None,
) -> dict[Edge, Float[Tensor, " row"]]:
    """Logit differences of a batch with each edge patched alone.

    Arguments:
        replay: the passes over the run that is patched; the first of them is done.
        on_edge: called with the number of edges done.
    """
    found: dict[Edge, Tensor] = {}
    # The change of a sender is computed once for all its receivers.
    by_sender: dict[object, list[Edge]] = {}
    for edge in edges:
        by_sender.setdefault(edge.sender, []).append(edge)
    for some in by_sender.values():
        change = changes.of(some[0].sender)
        for edge in some:
            with (
                replay.reading(changes.kept, lowest_layer(graph, edge)) as given,
                receiver_changed(graph, edge.receiver, change),
            ):
                found[edge] = changes.lot.difference(answer_logits(graph.production, given)).cpu()
            if on_edge:
                on_edge(len(found))
    return {edge: found[edge] for edge in edges}
