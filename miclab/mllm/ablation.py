"""Knocking out heads of production models: the columns of a layer's output projection that read them get zeros, or the
heads' mean outputs, instead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from miclab.circuits.find import Head, head_name
from miclab.mllm.errors import ModelError, memory_guard
from miclab.mllm.layers import AttentionLayer
from miclab.mllm.loading import Production
from miclab.mllm.passes import forward
from miclab.mllm.reading import Encoded, Reading

Means = Mapping[int, Float[Tensor, "head size"]]
"""For each layer the mean output of its heads."""


Where = Callable[[Reading], Iterable[int]]


def every_position(reading: Reading) -> Iterable[int]:
    """All positions before the answer."""
    return range(reading.length)


def heads_by_layer(layers: tuple[AttentionLayer, ...], heads: Iterable[Head]) -> dict[AttentionLayer, list[int]]:
    """Numbers of the heads in each layer.

    Raises:
        ModelError: there is no such head.
    """
    known = {layer.index: layer for layer in layers}
    found: dict[AttentionLayer, list[int]] = {}
    for layer, head in heads:
        if layer not in known or not 0 <= head < known[layer].heads:
            raise ModelError(
                f"There is no head {head_name((layer, head))}: layers {min(known)} to {max(known)} have "
                f"{next(iter(known.values())).heads} heads each, counted from 0."
            )
        found.setdefault(known[layer], []).append(head)
    return found


@contextmanager
def knocked_out(
    layers: tuple[AttentionLayer, ...], heads: Iterable[Head], means: Means | None = None
) -> Iterator[None]:
    """A context in which the outputs of heads are replaced before the output projection reads them.

    Arguments:
        layers: the model's.
        heads: as (layer, head) from 0.
        means: their replacements; None: zeros.

    Raises:
        ModelError: there is no such head.
    """

    def hook(layer: AttentionLayer, chosen: list[int]) -> Any:
        def replace(module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            outputs = arguments[0].clone()
            by_head = outputs.view(*outputs.shape[:-1], layer.heads, layer.head_size)
            by_head[..., chosen, :] = 0 if means is None else means[layer.index][chosen].to(outputs)
            return (outputs, *arguments[1:])

        return replace

    with ExitStack() as stack:
        for layer, chosen in heads_by_layer(layers, heads).items():
            handle = layer.output_projection.register_forward_pre_hook(hook(layer, chosen))
            stack.callback(handle.remove)
        yield


class MeanOutputs:
    """Mean output of every head over positions of prompts. Over all of them it is the baseline of mean ablation.

    Arguments:
        production: the model.
        where: positions of a sequence that count, none after its last.
    """

    def __init__(self, production: Production, where: Where = every_position):
        self.production, self.where = production, where
        self.sums = {layer.index: torch.zeros(layer.heads, layer.head_size) for layer in production.layers}
        self.count = 0

    @torch.no_grad()
    def add(self, encoded: Encoded) -> None:
        """Adds a batch."""
        mask = torch.zeros(encoded.inputs["input_ids"].shape, dtype=torch.bool)
        for row, reading in enumerate(encoded.readings):
            mask[row, list(self.where(reading))] = True

        def hook(layer: AttentionLayer) -> Any:
            def look(module: Any, arguments: tuple[Any, ...]) -> None:
                real = arguments[0][mask.to(arguments[0].device)].float()
                self.sums[layer.index] += real.view(-1, layer.heads, layer.head_size).sum(0).cpu()

            return look

        with ExitStack() as stack, memory_guard("measuring mean outputs"):
            for layer in self.production.layers:
                stack.callback(layer.output_projection.register_forward_pre_hook(hook(layer)).remove)
            forward(self.production.model, encoded.to(self.production.model))
        self.count += int(mask.sum())

    def means(self) -> Means:
        """The means over all added batches."""
        return {index: total / max(self.count, 1) for index, total in self.sums.items()}
