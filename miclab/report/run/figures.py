"""Plain numbers to Plotly figures, as plain dictionaries {data, layout}. Nothing here reads a run.

In figures over training, `x` is the step; the page shows it on a log-like axis, log(1 + step), or a linear one.
Colours are those of Okabe and Ito, which readers with any colour vision can distinguish. Lines differ in dashes too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from miclab.circuits.find import Head, head_name
from miclab.report.plots import (
    BLACK,
    DASHES,
    LINES,
    SPLIT_WORDS,
    Figure,
    axis_of,
    band_of,
    faint,
    layout_of,
    plotly_scale,
    rounded,
)
from miclab.statistics.intervals import Interval
from miclab.statistics.palette import SPLITS, WEIGHTS

SPLIT_DASHES = {"icl": "solid", "train": "dot", "swapped": "dash", "iwl": "dashdot"}
CLOSEST = "step %{customdata:,}: %{y:.3f}"
"""Hover text of a single point of a line over training; the page adds its step."""
ATTENTION_TOPS = (0.1, 0.25, 0.5, 1.0)
"""Ends of the attention maps' colour scale that a reader can choose."""
FEWEST_PER_LAYER = 12
"""Most heads for which all attention maps are shown together; with more, one layer at a time."""


def _steps_layout(height: int, y: dict[str, Any], guides: Sequence[tuple[Any, ...]] = ()) -> dict[str, Any]:
    shapes, notes = zip(*[guide(*one) for one in guides], strict=True) if guides else ((), ())
    return layout_of(
        height,
        axis_of("training step"),
        y,
        hovermode="x unified",
        shapes=list(shapes),
        annotations=list(notes),
        meta={"steps": True},
    )


def guide(value: float, text: str, side: str = "right") -> tuple[dict[str, Any], dict[str, Any]]:
    """A horizontal guide line and its name at one `side`, as a shape and an annotation."""
    line = {"color": "#8a8a8a", "width": 1, "dash": "dot"}
    shape = {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": value,
        "y1": value,
        "line": line,
        "layer": "below",
    }
    note = {"xref": "paper", "x": int(side == "right"), "xanchor": side, "y": value, "yanchor": "bottom", "text": text}
    small = {"size": 11, "color": "#5f5f5f"}
    return shape, {**note, "showarrow": False, "font": small, "bgcolor": "rgba(255,255,255,0.7)", "borderpad": 1}


def _line(name: str, steps: list[int], values: list[float | None], colour: str, dash: str = "solid") -> Figure:
    line = {"color": colour, "width": 2, "dash": dash}
    mode = "lines+markers" if len(steps) <= 60 else "lines"
    return {
        "type": "scatter",
        "mode": mode,
        "name": name,
        "x": steps,
        "y": values,
        "line": line,
        "marker": {"size": 4},
        "hovertemplate": "%{y:.3f}",
    }


def accuracy_figure(
    steps: list[int],
    splits: Mapping[str, list[float | None]],
    intervals: Sequence[Interval | None],
    chance: float,
    random_label: float | None,
) -> Figure:
    """Accuracy of every split over training, with the interval of `icl` and two floors.

    Arguments:
        splits: accuracy at each step, by split.
        intervals: of `icl`, at each step.
        chance: accuracy of a guess among all labels.
        random_label: measured accuracy on `icl` of answering with any label of the context, or None.
    """
    data = band_of(steps, intervals, faint(SPLITS["icl"]))
    for split, name in SPLIT_WORDS.items():
        if split in splits:
            values = [rounded(v) for v in splits[split]]
            data.append(_line(name, steps, values, SPLITS[split], SPLIT_DASHES[split]))
    guides: list[tuple[Any, ...]] = [(chance, f"chance {chance:.3f}")]
    if random_label is not None:
        guides.append((random_label, f"icl: any label of the context {random_label:.3f}", "left"))
    layout = _steps_layout(400, axis_of("accuracy", range=[-0.02, 1.04], dtick=0.2), guides)
    return {"data": data, "layout": layout}


