"""The claims on position codes: U5 to U7, and L1 on contexts longer than trained."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from miclab.claims.circuit import sharpness
from miclab.claims.evidence import Evidence, EvidenceCells, Quantity, grid
from miclab.claims.paper import figure as paper
from miclab.claims.plots import panels
from miclab.claims.plots.figures import accuracy_axis, curves, need, new_figure
from miclab.claims.plots.panels import point, points
from miclab.claims.registry import claim
from miclab.claims.verdict import Finding
from miclab.statistics.grid import Expression, Predicate, average, mean, slope

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARP_CLASSES = (4096, 8192)
LONG_SHARE = 0.8
LENGTHS = (8, 16, 32)
SHARPNESS: Mapping[str, Quantity] = {
    name: (lambda row, name=name: sharpness(row)[name]) for name in ("query", "labels", "peak")
}
"""Entropies and peak of the circuit's heads; see `sharpness`."""


def complexity(classes: float, bursts: float) -> float:
    """Data complexity K sqrt(B) of the paper, rounded so that equal ones are equal."""
    return round(classes * math.sqrt(bursts), 6)


def two_codes(rows: Evidence, quantities: str | Mapping[str, Quantity]) -> EvidenceCells:
    """One-hot and `rope` where both are studied, at equal steps."""
    studies, axes = "complexity complexity_onehot", "code K B"
    keys = grid(rows, studies, axes, ()).keys
    both = {k[1:] for k in keys if k[0] == "rope"} & {k[1:] for k in keys if k[0] == "onehot"}
    return grid(rows, studies, axes, quantities, at="common", where=lambda cell: cell.key[1:] in both)


def at_level(level: float) -> Predicate:
    """Accepts the cells of one data complexity."""
    return lambda cell: complexity(cell.K, cell.B) == level


def gap(level: float) -> Expression:
    """Mean ICL of one-hot minus mean ICL of `rope` over the cells of one data complexity."""
    return mean("icl", at_level(level), code="onehot") - mean("icl", at_level(level), code="rope")


def _complexity(rows: Evidence) -> Figure:
    figure, axes = new_figure(2)
    cells = two_codes(rows, "icl")
    found = points(cells, "icl")
    need(found)
    for index, (code, label) in enumerate((("onehot", "APE (one-hot)"), ("rope", "rope"))):
        mine = [p for p in found if p.key[0] == code]
        if mine:
            panels.curve(axes[0], [complexity(*p.key[1:]) for p in mine], mine, label, index, line=False)
    levels = sorted({complexity(*key[1:]) for key in cells.keys})
    measured = {level: cells.where(at_level(level)).over_seeds(gap(level)) for level in levels}
    gaps = [point((level,), i, i.mean) for level, i in measured.items() if i]
    if gaps:
        panels.curve(axes[1], [p.key[0] for p in gaps], gaps, "APE minus rope", 2)
    axes[1].axhline(0.05, color="0.5", lw=0.8, ls=":")
    accuracy_axis(axes[0], ylabel=f"ICL at step {cells.step}")
    axes[1].set(ylabel="ICL(APE) - ICL(rope)")
    for place in axes:
        place.set_xscale("log", base=2)
        place.set_xticks(levels, [f"{level:.0f}" for level in levels], rotation=45, fontsize=6)
        place.set_xlabel("K sqrt(B)")
    if axes[0].lines:
        axes[0].legend(frameon=False, fontsize=7)
    return figure


@claim(
    "U5",
    "RoPE needs more data complexity, K sqrt(B), than one-hot positions (APE) for the same in-context learning.",
    paper="RoPE 10 to 20 points lower at K = 4096, B = 4; the gap closes at high complexity",
    criterion=(
        "At equal steps, ICL(APE) - ICL(rope) above 0.05 with its whole 95 % interval, judged at each value of "
        "K sqrt(B); and the gap at the highest K sqrt(B) minus the mean gap at all others below 0."
    ),
    studies=("complexity", "complexity_onehot"),
    figure=_complexity,
)
def u5(rows: Evidence) -> Iterator[Finding]:
    """ICL of one-hot minus ICL of `rope`, by data complexity."""
    everything = two_codes(rows, "icl")
    levels = sorted({complexity(*key[1:]) for key in everything.keys})
    for level in levels:
        yield everything.where(at_level(level)).condition(
            gap(level) > 0.05, "ICL(APE) - ICL(rope)", f"K sqrt(B) is {level:.0f}"
        )
    yield everything.condition(
        gap(levels[-1]) - average([gap(level) for level in levels[:-1]]) < 0,
        "gap at the highest K sqrt(B) minus the mean gap at the others",
        "one asks whether the gap closes at high complexity",
        "the closing of the gap is judged",
    )
    yield everything.where(K=4096, B=4).comparison(
        gap(complexity(4096, 4)),
        "ICL(APE) - ICL(rope) at K = 4096, B = 4",
        paper("U5", "gap at K = 4096, B = 4"),
    )
    yield everything.leaves_first(
        lambda cell: cell.code == "onehot",
        lambda cell: cell.code == "rope",
        "share of seeds in which APE leaves the plateau before rope, steps averaged over all K and B",
    )
    if everything.used:
        yield f"compared at step {everything.step}"


def _sharp(rows: Evidence) -> EvidenceCells:
    return two_codes(rows, SHARPNESS).where(lambda cell: cell.K in SHARP_CLASSES and cell.B == 4)


