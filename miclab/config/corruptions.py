"""The registry of corruptions: ways to change one thing about sequences, by name, for patching."""

from __future__ import annotations

from typing import Any

from miclab.config.registry import Registry

BUILT_IN = (
    "labels_swapped", "items_swapped", "query_other", "query_outside", "example_replaced", "order_shuffled",
    "modality_replaced", "query_noise",
)  # fmt: skip
CORRUPTIONS: Registry[Any] = Registry(
    "corruption", "corruption", dict.fromkeys(BUILT_IN, "miclab.circuits.built_in_corruptions")
)
"""Corruptions (see `miclab.circuits.corruption.Corruption`)."""
