"""Interventions as edits: functions from an activation to its replacement (see `miclab.model.decoder.Trace` for names).

The decoder applies edits without knowing them, so every intervention is made here, and several are joined with `|`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from miclab.circuits.find import Head
from miclab.model.decoder import Decoder, Parameters
from miclab.worlds.sequences import Batch

Edit = Callable[[Tensor], Tensor]


def heads_point(layer: int) -> str:
    """Name of the activation that holds the outputs of a layer's heads."""
    return f"blocks.{layer}.attention.heads"


def knock_out_heads(heads: Iterable[Head], baseline: Mapping[str, Tensor] | None = None) -> dict[str, Edit]:
    """Replaces the output of heads.

    Arguments:
        heads: which ones.
        baseline: for each `heads_point` the replacement [1, head, position, dimension], for example `mean_heads`; None:
            zeros.
    """
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)

    def edit(name: str, chosen: list[int]) -> Edit:
        def apply(value: Float[Tensor, "batch head position dimension"]) -> Tensor:
            mask = torch.zeros(value.shape[1], dtype=torch.bool, device=value.device)
            mask[chosen] = True
            instead = torch.zeros_like(value) if baseline is None else baseline[name].expand_as(value)
            return torch.where(mask[:, None, None], instead, value)

        return apply

    return {heads_point(layer): edit(heads_point(layer), chosen) for layer, chosen in by_layer.items()}


@torch.no_grad()
def mean_heads(decoder: Decoder, parameters: Parameters, batch: Batch) -> dict[str, Tensor]:
    """Mean output of every head at every position over a batch: the baseline of mean ablation."""
    names = tuple(heads_point(i) for i in range(decoder.options.layers))
    trace = decoder.trace(parameters, batch, capture=names)
    return {name: value.mean(0, keepdim=True) for name, value in trace.activations.items()}


def zero_items(modality: str) -> dict[str, Edit]:
    """Zeroes the items of a modality, context and query, after its projector; labels and positions stay."""
    return {f"items.{modality}": torch.zeros_like}


def zero_labels() -> dict[str, Edit]:
    """Zeroes the labels of the context."""
    return {"labels": torch.zeros_like}


def zero_modality_with_labels(modality: str) -> dict[str, Edit]:
    """Zeroes the items of a modality and the labels, as zeroing the host's whole stream does."""
    return zero_items(modality) | zero_labels()


def patch(name: str, value: Tensor, positions: Tensor | None = None) -> dict[str, Edit]:
    """Replaces an activation by that of another batch.

    Arguments:
        name: the activation's name.
        value: as captured from a batch of the same shape.
        positions: indices of the second-to-last axis to replace; None: all.
    """

    def apply(old: Tensor) -> Tensor:
        if positions is None:
            return value
        new = old.clone()
        new[..., positions, :] = value[..., positions, :]
        return new

    return {name: apply}