def loss_figure(steps: list[int], losses: Mapping[str, list[float | None]], chance_loss: float) -> Figure:
    """Mean training losses since the row before, in nats.

    Arguments:
        losses: at each step, by name: `loss`, and for a run with terms `loss.NAME`, each term without its weight.
        chance_loss: that of a uniform guess over the readout.
    """
    data = []
    for index, (name, values) in enumerate(losses.items()):
        shown = [(step, rounded(v)) for step, v in zip(steps, values, strict=True) if v is not None]
        colour, dash = (BLACK, "solid") if name == "loss" else (LINES[index % len(LINES)], DASHES[index % len(DASHES)])
        words = name.partition(".")[2].replace("_", " ") or name
        data.append(_line(words, [step for step, _ in shown], [v for _, v in shown], colour, dash))
    guides = [(chance_loss, f"uniform guess {chance_loss:.2f}")]
    layout = _steps_layout(400, axis_of("training loss (nats)", rangemode="tozero"), guides)
    return {"data": data, "layout": {**layout, "showlegend": len(data) > 1}}


def alignment_figure(steps: list[int], values: Mapping[str, Sequence[Mapping[str, float] | None]]) -> Figure:
    """Debiased CKA of each secondary modality over training, with the 95 % point of its shuffled pairs, dotted.

    Arguments:
        values: by modality, the value of each metric row; None if it has none.
    """
    data = []
    for index, (name, entries) in enumerate(values.items()):
        colour = LINES[index % len(LINES)]
        for key, words, dash in (("cka", "CKA", "solid"), ("null_high", "95 % of shuffled pairs,", "dot")):
            numbers = [None if e is None else rounded(e[key], 5) for e in entries]
            line = _line(f"{words} {name}", steps, numbers, colour, dash)
            data.append({**line, "hovertemplate": "%{y:.4f}"})
    return {"data": data, "layout": _steps_layout(360, axis_of("CKA (debiased)"), [(0.0, "")])}


def distance_figure(steps: list[int], values: Mapping[str, Sequence[Mapping[str, float] | None]]) -> Figure:
    """Mean L2 distance between projected items and their host prototypes over training; arguments as above."""
    data = [
        _line(f"L2 distance {name}", steps, [None if e is None else rounded(e["distance"]) for e in entries],
              LINES[index % len(LINES)])
        for index, (name, entries) in enumerate(values.items())
    ]  # fmt: skip
    layout = _steps_layout(360, axis_of("L2 distance"))
    return {"data": data, "layout": {**layout, "showlegend": True}}


