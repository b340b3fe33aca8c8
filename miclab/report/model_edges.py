"""Pages of edges of a production model: exact path patching, and attribution beside it."""

from __future__ import annotations

from typing import Any

import numpy as np

from miclab.circuits.attribution import METHODS
from miclab.mllm.edge_attribution import EdgeAttribution
from miclab.mllm.paths import EdgePatching
from miclab.report.model_circuits import role_map
from miclab.report.models import Page, Part, axes_layout
from miclab.tables import titled

MEANING = (
    "0 is no effect, 1 is the whole effect of the corruption. What the sender adds changes for one receiver alone, and "
    "all after it is computed again. Effects of several edges do not add up."
)


def paths_page(found: EdgePatching, top: int) -> Page:
    """The page of `miclab mllm paths`, with the `top` strongest edges listed."""
    change, edges = found.listed(top)
    senders, receivers, values = found.grid()
    most = max(1e-3, float(np.nan_to_num(np.abs(values)).max()))
    parts = [
        Part(note=f"{change.title}. {MEANING}", table=titled(change, "", change.notes)),
        Part(title="Edges", note="Empty fields are edges that were not patched.", figure="paths",
             table=titled(edges, "", edges.notes)),
    ]  # fmt: skip
    return Page(parts, {"paths": role_map(values.tolist(), receivers, senders, (-most, most))})


def attribution_page(found: EdgeAttribution, top: int) -> Page:
    """The page of `miclab mllm attribute`, with the `top` strongest edges listed."""
    change, edges, agreed = found.listed(top)
    parts = [Part(note=f"{change.title}. {MEANING}", table=titled(change, "", change.notes)),
             Part(title="Strongest edges", table=titled(edges, "", edges.notes)),
             Part(title="Agreement with exact path patching", note="A point for each edge that was patched exactly.",
                  figure="agreement", table=titled(agreed, "", agreed.notes))]  # fmt: skip
    exact = [None if (one := found.effect(edge)) is None else round(one.mean, 4) for edge in found.places]
    data: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "markers", "name": words, "x": exact,
         "y": [None if (one := found.estimate(edge, method)) is None else round(one, 4) for edge in found.places],
         "text": list(map(str, found.places)), "hovertemplate": "%{text}: exact %{x:.3f}, estimated %{y:.3f}"}
        for method, words in METHODS.items()
    ]  # fmt: skip
    figure = {"data": data, "layout": axes_layout("exact effect", "estimated effect", 360)}
    return Page(parts, {"agreement": figure})
