"""The claims on one modality's data and decoder size: U1 to U4."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from miclab.claims.evidence import Evidence, grid
from miclab.claims.plots import panels
from miclab.claims.plots.figures import accuracy_axis, curves, heatmaps, need, new_figure
from miclab.claims.registry import claim
from miclab.claims.verdict import Finding
from miclab.statistics.grid import column, mean, slope, smaller

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@claim(
    "U1",
    "One modality: in-context learning rises with the number of classes K and with the burstiness B; in-weight "
    "learning falls.",
    paper="a heatmap over K and B, standard deviation below 0.03",
    criterion=(
        "Least-squares slopes of ICL, and of IWL, on log2 K and log2 B together, over all cells: ICL's two slopes "
        "above 0, IWL's two below 0, each with its whole 95 % interval."
    ),
    studies="complexity",
    figure=heatmaps((("complexity", "icl", "ICL"), ("complexity", "iwl", "IWL")), x="K", y="B", at="common"),
)
def u1(rows: Evidence) -> Iterator[Finding]:
    """ICL and IWL against log2 K and log2 B."""
    cells = grid(rows, "complexity", "K B", "icl iwl", at="common")
    for score in ("icl", "iwl"):
        for axis, beside in (("K", "B"), ("B", "K")):
            steepness = slope(score, f"log2 {axis}", beside=f"log2 {beside}")
            yield cells.condition(
                steepness > 0 if score == "icl" else steepness < 0,
                f"slope of {score.upper()} per doubling of {axis}",
                f"{score.upper()} is judged along {axis}",
            )
    if cells.decidable:
        icl = [[cells.values[key][seed]["icl"].mean() for seed in cells.seeds] for key in cells.keys]
        spread = np.std(icl, axis=1, ddof=1).max()
        yield f"largest standard deviation of ICL over seeds in a cell: {spread:.3f}; the paper says below 0.03"


@claim(
    "U2",
    "More noise within classes raises in-context learning.",
    paper="a curve that rises",
    criterion=(
        "Slope of ICL on eps, over the whole range studied, above 0 with its whole 95 % interval; judged at each K. "
        "Where ICL is highest is reported apart."
    ),
    studies="noise",
    figure=curves("noise", x="eps", by="K", scores="icl iwl"),
)
def u2(rows: Evidence) -> Iterator[Finding]:
    """ICL against eps, at each K."""
    for classes, cells in grid(rows, "noise", "K eps", "icl").by("K"):
        yield cells.condition(slope("icl", "eps") > 0, "slope of ICL per unit of eps", f"K is {classes}")
        if cells.decidable:
            means, noise = cells.estimate(column("icl")), cells.numbers("eps")
            top = int(means.argmax())
            turn = "the highest noise studied" if noise[top] == noise.max() else "it falls beyond"
            yield f"K = {classes}: ICL is highest, {means[top]:.3f}, at eps = {noise[top]:g} ({turn})"


@claim(
    "U3",
    "Zipfian class frequencies with an exponent alpha near 1 give in-context and in-weight learning together.",
    paper="a curve",
    criterion=(
        "The smaller of ICL and IWL at the alpha nearest to 1, minus the same at the lowest alpha (0), and minus the "
        "same at the largest: both differences above 0 with their whole 95 % intervals."
    ),
    studies="zipf",
    figure=curves("zipf", x="alpha", scores="icl iwl"),
)
def u3(rows: Evidence) -> Iterator[Finding]:
    """The smaller of ICL and IWL at alpha near 1, against no skew and the largest."""
    cells = grid(rows, "zipf", "alpha", "icl iwl")
    alphas, both = cells.axis("alpha"), smaller("icl", "iwl")
    near = min(alphas, key=lambda alpha: abs(alpha - 1))
    for other in (min(alphas), max(alphas)):
        yield cells.condition(
            mean(both, alpha=near) - mean(both, alpha=other) > 0,
            f"min(ICL, IWL) at alpha = {near:g} minus at {other:g}",
            f"alpha near 1 is compared with alpha = {other:g}",
        )
    yield cells.comparison(mean(both, alpha=near), f"min(ICL, IWL) at alpha = {near:g}")
    yield from cells.peak(both, "alpha", "min(ICL, IWL)")


def _size(rows: Evidence) -> Figure:
    figure, axes = new_figure(2)
    cells = grid(rows, "decoder_size", "layers heads", "icl iwl")
    need(cells.values)
    for place, axis, others, title in (
        (axes[0], 0, {"heads": 1}, "one head"),
        (axes[1], 1, {"layers": 2}, "two layers"),
    ):
        mine, name = cells.where(**others), cells.axes[axis]
        for index, score in enumerate(("icl", "iwl")):
            found = panels.points(mine, score)
            if found:
                panels.curve(place, [p.key[axis] for p in found], found, score.upper(), index)
        panels.scale(place, name, mine.axis(name))
        accuracy_axis(place, xlabel=name, ylabel="accuracy")
        place.set_title(title, fontsize=8, loc="left")
        place.legend(frameon=False, fontsize=7)
    return figure


@claim(
    "U4",
    "At one data complexity deeper decoders lean to in-weight learning, and decoders with more heads do so more.",
    paper="a sweep over layers and heads",
    criterion=(
        "Slope of ICL - IWL on log2 layers (one head) below 0; on log2 heads (two layers) below 0; and the second "
        "slope below the first. Each with its whole 95 % interval."
    ),
    studies="decoder_size",
    figure=_size,
)
def u4(rows: Evidence) -> Iterator[Finding]:
    """ICL minus IWL against layers, against heads, and the two slopes compared."""
    cells = grid(rows, "decoder_size", "layers heads", "icl iwl")
    lean = column("icl") - column("iwl")
    by_depth, by_heads = slope(lean, "log2 layers", heads=1), slope(lean, "log2 heads", layers=2)
    yield cells.where(heads=1).condition(by_depth < 0, "slope of ICL - IWL on log2 layers", "layers are added")
    yield cells.where(layers=2).condition(by_heads < 0, "slope of ICL - IWL on log2 heads", "heads are added")
    yield cells.where(lambda cell: cell.heads == 1 or cell.layers == 2).condition(
        by_heads - by_depth < 0, "slope on log2 heads minus slope on log2 layers", "heads are compared with layers"
    )
