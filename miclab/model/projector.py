"""Projectors: a secondary modality, or its encoder's features, into the embedding space of the host.

`small` is Linear(D2 -> D1) GELU Linear(D1 -> D1), `large` has one more layer, `linear` is the first layer alone;
no biases (arXiv 2601.20796, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from miclab.config.run import RunConfig
from miclab.model.encoders import encode

DEPTH = {"linear": 1, "small": 2, "large": 3}


def secondary_modalities(config: RunConfig) -> tuple[str, ...]:
    """The modalities that need a projector: all but the host."""
    return tuple(name for name in config.modalities if name != config.host_name)


def projector_shapes(config: RunConfig) -> dict[str, tuple[int, int]]:
    """Names and shapes of the weights of every projector."""
    shapes = {}
    for name in secondary_modalities(config):
        given = config.bridge_width(name)
        for layer in range(DEPTH[config.bridge.projector]):
            shapes[f"bridge.{name}.{layer}"] = (given if layer == 0 else config.item_width, config.item_width)
    return shapes


def project(
    config: RunConfig, parameters: Mapping[str, Tensor], name: str, items: Float[Tensor, "*batch dimension"]
) -> Float[Tensor, "*batch width"]:
    """Items of modality `name` in the host's space, through its encoder if the model contains that. The host's own
    items are unchanged."""
    if name == config.host_name:
        return items
    if config.encodes(name):
        items = encode(config.modalities[name], parameters, name, items)
    for layer in range(DEPTH[config.bridge.projector]):
        if layer:
            items = F.gelu(items)
        items = items @ parameters[f"bridge.{name}.{layer}"]
    return items
