"""Results as one HTML file that opens from disk: heatmaps of heads, attention over image and text tokens, curves."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from miclab.mllm.heads import HeadTable, Map
from miclab.mllm.knockout import Effect, Knockouts
from miclab.mllm.layers import head_text
from miclab.report.html import escape, render, table

SHOWN = ("previous_token_1", "label_to_item", "induction_all_positions", "induction", "target_label_attention",
         "total_label_attention")  # fmt: skip
"""Measures that get a heatmap."""
SCALE = [[0, "#f7fbff"], [0.5, "#6baed6"], [1, "#08306b"]]
"""Light is little, dark is much."""
SIGNED = "RdBu"


def page_bytes(title: str, command: str, body: str, figures: Mapping[str, Any], problem: str = "") -> bytes:
    """One self-contained page.

    Arguments:
        title: of the page.
        command: what made it.
        body: HTML, with `<div data-figure="NAME"></div>` where a figure goes.
        figures: plotly figures by name.
        problem: why the results are partial; shown on top.
    """
    partial = f'<div class="problems"><b>Partial results.</b> {escape(problem)}</div>' if problem else ""
    header = (
        f'<header><h1>{escape(title)}</h1><p class="lead">Made by</p>'
        f'<pre class="command">{escape(command)}</pre></header>'
    )
    parts = [header, partial, f"<section>{body}</section>"]
    return render(title, parts, {"figures": dict(figures)}, "plain.js", kind="mllm")


def _layout(x: str, y: str, height: int, **more: Any) -> dict[str, Any]:
    return {
        "height": height,
        "margin": {"l": 60, "r": 20, "t": 10, "b": 45},
        "xaxis": {"title": {"text": x}, **more.pop("xaxis", {})},
        "yaxis": {"title": {"text": y}, **more.pop("yaxis", {})},
        "plot_bgcolor": "#f2f2f2",
        **more,
    }


def heatmap(heads: HeadTable, measure: str) -> dict[str, Any]:
    """A measure of every head: layers down, heads across."""
    layers = sorted({layer for layer, _ in heads.heads})
    width = 1 + max(head for _, head in heads.heads)
    grid = np.full((len(layers), width), np.nan)
    for (layer, head), value in zip(heads.heads, heads.mean(measure), strict=True):
        grid[layers.index(layer), head] = value
    signed = bool(np.nanmin(grid) < -1e-3)
    top = float(np.nanmax(np.abs(grid))) or 1.0
    values = [[None if np.isnan(v) else round(float(v), 4) for v in row] for row in grid]
    trace = {
        "type": "heatmap", "z": values, "x": list(range(width)), "y": layers, "xgap": 1, "ygap": 1,
        "colorscale": SIGNED if signed else SCALE, "zmin": -top if signed else 0, "zmax": top,
        "hovertemplate": "head %{y}.%{x}: %{z:.3f}<extra></extra>",
    }  # fmt: skip
    return {"data": [trace], "layout": _layout("head", "layer", 140 + 22 * len(layers),
                                               yaxis={"autorange": "reversed", "dtick": max(1, len(layers) // 12)},
                                               xaxis={"dtick": 1 if width <= 32 else 4})}  # fmt: skip


def _colour_rule(kind: int) -> str:
    return "#0072b2" if kind >= 0 else "#b84e00" if kind == -1 else "#2b2b2b"


def map_figure(shown: Map) -> dict[str, Any]:
    """Attention of one head over the tokens of one episode: items are blue, labels are orange."""
    names, kinds = shown.names, shown.reading.roles.kind.tolist()
    size = len(names)
    ticks = [
        f'<span style="color:{_colour_rule(kind)}">{escape(n[:12])}</span>'
        for n, kind in zip(names, kinds, strict=True)
    ]
    values = [
        [round(float(v), 3) if j <= i else None for j, v in enumerate(row)] for i, row in enumerate(shown.attention)
    ]
    axis = {"tickvals": list(range(size)), "ticktext": ticks, "tickfont": {"size": 9}} if size <= 80 else {}
    trace = {"type": "heatmap", "z": values, "colorscale": SCALE, "zmin": 0, "zmax": 1,
             "hovertemplate": "%{y} looks at %{x}: %{z:.2f}<extra></extra>"}  # fmt: skip
    layout = _layout("key", "query", 660, xaxis={**axis, "tickangle": -90}, yaxis={**axis, "autorange": "reversed"})
    return {"data": [trace], "layout": layout | {"margin": {"l": 90, "r": 20, "t": 10, "b": 90}}}


def _picture(path: Path) -> str:
    with Image.open(path) as image:
        small = image.convert("RGB")
    side = max(small.size)
    if side > 112:
        small.thumbnail((112, 112))
    content = io.BytesIO()
    small.save(content, "PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def strip(shown: Map) -> str:
    """The episode as it stands in the context: each item with its label, and what the last position pays to both."""
    reading, last = shown.reading, shown.attention[-1]
    roles, episode = reading.roles, reading.episode
    kind, exemplar = roles.kind.numpy(), roles.exemplar.numpy()
    items = [*((e.item, e.answer) for e in episode.support), (episode.query, "?")]
    cells = []
    for number, (item, answer) in enumerate(items):
        on_item = float(last[(kind >= 0) & (exemplar == number)].sum())
        on_label = float(last[(kind == -1) & (exemplar == number)].sum())
        seen = "".join(f'<img src="{_picture(path)}" width="56" alt="">' for path in item.images) or escape(item.text)
        label = "" if number == len(episode.support) else f" · label {on_label:.2f}"
        wanted = answer == episode.answer
        text = f"<b>{escape(answer)}</b>" if wanted else escape(answer)
        cells.append(f"<td>{seen}<br>{text}<br><small>item {on_item:.2f}{label}</small></td>")
    return f'<div class="scroll"><table class="compact"><tr>{"".join(cells)}</tr></table></div>'


def heads_page(heads: HeadTable, top: int) -> tuple[str, dict[str, Any]]:
    """Body and figures of `miclab mllm heads`."""
    figures: dict[str, Any] = {}
    parts = [
        f'<p class="note">{heads.episodes} episodes of {escape(heads.task)}; layers and heads are counted from 0.</p>'
    ]
    shown = [m for m in heads.measures if m.split(".")[0] in SHOWN]
    for measure in shown:
        figures[f"heat-{measure}"] = heatmap(heads, measure)
        place = {head: i for i, head in enumerate(heads.heads)}
        ranked = heads.ranked(measure)[:top]
        listed = ", ".join(f"{head_text(h)} ({heads.intervals[measure][place[h]]})" for h in ranked)
        parts.append(f"<h3>{escape(measure.replace('_', ' '))}</h3><p class='note'>Strongest: {escape(listed)}</p>"
                     f'<div data-figure="heat-{escape(measure)}"></div>')  # fmt: skip
    if heads.maps:
        parts.append(
            '<h2>Attention on one episode</h2><p class="note">Under each item and its label: what the position before'
            " the answer pays to them. In the map items are blue and labels are orange.</p>"
        )
    for one in heads.maps:
        name = head_text(one.head)
        figures[f"map-{name}"] = map_figure(one)
        parts.append(f'<h3>Head {name}</h3>{strip(one)}<div data-figure="map-{name}"></div>')
    return "".join(parts), figures


def effect_cells(effect: Effect) -> list[str]:
    """An effect as texts: name, heads, accuracy, choice, copied, log-probability, change, change beyond the control."""
    beyond = effect.beyond_control("correct")
    heads = " ".join(map(head_text, effect.heads[0])) if len(effect.heads) == 1 else f"{len(effect.heads)} draws"
    if len(effect.heads[0]) > 10:
        heads = f"{len(effect.heads[0])} heads"
    untouched = effect.values is effect.before or not effect.heads[0]
    return [
        effect.name,
        heads,
        *(str(effect.interval(measure)) for measure in ("correct", "choice", "copied", "log_probability")),
        "" if untouched else str(effect.change("correct")),
        "" if beyond is None else str(beyond),
    ]


EFFECT_COLUMNS = (
    "intervention",
    "heads",
    "accuracy",
    "forced choice",
    "CLA",
    "log-probability",
    "change",
    "beyond control",
)


def knockout_page(found: Knockouts) -> tuple[str, dict[str, Any]]:
    """Body and figures of `miclab mllm knockout`."""
    names, means, low, high = [], [], [], []
    for effect in found.effects:
        interval = effect.interval("correct")
        names.append(effect.name)
        means.append(interval.mean)
        low.append(interval.mean - interval.low)
        high.append(interval.high - interval.mean)
    colours = ["#9a9a9a" if "random" in n or n == "untouched" else "#0072b2" for n in names]
    bars = {"type": "bar", "orientation": "h", "x": means, "y": names, "marker": {"color": colours},
            "error_x": {"type": "data", "array": high, "arrayminus": low, "color": "#2b2b2b"},
            "hovertemplate": "%{y}: %{x:.3f}<extra></extra>"}  # fmt: skip
    axes = {"yaxis": {"autorange": "reversed", "automargin": True}, "xaxis": {"range": [0, 1]}}
    figure = {"data": [bars], "layout": _layout("accuracy", "", 120 + 30 * len(names), **axes)}
    rows = [[escape(cell) for cell in effect_cells(effect)] for effect in found.effects]
    notes = "".join(f"<p class='note'>{escape(name)}: {escape(note)}.</p>" for name, note in found.notes.items())
    body = (
        f'<p class="note">{found.episodes} episodes; 95 % intervals by paired bootstrap over them. A control is the'
        f' mean over its draws of random heads of the same layers.</p><div data-figure="effects"></div>'
        f"{table(EFFECT_COLUMNS, rows, numbers=(2, 3, 4, 5, 6, 7))}{notes}"
    )
    return body, {"effects": figure}


def finetune_page(rows: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Body and figures of `miclab mllm finetune`."""
    steps = [row["step"] for row in rows]

    def curve(name: str, values: list[float]) -> dict[str, Any]:
        return {"type": "scatter", "mode": "lines+markers", "name": name, "x": steps, "y": values}

    told = {"correct": "accuracy", "choice": "forced choice", "copied": "CLA"}
    answered = [curve(name, [row[measure]["mean"] for row in rows]) for measure, name in told.items()]
    measures = list(rows[0]["strengths"])
    followed = [curve(m.replace("_", " "), [r["strengths"][m]["top_mean"] for r in rows]) for m in measures]
    figures = {
        "answers": {"data": answered, "layout": _layout("step", "share of episodes", 340, yaxis={"range": [0, 1.02]})},
        "strengths": {"data": followed, "layout": _layout("step", "mean strength of the top heads at step 0", 340)},
    }
    body = ('<h3>Answers on held-out episodes</h3><div data-figure="answers"></div>'
            '<h3>Strength of heads</h3><div data-figure="strengths"></div>')  # fmt: skip
    return body, figures
