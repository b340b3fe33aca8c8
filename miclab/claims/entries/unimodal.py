"""The claims on one modality's data and decoder size: U1 to U4."""

from __future__ import annotations

import numpy as np

from miclab.claims.evidence import Cells, Evidence, Means
from miclab.claims.statistics import best, contrast, slope, weighted
from miclab.claims.verdict import Apart, Entry, Findings

CLASSES, BURSTS = "modalities.m1.classes", "sequence.burstiness"
NOISE, ZIPF = "modalities.m1.noise", "modalities.m1.zipf_exponent"
LAYERS, HEADS = "decoder.layers", "decoder.heads"


def judge_u1(evidence: Evidence) -> Findings:
    """ICL and IWL against log2 K and log2 B."""
    cells = evidence.cells(("complexity",), (CLASSES, BURSTS), ("icl", "iwl"), at="common")
    axes = {"log2 K": np.log2(cells.column(0)), "log2 B": np.log2(cells.column(1))}
    conditions = [
        slope(cells, score, axis, axes, rises=score == "icl", clause=f"{score.upper()} is judged along {axis[-1]}")
        for score in ("icl", "iwl")
        for axis in axes
    ]
    spread = None
    if cells.decidable:
        spread = max(
            float(np.std([cells.values[key][seed]["icl"].mean() for seed in cells.seeds], ddof=1)) for key in cells.keys
        )
    notes = (
        ()
        if spread is None
        else (f"largest standard deviation of ICL over seeds in a cell: {spread:.3f}; the paper says below 0.03",)
    )
    return Findings(conditions=tuple(conditions), notes=notes)


def judge_u2(evidence: Evidence) -> Findings:
    """ICL against eps, at each K."""
    everything = evidence.cells(("noise",), (CLASSES, NOISE), ("icl",))
    conditions, notes = [], []
    for classes in sorted({key[0] for key in everything.keys}):
        cells = everything.where(lambda key, classes=classes: key[0] == classes)
        noise = cells.column(1)
        conditions.append(slope(cells, "icl", "eps", {"eps": noise}, rises=True, clause=f"K is {classes}"))
        if cells.decidable:
            means = cells.draws[0]["icl"]
            top = int(means.argmax())
            turn = "the highest noise studied" if noise[top] == noise.max() else "it falls beyond"
            notes.append(f"K = {classes}: ICL is highest, {means[top]:.3f}, at eps = {noise[top]:g} ({turn})")
    return Findings(conditions=tuple(conditions), notes=tuple(notes))


def judge_u3(evidence: Evidence) -> Findings:
    """The smaller of ICL and IWL at alpha near 1, against no skew and the largest."""
    cells = evidence.cells(("zipf",), (ZIPF,), ("icl", "iwl"))
    alpha = cells.column(0)
    near = int(np.abs(alpha - 1).argmin())

    def both(means: Means) -> np.ndarray:
        return np.minimum(means["icl"], means["iwl"])

    def against(other: int):
        return lambda means: both(means)[..., near] - both(means)[..., other]

    conditions = tuple(
        contrast(cells, against(other), f"min(ICL, IWL) at alpha = {alpha[near]:g} minus at {alpha[other]:g}",
                 clause=f"alpha near 1 is compared with alpha = {alpha[other]:g}", low=0.0)
        for other in (int(alpha.argmin()), int(alpha.argmax()))
    )  # fmt: skip
    apart = (
        Apart(
            quantity=f"min(ICL, IWL) at alpha = {alpha[near]:g}", measured=cells.interval(lambda m: both(m)[..., near])
        ),
    )
    return Findings(conditions=conditions, apart=apart, notes=best(cells, both, alpha, "min(ICL, IWL)", "alpha"))


def judge_u4(evidence: Evidence) -> Findings:
    """ICL minus IWL against layers, against heads, and the two slopes compared."""
    everything = evidence.cells(("decoder_size",), (LAYERS, HEADS), ("icl", "iwl"))
    deeper = everything.where(lambda key: key[1] == 1)
    headed = everything.where(lambda key: key[0] == 2)
    all_cells = everything.where(lambda key: key[1] == 1 or key[0] == 2)

    def lean(means: Means) -> np.ndarray:
        return means["icl"] - means["iwl"]

    def fitted(axis: int, keep: np.ndarray, cells: Cells):
        x = np.log2(cells.column(axis))[keep]
        weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
        return lambda means: weighted(lean(means)[..., keep], weights)

    every = {}
    for axis, cells in ((0, deeper), (1, headed)):
        every[axis] = fitted(axis, np.ones(len(cells.keys), bool), cells)
    one_head, two_layers = all_cells.column(1) == 1, all_cells.column(0) == 2
    by_depth, by_heads = fitted(0, one_head, all_cells), fitted(1, two_layers, all_cells)
    return Findings(
        conditions=(
            contrast(deeper, every[0], "slope of ICL - IWL on log2 layers", clause="layers are added", high=0.0),
            contrast(headed, every[1], "slope of ICL - IWL on log2 heads", clause="heads are added", high=0.0),
            contrast(
                all_cells, lambda m: by_heads(m) - by_depth(m), "slope on log2 heads minus slope on log2 layers",
                clause="heads are compared with layers", high=0.0,
            ),
        )
    )  # fmt: skip


ENTRIES = (
    Entry(
        id="U1",
        statement=(
            "One modality: in-context learning rises with the number of classes K and with the burstiness B; in-"
            "weight learning falls."
        ),
        paper="a heatmap over K and B, standard deviation below 0.03",
        criterion=(
            "Least-squares slopes of ICL, and of IWL, on log2 K and log2 B together, over all cells: ICL's two "
            "slopes above 0, IWL's two below 0, each with its whole 95 % interval."
        ),
        studies=("complexity",),
        judge=judge_u1,
    ),
    Entry(
        id="U2",
        statement="More noise within classes raises in-context learning.",
        paper="a curve that rises",
        criterion=(
            "Slope of ICL on eps, over the whole range studied, above 0 with its whole 95 % interval; judged at "
            "each K. Where ICL is highest is reported apart."
        ),
        studies=("noise",),
        judge=judge_u2,
    ),
    Entry(
        id="U3",
        statement=(
            "Zipfian class frequencies with an exponent alpha near 1 give in-context and in-weight learning together."
        ),
        paper="a curve",
        criterion=(
            "The smaller of ICL and IWL at the alpha nearest to 1, minus the same at the lowest alpha (0), and "
            "minus the same at the largest: both differences above 0 with their whole 95 % intervals."
        ),
        studies=("zipf",),
        judge=judge_u3,
    ),
    Entry(
        id="U4",
        statement=(
            "At one data complexity deeper decoders lean to in-weight learning, and decoders with more heads do so "
            "more."
        ),
        paper="a sweep over layers and heads",
        criterion=(
            "Slope of ICL - IWL on log2 layers (one head) below 0; on log2 heads (two layers) below 0; and the "
            "second slope below the first. Each with its whole 95 % interval."
        ),
        studies=("decoder_size",),
        judge=judge_u4,
    ),
)
