"""A production decoder as a graph: every head and feed-forward part adds to the stream, and reads all that came before.

    sender                                  receiver
    embedding, head 0.0, mlp 0, ...   ->    query, key or value of a later head, a later mlp, the logits

Names and edges are those of `miclab.circuits.edges`. A receiver reads the stream through one norm. That blocks are of
this form is not known from their class, so it is checked on the streams of a pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from miclab.circuits.edges import INPUTS, Edge, Input, Receiver, Sender, senders_before
from miclab.errors import nearest
from miclab.mllm.episode_pairs import answer_logits
from miclab.mllm.errors import ModelError
from miclab.mllm.layers import AttentionLayer, parse_head, width_in
from miclab.mllm.loading import Production
from miclab.mllm.patch_points import INPUT, Activation, Point, points
from miclab.mllm.reading import Encoded
from miclab.mllm.readout import EXACT, OWN, feed_forward_of, readout_of

BEFORE: dict[Literal["attention", "mlp"], tuple[str, ...]] = {
    "attention": ("input_layernorm", "ln_1", "self_attn_layer_norm"),
    "mlp": ("post_attention_layernorm", "ln_2", "final_layer_norm"),
}
"""A block's names for the norms before its attention and its feed-forward part."""
ALLOWED = (
    "Edges are known of decoders whose blocks have one norm before attention and one before the feed-forward part, and "
    "add both to the stream as they are. Llama, Qwen2, Qwen2.5-VL, Phi-3, GPT-2, OPT, GPT-NeoX and others are of this "
    "form. `miclab mllm patch` takes any decoder."
)
ONE_LAYER = (
    "{} has one layer, so no head feeds another and there are no edges to compare. `miclab mllm patch` traces it by "
    "part and kind of position."
)


def _refused(block: nn.Module, why: str) -> ModelError:
    return ModelError(f"{type(block).__name__} has no separate edges: {why}. {ALLOWED}")


def wide(value: Tensor) -> Tensor:
    """A tensor in 32 bits, or in 64 where it has them."""
    return value if value.dtype == torch.float64 else value.float()


def matrix(module: Any, like: Tensor) -> Float[Tensor, "input output"]:
    """The weights of a linear map as one matrix, those of an adapter and quantised ones included.

    Arguments:
        like: a tensor of the type and on the device that the map reads.
    """
    weight = getattr(module, "weight", None)
    if type(module) is nn.Linear and not module.weight.is_meta:
        return module.weight.T
    if type(module).__name__ == "Conv1D" and isinstance(weight, Tensor) and not weight.is_meta:
        return weight
    with torch.no_grad():
        every = torch.eye(width_in(module), dtype=like.dtype, device=like.device)
        return module(every) - module(torch.zeros_like(every[:1]))


