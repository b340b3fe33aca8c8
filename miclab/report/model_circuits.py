"""Pages of a production model's circuit: edges of attention, and logits by layer and head, function vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from miclab.mllm.edge_knockout import SHOWN, EdgeKnockouts
from miclab.mllm.lens import LENSES, Lens
from miclab.mllm.vectors import Vectors
from miclab.report.models import EMPTY, Page, Part, axes_layout, head_map
from miclab.report.plots import plotly_scale
from miclab.statistics.palette import SIGNED, WEIGHTS
from miclab.tables import titled


def edge_map(found: EdgeKnockouts, measure: str) -> dict[str, Any]:
    """What cutting edges changes, by kind (down) and window of layers (across)."""
    grid = [[float(found.of(kind, w).effect.change(measure).mean) for w in found.windows] for kind in found.kinds]
    control = [[found.of(kind, w).effect.beyond_control(measure) for w in found.windows] for kind in found.kinds]
    beyond = [["no control" if one is None else f"{one}" for one in row] for row in control]
    top = float(np.abs(grid).max()) or 1.0
    return role_map(grid, [w.name for w in found.windows], [kind.name for kind in found.kinds], (-top, top),
                customdata=beyond,
                hovertemplate="%{y}, %{x}: %{z:.3f}; beyond random edges %{customdata}<extra></extra>")  # fmt: skip


def role_map(
    grid: Sequence[Sequence[float]], across: Sequence[str], down: Sequence[str], ends: tuple[float, float], **more: Any
) -> dict[str, Any]:
    """A heat map of named columns and rows, with gaps where a number is NaN. Its colours are signed if the lower end is
    below 0."""
    cells = [[None if value != value else value for value in row] for row in np.round(grid, 4).tolist()]
    trace = {
        "type": "heatmap", "z": cells, "x": list(across), "y": list(down), "xgap": 1, "ygap": 1,
        "colorscale": plotly_scale(SIGNED if ends[0] < 0 else WEIGHTS), "zmin": ends[0], "zmax": ends[1],
        "hovertemplate": "%{y}, %{x}: %{z:.3f}<extra></extra>",
    }  # fmt: skip
    layout = axes_layout("", "", 140 + 24 * len(down), plot_bgcolor=EMPTY,
                         yaxis={"autorange": "reversed", "automargin": True})  # fmt: skip
    return {"data": [trace | more], "layout": layout}


def edges_page(found: EdgeKnockouts) -> Page:
    """The page of `miclab mllm edges`."""
    note = (
        f"{found.episodes} episodes; intervals by paired bootstrap over them. SOURCE -> TARGET: positions of TARGET no"
        " longer attend to those of SOURCE. The colour is the change from the untouched model."
    )
    parts, figures = [Part(note=note)], {}
    for (measure, words), made in zip(SHOWN.items(), found.tables(), strict=True):
        figures[f"edges-{measure}"] = edge_map(found, measure)
        shown = titled(made, "", made.notes)
        parts.append(Part(title=words.capitalize(), note=f"Untouched: {found.untouched.interval(measure)}.",
                          figure=f"edges-{measure}", table=shown))  # fmt: skip
    return Page(parts, figures)


def lens_page(found: Lens, top: int) -> Page:
    """The page of `miclab mllm lens`, with the `top` heads that add most and take most."""
    parts = [
        Part(note=f"{len(found.names)} episodes; the first token of the right answer against those of the others.")
    ]
    figures: dict[str, Any] = {}
    for name, words in LENSES.items():
        grid = [[found.at(name, stage, role).mean for role in found.roles] for stage in range(len(found.stages))]
        ends = (0.0, 1.0) if name == "probability" else (-float(np.abs(grid).max()), float(np.abs(grid).max()))
        figures[f"lens-{name}"] = role_map(grid, found.roles, found.stages, ends)
        note = "The final norm and the unembedding are applied to the stream before the first layer and after each."
        parts.append(Part(title=f"Logit lens: {words}", note=note, figure=f"lens-{name}"))
    if found.no_attribution:
        parts.append(Part(title="Direct logit attribution", note=found.no_attribution))
        return Page(parts, figures)
    figures["heads"] = head_map(found.heads, found.by_head.mean(0).tolist())
    note = "What each head adds to the logit of the right answer over the others, the final norm's scale held."
    shown = [titled(made, "", made.notes) for made in (found.tables()[-1], *found.strongest(top))]
    parts.append(Part(title="Direct logit attribution", note=note, figure="heads", table=shown[0]))
    parts.append(Part(title="Strongest heads", table=shown[1]))
    return Page(parts, figures)


def vectors_page(found: Vectors) -> Page:
    """The page of `miclab mllm vectors`."""
    layers = list(found.effects)
    lines = {
        "function vector": [effect.interval("correct").mean for effect in found.effects.values()],
        "random heads": [None if (control := effect.control) is None else float(control["correct"].mean())
                         for effect in found.effects.values()],
        "no vector": [found.zero_shot.interval("correct").mean] * len(layers),
        "with examples": [found.few_shot.interval("correct").mean] * len(layers),
    }  # fmt: skip
    data = [{"type": "scatter", "mode": "lines+markers", "name": name, "x": layers, "y": values,
             "hovertemplate": "after layer %{x}: %{y:.3f}"} for name, values in lines.items()]  # fmt: skip
    figure = {"data": data, "layout": axes_layout("added after layer", "accuracy", 340, yaxis={"range": [0, 1.02]})}
    (made,) = found.tables()
    note = (
        f"{found.episodes} episodes. The vector is the sum of the heads' mean outputs at the last position of prompts"
        " with examples. It is added at the last position of prompts without any."
    )
    return Page([Part(note=note, figure="vectors", table=titled(made, "", made.notes))], {"vectors": figure})
