"""Metric rows as columns of a frame."""

from __future__ import annotations

from typing import Any


def flat_row(row: dict[str, Any]) -> dict[str, Any]:
    """A metric row with one value, or list of values, for each column."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if name == "accuracy":
            found |= value
        elif name == "context_label_accuracy":
            found |= {f"in_context.{split}": share for split, share in value.items()}
        elif name == "measures":
            found |= {
                f"{measure}@{layer}.{head}": one
                for measure, layers in value.items()
                for layer, heads in enumerate(layers)
                for head, one in enumerate(heads)
            }
        elif name == "alignment":
            found |= {f"alignment.{m}.{part}": one for m, parts in value.items() for part, one in parts.items()}
        else:
            found[name] = value
    return found