@dataclass(frozen=True)
class Block:
    """One block of the decoder.

    Arguments:
        layer: its attention.
        module: the block.
        norms: before attention and before the feed-forward part.
        projections: where queries, keys and values are, by head.
    """

    layer: AttentionLayer
    module: nn.Module = field(repr=False)
    norms: dict[Literal["attention", "mlp"], nn.Module] = field(repr=False)
    projections: dict[Input, Point] = field(repr=False)

    @property
    def is_parallel(self) -> bool:
        """Whether attention and feed-forward part read the same stream, side by side, as in GPT-NeoX."""
        return bool(getattr(self.module, "use_parallel_residual", False))

    @property
    def share(self) -> int:
        """Number of heads that read one key and value."""
        return self.layer.heads // self.layer.key_value_heads

    @property
    def receivers(self) -> tuple[Receiver, ...]:
        """Inputs of its heads, then that of its feed-forward part."""
        index, steps = self.layer.index, {"query": 1, "key": self.share, "value": self.share}
        found = [Receiver(kind, index, head) for kind in INPUTS for head in range(0, self.layer.heads, steps[kind])]
        return (*found, Receiver("mlp", index))

    @property
    def senders(self) -> tuple[Sender, ...]:
        """Its heads, then its feed-forward part."""
        index = self.layer.index
        return (*(Sender("head", index, head) for head in range(self.layer.heads)), Sender("mlp", index))

    def columns(self, receiver: Receiver) -> slice:
        """Columns of a head's queries, keys or values in what their projection gives."""
        assert receiver.head is not None
        step = 1 if receiver.kind == "query" else self.share
        found = self.projections[cast("Input", receiver.kind)].columns[receiver.head // step]
        return slice(found[0], found[-1] + 1)


class ResidualGraph:
    """The decoder of a production model as a graph.

    Arguments:
        production: the model.

    Raises:
        ModelError: its parts do not read and write one stream in a known way. What only a pass shows, `check` finds.
    """

    def __init__(self, production: Production):
        self.production = production
        self.norm = readout_of(production).norm
        found = points(production, ["mlp", "head", *INPUTS])
        self.blocks = [_block(production, layer, found) for layer in production.layers]
        indices = [block.layer.index for block in self.blocks]
        if indices != list(range(len(indices))):
            raise _refused(self.blocks[0].module, f"only layers {', '.join(map(str, indices))} have attention")
        if len(indices) < 2:
            raise ModelError(ONE_LAYER.format(production.name))
        self.sent: dict[Activation, Point] = {("residual", INPUT): Point(self.blocks[0].module, "input")} | {
            name: point for name, point in found.items() if name[0] in ("mlp", "head")
        }
        """Where what senders add is recorded: heads by their outputs before the output projection."""
        self.senders = (Sender("embedding"), *(one for block in self.blocks for one in block.senders))
        last = Receiver("logits", len(self.blocks))
        self.receivers = (*(one for block in self.blocks for one in block.receivers), last)

    @cached_property
    def places(self) -> tuple[dict[Sender, int], dict[Receiver, int]]:
        """Places of senders and receivers in arrays of scores [sender, receiver]."""
        return ({one: place for place, one in enumerate(self.senders)},
                {one: place for place, one in enumerate(self.receivers)})  # fmt: skip

    def before(self, receiver: Receiver) -> tuple[Sender, ...]:
        """The senders that a receiver reads, in the order of the forward pass."""
        found = senders_before(self.senders, receiver)
        if receiver.kind == "mlp" and self.blocks[receiver.layer].is_parallel:
            return tuple(one for one in found if one.layer < receiver.layer)
        return found

    def edges(self, senders: tuple[Sender, ...], receivers: tuple[Receiver, ...]) -> list[Edge]:
        """Edges from some senders to some receivers, in the order of the receivers."""
        chosen = set(senders)
        return [Edge(one, to) for to in receivers for one in self.before(to) if one in chosen]

    # -- names ----------------------------------------------------------------------------------------------------
    def sender(self, text: str) -> Sender:
        """The sender of a name: `embedding`, `mlp L`, or a head as `L.H`.

        Raises:
            ModelError: there is none.
        """
        if text == "embedding":
            return Sender("embedding")
        if text.startswith("mlp"):
            return Sender("mlp", self._layer_of(text))
        layer, head = self._head(text)
        return Sender("head", layer, head)

    def receiver(self, text: str) -> Receiver:
        """The receiver of a name: `logits`, `mlp L`, or an input of a head as `L.H:query`. Heads that share a key or
        value have it under the first one's name.

        Raises:
            ModelError: there is none.
        """
        if text == "logits":
            return self.receivers[-1]
        if text.startswith("mlp"):
            return Receiver("mlp", self._layer_of(text))
        name, _, kind = text.partition(":")
        if kind not in INPUTS:
            raise ModelError(
                f"{text!r} names no receiver: {nearest(kind, INPUTS)}. Write LAYER.HEAD:query, LAYER.HEAD:key, "
                "LAYER.HEAD:value, 'mlp LAYER' or logits, such as 1.3:key."
            )
        layer, head = self._head(name)
        share = 1 if kind == "query" else self.blocks[layer].share
        return Receiver(cast("Input", kind), layer, head - head % share)

    def _layer_of(self, text: str) -> int:
        number = text.removeprefix("mlp").lstrip(" :")
        if not number.isdigit() or int(number) >= len(self.blocks):
            raise ModelError(f"{text!r} names no feed-forward part: write 'mlp LAYER', 0 to {len(self.blocks) - 1}.")
        return int(number)

    def _head(self, text: str) -> tuple[int, int]:
        layer, head = parse_head(text)
        if layer >= len(self.blocks) or head >= self.blocks[layer].layer.heads:
            heads = self.blocks[min(layer, len(self.blocks) - 1)].layer.heads
            raise ModelError(
                f"There is no head {text}: layers are 0 to {len(self.blocks) - 1}, heads of a layer 0 to {heads - 1}."
            )
        return layer, head

    # -- the form of blocks ---------------------------------------------------------------------------------------
    def check(self, encoded: Encoded) -> None:
        """Reads a batch and compares the streams of every block with the sums of what its parts add.

        Raises:
            ModelError: they differ, so the blocks are of another form.
        """
        with ExitStack() as stack:
            before: dict[str, Tensor] = {}
            for block in self.blocks:
                stack.enter_context(_checked(block, before))
            after = Point(self.norm, "input")
            stack.callback(after.hook(lambda x: _compare(self.blocks[-1].module, x, before["out"], BETWEEN)).remove)
            answer_logits(self.production, encoded)


BETWEEN = "what a block reads is not what the block before it gave, so something else enters the stream"
UNREAD = "its attention or its feed-forward part does not read what the norm before it gives"
BEHIND = "a norm or a factor stands behind its attention, or the stream has another norm first"


def _block(production: Production, layer: AttentionLayer, found: dict[Activation, Point]) -> Block:
    """The block around a layer's attention.

    Raises:
        ModelError: it is of another form.
    """
    module = readout_of(production).blocks[layer.index]
    norms: dict[Literal["attention", "mlp"], nn.Module] = {}
    for part, names in BEFORE.items():
        norm = next((one for name in names if isinstance(one := getattr(module, name, None), nn.Module)), None)
        if norm is None:
            raise _refused(module, f"it has no norm {' or '.join(names)} before its {part}")
        norms[part] = norm
    feed = feed_forward_of(module)
    assert feed is not None
    experts = [name for name, _ in feed.named_modules() if name.rpartition(".")[2] in ("experts", "router")]
    if experts:
        raise _refused(module, f"its feed-forward part is a mixture of experts ({experts[0]})")
    projections: dict[Input, Point] = {kind: found[kind, layer.index] for kind in INPUTS}
    return Block(layer, module, norms, projections)


def _compare(block: nn.Module, value: Tensor, wanted: Tensor, why: str) -> None:
    most = OWN.get(value.dtype, EXACT)
    value, wanted = wide(value).flatten(), wide(wanted).flatten().to(value.device)
    if value.shape != wanted.shape or not (value - wanted).norm() <= most * wanted.norm().clamp(min=1e-12):
        raise _refused(block, why)


@contextmanager
def _checked(block: Block, before: dict[str, Tensor]) -> Iterator[None]:
    """A context in which a pass compares the streams of a block, and leaves what the block gives as `out`."""
    module, mlp = block.module, cast("nn.Module", feed_forward_of(block.module))

    def keep(name: str) -> Any:
        def look(value: Tensor) -> None:
            before[name] = value.detach().clone()

        return look

    def enter(x: Tensor) -> None:
        if "out" in before:
            _compare(module, x, before["out"], BETWEEN)
        keep("in")(x)

    def first(x: Tensor) -> None:
        _compare(module, x, before["in"], BEHIND)

    def second(x: Tensor) -> None:
        whole = before["in"].flatten()
        if not block.is_parallel:
            whole = whole + before["attention"].flatten()
        _compare(module, x, whole, BEHIND)

    def leave(out: Tensor) -> None:
        whole = before["in"].flatten() + before["attention"].flatten() + before["mlp"].flatten()
        _compare(module, out, whole, "a norm or a factor stands behind its feed-forward part")
        keep("out")(out)

    def read(x: Tensor) -> None:
        _compare(module, x, before["normed"], UNREAD)

    readers = {id(point.module): point.module for point in block.projections.values()}
    # OPT has no module around its feed-forward part, only its two maps.
    readers |= {} if isinstance(mlp, nn.Linear) else {id(mlp): mlp}
    with ExitStack() as stack:
        for point, function in (
            (Point(module, "input"), enter), (Point(block.norms["attention"], "input"), first),
            *((Point(norm, "output"), keep("normed")) for norm in block.norms.values()),
            *((Point(reader, "input"), read) for reader in readers.values()),
            (Point(block.layer.output_projection, "output"), keep("attention")),
            (Point(block.norms["mlp"], "input"), second), (Point(mlp, "output"), keep("mlp")),
            (Point(module, "output"), leave),
        ):  # fmt: skip
            stack.callback(point.hook(function).remove)
        yield
