"""The decoder as a graph: every head and MLP adds to the residual stream, and reads the sum of all that came before.

    sender                                  receiver
    embedding, head 0.0, mlp 0, ...   ->    query, key or value of a later head, a later mlp, the logits

An edge is what one sender adds to the input of one receiver. Heads of a layer send to its MLP; no head sends to another
of its layer. See Elhage et al., A mathematical framework for transformer circuits, 2021, and Goldowsky-Dill et al.,
arXiv 2304.05969.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from miclab.circuits.edges import INPUTS, Edge, Input, Receiver, Sender, edges_between, parts_of, senders_before
from miclab.errors import RunError
from miclab.model.attention.mechanism import Mechanism
from miclab.model.attention.softmax import Softmax
from miclab.model.decoder import Decoder, Parameters
from miclab.worlds.sequences import Batch


@dataclass(frozen=True)
class Outputs:
    """A forward pass, part by part.

    Arguments:
        sent: what every sender adds to the residual stream [batch position width].
        inputs: by layer, queries, keys and values [batch head position dimension].
        heads: by layer, the outputs of heads [batch head position dimension].
        logits: at the query.
    """

    sent: dict[Sender, Tensor]
    inputs: list[dict[Input, Tensor]]
    heads: list[Tensor]
    logits: Float[Tensor, "batch label"]

    def before(self, senders: Sequence[Sender]) -> Float[Tensor, "batch position width"]:
        """The residual stream that holds what these senders add."""
        return torch.stack([self.sent[one] for one in senders]).sum(0)


class Graph:
    """A decoder with its parameters as a graph.

    Arguments:
        decoder: the decoder.
        parameters: of the decoder.

    Raises:
        RunError: heads of the decoder read the residual stream otherwise than as queries, keys and values.
    """

    def __init__(self, decoder: Decoder, parameters: Parameters):
        self.decoder, self.parameters = decoder, parameters
        self.layers, self.heads = decoder.options.layers, decoder.options.heads
        self.has_mlp = decoder.options.mlp != "none"
        self.positions = decoder.positions_of(parameters)
        if decoder.options.centre_keys != "off":
            raise RunError("The keys of this decoder are centred over a batch: decoder.centre_keys must be off here.")
        self.counts = [self._counts(layer) for layer in range(self.layers)]
        self.senders, self.receivers = parts_of(self.counts, self.heads, self.has_mlp)

    def _counts(self, layer: int) -> dict[Input, int]:
        """Number of queries, keys and values of a layer; heads may share keys and values."""
        mechanism = self.decoder.attention[layer]
        if not isinstance(mechanism, Softmax) or type(mechanism).everywhere is not Softmax.everywhere:
            raise RunError(
                f"Heads of layer {layer} of this decoder ({mechanism.options.name}) do not read the residual stream as"
                " queries, keys and values alone, so its edges cannot be separated. `miclab patch` takes any decoder."
            )
        length, width = self.decoder.config.sequence_length, self.decoder.width
        nothing = torch.zeros(1, length, width, dtype=self.parameters["decoder.readout"].dtype)
        found = self.project(layer, nothing)
        return {part: value.shape[1] for part, value in found.items()}

    # -- what there is --------------------------------------------------------------------------------------------
    def before(self, receiver: Receiver) -> tuple[Sender, ...]:
        """The senders that a receiver reads, in the order of the forward pass."""
        return senders_before(self.senders, receiver)

    def edges(self) -> tuple[Edge, ...]:
        """Every edge, in the order of the receivers."""
        return edges_between(self.senders, self.receivers)

    def heads_of(self, receiver: Receiver) -> tuple[int, ...]:
        """The heads of its layer that an input of attention feeds."""
        share = self.heads // self.counts[receiver.layer][receiver.kind]  # type: ignore[index]
        assert receiver.head is not None
        return tuple(range(receiver.head, receiver.head + share))

    def inputs_of(self, layer: int) -> tuple[Receiver, ...]:
        """The inputs of a layer's attention."""
        return tuple(one for one in self.receivers if one.layer == layer and one.is_attention)

    # -- forward passes -------------------------------------------------------------------------------------------
    def outputs(self, batch: Batch) -> Outputs:
        """A forward pass, part by part."""
        points = tuple(f"blocks.{i}.attention.{p}" for i in range(self.layers) for p in (*INPUTS.values(), "heads"))
        mlps = tuple(f"blocks.{i}.mlp.output" for i in range(self.layers)) if self.has_mlp else ()
        found = self.decoder.trace(self.parameters, batch, capture=("embedding", *points, *mlps))
        values, inputs, heads = found.activations, [], []
        sent = {self.senders[0]: values["embedding"]}
        for layer in range(self.layers):
            inputs.append({part: values[f"blocks.{layer}.attention.{point}"] for part, point in INPUTS.items()})
            heads.append(values[f"blocks.{layer}.attention.heads"])
            for head, value in enumerate(self.contributions(layer, heads[layer]).unbind(1)):
                sent[Sender("head", layer, head)] = value
            if self.has_mlp:
                sent[Sender("mlp", layer)] = values[f"blocks.{layer}.mlp.output"]
        return Outputs(sent, inputs, heads, found.logits)

    def embedding(self, batch: Batch) -> Float[Tensor, "batch position width"]:
        """What the embedding adds."""
        return self.decoder.trace(self.parameters, batch, capture=("embedding",)).activations["embedding"]

    def contributions(
        self, layer: int, heads: Float[Tensor, "batch head position dimension"]
    ) -> Float[Tensor, "batch head position width"]:
        """What each head adds to the residual stream."""
        own, mechanism = self.decoder.attention_parameters(self.parameters, layer), self.decoder.attention[layer]
        if type(mechanism).merge is Mechanism.merge and "output" in own:
            return heads @ own["output"].unflatten(0, (self.heads, -1))
        alone = torch.eye(self.heads, dtype=heads.dtype)[None, :, :, None, None] * heads[:, None]
        return mechanism.merge(own, alone.flatten(0, 1)).unflatten(0, (len(heads), self.heads))

    def added(self, layer: int, heads: Float[Tensor, "batch head position dimension"]) -> Tensor:
        """What all heads together add to the residual stream [batch position width]."""
        own = self.decoder.attention_parameters(self.parameters, layer)
        return self.decoder.attention[layer].merge(own, heads)

    def project(self, layer: int, x: Float[Tensor, "batch position width"]) -> dict[Input, Tensor]:
        """Queries, keys and values [batch head position dimension] that a layer reads from the residual stream."""
        normed, gain = self.decoder.norm(self.parameters, f"blocks.{layer}.norm1", x)
        own = self.decoder.attention_parameters(self.parameters, layer)
        return dict(zip(INPUTS, self.softmax(layer).project(own, normed, gain, layer), strict=True))

    def mix(self, layer: int, inputs: Mapping[Input, Tensor]) -> Float[Tensor, "batch head position dimension"]:
        """Outputs of heads from their queries, keys and values; in the last layer at the last position alone."""
        rows, own = self.rows(layer), self.decoder.attention_parameters(self.parameters, layer)
        queries, given = inputs["query"][:, :, rows], {"layer": layer, "positions": self.positions, "rows": rows}
        return self.softmax(layer).mix(own, queries, inputs["key"], inputs["value"], **given)

    def rows(self, layer: int) -> slice:
        """The positions that parts of a layer need to be computed at: the answer needs only the last of the last
        layer."""
        return slice(-1, None) if layer == self.layers - 1 else slice(None)

    def softmax(self, layer: int) -> Softmax:
        """The attention of a layer."""
        found = self.decoder.attention[layer]
        assert isinstance(found, Softmax)
        return found

    def finish(self, layer: int, x: Float[Tensor, "*row position width"]) -> Float[Tensor, "*row label"]:
        """Logits from the residual stream after the attention of a layer, at the positions `rows(layer)`."""
        if self.has_mlp:
            x = x + self.decoder.feed(self.parameters, layer, x)
        return self.go_on(layer + 1, x)

    def go_on(self, layer: int, x: Float[Tensor, "*row position width"]) -> Float[Tensor, "*row label"]:
        """Logits from the residual stream before a layer, or after the last."""
        if layer == self.layers:
            return self.decoder.read(self.parameters, x[..., -1, :])
        flat = x.flatten(0, -3)
        heads = self.mix(layer, self.project(layer, flat))
        after = flat[:, self.rows(layer)] + self.added(layer, heads)
        return self.finish(layer, after.unflatten(0, x.shape[:-2]))
