"""What every sender of a production decoder adds to the stream in one run, minus what it adds in another.

Heads are held by the inputs of their output projection, not by what each writes into the stream. So a batch needs one
stream for each layer's attention and feed-forward part, on the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from miclab.circuits.edges import Sender
from miclab.mllm.episode_pairs import Pairs, answer_logits
from miclab.mllm.patch_points import INPUT, Activation, recorded
from miclab.mllm.replay import Replay
from miclab.mllm.residual_graph import ResidualGraph, matrix, wide


@dataclass(frozen=True)
class Changes:
    """Two runs over a batch, and the changes of what senders add, from the run that is patched to the other.

    Arguments:
        graph: of the model.
        lot: the pairs.
        direction: `restore` patches the corrupted run with clean activations, `corrupt` the other way round.
        clean: logit differences of the clean prompts [row].
        corrupted: those of the corrupted ones [row].
        by_module: changes of the embedding, the heads' outputs of each layer and the feed-forward parts.
    """

    graph: ResidualGraph
    lot: Pairs
    direction: str
    clean: Float[Tensor, " row"]
    corrupted: Float[Tensor, " row"]
    by_module: Mapping[Activation, Tensor] = field(repr=False)

    @property
    def kept(self):
        """The prompts of the run that is patched."""
        return self.lot.corrupted if self.direction == "restore" else self.lot.clean

    @property
    def embedding(self) -> Float[Tensor, "row position width"]:
        """The change of the embedding."""
        return self.by_module["residual", INPUT]

    def of(self, sender: Sender) -> Float[Tensor, "row position width"]:
        """The change of what a sender adds."""
        if sender.kind == "embedding":
            return self.embedding
        if sender.kind == "mlp":
            return self.by_module["mlp", sender.layer].view_as(self.embedding)
        assert sender.head is not None
        return self._heads(sender.layer)[sender.head]

    def of_layer(self, layer: int) -> Float[Tensor, "sender row position width"]:
        """The changes of a layer's heads, then of its feed-forward part."""
        mlp = self.by_module["mlp", layer].view_as(self.embedding)
        return torch.cat([self._heads(layer), mlp[None].to(self._device(layer))])

    def _device(self, layer: int) -> torch.device:
        return next(self.graph.blocks[layer].norms["mlp"].parameters()).device

    def _heads(self, layer: int) -> Float[Tensor, "head row position width"]:
        """The changes of what each head of a layer writes: the bias of the projection is of no head."""
        own = self.graph.blocks[layer].layer
        outputs = self.by_module["head", layer].to(self._device(layer))
        weights = wide(matrix(own.output_projection, outputs.to(self.graph.production.model.dtype)))
        # [head row*position size] x [head size width]
        split = outputs.reshape(-1, own.heads, own.head_size).transpose(0, 1)
        made = split @ weights.detach().unflatten(0, (own.heads, own.head_size)).to(split)
        return made.unflatten(1, self.embedding.shape[:2])


@torch.no_grad()
def changes_of(graph: ResidualGraph, lot: Pairs, replay: Replay, direction: str) -> Changes:
    """Reads both prompts of a batch.

    Arguments:
        replay: keeps the run that is patched, for the passes that follow.
        direction: `restore` or `corrupt`.
    """
    kept, given = (lot.corrupted, lot.clean) if direction == "restore" else (lot.clean, lot.corrupted)
    with replay.reading(kept, None) as read, recorded(graph.sent) as before:
        base = lot.difference(answer_logits(graph.production, read)).cpu()
    with recorded(graph.sent) as after:
        other = lot.difference(answer_logits(graph.production, given)).cpu()
    # Written over what was recorded, so that no third copy is held.
    found = {name: wide(after.pop(name)) - wide(before.pop(name)) for name in list(before)}
    clean, corrupted = (other, base) if direction == "restore" else (base, other)
    return Changes(graph, lot, direction, clean, corrupted, found)
