"""The layer at which a modality joins: where other positions take up what stands at its items.

From some layer on, no position but the modality's own may see the modality's items. With nothing hidden the decoder
answers as it does; with every layer hidden the items reach nothing else. What ICL gains when one layer more may see is
what that layer takes up:

    hidden from layer     0        1        2        3 (nothing)
    ICL                 0.10     0.85     0.95     0.97
    taken up by layer     0: 0.75  1: 0.10  2: 0.02

The layer of joining is the mean layer, weighted by these gains: 0.16 here. Layers count from 0.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from miclab.circuits.interventions import Edit
from miclab.circuits.knockout import Interventions
from miclab.circuits.patterns import Pattern, pattern_point
from miclab.errors import RunError
from miclab.model.decoder import Decoder
from miclab.worlds.roles import Roles
from miclab.worlds.sequences import config_roles

LEAST = 0.1
"""Of accuracy, that hiding a modality everywhere has to cost before its layer is given."""


def hidden_items(layers: Iterable[int], modality: str, roles: Roles) -> dict[str, Edit]:
    """In some layers, positions that are no item of a modality do not see its items; the rest of a row grows to 1.

    Arguments:
        layers: from 0.
        modality: its name.
        roles: what each position is, the same for all sequences.
    """
    items = roles.is_item(modality)
    hidden = ~items[:, None] & items

    def edit(value: Pattern) -> Tensor:
        seen = value.masked_fill(hidden.to(value.device), 0.0)
        whole = seen.sum(-1, keepdim=True)
        return torch.where(whole > 0, seen / whole.clamp(min=1e-12), seen)

    return {pattern_point(layer): edit for layer in layers}


def hidden_from(work: Interventions, modality: str) -> NDArray[np.floating]:
    """ICL with a modality's items hidden from layer 0, 1, ... on, and with nothing hidden [layer set]."""
    if not Decoder(work.config).gives_patterns:
        raise RunError("The decoder's attention gives no pattern in which items could be hidden.")
    count, roles = work.config.decoder.layers, config_roles(work.config)
    found = [
        work.effect(f"{modality} hidden from layer {first}", hidden_items(range(first, count), modality, roles)).correct
        for first in range(count)
    ]
    return np.stack([*(one.mean(1) for one in found), work.untouched.correct.mean(1)])


def joining_layer(icl: NDArray[np.floating]) -> NDArray[np.floating] | None:
    """The mean layer, weighted by what each takes up [set].

    Arguments:
        icl: see `hidden_from`.

    Returns:
        None for a modality that is not needed. Hiding it everywhere costs less than `LEAST`, or nothing in some set, so
        no layer takes it up.
    """
    gains = np.diff(icl, axis=0)
    whole = icl[-1] - icl[0]
    if whole.mean() < LEAST or whole.min() <= 0:
        return None
    return (gains * np.arange(len(gains))[:, None]).sum(0) / whole
