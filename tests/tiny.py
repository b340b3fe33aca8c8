"""Small runs for the tests: one to three modalities, with parameters so large that every part of the model counts."""

from __future__ import annotations

from typing import Any

import torch

from miclab.config import schema
from miclab.config.run import RunConfig
from miclab.model.decoder import Decoder

MODALITIES = {
    "m1": {"classes": 32, "dimension": 8, "labels": 8},
    "m2": {"classes": 16, "dimension": 6, "labels": 4},
    "m3": {"classes": 12, "dimension": 5, "labels": 4},
}


def tiny_mapping(count: int = 1, /, **parts: Any) -> dict[str, Any]:
    """Plain data of a small run with so many modalities; `parts` are laid over it, one level deep."""
    mapping: dict[str, Any] = {
        "modalities": {name: dict(MODALITIES[name]) for name in list(MODALITIES)[:count]},
        "sequence": {"context": 4, "burstiness": 2},
        "decoder": {"initial_std": 0.3},
        "optimiser": {"name": "adamw", "batch_size": 16},
        "numerics": {"mode": "eager"},
    }
    for name, part in parts.items():
        mapping[name] = {**mapping.get(name, {}), **part} if isinstance(part, dict) else part
    return mapping


def tiny_config(count: int = 1, /, **parts: Any) -> RunConfig:
    """The configuration of `tiny_mapping`."""
    return schema.from_mapping(RunConfig, tiny_mapping(count, **parts))


def lively_parameters(config: RunConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Initial parameters with noise on all of them, so that no gain is 1 and no bias is 0."""
    generator = torch.Generator().manual_seed(seed)
    parameters = Decoder(config).initial_parameters(seed)
    return {n: (p + 0.2 * torch.randn(p.shape, generator=generator)).to(dtype) for n, p in parameters.items()}
