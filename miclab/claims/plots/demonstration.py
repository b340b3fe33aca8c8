"""The demonstration as one picture: emergence, attention of the circuit, and the effect of knocking it out."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from miclab import storage
from miclab.claims.demonstration import NAME, Demonstration
from miclab.claims.evidence import Evidence, grid
from miclab.claims.plots.panels import point
from miclab.config.request import SplitSizes
from miclab.model.decoder import Decoder
from miclab.runs.run import Run
from miclab.statistics.grid import mean
from miclab.statistics.palette import BLUE, GREEN, ORANGE, SKY, VERMILLION, WEIGHTS
from miclab.statistics.style import DATES, STYLE, colour_map, figure_bytes
from miclab.worlds.splits import split_batches
from miclab.worlds.world import world_from_tensors

COLOURS = {"onehot": BLUE, "rope": VERMILLION, "rope_released": ORANGE, "stage 1": SKY, "stage 2": GREEN}
SHOWN_EFFECTS = {
    "untouched": "probe.knockout.untouched",
    "previous-token head": "probe.knockout.previous-token head",
    "induction head": "probe.knockout.induction head",
    "items of m2 zeroed": "probe.ablation.items of m2 zeroed",
    "items of m1 zeroed": "probe.ablation.items of m1 zeroed",
    "items of m1 and labels zeroed": "probe.ablation.items of m1 and labels zeroed",
}


def _curves(axes: Axes, shown: Demonstration) -> None:
    for run in shown.plan.runs.values():
        stage = {"multimodal": "stage 2"}.get(run.config.stage, "stage 1" if run.starts else run.config.variety)
        rows = [row for row in shown.disk(run).rows() if row["step"] > 0]
        steps = [row["step"] for row in rows]
        axes.plot(steps, [row["accuracy"]["icl"] for row in rows], label=stage, color=COLOURS.get(stage), lw=1.6)
        low = [min(row["icl_sets"]) for row in rows]
        high = [max(row["icl_sets"]) for row in rows]
        axes.fill_between(steps, low, high, color=COLOURS.get(stage), alpha=0.15, lw=0)
    axes.axhline(0.5, color="0.6", lw=0.8, ls=":")
    axes.set(xscale="log", ylim=(0, 1.02), xlabel="training step", ylabel="accuracy on novel classes")
    axes.set_title("In-context learning arises", fontsize=9, loc="left")
    axes.legend(frameon=False, fontsize=7)


@torch.no_grad()
def _attention(axes: list[Axes], run: Run) -> None:
    world = world_from_tensors(run.config, run.world_tensors())
    _, batch = next(iter(split_batches(run.config, world, "icl", SplitSizes(sequences=256, novel_sets=1))))
    _, parameters = run.parameters()
    trace = Decoder(run.config).trace(parameters, batch, capture=("blocks.*",))
    names = batch.roles.axis_names()
    for layer, place in enumerate(axes):
        # One sequence: the mean over sequences would hide which exemplar matches.
        pattern = trace.activations[f"blocks.{layer}.attention.pattern"][0, 0]
        place.imshow(
            pattern.numpy(), cmap=colour_map(WEIGHTS), vmin=0, vmax=float(pattern.max()), interpolation="nearest"
        )
        place.set_xticks(range(len(names)), names, fontsize=4.5, rotation=90)
        place.set_yticks(range(len(names)), names, fontsize=4.5)
        place.set_title(f"Attention of head {layer}.0, one sequence", fontsize=9, loc="left")


def _bars(axes: Axes, rows: Evidence) -> None:
    cells = grid(rows, NAME, "code K2", list(SHOWN_EFFECTS.values()), where=lambda cell: cell.K2 is not None)
    found = [cells.interval(mean(column)) for column in SHOWN_EFFECTS.values()]
    shown = [(name, one) for name, one in zip(SHOWN_EFFECTS, found, strict=True) if one is not None]
    means = [one.mean for _, one in shown]
    ends = [point((), one, one.mean) for _, one in shown]
    errors = [[one.mean - one.low for one in ends], [one.high - one.mean for one in ends]]
    axes.barh(range(len(shown)), means, xerr=errors, color=GREEN, alpha=0.85, error_kw={"lw": 0.8})
    axes.set_yticks(range(len(shown)), [name for name, _ in shown], fontsize=7)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.02), xlabel="accuracy on novel classes")
    axes.set_title("Cutting the circuit, zeroing a modality", fontsize=9, loc="left")


def draw(shown: Demonstration, path: Path) -> Path:
    """Writes the picture; the format is that of the file's ending (svg, pdf, png)."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 5.8), layout="constrained")
        axes = figure.subplots(2, 2)
        _curves(axes[0, 0], shown)
        _bars(axes[0, 1], shown.evidence)
        _attention([axes[1, 0], axes[1, 1]], shown.disk(shown.two_modalities))
        kind = path.suffix[1:]
        storage.write_bytes(path, figure_bytes(figure, kind, dpi=160, metadata=DATES[kind]))
    return path
