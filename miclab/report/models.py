"""Results as one HTML file that opens from disk: heatmaps of heads, attention over image and text tokens, curves."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import escape

from miclab.circuits.find import Head, head_name
from miclab.data.pictures import open_picture
from miclab.measures.registry import describe
from miclab.mllm.head_names import PLACES, names_table
from miclab.mllm.heads import HeadTable, Map
from miclab.mllm.knockout import Knockouts
from miclab.report.html import identifiers, render
from miclab.report.plots import BLUE, arms_of, layout_of, plotly_scale
from miclab.statistics.palette import SIGNED, WEIGHTS
from miclab.tables import Table, titled

SHOWN = ("previous_token_1", "label_to_item", "induction_all_positions", "induction", "target_label_attention",
         "total_label_attention")  # fmt: skip
"""Measures with a heat map."""
EMPTY = "#f2f2f2"
"""Cells of a heat map without a value."""


@dataclass(frozen=True)
class Part:
    """A part of a page, in the order of these arguments.

    Arguments:
        title: its heading; empty: none.
        note: words under the heading.
        strip: an episode, cell by cell.
        figure: name of its figure.
        table: numbers.
        level: of the heading.
    """

    title: str = ""
    note: str = ""
    strip: Sequence[Mapping[str, Any]] = ()
    figure: str = ""
    table: Table | None = None
    level: int = 3


@dataclass(frozen=True)
class Page:
    """The page of a command: parts in their order, and Plotly figures by name."""

    parts: Sequence[Part]
    figures: Mapping[str, Any]


def page_bytes(title: str, command: str, page: Page, problem: str = "") -> bytes:
    """One self-contained page.

    Arguments:
        title: of the page.
        command: the command that made it.
        page: its content.
        problem: why the results are partial; shown on top.
    """
    titled = [part.title for part in page.parts if part.title]
    ids = iter(identifiers(titled))
    parts = [{**vars(part), "id": next(ids) if part.title else ""} for part in page.parts]
    entries = [(part["id"], part["title"]) for part in parts if part["id"]]
    shown = {"parts": parts, "entries": entries}
    data = {"figures": dict(page.figures)}
    return render("models.html", title, data, ["plain.js"], command=command, page=shown, problem=problem)


def axes_layout(x: str, y: str, height: int, **more: Any) -> dict[str, Any]:
    """Layout of a figure with two named axes, `height` pixels high."""
    across, upright = ({"title": {"text": text}, **more.pop(name, {})} for text, name in ((x, "xaxis"), (y, "yaxis")))
    margin = {"l": 60, "r": 20, "t": 10, "b": 45}
    return layout_of(height, across, upright, **{"margin": margin, **more})


def head_map(heads: Sequence[Head], means: Sequence[float]) -> dict[str, Any]:
    """A number of every head: layers down, heads across."""
    layers = sorted({layer for layer, _ in heads})
    width = 1 + max(head for _, head in heads)
    grid = np.full((len(layers), width), np.nan)
    for (layer, head), value in zip(heads, means, strict=True):
        grid[layers.index(layer), head] = value
    signed = bool(np.nanmin(grid) < -1e-3)
    top = float(np.nanmax(np.abs(grid))) or 1.0
    values = [[None if np.isnan(v) else round(float(v), 4) for v in row] for row in grid]
    trace = {
        "type": "heatmap", "z": values, "x": list(range(width)), "y": layers, "xgap": 1, "ygap": 1,
        "colorscale": plotly_scale(SIGNED if signed else WEIGHTS), "zmin": -top if signed else 0, "zmax": top,
        "hovertemplate": "head %{y}.%{x}: %{z:.3f}<extra></extra>",
    }  # fmt: skip
    return {"data": [trace], "layout": axes_layout("head", "layer", 140 + 22 * len(layers), plot_bgcolor=EMPTY,
                                               yaxis={"autorange": "reversed", "dtick": max(1, len(layers) // 12)},
                                               xaxis={"dtick": 1 if width <= 32 else 4})}  # fmt: skip


def _colour_rule(kind: int) -> str:
    return BLUE if kind >= 0 else "#b84e00" if kind == -1 else "#2b2b2b"


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
    trace = {"type": "heatmap", "z": values, "colorscale": plotly_scale(WEIGHTS), "zmin": 0, "zmax": 1,
             "hovertemplate": "%{y} looks at %{x}: %{z:.2f}<extra></extra>"}  # fmt: skip
    layout = axes_layout(
        "key",
        "query",
        660,
        plot_bgcolor=EMPTY,
        xaxis={**axis, "tickangle": -90},
        yaxis={**axis, "autorange": "reversed"},
    )
    return {"data": [trace], "layout": layout | {"margin": {"l": 90, "r": 20, "t": 10, "b": 90}}}


def picture(path: Path) -> str:
    """A picture as the address of its small copy, inside the page."""
    small, _ = open_picture(path)
    side = max(small.size)
    if side > 112:
        small.thumbnail((112, 112))
    content = io.BytesIO()
    small.save(content, "PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def strip(shown: Map) -> list[dict[str, Any]]:
    """The episode in the order of its context: each item with its label, and the last position's attention to both."""
    reading, last = shown.reading, shown.attention[-1]
    roles, episode = reading.roles, reading.episode
    kind, exemplar = roles.kind.numpy(), roles.exemplar.numpy()
    items = [*((e.item, e.answer) for e in episode.support), (episode.query, "?")]
    cells = []
    for number, (item, answer) in enumerate(items):
        on_item = float(last[(kind >= 0) & (exemplar == number)].sum())
        on_label = float(last[(kind == -1) & (exemplar == number)].sum())
        label = "" if number == len(episode.support) else f" · label {on_label:.2f}"
        cells.append(
            {
                "images": [picture(path) for path in item.images],
                "text": item.text,
                "answer": answer,
                "wanted": answer == episode.answer,
                "attention": f"item {on_item:.2f}{label}",
            }
        )
    return cells


