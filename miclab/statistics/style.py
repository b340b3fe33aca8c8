"""The matplotlib style of every figure, new axes that have it, and the palette's scales as colour maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from miclab.statistics.palette import Scale, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap


@runtime_checkable
class Estimate(Protocol):
    """A number with the ends of its interval, such as `miclab.statistics.intervals.Interval`."""

    @property
    def mean(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


STYLE: dict[Any, Any] = {
    "svg.hashsalt": "miclab",
    "pdf.fonttype": 42,
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
"""Settings of matplotlib: small letters, open frames, and files that are the same bytes each time."""
DATES = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": None}
"""What keeps the date out of a file, by its kind."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""Markers of series in their order."""


def new_axes(width: float = 5.2, height: float = 3.4) -> Axes:
    """Axes of a new figure, which no window and no list of open figures holds; sizes in inches."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        axes = Figure(figsize=(width, height), layout="constrained").add_subplot()
    # Ticks are made when the figure is drawn, outside the context of the style.
    axes.tick_params(labelsize=STYLE["font.size"])
    return axes


def figure_bytes(figure: Any, kind: str, **settings: Any) -> bytes:
    """A figure as the bytes of a file of a kind (`pdf`, `svg`, `png`). It is complete before anything is written to
    disk.

    Arguments:
        settings: of matplotlib's `savefig`.
    """
    import io

    content = io.BytesIO()
    figure.savefig(content, format=kind, **settings)
    return content.getvalue()


def marker(index: int) -> str:
    """The marker of the series of an index."""
    return MARKERS[index % len(MARKERS)]


def colour_map(scale: Scale) -> Colormap:
    """A scale of the palette for matplotlib."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("miclab", list(scale))


def draw_intervals(
    axes: Axes, title: str, rows: Sequence[str], columns: Mapping[str, Sequence[Estimate | None]]
) -> Axes:
    """Draws estimates with their intervals: rows from top to bottom, a colour and a marker for each column.

    Arguments:
        axes: where to draw.
        title: stands above.
        rows: their names.
        columns: an estimate for each row, by the column's name; None is not drawn.
    """
    for number, (name, found) in enumerate(columns.items()):
        colour, offset = series(number), 0.6 * (number - (len(columns) - 1) / 2) / len(columns)
        known = [(height + offset, one) for height, one in enumerate(found) if one is not None]
        for y, one in known:
            axes.plot([one.low, one.high], [y, y], color=colour)
        axes.plot([one.mean for _, one in known], [y for y, _ in known], marker(number), color=colour, label=name)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_title(title, fontsize="small", wrap=True)
    if len(columns) > 1:
        # Below the axes: rows fill all of it.
        axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=min(len(columns), 2))
    elif columns:
        axes.set_xlabel(next(iter(columns)))
    return axes


def draw_curves(
    axes: Axes, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], colours: Mapping[str, str] | None = None
) -> Axes:
    """Draws accuracies over training steps, a curve with a colour and a marker for each name.

    Arguments:
        axes: where to draw.
        curves: steps and accuracies, 0 to 1, by name.
        colours: of some curves by name; others have those of the palette in their order.
    """
    for number, (name, (steps, values)) in enumerate(curves.items()):
        colour = (colours or {}).get(name, series(number))
        axes.plot(steps, values, color=colour, marker=marker(number), markersize=3, lw=1.3, label=name)
    axes.set(xlabel="training step", ylim=(-0.02, 1.02))
    if curves:
        axes.legend(fontsize="small", frameon=False)
    return axes


def draw_counts(axes: Axes, counts: Mapping[str, int], noun: str, colours: Sequence[str] | None = None) -> Axes:
    """Draws how many there are of each name, a bar for each from top to bottom.

    Arguments:
        axes: where to draw.
        counts: by name.
        noun: what is counted.
        colours: of each bar; None: all alike.
    """
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.barh(list(counts), list(counts.values()), color=series(0) if colours is None else list(colours))
    axes.invert_yaxis()
    axes.set_xlabel(noun)
    return axes
