"""Senders, receivers and edges of a decoder, by name alone: no weights are needed.

    sender                                  receiver
    embedding, head 0.0, mlp 0, ...   ->    query, key or value of a later head, a later mlp, the logits

An edge is what one sender adds to the input of one receiver. Heads of a layer send to its MLP; no head sends to another
of its layer. See Elhage et al., A mathematical framework for transformer circuits, 2021.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from miclab.circuits.find import head_name

Input = Literal["query", "key", "value"]
INPUTS: dict[Input, str] = {"query": "queries", "key": "keys", "value": "values"}
"""Inputs of a head, and the activation that each is read into."""


@dataclass(frozen=True)
class Sender:
    """A part that adds to the residual stream: the embedding, a head, or an MLP; layers and heads count from 0."""

    kind: Literal["embedding", "head", "mlp"]
    layer: int = -1
    head: int | None = None

    def __str__(self) -> str:
        if self.kind == "embedding":
            return "embedding"
        return f"mlp {self.layer}" if self.head is None else f"head {head_name((self.layer, self.head))}"


@dataclass(frozen=True)
class Receiver:
    """An input that reads the residual stream. Heads that share a key or value have it under the first one's name.

    Arguments:
        role: of the positions that are meant; empty: all.
    """

    kind: Literal["query", "key", "value", "mlp", "logits"]
    layer: int = -1
    head: int | None = None
    role: str = ""

    @property
    def is_attention(self) -> bool:
        """Whether it is an input of a head."""
        return self.head is not None

    def __str__(self) -> str:
        at = f" at {self.role}" if self.role else ""
        if self.kind == "logits":
            return "logits"
        if self.head is None:
            return f"mlp {self.layer}{at}"
        return f"{self.kind} of {head_name((self.layer, self.head))}{at}"


@dataclass(frozen=True)
class Edge:
    """What a sender adds to the input of a receiver."""

    sender: Sender
    receiver: Receiver

    def __str__(self) -> str:
        return f"{self.sender} -> {self.receiver}"


def parts_of(
    counts: Sequence[Mapping[Input, int]], heads: int, has_mlp: bool
) -> tuple[tuple[Sender, ...], tuple[Receiver, ...]]:
    """Senders and receivers of a decoder, in the order of the forward pass.

    Arguments:
        counts: by layer, the number of queries, keys and values; heads may share keys and values.
        heads: of each layer.
        has_mlp: whether layers have an MLP.
    """
    senders, receivers = [Sender("embedding")], list[Receiver]()
    for layer, by_input in enumerate(counts):
        for part, count in by_input.items():
            share = heads // count
            receivers += [Receiver(part, layer, number * share) for number in range(count)]
        senders += [Sender("head", layer, head) for head in range(heads)]
        if has_mlp:
            receivers.append(Receiver("mlp", layer))
            senders.append(Sender("mlp", layer))
    return tuple(senders), (*receivers, Receiver("logits", len(counts)))


def senders_before(senders: Sequence[Sender], receiver: Receiver) -> tuple[Sender, ...]:
    """The senders that a receiver reads, in the order of the forward pass."""
    last = receiver.layer if receiver.kind == "mlp" else receiver.layer - 1
    return tuple(
        one
        for one in senders
        if one.layer <= last and not (one.kind == "mlp" and receiver.kind == "mlp" and one.layer == last)
    )


def edges_between(senders: Sequence[Sender], receivers: Sequence[Receiver]) -> tuple[Edge, ...]:
    """Every edge, in the order of the receivers."""
    return tuple(Edge(sender, receiver) for receiver in receivers for sender in senders_before(senders, receiver))


def plain_edges(layers: int, heads: int, has_mlp: bool = True) -> tuple[Edge, ...]:
    """Every edge of a decoder whose heads share nothing, in the order of `Graph.edges`."""
    return edges_between(*parts_of([dict.fromkeys(INPUTS, heads)] * layers, heads, has_mlp))