def _sharpness(rows: Evidence) -> Figure:
    figure, axes = new_figure(2, 3.8)
    cells = _sharp(rows)
    need(cells.values)
    titles = {"query": "entropy, induction head's last row", "labels": "entropy, previous-token head's label rows"}
    for place, (name, title) in zip(axes, titles.items(), strict=True):
        found = {f"{'APE' if p.key[0] == 'onehot' else p.key[0]}, K = {p.key[1]}": p for p in points(cells, name)}
        panels.bars(place, found, {}, title)
        place.set_xlim(0, 1.02)
    return figure


@claim(
    "U6",
    "APE has sharp previous-token and induction patterns; RoPE attends to the same peak, diffusely.",
    paper="attention maps, judged by eye",
    criterion=(
        "At K = 4096 and 8192, B = 4, equal steps, rope minus APE: entropy of the induction head's last row above 0, "
        "and entropy of the previous-token head's label rows above 0. Same peak: in each code the induction head's "
        "last row gives a right label more attention than a wrong label and than a matching item. Each with its whole "
        "95 % interval. Induction head: highest summed induction strength. Previous-token head: in the layers before "
        "it, the one whose labels look most at their items."
    ),
    studies=("complexity", "complexity_onehot"),
    figure=_sharpness,
)
def u6(rows: Evidence) -> Iterator[Finding]:
    """Entropy and peak of the circuit's heads, `rope` against one-hot."""
    cells = _sharp(rows)
    for name, head, row in (
        ("query", "induction head", "last row"),
        ("labels", "previous-token head", "label rows"),
    ):
        yield cells.condition(
            mean(name, code="rope") - mean(name, code="onehot") > 0,
            f"entropy of the {head}'s {row}, rope minus APE",
            f"the {head} is looked at",
        )
    right = "attention on a right label minus on a wrong label or on a matching item, whichever is more"
    for code, name in (("rope", "rope"), ("onehot", "APE")):
        yield cells.condition(mean("peak", code=code) > 0, right, f"the peak of {name}'s induction head is looked at")


def _lengths(rows: Evidence, codes: tuple[Any, ...]) -> EvidenceCells:
    """ICL over N at the largest step that all runs of some codes have."""
    return grid(rows, "context", "code N", "icl", at="common", where=lambda cell: cell.code in codes)


@claim(
    "U7",
    "In-context learning falls as the context N grows, for every position code; RoPE and ALiBi cluster, below APE.",
    paper="curves over N",
    criterion=(
        "For each code the slope of ICL on log2 N below 0, at the largest step that all its runs reached; and for "
        "each other code mean ICL over N minus APE's below 0, at the largest step that both reached. Each with its "
        "whole 95 % interval."
    ),
    studies="context",
    figure=curves("context", x="N", by="code", at="common"),
)
def u7(rows: Evidence) -> Iterator[Finding]:
    """ICL against log2 N for each position code, and the codes compared."""
    codes = tuple(dict.fromkeys(grid(rows, "context", "code N", ()).axis("code")))
    for code in codes:
        yield _lengths(rows, (code,)).condition(
            slope("icl", "log2 N") < 0, "slope of ICL per doubling of N", f"the code is {code}"
        )
    for code in codes:
        if code == "onehot":
            continue
        cells = _lengths(rows, (code, "onehot"))
        yield cells.condition(
            mean("icl", code=code) - mean("icl", code="onehot") < 0,
            f"mean ICL over N, {code} minus APE, at step {cells.step}",
            f"{code} is compared with APE",
        )
    cells = _lengths(rows, ("rope", "alibi"))
    yield cells.comparison(
        mean("icl", code="rope") - mean("icl", code="alibi"),
        f"mean ICL over N, rope minus alibi (they cluster), at step {cells.step}",
    )


def _column(length: int) -> str:
    return f"probe.context.{length}"


def _longer(rows: Evidence) -> Figure:
    figure, (place,) = new_figure(1, 4.6)
    cells = grid(rows, "longer_context", "code", [_column(n) for n in LENGTHS])
    need(cells.values)
    there = [(code, mine) for code, mine in cells.by("code") if mine.values]
    for index, (code, mine) in enumerate(there):
        panels.curve(place, LENGTHS, [points(mine, _column(n))[0] for n in LENGTHS], str(code), index)
    panels.scale(place, "N", LENGTHS)
    accuracy_axis(place, xlabel="N, examples in the context (trained at 8)", ylabel="ICL")
    place.legend(frameon=False, fontsize=7)
    return figure


@claim(
    "L1",
    "In-context learning trained at N = 8 carries over to longer contexts.",
    paper="none: a question of ours, by position code",
    criterion=(
        "ICL at N = 16, and at N = 32, over ICL at N = 8 of the same decoder, above 0.8 with its whole 95 % interval; "
        "judged for each position code and length."
    ),
    studies="longer_context",
    figure=_longer,
)
def l1(rows: Evidence) -> Iterator[Finding]:
    """ICL at twice and four times the trained context, as a share of ICL at the trained one."""
    for code, cells in grid(rows, "longer_context", "code", [_column(n) for n in LENGTHS]).by("code"):
        for length in LENGTHS[1:]:
            yield cells.condition(
                mean(_column(length)) / mean(_column(8)) > LONG_SHARE,
                f"ICL at N = {length} over ICL at N = 8",
                f"{code} reads N = {length}",
            )
