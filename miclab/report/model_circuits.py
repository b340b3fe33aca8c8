"""Pages of a production model's circuit: edges of attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from miclab.mllm.edge_knockout import SHOWN, EdgeKnockouts
from miclab.report.models import EMPTY, Page, Part, axes_layout
from miclab.report.plots import plotly_scale
from miclab.statistics.palette import SIGNED
from miclab.tables import titled


def edge_map(found: EdgeKnockouts, measure: str) -> dict[str, Any]:
    """What cutting edges changes, by kind (down) and window of layers (across)."""
    grid = [[float(found.of(kind, w).effect.change(measure).mean) for w in found.windows] for kind in found.kinds]
    control = [[found.of(kind, w).effect.beyond_control(measure) for w in found.windows] for kind in found.kinds]
    beyond = [["no control" if one is None else f"{one}" for one in row] for row in control]
    top = float(np.abs(grid).max()) or 1.0
    trace = {
        "type": "heatmap", "z": np.round(grid, 4).tolist(), "x": [w.name for w in found.windows],
        "y": [kind.name for kind in found.kinds], "customdata": beyond, "xgap": 1, "ygap": 1,
        "colorscale": plotly_scale(SIGNED), "zmin": -top, "zmax": top,
        "hovertemplate": "%{y}, %{x}: %{z:.3f}; beyond random edges %{customdata}<extra></extra>",
    }  # fmt: skip
    return {"data": [trace], "layout": axes_layout("", "", 140 + 24 * len(found.kinds), plot_bgcolor=EMPTY,
                                                   yaxis={"autorange": "reversed", "automargin": True})}  # fmt: skip


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