def heads_page(heads: HeadTable, top: int) -> Page:
    """The page of `miclab mllm heads`."""
    figures: dict[str, Any] = {}
    parts = [Part(note=f"{heads.episodes} episodes of {heads.task}; layers and heads are counted from 0.")]
    shown = [m for m in heads.measures if m.split(".")[0] in SHOWN]
    for measure in shown:
        figures[f"heat-{measure}"] = head_map(heads.heads, heads.mean(measure).tolist())
        place = {head: i for i, head in enumerate(heads.heads)}
        ranked = heads.ranked(measure)[:top]
        listed = ", ".join(f"{head_name(h)} ({heads.intervals[measure][place[h]]})" for h in ranked)
        uniform = f" Uniform attention gives {heads.uniform[measure]:.3f}." if measure in heads.uniform else ""
        if heads.random:
            uniform += f" With random weights the strongest head has {heads.random.most(measure)}."
        name, words = describe(measure)
        parts.append(Part(title=name, note=f"{words[:1].upper()}{words[1:]}. Strongest: {listed}.{uniform}",
                          figure=f"heat-{measure}"))  # fmt: skip
    called = heads.called(PLACES, top)
    if called:
        made = names_table(called)
        parts.append(Part(title="What the strongest heads are called", table=titled(made, "", made.notes)))
    if heads.maps:
        note = (
            "Under each item and its label: what the position before the answer pays to them. In the map items are blue"
            " and labels are orange."
        )
        parts.append(Part(title="Attention on one episode", note=note, level=2))
    for one in heads.maps:
        name = head_name(one.head)
        figures[f"map-{name}"] = map_figure(one)
        parts.append(Part(title=f"Head {name}", strip=strip(one), figure=f"map-{name}"))
    return Page(parts, figures)


def knockout_page(found: Knockouts) -> Page:
    """The page of `miclab mllm knockout`."""
    names, intervals = [effect.name for effect in found.effects], [one.interval("correct") for one in found.effects]
    colours = ["#9a9a9a" if "random" in n or n == "untouched" else BLUE for n in names]
    means = [one.mean for one in intervals]
    bars = {"type": "bar", "orientation": "h", "x": means, "y": names, "marker": {"color": colours},
            "error_x": {"type": "data", **arms_of(zip(means, intervals, strict=True)), "color": "#2b2b2b"},
            "hovertemplate": "%{y}: %{x:.3f}<extra></extra>"}  # fmt: skip
    axes = {"yaxis": {"autorange": "reversed", "automargin": True}, "xaxis": {"range": [0, 1]}}
    figure = {"data": [bars], "layout": axes_layout("accuracy", "", 120 + 30 * len(names), **axes)}
    note = (
        f"{found.episodes} episodes; 95 % intervals by paired bootstrap over them. A control is the mean over its draws"
        " of random heads of the same layers."
    )
    made, *others = found.tables()
    shown = titled(made, "", [f"{line}." for line in made.notes])
    parts = [Part(note=note, figure="effects", table=shown)]
    parts += [Part(title="What the top heads are called", table=titled(one, "", one.notes)) for one in others]
    return Page(parts, {"effects": figure})


def finetune_page(rows: Sequence[Mapping[str, Any]]) -> Page:
    """The page of `miclab mllm finetune`."""
    steps = [row["step"] for row in rows]

    def curve(name: str, values: list[float]) -> dict[str, Any]:
        return {"type": "scatter", "mode": "lines+markers", "name": name, "x": steps, "y": values,
                "hovertemplate": "step %{x:,}: %{y:.3f}"}  # fmt: skip

    named = {"correct": "accuracy", "choice": "forced choice", "copied": "CLA"}
    answered = [curve(name, [row[measure]["mean"] for row in rows]) for measure, name in named.items()]
    measures = list(rows[0]["strengths"])
    followed = [curve(m.replace("_", " "), [r["strengths"][m]["top_mean"] for r in rows]) for m in measures]
    figures = {
        "answers": {
            "data": answered,
            "layout": axes_layout("step", "share of episodes", 340, yaxis={"range": [0, 1.02]}),
        },
        "strengths": {"data": followed, "layout": axes_layout("step", "mean strength of the top heads at step 0", 340)},
    }
    parts = [
        Part(title="Answers on held-out episodes", figure="answers"),
        Part(title="Strength of heads", figure="strengths"),
    ]
    return Page(parts, figures)
