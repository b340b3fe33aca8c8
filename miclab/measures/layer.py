"""The inputs of a measure, one layer of one batch, and the measures computed from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from miclab.errors import MiclabError
from miclab.measures.registry import PARAMETERS, Measure
from miclab.worlds.roles import Roles

SOFTMAX = frozenset({"softmax"})
"""Facts about plain attention."""


def causal(length: int, device: torch.device | None = None) -> Bool[Tensor, "query key"]:
    """The positions that each may see under a plain causal mask: itself and all before it."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


@dataclass(frozen=True)
class Layer:
    """One layer of a decoder on one batch.

    Arguments:
        roles: of the positions.
        labels: of the context.
        target: label of the query.
        head_count: number of heads.
        activations: of this layer, by name without `blocks.i.`: `attention.pattern`, `residual`, ...
        parameters: of this layer, by name without `decoder.blocks.i.`: `attention.query`, ...; None: not given.
        visible: whether a query may see a key, broadcast to [batch, head, query, key]; None: plain causal.
        facts: about the layer's attention (see `Measure.assumes`).
    """

    roles: Roles
    labels: Int[Tensor, "batch context"]
    target: Int[Tensor, " batch"]
    head_count: int
    activations: Mapping[str, Tensor]
    parameters: Mapping[str, Tensor] | None = None
    visible: Bool[Tensor, "*any query key"] | None = None
    facts: frozenset[str] = field(default=SOFTMAX)

    def given(self) -> dict[str, Any]:
        """All possible arguments of a measure by name, except `modality`."""
        found: dict[str, Any] = dict(self.activations)
        found |= {name.removeprefix("attention."): value for name, value in self.activations.items()}
        if self.parameters is not None:
            found[PARAMETERS] = self.parameters
        visible = self.visible
        if visible is None:
            visible = causal(self.roles.kind.shape[-1], self.target.device)
        return found | {
            "roles": self.roles, "labels": self.labels, "target": self.target, "visible": visible,
            "head_count": self.head_count,
        }  # fmt: skip


def take(measures: Iterable[Measure], layer: Layer) -> tuple[dict[str, Float[Tensor, "batch head"]], dict[str, str]]:
    """Measures of one layer [batch, head] by name, and why others are left out, by name.

    Raises:
        MiclabError: a measure does not return one value for each head.
    """
    given = layer.given()
    found: dict[str, Tensor] = {}
    left_out: dict[str, str] = {}
    for one in measures:
        if reason := one.why_not(given.keys(), layer.facts):
            left_out[one.name] = reason
            continue
        for modality in layer.roles.modalities if one.is_by_modality else ("",):
            arguments = given | {"modality": modality}
            value = one.function(**{name: arguments[name] for name in one.arguments})
            name = f"{one.name}.{modality}" if modality else one.name
            found[name] = _by_sequence(one, value, layer)
    return found, left_out


def _by_sequence(measure: Measure, value: Any, layer: Layer) -> Float[Tensor, "batch head"]:
    batch, heads = len(layer.target), layer.head_count
    shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    if shape not in ((batch, heads), (heads,)):
        raise MiclabError(
            f"The measure {measure.name!r} returned {shape}: it has to return a tensor [batch, head], here"
            f" {(batch, heads)}, or [head], here {(heads,)}."
        )
    return value.expand(batch, heads)
