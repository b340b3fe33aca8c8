"""The configuration of a decoder that miclab trained, for `transformers`."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class MiclabConfig(PretrainedConfig):
    """Sizes and options of the decoder.

    Arguments:
        network: what `decoder.py` takes.
    """

    model_type = "miclab"

    def __init__(self, network: dict[str, Any] | None = None, **others: Any):
        self.network = network or {}
        super().__init__(**others)
