"""The extensions of the model and the loss under `tests/extensions/`, loaded as `--plugin` does."""

from __future__ import annotations

from pathlib import Path

from miclab.config.extensions import load_plugin

FOLDER = Path(__file__).parent / "extensions"
T5, DILATED, AID, LINEAR = (
    load_plugin(FOLDER / f"{name}.py") for name in ("t5_bias", "dilated", "attention_aid", "linear_example")
)
