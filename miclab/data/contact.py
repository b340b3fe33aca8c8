"""Contact sheets of data sets: sampled classes with their exemplars."""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from miclab.data.dataset import DataSet
from miclab.data.shipped import load_shipped
from miclab.seeds import stream
from miclab.statistics.palette import SIGNED, VERMILLION
from miclab.statistics.style import colour_map, figure_bytes
from miclab.storage import write_bytes

CONCEPTS = "concepts"
HELD_OUT_COLOUR = VERMILLION


def sampled_classes(data: DataSet, count: int, seed: int) -> list[int]:
    """Classes drawn from a named seed, in their order."""
    drawn = torch.randperm(len(data.class_names), generator=stream(seed, "contact sheet"))[:count]
    return sorted(drawn.tolist())


def _item(axes: Axes, data: DataSet, exemplar: int) -> None:
    item = data.items[exemplar]
    if data.kind == "picture":
        axes.imshow(item.permute(1, 2, 0).numpy(), interpolation="nearest")
    elif data.kind == "glyph":
        axes.imshow(1 - item[0].numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    elif data.kind == "spectrogram":
        axes.imshow(item[0].numpy(), cmap="magma", vmin=0, vmax=255, interpolation="nearest")
    else:
        values = data.floats(torch.tensor([exemplar]))[0]
        side = -(-len(values) // 10)
        padded = torch.zeros(side * 10)
        padded[: len(values)] = values
        axes.imshow(
            padded.reshape(side, 10).numpy(), cmap=colour_map(SIGNED), vmin=-0.3, vmax=0.3, interpolation="nearest"
        )
    axes.set_xticks([])
    axes.set_yticks([])
    held_out = bool(data.held_out_exemplars[exemplar]) or bool(data.held_out_classes[data.class_of[exemplar]])
    for spine in axes.spines.values():
        spine.set(visible=held_out, color=HELD_OUT_COLOUR, linewidth=1.2)


def _rows(name: str, sets: list[DataSet], classes: list[int], exemplars: int) -> Figure:
    widths = [min(exemplars, int(data.exemplars_per_class.max())) for data in sets]
    figure = Figure(figsize=(2.6 + 0.95 * (sum(widths) + 0.3 * (len(sets) - 1)), 0.9 + 1.05 * len(classes)))
    ratios = [2.4]
    for width in widths:
        ratios += [*([1.0] * width), 0.3]
    grid = figure.add_gridspec(
        len(classes), len(ratios) - 1, width_ratios=ratios[:-1], left=0.01, right=0.99, bottom=0.01,
        top=1 - 0.6 / (0.9 + 1.05 * len(classes)), wspace=0.08, hspace=0.3,
    )  # fmt: skip
    for row, class_index in enumerate(classes):
        title = figure.add_subplot(grid[row, 0])
        title.axis("off")
        held_out = bool(sets[0].held_out_classes[class_index])
        text = textwrap.fill(sets[0].class_names[class_index], 24)
        title.text(0, 0.5, text, va="center", fontsize=9, color=HELD_OUT_COLOUR if held_out else "black")
        column = 1
        for data, width in zip(sets, widths, strict=True):
            of_class = (data.class_of == class_index).nonzero()[:, 0].tolist()
            for place, exemplar in enumerate(of_class[:width]):
                axes = figure.add_subplot(grid[row, column + place])
                _item(axes, data, exemplar)
                if data.texts:
                    text = textwrap.shorten(data.texts[exemplar], 44, placeholder=" ...")
                    axes.set_title(textwrap.fill(text, 17), fontsize=5, pad=1.5)
                elif len(data.sources) > 1 and (data.kind == "glyph" or row == 0):
                    label = textwrap.shorten(data.sources[int(data.source_of[exemplar])], 24, placeholder="...")
                    axes.set_title(label, fontsize=5, pad=1.5)
            column += width + 1
    figure.suptitle(f"{name}: sampled classes; orange: held out", fontsize=10, x=0.01, ha="left")
    return figure


def draw(name: str, data: DataSet | None, path: Path, *, classes: int, exemplars: int, seed: int) -> Path:
    """Writes sampled classes with their exemplars to `path`; the format is that of its ending (png, pdf, svg).

    Arguments:
        name: of the data set; `concepts` shows pictures, word vectors and spectrograms side by side.
        data: the data set; None for `concepts`.
        classes: how many classes.
        exemplars: how many exemplars of a class at most.
        seed: of the choice of classes.
    """
    sets = [data] if data is not None else [load_shipped(f"{CONCEPTS}.{m}") for m in ("pictures", "words", "speech")]
    with mpl.rc_context({"font.size": 8, "svg.hashsalt": "miclab"}):
        figure = _rows(name, sets, sampled_classes(sets[0], classes, seed), exemplars)
        write_bytes(path, figure_bytes(figure, path.suffix[1:], dpi=110))
    return path
