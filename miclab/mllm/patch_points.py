"""Where the activations of a production model are read and replaced, by part of a layer.

residual    output of a layer's block, or the input of the first
attention   output of the attention module, before any norm or factor that follows it
mlp         output of the feed-forward module
head        a head's slice of what the output projection reads
query       a head's slice of the projection to queries, before any norm and rotation
key, value  the same for a key-value head, which several heads may share
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from miclab.mllm.errors import ModelError
from miclab.mllm.layers import AttentionLayer, width_in, width_out
from miclab.mllm.loading import Production
from miclab.mllm.readout import FEED_FORWARD, blocks_of, feed_forward_of, first_of

PARTS = ("residual", "attention", "mlp", "head", "query", "key", "value")
"""Parts of a layer that can be patched."""
BY_HEAD = ("head", "query", "key", "value")
PROJECTED = ("query", "key", "value")
INPUT = -1
"""The number of the layer whose output is the embedding."""
Activation = tuple[str, int]
"""Part and index of the layer."""


@dataclass(frozen=True)
class Point:
    """An activation of a module.

    Arguments:
        module: the module.
        side: whether it is what the module reads or what it gives; of several the first.
        columns: of each head, the columns of the activation; empty: it has no heads.
    """

    module: nn.Module
    side: Literal["input", "output"]
    columns: tuple[tuple[int, ...], ...] = ()

    def hook(self, function: Callable[[Tensor], Tensor | None]) -> Any:
        """Calls a function with the activation at every pass; what it returns takes the activation's place.

        Returns:
            A handle by which the hook is removed.
        """

        def before(module: Any, arguments: tuple[Any, ...], more: dict[str, Any]) -> Any:
            if not arguments:
                made = function(more["hidden_states"])
                return None if made is None else (arguments, more | {"hidden_states": made})
            made = function(arguments[0])
            return None if made is None else ((made, *arguments[1:]), more)

        def after(module: Any, arguments: Any, output: Any) -> Any:
            made = function(first_of(output))
            if made is None:
                return None
            return (made, *output[1:]) if isinstance(output, tuple) else made

        if self.side == "input":
            return self.module.register_forward_pre_hook(before, with_kwargs=True)
        return self.module.register_forward_hook(after)


def _spans(start: int, heads: int, size: int, step: int = 0) -> tuple[tuple[int, ...], ...]:
    """Columns of heads that lie one after the other, each `step` after the one before."""
    step = step or size
    return tuple(tuple(range(start + head * step, start + head * step + size)) for head in range(heads))


def _unknown(layer: AttentionLayer, part: str, why: str) -> ModelError:
    return ModelError(
        f"{part} of {layer.path} cannot be patched: {type(layer.module).__name__} {why}. Choose other --parts of "
        f"{', '.join(PARTS)}."
    )


def projected(layer: AttentionLayer, part: str) -> Point:
    """Queries, keys or values in the outputs of a layer's projections.

    Raises:
        ModelError: they lie there in an unknown order.
    """
    number, (*inputs, _) = PROJECTED.index(part), layer.projections
    heads, pairs, size = layer.heads, layer.key_value_heads, layer.head_size
    count = heads if part == "query" else pairs
    if len(inputs) == 3:
        module = inputs[number]
        if width_out(module) != count * size:
            raise _unknown(layer, part, f"projects to {width_out(module)} columns, where {count} heads of {size} are")
        return Point(module, "output", _spans(0, count, size))
    (fused,), kind = inputs, type(layer.module).__name__
    if hasattr(layer.module, "query_key_value") and width_out(fused) == 3 * heads * size:
        # Query, key and value of each head lie side by side.
        return Point(fused, "output", _spans(number * size, heads, size, 3 * size))
    # Of other fused maps, only these were compared with their classes: queries of all heads, then keys, then values.
    is_blocks = "GPT2" in kind if hasattr(layer.module, "c_attn") else kind.startswith("Phi")
    if not is_blocks or width_out(fused) != (heads + 2 * pairs) * size:
        raise _unknown(layer, part, "fuses queries, keys and values in an order that miclab does not know")
    return Point(fused, "output", _spans((0, heads, heads + pairs)[number] * size, count, size))


def points(production: Production, parts: Sequence[str]) -> dict[Activation, Point]:
    """Where each part of each layer is; the residual stream's input is that of layer `INPUT`.

    Raises:
        ModelError: the model has no such part, or it cannot be patched; the message names it.
    """
    blocks, found = blocks_of(production), {}
    first = production.layers[0]
    for part in parts:
        if part == "residual" and first.index in blocks:
            found[part, INPUT] = Point(blocks[first.index], "input")
        for layer in production.layers:
            block = blocks.get(layer.index)
            if part in ("residual", "mlp") and block is None:
                raise _unknown(layer, part, "is not inside a block of the decoder")
            if part == "residual":
                point = Point(block, "output")  # pyright: ignore[reportArgumentType]
            elif part == "attention":
                point = Point(layer.module, "output")
            elif part == "mlp":
                module = feed_forward_of(block)  # pyright: ignore[reportArgumentType]
                if module is None:
                    raise _unknown(layer, part, f"has no feed-forward part beside it that is {', '.join(FEED_FORWARD)}")
                point = Point(module, "output")
            elif part == "head":
                width = width_in(layer.output_projection)
                point = Point(layer.output_projection, "input", _spans(0, layer.heads, layer.head_size))
                if width != layer.heads * layer.head_size:
                    raise _unknown(layer, part, f"has an output projection of {width} columns")
            else:
                point = projected(layer, part)
            found[part, layer.index] = point
    return found


@contextmanager
def recorded(chosen: Mapping[Activation, Point]) -> Iterator[dict[Activation, Tensor]]:
    """A context in which one pass leaves activations, on the CPU."""
    found: dict[Activation, Tensor] = {}

    def keep(activation: Activation) -> Callable[[Tensor], None]:
        def look(value: Tensor) -> None:
            # A copy: some models add to their stream in place.
            found[activation] = value.detach().to("cpu", copy=True)

        return look

    with ExitStack() as stack:
        for activation, point in chosen.items():
            stack.callback(point.hook(keep(activation)).remove)
        yield found


@contextmanager
def replaced(
    chosen: Iterable[tuple[Point, Tensor]], mask: Bool[Tensor, "row position"], head: int | None = None
) -> Iterator[None]:
    """A context in which activations are those of another run.

    Arguments:
        chosen: each with its activation in the other run.
        mask: positions that are replaced.
        head: the head whose columns are; None: all columns.
    """

    def put(other: Tensor, columns: Sequence[int]) -> Callable[[Tensor], Tensor]:
        def change(value: Tensor) -> Tensor:
            # Some modules have rows and positions in one axis.
            where = mask.to(value.device).reshape(*value.shape[:-1], 1)
            if not columns:
                return torch.where(where, other.to(value.device), value)
            # The columns of a head are adjacent.
            part, made = slice(columns[0], columns[-1] + 1), value.clone()
            made[..., part] = torch.where(where, other[..., part].to(value.device), value[..., part])
            return made

        return change

    with ExitStack() as stack:
        for point, other in chosen:
            stack.callback(point.hook(put(other, () if head is None else point.columns[head])).remove)
        yield
