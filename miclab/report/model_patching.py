"""The page of causal tracing in a production model: a heat map of each part, layers or heads by kind of position."""

from __future__ import annotations

from typing import Any

import numpy as np

from miclab.mllm.patching_result import Patching
from miclab.report.model_circuits import role_map
from miclab.report.models import Page, Part
from miclab.tables import titled

MEANING = (
    "0 is no effect, 1 is the whole effect of the corruption. A part alone need not have all of it, and effects of"
    " several parts do not add up."
)


def patch_page(found: Patching, top: int) -> Page:
    """The page of `miclab mllm patch`, with the `top` heads of each part listed."""
    change, *others = found.listed(top)
    parts = [Part(note=f"{change.title}. {MEANING}", table=titled(change, "", change.notes))]
    figures: dict[str, Any] = {}
    for part, made in zip(found.parts, others, strict=True):
        rows, roles, values = found.grid(part)
        top_value = max(1.0, float(np.nan_to_num(np.abs(values)).max()))
        figures[f"patch-{part}"] = role_map(values.tolist(), roles, rows, (-top_value, top_value))
        parts.append(Part(title=part.capitalize(), note=f"{made.title}.", figure=f"patch-{part}",
                          table=titled(made, "", made.notes)))  # fmt: skip
    return Page(parts, figures)
