"""The constant part of the keys of a production model, before rotation: the share of them that is the same in all
episodes.

A rotary score depends on the offset alone only through the common part of all keys. Keys are read where the model makes
them, after any norm. They are compared among the same items (or labels) of all episodes. Text of the prompt is left
out: it is equal in every episode and would count as constant.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from miclab import tables
from miclab.mllm.attention import readings_measured
from miclab.mllm.errors import ModelError
from miclab.mllm.layers import AttentionLayer
from miclab.mllm.patch_points import projected
from miclab.tables import Number, Table
from miclab.worlds.roles import LABEL

PARTS = ("items", "labels")


@dataclass
class _Sums:
    """Over the tokens of one item or label, of one layer: how many, their keys, and the squares of their norms."""

    count: int = 0
    keys: Any = 0.0
    squares: Any = 0.0

    def add(self, keys: Float[Tensor, "token pair size"]) -> None:
        found = keys.double().cpu()
        self.count += len(found)
        self.keys = self.keys + found.sum(0)
        self.squares = self.squares + found.square().sum((0, -1))

    def parts(self) -> tuple[Float[Tensor, " pair"], Float[Tensor, " pair"]]:
        """Squared norm of the mean key, without bias, and mean squared norm."""
        norms, mean = self.squares / self.count, self.keys / self.count
        return (self.count * mean.square().sum(-1) - norms) / (self.count - 1), norms


@dataclass
class KeyConstants:
    """Sums over the episodes that were measured.

    Arguments:
        layers: the layers that are measured.
    """

    layers: tuple[AttentionLayer, ...]
    sums: dict[tuple[int, str, int], _Sums] = field(default_factory=dict)

    def take(self, layer: AttentionLayer, keys: Float[Tensor, "batch position pair size"]) -> None:
        """Adds the keys of one layer on the batch that is being measured."""
        for row, reading in enumerate(readings_measured()):
            kind, exemplar = reading.roles.kind, reading.roles.exemplar
            for name, here in zip(PARTS, (kind >= 0, kind == LABEL), strict=True):
                for number in exemplar[here].unique().tolist():
                    places = ((exemplar == number) & here).nonzero().squeeze(-1).to(keys.device)
                    self.sums.setdefault((layer.index, name, number), _Sums()).add(keys[row, places])

    def share(self, index: int, part: str) -> NDArray[np.floating]:
        """Squared norm of the mean key over the mean squared norm, by key-value head. It is a mean over the items (or
        labels) of a context, with equal weights. NaN where an episode alone was measured, or where keys lie in a fused
        projection in an unknown order.

        Arguments:
            index: of the layer.
            part: `items` or `labels`.
        """
        found = [one for (layer, name, _), one in self.sums.items() if (layer, name) == (index, part) and one.count > 1]
        if not found:
            return np.full(next(one.key_value_heads for one in self.layers if one.index == index), np.nan)
        means, norms = zip(*(one.parts() for one in found), strict=True)
        return (torch.stack(means).mean(0) / torch.stack(norms).mean(0).clamp(min=1e-300)).numpy()

    def rows(self) -> list[dict[str, Any]]:
        """A row for each layer and key-value head."""
        found = []
        for layer in self.layers:
            shares = {name: self.share(layer.index, name) for name in PARTS}
            for pair in range(layer.key_value_heads):
                values = {name: _known(float(of[pair])) for name, of in shares.items()}
                found.append({"layer": layer.index, "pair": pair, **values})
        return found

    def table(self) -> Table:
        """A row for each layer: the mean over its key-value heads."""
        rows = []
        for layer in self.layers:
            means = [_known(float(self.share(layer.index, name).mean())) for name in PARTS]
            rows.append([layer.index, *(None if mean is None else Number(mean, 3) for mean in means)])
        return tables.table("constant part of the keys, before rotation", ["layer", *PARTS], rows)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


@contextmanager
def recording_keys(layers: tuple[AttentionLayer, ...]) -> Iterator[KeyConstants]:
    """A context in which keys of measured batches (`miclab.mllm.attention.measuring`) are summed."""
    found = KeyConstants(layers)

    def hook(layer: AttentionLayer, columns: Tensor | None) -> Any:
        def take(module: Any, inputs: Any, output: Tensor) -> None:
            if readings_measured():
                found.take(layer, _normed(layer, output) if columns is None else output[..., columns])

        return take

    with ExitStack() as stack:
        for layer in layers:
            source, columns = getattr(layer.module, "k_norm", None), None
            if source is None:
                try:
                    point = projected(layer, "key")
                except ModelError:
                    # Their order in the fused projection is not known, so nothing is.
                    continue
                source, columns = point.module, torch.tensor(point.columns)
            stack.callback(source.register_forward_hook(hook(layer, columns)).remove)
        yield found


def _normed(layer: AttentionLayer, output: Tensor) -> Float[Tensor, "batch position pair size"]:
    """The keys in the output of a norm, whose axes differ between families."""
    if output.dim() == 3:
        return output.unflatten(-1, (layer.key_value_heads, layer.head_size))
    longest = max(reading.length for reading in readings_measured())
    # Positions are at least as many as an episode has.
    return output if output.shape[1] >= longest else output.transpose(1, 2)
