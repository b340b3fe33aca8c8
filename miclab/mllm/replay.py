"""Many passes over one batch that share what no intervention changes.

Of the first pass over a batch, the outputs of modules outside the decoder are kept, such as a vision tower's. So are
the decoder's positions, and its stream before each layer at which an intervention begins. Later passes take these. So
they compute only the layers from the first changed one on, and their results are those of whole passes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from miclab.mllm.layers import decoder_of
from miclab.mllm.loading import Production
from miclab.mllm.reading import Encoded

MROPE = 3
"""Dimensions of positions that a model computes from its pictures, one sequence at a time: [axis, batch, position]."""


def _outside(module: nn.Module, decoder: nn.Module, readout: nn.Module | None) -> Iterator[nn.Module]:
    """The outermost modules that hold neither the decoder nor the readout."""
    for child in module.children():
        if child is decoder or child is readout:
            continue
        if any(one is decoder or one is readout for one in child.modules()):
            yield from _outside(child, decoder, readout)
        else:
            yield child


@contextmanager
def _instead(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """A context in which a module computes something else."""
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


def _copied(output: Any) -> Any:
    """An output that may be changed in place."""
    if isinstance(output, tuple):
        return (output[0].clone(), *output[1:])
    return output.clone()


@dataclass
class _Kept:
    """What the first pass over a batch left.

    Arguments:
        encoded: the batch.
        outside: outputs of each module outside the decoder, in the order of its calls.
        streams: output of the block before each layer at which an intervention begins, by the layer's index.
        positions: that the decoder got, if they are computed from pictures.
    """

    encoded: Encoded
    outside: dict[nn.Module, list[Any]] = field(default_factory=dict)
    streams: dict[int, Any] = field(default_factory=dict)
    positions: Tensor | None = None


class Replay:
    """Passes over batches, one batch after the other.

    Arguments:
        production: the model.
        firsts: indices of the layers at which interventions begin.
    """

    def __init__(self, production: Production, firsts: Collection[int]):
        model = production.model.get_base_model() if hasattr(production.model, "get_base_model") else production.model
        self.decoder = decoder_of(model)
        self.outside = tuple(_outside(model, self.decoder, model.get_output_embeddings()))
        modules = {id(layer.module): layer.index for layer in production.layers}
        by_index = {
            modules[id(child)]: block
            for block in self.decoder.modules() for child in block.children() if id(child) in modules
        }  # fmt: skip
        self.indices = tuple(layer.index for layer in production.layers)
        self.blocks = [by_index[index] for index in self.indices if index in by_index]
        # A decoder without blocks around its attention has nothing to skip.
        self.firsts = tuple(firsts) if len(self.blocks) == len(self.indices) else ()
        self.kept: _Kept | None = None

    def skipped(self, first: int | None) -> int:
        """Number of blocks that a later pass over the batch leaves out, if layer `first` is the lowest that changes."""
        return self.indices.index(first) if self.kept is not None and first in self.kept.streams else 0

    @contextmanager
    def reading(self, encoded: Encoded, first: int | None) -> Iterator[Encoded]:
        """A context for one pass over a batch, which gives the batch to read.

        Arguments:
            encoded: the batch. Its first pass has to be one without an intervention.
            first: index of the lowest layer that is changed; None: none is.
        """
        if self.kept is None or self.kept.encoded is not encoded:
            self.kept = _Kept(encoded)
            if first is not None:
                yield encoded
                return
            with self._keeping(self.kept):
                yield encoded
            return
        kept, given = self.kept, encoded
        if kept.positions is not None:
            given = replace(encoded, inputs=encoded.inputs | {"position_ids": kept.positions})
        with ExitStack() as stack:
            # Some models put other things into the outputs of their tower, so each pass gets its own.
            for module, outputs in kept.outside.items():
                calls = iter(outputs)
                stack.enter_context(_instead(module, lambda *_, calls=calls, **__: copy(next(calls))))
            if first in kept.streams:
                for block in self.blocks[: self.skipped(first)]:
                    stack.enter_context(_instead(block, lambda *_, **__: _copied(kept.streams[first])))
            yield given

    @contextmanager
    def _keeping(self, kept: _Kept) -> Iterator[None]:
        def outside(module: nn.Module, arguments: Any, output: Any) -> None:
            kept.outside.setdefault(module, []).append(copy(output))

        def before(module: Any, arguments: Any, more: dict[str, Any]) -> None:
            positions = more.get("position_ids")
            if isinstance(positions, Tensor) and positions.dim() == MROPE:
                kept.positions = positions.cpu()

        def stream(first: int) -> Any:
            def keep(module: Any, arguments: Any, output: Any) -> None:
                kept.streams[first] = _copied(output)

            return keep

        with ExitStack() as stack:
            for module in self.outside:
                stack.callback(module.register_forward_hook(outside).remove)
            stack.callback(self.decoder.register_forward_pre_hook(before, with_kwargs=True).remove)
            for first in self.firsts:
                place = self.indices.index(first)
                if place:
                    stack.callback(self.blocks[place - 1].register_forward_hook(stream(first)).remove)
            yield