def overview_figure(
    curves: Sequence[tuple[str, list[int], list[float | None], Sequence[Interval | None]]],
) -> Figure:
    """`icl` of several runs over training. A curve is (name, steps, accuracy, intervals)."""
    data: list[Figure] = []
    for index, (name, steps, values, intervals) in enumerate(curves):
        colour, dash = LINES[index % len(LINES)], DASHES[index // len(LINES) % len(DASHES)]
        data += band_of(steps, intervals, faint(colour, 0.12))
        line = _line(name, steps, [rounded(v) for v in values], colour, dash)
        data.append({**line, "hovertemplate": CLOSEST})
    y = axis_of("accuracy on novel classes (icl)", range=[-0.02, 1.04], dtick=0.2)
    return {"data": data, "layout": {**_steps_layout(420, y), "hovermode": "closest"}}


def measure_figure(steps: list[int], layers: int, heads: int) -> Figure:
    """The frame of the measures' figure: a line per head; the page fills in the measure that the reader chooses."""
    data = []
    # Dozens of lines in one box would cover the figure.
    many = layers * heads > FEWEST_PER_LAYER
    for layer in range(layers):
        for head in range(heads):
            if heads == 1:
                colour, dash = LINES[layer % len(LINES)], DASHES[layer // len(LINES) % len(DASHES)]
            else:
                colour, dash = LINES[layer % len(LINES)], DASHES[head % len(DASHES)]
            line = _line(f"head {head_name((layer, head))}", steps, [], colour, dash)
            data.append({**line, "meta": [layer, head], **({"hovertemplate": CLOSEST} if many else {})})
    layout = _steps_layout(400, axis_of("strength"))
    return {
        "data": data,
        "layout": {**layout, "hovermode": "closest" if many else "x unified", "showlegend": not many},
    }


def attention_groups(layers: int, heads: int) -> list[list[Head]]:
    """The heads whose maps are shown together: all, or those of one layer if there are many."""
    if layers * heads <= FEWEST_PER_LAYER:
        return [[(i, j) for i in range(layers) for j in range(heads)]]
    return [[(i, j) for j in range(heads)] for i in range(layers)]


def _columns(group: list[Head]) -> int:
    heads = len({head for _, head in group})
    if heads in (2, 3):
        return heads
    return {1: 1, 2: 2, 4: 2}.get(len(group), 3)


def attention_figure(names: list[str], group: list[Head]) -> Figure:
    """The frame of the attention maps of some heads; the page fills in the checkpoint and the titles.

    Arguments:
        names: names of the positions.
        group: the heads.
    """
    columns = _columns(group)
    return _attention_frame(names, group, columns, {1: 620, 2: 540}.get(columns, 1120 // columns))


def narrow_attention_figure(names: list[str], group: list[Head]) -> Figure:
    """`attention_figure` for a narrow screen: one map below the other, without a colour bar."""
    figure = _attention_frame(names, group, 1, 350)
    figure["layout"]["width"] = 350
    figure["layout"]["coloraxis"]["showscale"] = False
    for name, axis in figure["layout"].items():
        if name.startswith("xaxis"):
            axis["domain"] = [46 / 350, 334 / 350]
    for note in figure["layout"]["annotations"]:
        note["x"] = 0
    return figure


def _attention_frame(names: list[str], group: list[Head], columns: int, cell: int) -> Figure:
    length, rows, inner = len(names), -(-len(group) // columns), cell - 62
    width, height = columns * cell + 60, rows * (inner + 80) + 20
    # Letters need about 11 pixels. If positions are closer, only some are named.
    every = max(1, -(-11 * length // inner))
    font = {"size": 12 if inner / length > 18 else 10.5 if inner / length > 12 else 9}
    ticks = {"tickvals": list(range(0, length, every)), "ticktext": names[::every], "tickfont": font}
    plain = {"showgrid": False, "zeroline": False, "ticks": "", "fixedrange": False, **ticks}
    data, layout = [], layout_of(height, {}, {}, width=width, margin={"l": 0, "r": 0, "t": 0, "b": 0})
    layout["annotations"] = []
    for place, (layer, head) in enumerate(group):
        row, column = divmod(place, columns)
        left, top = column * cell + 46, row * (inner + 80) + 44
        number = "" if place == 0 else str(place + 1)
        across = [left / width, (left + inner) / width]
        upright = [max(0.0, 1 - (top + inner) / height), 1 - top / height]
        layout[f"xaxis{number}"] = {**plain, "domain": across, "anchor": f"y{number}", "tickangle": -90}
        layout[f"yaxis{number}"] = {
            **plain,
            "domain": upright,
            "anchor": f"x{number}",
            "autorange": "reversed",
        }
        common = {"xref": "paper", "yref": "paper", "showarrow": False}
        title = {
            **common,
            "x": across[0],
            "y": upright[1],
            "xanchor": "left",
            "yanchor": "bottom",
            "text": "",
        }
        layout["annotations"].append({**title, "font": {"size": 13}, "yshift": 4, "align": "left"})
        hover = "%{y} looks at %{x}: %{z:.3f}<extra></extra>"
        trace = {"type": "heatmap", "coloraxis": "coloraxis", "xaxis": f"x{number}", "yaxis": f"y{number}"}
        named = {"name": head_name((layer, head)), "meta": [layer, head]}
        data.append({**trace, **named, "z": [], "hovertemplate": hover, "hoverongaps": False})
    bar = {
        "thickness": 12,
        "len": min(1.0, 380 / height),
        "y": 1,
        "yanchor": "top",
        "x": 1,
        "xanchor": "right",
    }
    bar |= {
        "title": {"text": "attention", "side": "right"},
        "tickfont": {"size": 11},
        "outlinewidth": 0,
        "ypad": 44,
    }
    layout["coloraxis"] = {"colorscale": plotly_scale(WEIGHTS), "cmin": 0, "cmax": 1, "colorbar": bar}
    layout["plot_bgcolor"] = "#f3f3f3"
    return {"data": data, "layout": layout}
