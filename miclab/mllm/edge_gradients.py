"""Effects of all edges of a production decoder on one batch, estimated by gradients (EAP, EAP-IG).

The effect of an edge is the sender's change times a gradient: that of the logit difference with respect to what the
receiver reads. The gradients come block by block, from the last to the first. Each block is computed again
from its kept input, so that the graph of one block is held at a time. Receivers of a block differ only in the norm and
the projection behind it. Gradients go back through these exactly, head by head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from miclab.circuits.edges import INPUTS, Input, Receiver
from miclab.mllm.episode_pairs import answer_logits
from miclab.mllm.patch_points import Point
from miclab.mllm.readout import first_of
from miclab.mllm.replay import Replay
from miclab.mllm.residual_graph import Block, ResidualGraph, matrix, wide
from miclab.mllm.sender_changes import Changes


@dataclass(frozen=True)
class _Call:
    """What a block was called with.

    Arguments:
        x: the stream.
        others: its other arguments, by position.
        more: and by name.
        is_named: whether the stream was given by name.
    """

    x: Float[Tensor, "row position width"]
    others: tuple[Any, ...]
    more: dict[str, Any]
    is_named: bool

    def again(self, block: nn.Module, x: Tensor) -> Tensor:
        """The block's output for another stream."""
        if self.is_named:
            return first_of(block(**self.more | {"hidden_states": x}))
        return first_of(block(x, *self.others, **self.more))


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """A context in which gradients are those of activations alone."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _read(graph: ResidualGraph, changes: Changes, replay: Replay, share: float) -> tuple[list[_Call], Tensor]:
    """What every block was called with in a pass, and the gradient with respect to what the logits read.

    Arguments:
        share: of the way from the embedding of the run that is patched to that of the other.
    """
    calls: list[_Call] = []
    leaves: list[Tensor] = []

    def enter(module: Any, arguments: tuple[Any, ...], more: dict[str, Any]) -> None:
        x = arguments[0] if arguments else more["hidden_states"]
        # A copy: some models add to their stream in place.
        calls.append(_Call(x.detach().clone(), arguments[1:], more, not arguments))

    def interpolate(x: Tensor) -> Tensor:
        return x + (share * changes.embedding).to(x)

    def end(x: Tensor) -> Tensor:
        leaves.append(x.detach().clone().requires_grad_())
        return leaves[0]

    with ExitStack() as stack:
        if share:
            stack.callback(Point(graph.blocks[0].module, "input").hook(interpolate).remove)
        for block in graph.blocks:
            stack.callback(block.module.register_forward_pre_hook(enter, with_kwargs=True).remove)
        stack.callback(Point(graph.norm, "input").hook(end).remove)
        given = stack.enter_context(replay.reading(changes.kept, None))
        value = changes.lot.difference(answer_logits(graph.production, given)).sum()
    return calls, torch.autograd.grad(value, leaves[0])[0]


def _through(
    block: Block, call: _Call, after: Float[Tensor, "row position width"]
) -> tuple[Tensor, dict[Input, Tensor], Tensor]:
    """Gradients of one block: with respect to its input, to what each projection gives, and to what the feed-forward
    part reads.

    Arguments:
        call: of the block.
        after: gradient with respect to its output.
    """
    given: dict[int, Tensor] = {}
    x = call.x.requires_grad_()
    leaves: list[Tensor] = []

    def keep(module: nn.Module) -> Any:
        def look(value: Tensor) -> None:
            given[id(module)] = value

        return look

    def part(x: Tensor) -> Tensor:
        # A change here reaches the feed-forward part, and not the stream around it.
        leaves.append(torch.zeros_like(x, requires_grad=True))
        return x + leaves[0]

    with ExitStack() as stack:
        for point in block.projections.values():
            if id(point.module) not in given:
                given[id(point.module)] = after
                stack.callback(point.hook(keep(point.module)).remove)
        stack.callback(Point(block.norms["mlp"], "input").hook(part).remove)
        out = call.again(block.module, x)
    names = list(given)
    before, mlp, *projected = torch.autograd.grad(out, [x, leaves[0], *(given[name] for name in names)], after.to(out))
    by_module = dict(zip(names, projected, strict=True))
    kinds: dict[Input, Tensor] = {kind: by_module[id(point.module)] for kind, point in block.projections.items()}
    return before, kinds, mlp.view_as(before)


def _inputs(
    block: Block, x: Float[Tensor, "row position width"], projected: dict[Input, Tensor]
) -> Float[Tensor, "receiver row position width"]:
    """Gradients with respect to what each input of a block's heads reads, from those of its projections."""
    weights = {kind: matrix(block.projections[kind].module, x).detach() for kind in INPUTS}
    stream = x.detach().requires_grad_()
    normed, found = block.norms["attention"](stream), list[Tensor]()
    # One after the other, as what the norm's gradient holds on its way is several times as large as the gradient.
    for receiver in block.receivers[:-1]:
        kind, columns = cast("Input", receiver.kind), block.columns(receiver)
        towards = projected[kind][..., columns] @ weights[kind][:, columns].T
        found += torch.autograd.grad(normed, stream, towards.view_as(normed).to(normed), retain_graph=True)
    return torch.stack(found)


def _products(changes: Changes, gradients: Float[Tensor, "receiver row position width"], layers: int) -> Tensor:
    """Products [sender receiver] of gradients with the changes of the embedding and of all senders of some layers.

    Arguments:
        layers: number of layers, from the first on.
    """
    read = wide(gradients).flatten(1).T
    found = [changes.embedding.flatten().to(read)[None] @ read]
    for layer in range(layers):
        found.append(changes.of_layer(layer).flatten(1).to(read) @ read)
    return torch.cat(found).cpu()


def edge_scores(
    graph: ResidualGraph, changes: Changes, replay: Replay, share: float
) -> Float[Tensor, "sender receiver"]:
    """Estimated changes of the logit difference by every edge, summed over the rows of a batch; NaN where there is no
    edge. Places are those of `ResidualGraph.places`.

    Arguments:
        replay: the passes over the run that is patched; the first of them is done.
        share: gradients are those of a run whose embedding is this share of the way to the other run.
    """
    senders, receivers = graph.places
    found = torch.full((len(senders), len(receivers)), torch.nan, dtype=torch.float64)

    def put(to: Sequence[Receiver], made: Tensor) -> None:
        columns = [receivers[one] for one in to]
        found[: len(made), columns[0] : columns[-1] + 1] = made.double()

    with _frozen(graph.production.model):
        calls, after = _read(graph, changes, replay, share)
        put(graph.receivers[-1:], _products(changes, after[None], len(graph.blocks)))
        for layer, block in reversed(list(enumerate(graph.blocks))):
            call = calls.pop()
            after, projected, mlp = _through(block, call, after)
            *_, reads = block.receivers
            # Its own feed-forward part is the last sender of a layer, and does not send to itself.
            made = _products(changes, mlp[None], layer if block.is_parallel else layer + 1)
            put([reads], made if block.is_parallel else made[:-1])
            put(block.receivers[:-1], _products(changes, _inputs(block, call.x, projected), layer))
    return found
