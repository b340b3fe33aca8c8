"""Bars of the interventions: plain numbers to Plotly figures."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from miclab.circuits.effects import Effect
from miclab.circuits.find import CircuitHeads, head_name
from miclab.circuits.head_names import shown_name
from miclab.report.plots import BLACK, BLUE, GREEN, ORANGE, Figure, axis_of, error_bars, layout_of, rounded
from miclab.report.run.names import circuit_parts
from miclab.statistics.intervals import Interval

STYLES = {
    "zero": ("output set to zero", BLUE),
    "mean": ("output set to its mean", ORANGE),
    "uniform": ("pattern set to uniform", GREEN),
}
"""Name and colour of the bars of each baseline."""
MOST_BARS = 24
"""Most single heads in the bars of knockouts."""


def _bars(name: str, effects: list[Effect], labels: list[str], colour: str) -> Figure:
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": labels,
        "x": [rounded(e.accuracy.mean) for e in effects],
        "marker": {"color": colour},
        "error_x": error_bars([(e.accuracy.mean, e.accuracy) for e in effects], "#333333"),
        "customdata": [f"{e.accuracy}, change {e.change}" for e in effects],
        "hovertemplate": "%{y}: %{customdata}<extra>" + name + "</extra>",
    }


def _bars_layout(
    labels: list[str], values: list[str], untouched: Interval, groups: int, random_label: float | None
) -> dict[str, Any]:
    line = {"color": BLACK, "width": 1.5}
    vertical = {"yref": "paper", "y0": 0, "y1": 1}
    shapes: list[dict[str, Any]] = [
        {"type": "line", "x0": untouched.mean, "x1": untouched.mean, "line": line, **vertical}
    ]
    if untouched.known:
        shapes.append({"type": "rect", "x0": untouched.low, "x1": untouched.high, "fillcolor": "rgba(0,0,0,0.08)",
                       "line": {"width": 0}, "layer": "below", **vertical})  # fmt: skip
    if random_label is not None:
        dotted = {"color": "#8a8a8a", "width": 1, "dash": "dot"}
        shapes.append({"type": "line", "x0": random_label, "x1": random_label, "line": dotted, **vertical})
    small = {"showarrow": False, "font": {"size": 12, "color": "#444444"}}
    notes = [
        {"xref": "paper", "x": 1.015, "xanchor": "left", "y": label, "text": value, **small}
        for label, value in zip(labels, values, strict=True)
    ]
    notes.append(
        {
            "x": untouched.mean,
            "xanchor": "right" if untouched.mean > 0.5 else "left",
            "yref": "paper",
            "y": 0,
            "yanchor": "top",
            "yshift": -36,
            "text": f"untouched {untouched.mean:.3f}",
            **small,
        }
    )
    y = {"autorange": "reversed", "automargin": True, "ticks": "", "ticksuffix": "  ", "fixedrange": True}
    layout = layout_of(104 + len(labels) * (26 + 12 * (groups - 1)), axis_of("", range=[0, 1.03], dtick=0.2), y)
    margin = {"l": 60, "r": 60 + 36 * (groups - 1), "t": 40, "b": 56}
    more = {
        "shapes": shapes,
        "annotations": notes,
        "bargap": 0.35,
        "showlegend": groups > 1,
        "margin": margin,
    }
    return {**layout, **more, "hovermode": "closest"}


def _knockout_order(effects: list[Effect], circuit: CircuitHeads, true: Collection[str]) -> list[tuple[int, str]]:
    """Which effects are shown, and by which name. The circuit's two heads stand among the single heads already, so they
    are named there; of very many heads those are shown that matter most."""
    named = circuit_parts(circuit, true)
    singles = [i for i, e in enumerate(effects) if e.name.startswith("head ")]
    if len(singles) > MOST_BARS:
        singles.sort(key=lambda i: (effects[i].heads[0] not in named, effects[i].change.mean))
        singles = sorted(singles[:MOST_BARS])
    order = []
    for i in singles:
        head = effects[i].heads[0]
        order.append((i, f"{named[head]} {head_name(head)}" if head in named else f"head {head_name(head)}"))
    for i, effect in enumerate(effects):
        if effect.draws:
            order.append((i, f"{shown_name(effect.name, true)} (mean of {len(effect.draws)})"))
        elif len(effect.heads) > 1:
            order.append((i, f"{effect.name} ({effect.knocked_out})"))
    return order


def knockout_figure(
    by_baseline: Mapping[str, list[Effect]],
    circuit: CircuitHeads,
    true: Collection[str],
    untouched: Interval,
    random_label: float | None,
) -> Figure:
    """Accuracy with heads knocked out, with intervals; a bar for each baseline (`zero`, `mean`). The dotted line is
    `random_label`, the score of answering with any label of the context.

    Arguments:
        true: what the heads of `circuit` may be called by their patterns.
    """
    order = _knockout_order(next(iter(by_baseline.values())), circuit, true)
    labels = [name for _, name in order]
    chosen = {name: [by_baseline[name][i] for i, _ in order] for name in STYLES if name in by_baseline}
    data = [_bars(STYLES[b][0], effects, labels, STYLES[b][1]) for b, effects in chosen.items()]
    values = [" · ".join(f"{e.accuracy.mean:.3f}" for e in row) for row in zip(*chosen.values(), strict=True)]
    return {"data": data, "layout": _bars_layout(labels, values, untouched, len(data), random_label)}


def ablation_figure(effects: list[Effect], untouched: Interval, random_label: float | None) -> Figure:
    """Accuracy with items or labels zeroed, with intervals."""
    shown = [e for e in effects if e.name != "untouched"]
    labels, values = [e.name for e in shown], [f"{e.accuracy.mean:.3f}" for e in shown]
    layout = _bars_layout(labels, values, untouched, 1, random_label)
    return {"data": [_bars("zeroed", shown, labels, BLUE)], "layout": layout}
