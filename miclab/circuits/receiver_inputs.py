"""A forward pass in which every input reads its own residual stream, for gradients of edges and for circuits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from miclab.circuits.edges import INPUTS, Edge, Input, Receiver, Sender
from miclab.circuits.graph import Graph
from miclab.model.attention.softmax import Softmax

FEW = 2
"""Senders are left out where so many times those with edges are fewer than all: choosing them copies what they add."""
Inputs = Callable[[Sequence[Receiver], Mapping[Sender, Tensor]], Float[Tensor, "receiver row position width"]]
"""From the receivers of one stage, and what every sender before them adds [row position width], to what each receiver
reads. Parts of the last layer get and give the last position alone."""


def wired_logits(graph: Graph, embedding: Float[Tensor, "row position width"], inputs: Inputs) -> Tensor:
    """Logits [row label] of a forward pass whose inputs are given by `inputs`."""
    sent = {graph.senders[0]: embedding}
    for layer in range(graph.layers):
        heads = graph.mix(layer, _read(graph, layer, inputs(graph.inputs_of(layer), sent)))
        sent |= {
            Sender("head", layer, head): value for head, value in enumerate(graph.contributions(layer, heads).unbind(1))
        }
        if layer == graph.layers - 1:
            sent = {sender: value[:, -1:] for sender, value in sent.items()}
        if graph.has_mlp:
            x = inputs((Receiver("mlp", layer),), sent)[0]
            sent[Sender("mlp", layer)] = graph.decoder.feed(graph.parameters, layer, x)
    return graph.decoder.read(graph.parameters, inputs(graph.receivers[-1:], sent)[0, :, -1])


def _read(graph: Graph, layer: int, x: Float[Tensor, "receiver row position width"]) -> dict[Input, Tensor]:
    """Queries, keys and values of a layer, each from the stream of its own receiver."""
    receivers = graph.inputs_of(layer)
    mechanism = type(graph.softmax(layer))
    if mechanism.project is Softmax.project and mechanism.linear is Softmax.linear:
        return _read_by_head(graph, layer, x)
    read = graph.project(layer, x.flatten(0, 1))
    found: dict[Input, list[Tensor]] = {part: [] for part in INPUTS}
    for number, receiver in enumerate(receivers):
        kind = cast("Input", receiver.kind)
        place = graph.heads_of(receiver)[0] * graph.counts[layer][kind] // graph.heads
        found[kind].append(read[kind].unflatten(0, x.shape[:2])[number, :, place])
    return {kind: torch.stack(values, 1) for kind, values in found.items()}


def _read_by_head(graph: Graph, layer: int, x: Float[Tensor, "receiver row position width"]) -> dict[Input, Tensor]:
    """`_read` of plain attention: every receiver is projected by the weights of its own head alone."""
    receivers = graph.inputs_of(layer)
    own = graph.decoder.attention_parameters(graph.parameters, layer)
    size = own["query"].shape[1] // graph.heads
    some = [slice(one.head * size, (one.head + 1) * size) for one in receivers if one.head is not None]
    normed, gain = graph.decoder.norm(graph.parameters, f"blocks.{layer}.norm1", x.flatten(0, 1))
    weights = torch.stack([own[one.kind][:, place] for one, place in zip(receivers, some, strict=True)])
    made = normed.view(len(receivers), -1, x.shape[-1]) @ (weights if gain is None else gain[:, None] * weights)
    found: dict[Input, list[Tensor]] = {part: [] for part in INPUTS}
    for one, place, value in zip(receivers, some, made.unflatten(1, x.shape[1:3]), strict=True):
        bias = own.get(f"{one.kind}_bias")
        found[cast("Input", one.kind)].append(value if bias is None else value + bias[place])
    return {part: torch.stack(values, 1) for part, values in found.items()}


def circuit_logits(
    graph: Graph,
    embedding: Float[Tensor, "batch position width"],
    instead: Mapping[Sender, Tensor],
    kept: Bool[Tensor, "circuit edge"],
) -> Float[Tensor, "circuit batch label"]:
    """Logits of circuits: an edge of a circuit carries what its sender adds, any other what is given instead.

    Arguments:
        embedding: of the sequences.
        instead: what each sender adds when it is ablated [batch position width], or without a batch axis of its own.
        kept: the edges of each circuit, in the order of `Graph.edges`.
    """
    many, (count, positions, width) = len(kept), embedding.shape
    number = {edge: place for place, edge in enumerate(graph.edges())}
    live = kept.to(embedding.dtype)
    # What a sender adds beyond what is given instead, written once. Those before a receiver are the first of them.
    gone = embedding.new_empty(many, len(graph.senders), count, positions, width)
    off = embedding.new_zeros(len(graph.senders), count, positions, width)
    for place, one in enumerate(graph.senders):
        off[place, :, -instead[one].shape[1] :] = instead[one]
    base = embedding.new_zeros(count, positions, width)
    written = 0

    def inputs(receivers: Sequence[Receiver], sent: Mapping[Sender, Tensor]) -> Tensor:
        nonlocal written
        senders = graph.before(receivers[0])
        length = sent[senders[0]].shape[1]
        for place in range(written, len(senders)):
            value = sent[senders[place]].unflatten(0, (many, count))
            torch.sub(value, off[place, :, -length:], out=gone[:, place, :, -length:])
            base.add_(off[place])
        written = len(senders)
        places = torch.tensor([[number[Edge(one, receiver)] for one in senders] for receiver in receivers])
        carries = live[:, places]
        # Senders of which no circuit keeps an edge to these receivers add what is given instead.
        some = carries.any(1).any(0).nonzero().flatten().tolist()
        if len(some) * FEW < len(senders):
            changed, carries = gone[:, some, :, -length:], carries[:, :, some]
        else:
            changed = gone[:, :written, :, -length:]
        # [circuit receiver sender] x [circuit sender everything]
        carried = carries @ changed.flatten(2)
        read = base[:, -length:]
        return (read + carried.unflatten(-1, read.shape)).transpose(0, 1).flatten(1, 2)

    return wired_logits(graph, embedding.repeat(many, 1, 1), inputs).unflatten(0, (many, count))
