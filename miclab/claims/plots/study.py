"""The figure of any study: curves or a heat map of a column over the study's axes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miclab.claims.evidence import Evidence, EvidenceCells, grid
from miclab.claims.plots import panels
from miclab.claims.plots.figures import NoRowsError, new_figure, write
from miclab.claims.plots.panels import Point, is_accuracy, points, shown
from miclab.config.axes import axis_name, distinguishing, field_named, field_of
from miclab.errors import ConfigError, MiclabError, nearest
from miclab.statistics.grid import Key

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEW_AXES = 2
"""Most axes for a curve's label to give every value."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What is drawn of a study.

    Arguments:
        x: axis from left to right, a short name or a dotted field; empty: the first whose values are numbers.
        by: axis that distinguishes curves; empty: a second axis of numbers is drawn from bottom to top, as a heat map.
        value: column of the study's table.
    """

    x: str = ""
    by: str = ""
    value: str = "icl"


def varying(rows: Evidence, study: str) -> dict[str, tuple[Any, ...]]:
    """The fields that distinguish the points of a study, those of its grid first, with their values in every run."""
    configs = [config for config, *_ in rows.plan(study)]
    if not configs:
        raise MiclabError(f"{rows.directory / study}.yaml has no preset {rows.profile}.")
    own = [axis for axis in rows.study(study).axes if not axis.startswith(("request.", "parent."))]
    fields = dict.fromkeys([*own, *(name for config in configs for name in _leaves(config))])
    values = {field: tuple(field_of(config, field) for config in configs) for field in fields}
    return {field: values[field] for field in distinguishing(values)}


def _leaves(config: Any, before: str = "") -> list[str]:
    found = []
    for name, value in config.items():
        if isinstance(value, dict):
            found += _leaves(value, f"{before}{name}.")
        elif (
            before + name not in ("seed", "parent.run") and not before.startswith("numerics.") and name != "encoder_run"
        ):
            found.append(before + name)
    return found


def _numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def _chosen(axis: str, option: str, axes: dict[str, tuple[Any, ...]], study: str) -> str:
    field = field_named(axis)
    if field not in axes:
        raise ConfigError(option, axis, f"an axis in which the points of {study} differ: {nearest(field, axes)}")
    return field


@dataclass(frozen=True)
class Drawing:
    """The figure of a study, before there are axes for it.

    Arguments:
        size: width and height in inches that it needs.
        draw: draws it on axes.
    """

    size: tuple[float, float]
    draw: Callable[[Axes], None]


def study_figure(rows: Evidence, study: str, view: View) -> Figure:
    """Curves, or a heat map, of a column of a study's last rows, with 95 % intervals over seeds; errors are those of
    `study_drawing`."""
    drawing = study_drawing(rows, study, view)
    figure, (place,) = new_figure(1, *drawing.size)
    drawing.draw(place)
    return figure


def study_drawing(rows: Evidence, study: str, view: View) -> Drawing:
    """What `study_figure` draws.

    Raises:
        NoRowsError: the study has no rows in the preset.
        ConfigError: there is no such axis or column; the message names the nearest one.
    """
    axes = varying(rows, study)
    frame = rows.rows(study)
    if frame is None:
        command = f"miclab study run {rows.directory / study}.yaml --preset {rows.profile}"
        raise NoRowsError(f"{study} has no rows in the preset {rows.profile} yet. `{command}` makes them.")
    columns = [name for name, kind in frame.schema.items() if kind.is_float()]
    if view.value not in columns:
        raise ConfigError("value", view.value, f"a column of numbers: {nearest(view.value, columns)}")
    if not axes:
        raise MiclabError(f"{study} has one point: there is no axis to draw it over.")
    by = [_chosen(view.by, "by", axes, study)] if view.by else []
    left = [axis for axis in axes if axis not in by]
    if view.x:
        x = _chosen(view.x, "x", axes, study)
    elif left:
        x = next((axis for axis in left if _numeric(axes[axis])), left[0])
    else:
        raise ConfigError("by", view.by, f"empty: the points of {study} differ in this alone")
    if x in by:
        raise ConfigError("by", view.by, f"another axis than that of --x, {x}")
    others = [*by, *(axis for axis in left if axis != x)]
    cells = grid(rows, study, " ".join([*others, x]), (view.value,))
    # An axis of the data with one modality needs no number.
    alone = len(rows.plan(study)[0][0]["modalities"]) == 1
    if not view.by and len(others) == 1 and _numeric(axes[others[0]]) and _numeric(axes[x]):
        return _heatmap(cells, x, others[0], view.value, alone)
    return _curves(cells, x, others, view.value, alone)


def _heatmap(cells: EvidenceCells, x: str, y: str, value: str, alone: bool) -> Drawing:
    found = [Point((p.key[1], p.key[0]), p.mean, p.low, p.high) for p in points(cells, value)]
    means = [point.mean for point in found]
    limits = (0.0, 1.0) if is_accuracy(value) else (min(means), max(max(means), min(means) + 1e-9))

    def draw(place: Axes) -> None:
        names = axis_name(x, alone=alone), axis_name(y, alone=alone)
        image = panels.heatmap(place, found, value, *names, limits=limits)
        place.figure.colorbar(image, ax=place, label=value, shrink=0.8)

    return Drawing((1.8 + 0.62 * len({p.key[0] for p in found}), 2.9), draw)


def _curves(cells: EvidenceCells, x: str, others: Sequence[str], value: str, alone: bool) -> Drawing:
    series = list(dict.fromkeys(key[:-1] for key in cells.keys))
    labels = _labels(others, series, alone)
    planned = list(dict.fromkeys(cells.axis(x)))
    numeric = _numeric(planned)

    def draw(place: Axes) -> None:
        for index, (parts, label) in enumerate(zip(series, labels, strict=True)):
            found = points(cells.where(lambda cell, mine=parts: cell.key[:-1] == mine), value)
            if found:
                at = [p.key[-1] if numeric else planned.index(p.key[-1]) for p in found]
                panels.curve(place, at, found, label, index, line=numeric)
        if numeric:
            panels.scale(place, x, planned)
        else:
            place.set_xticks(range(len(planned)), [shown(part) for part in planned])
        place.set(xlabel=axis_name(x, alone=alone), ylabel=value)
        if is_accuracy(value):
            place.set_ylim(-0.02, 1.02)
        if others and place.containers:
            place.legend(frameon=False, fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))

    # The legend stands beside the panel.
    return Drawing((3.6 + 0.06 * max(map(len, labels)), max(2.9, 0.5 + 0.16 * len(labels))), draw)


def _labels(axes: Sequence[str], series: Sequence[Key], alone: bool) -> list[str]:
    """Labels of curves by their values. With many axes, only values that most curves do not have."""
    names = [axis_name(axis, alone=alone).split(",")[0] for axis in axes]
    usual = [
        Counter(values).most_common(1)[0][0] if len(axes) > FEW_AXES else None for values in zip(*series, strict=True)
    ]
    found = []
    for key in series:
        parts = zip(names, key, usual, strict=True)
        found.append(", ".join(f"{name} = {shown(value)}" for name, value, most in parts if value != most))
    return [label or "as most" for label in found]


def draw_study(rows: Evidence, name: str, view: View, folder: Path, kinds: Sequence[str]) -> list[Path]:
    """Writes the figure of a study as `STUDY-VALUE-PRESET`.

    Raises:
        MiclabError: as `study_figure` does, or the file is no study.
    """
    rows.study(name)
    title = f"{name}, {view.value}, preset {rows.profile}; 95 % intervals over seeds"
    stem = f"{name}-{view.value.replace(' ', '_').replace('/', '_')}-{rows.profile}"
    return write(lambda: study_figure(rows, name, view), title, folder, stem, kinds)
