"""The claims on position codes: U5 to U7, and L1 on contexts longer than trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from miclab.claims.evidence import Cells, Evidence, Statistic
from miclab.claims.statistics import contrast, heads, slope, weighted
from miclab.claims.verdict import Apart, Entry, Findings

CLASSES, BURSTS = "modalities.m1.classes", "sequence.burstiness"
POSITIONS, CONTEXT = "decoder.positions", "sequence.context"
SHARP_CLASSES = (4096, 8192)
LONG_SHARE = 0.8


def complexity(classes: float, bursts: float) -> float:
    """Data complexity K sqrt(B) of the paper."""
    return classes * math.sqrt(bursts)


def two_codes(evidence: Evidence, quantities: Any) -> Cells:
    """One-hot and `rope` where both are studied, at equal steps."""
    studies = ("complexity", "complexity_onehot")
    keys = evidence.cells(studies, (POSITIONS, CLASSES, BURSTS), ("icl",)).keys
    both = {k[1:] for k in keys if k[0] == "rope"} & {k[1:] for k in keys if k[0] == "onehot"}
    return evidence.cells(studies, (POSITIONS, CLASSES, BURSTS), quantities, at="common", where=lambda k: k[1:] in both)


def gap_of(cells: Cells, chosen: set[float]) -> Statistic:
    """Mean ICL of one-hot minus mean ICL of `rope` over the cells of some data complexities."""
    sign = np.zeros(len(cells.keys))
    for code, factor in (("onehot", 1.0), ("rope", -1.0)):
        mine = [k[0] == code and round(complexity(*k[1:]), 6) in chosen for k in cells.keys]
        sign[mine] = factor / max(sum(mine), 1)
    return lambda means: weighted(means["icl"], sign)


def judge_u5(evidence: Evidence) -> Findings:
    """ICL of one-hot minus ICL of `rope`, by data complexity."""
    everything = two_codes(evidence, ("icl",))
    levels = sorted({round(complexity(*key[1:]), 6) for key in everything.keys})

    conditions = []
    for level in levels:
        cells = everything.where(lambda key, level=level: round(complexity(*key[1:]), 6) == level)
        conditions.append(
            contrast(
                cells, gap_of(cells, {level}), "ICL(APE) - ICL(rope)", clause=f"K sqrt(B) is {level:.0f}", low=0.05
            )
        )
    top, rest = gap_of(everything, {levels[-1]}), [gap_of(everything, {level}) for level in levels[:-1]]
    conditions.append(
        contrast(
            everything, lambda m: top(m) - np.mean([g(m) for g in rest], axis=0),
            "gap at the highest K sqrt(B) minus the mean gap at the others",
            clause="one asks whether the gap closes at high complexity", high=0.0,
        )
    )  # fmt: skip
    here = everything.where(lambda key: key[1:] == (4096, 4))
    apart = (
        Apart(
            quantity="ICL(APE) - ICL(rope) at K = 4096, B = 4",
            measured=here.interval(gap_of(here, {8192.0})),
            paper=(0.1, 0.2),
        ),
    )
    return Findings(
        conditions=tuple(conditions),
        apart=apart,
        notes=(f"compared at step {everything.step}",) if everything.used else (),
    )


def sharpness(row: Mapping[str, Any]) -> dict[str, float]:
    """Entropies of the circuit's two heads and the peak of the induction head, from one row's measures."""
    (layer, head), (before, other) = heads(row)

    def of(name: str, place: tuple[int, int]) -> float:
        return row[f"measure.{name}.{place[0]}.{place[1]}"]

    induction, previous = (layer, head), (before, other)
    right = of("target_label_attention", induction)
    wrong = right - of("induction", induction)
    return {
        "query": of("entropy", induction),
        "labels": of("label_row_entropy", previous),
        "peak": right - max(wrong, of("target_item_attention.m1", induction)),
    }


def sharpness_cells(evidence: Evidence) -> Cells:
    """Entropies and peak of the circuit's heads, by position code and K, at B = 4."""
    quantities = {name: (lambda row, name=name: sharpness(row)[name]) for name in ("query", "labels", "peak")}
    return two_codes(evidence, quantities).where(lambda key: key[1] in SHARP_CLASSES and key[2] == 4)


def judge_u6(evidence: Evidence) -> Findings:
    """Entropy and peak of the circuit's heads, `rope` against one-hot."""
    cells = sharpness_cells(evidence)
    rope = np.array([key[0] == "rope" for key in cells.keys])

    def difference(name: str):
        return lambda m: m[name][..., rope].mean(-1) - m[name][..., ~rope].mean(-1)

    def peak(mine: np.ndarray):
        return lambda m: m["peak"][..., mine].mean(-1)

    right = "attention on a right label minus on a wrong label or on a matching item, whichever is more"
    return Findings(
        conditions=(
            contrast(cells, difference("query"), "entropy of the induction head's last row, rope minus APE",
                     clause="the induction head is looked at", low=0.0),
            contrast(cells, difference("labels"), "entropy of the previous-token head's label rows, rope minus APE",
                     clause="the previous-token head is looked at", low=0.0),
            contrast(cells, peak(rope), right, clause="the peak of rope's induction head is looked at", low=0.0),
            contrast(cells, peak(~rope), right, clause="the peak of APE's induction head is looked at", low=0.0),
        )
    )  # fmt: skip


def judge_u7(evidence: Evidence) -> Findings:
    """ICL against log2 N for each position code, and the codes compared."""
    codes = dict.fromkeys(key[0] for key in evidence.cells(("context",), (POSITIONS, CONTEXT), ("icl",)).keys)
    conditions, apart = [], []
    for code in codes:
        cells = evidence.cells(
            ("context",), (POSITIONS, CONTEXT), ("icl",), at="common", where=lambda k, c=code: k[0] == c
        )
        length = {"log2 N": np.log2(cells.column(1))}
        conditions.append(slope(cells, "icl", "log2 N", length, rises=False, clause=f"the code is {code}"))
    for code in codes:
        if code == "onehot":
            continue
        cells = evidence.cells(
            ("context",), (POSITIONS, CONTEXT), ("icl",), at="common", where=lambda k, c=code: k[0] in (c, "onehot")
        )
        mine = np.array([key[0] == code for key in cells.keys])
        conditions.append(
            contrast(cells, lambda m, mine=mine: m["icl"][..., mine].mean(-1) - m["icl"][..., ~mine].mean(-1),
                     f"mean ICL over N, {code} minus APE, at step {cells.step}",
                     clause=f"{code} is compared with APE", high=0.0)
        )  # fmt: skip
    cells = evidence.cells(
        ("context",), (POSITIONS, CONTEXT), ("icl",), at="common", where=lambda k: k[0] in ("rope", "alibi")
    )
    mine = np.array([key[0] == "rope" for key in cells.keys])
    apart.append(
        Apart(quantity=f"mean ICL over N, rope minus alibi (they cluster), at step {cells.step}",
              measured=cells.interval(lambda m: m["icl"][..., mine].mean(-1) - m["icl"][..., ~mine].mean(-1)))
    )  # fmt: skip
    return Findings(conditions=tuple(conditions), apart=tuple(apart))


def judge_l1(evidence: Evidence) -> Findings:
    """ICL at twice and four times the trained context, as a share of ICL at the trained one."""
    names = {n: f"probe.context.{n}" for n in (8, 16, 32)}
    everything = evidence.cells(("longer_context",), (POSITIONS,), list(names.values()))
    conditions = []
    for (code,) in everything.keys:
        cells = everything.where(lambda key, code=code: key[0] == code)
        for length in (16, 32):
            conditions.append(
                contrast(cells, lambda m, n=length: m[names[n]][..., 0] / m[names[8]][..., 0],
                         f"ICL at N = {length} over ICL at N = 8", clause=f"{code} reads N = {length}", low=LONG_SHARE)
            )  # fmt: skip
    return Findings(conditions=tuple(conditions))


ENTRIES = (
    Entry(
        id="U5",
        statement=(
            "RoPE needs more data complexity, K sqrt(B), than one-hot positions (APE) for the same in-context learning."
        ),
        paper="RoPE 10 to 20 points lower at K = 4096, B = 4; the gap closes at high complexity",
        criterion=(
            "At equal steps, ICL(APE) - ICL(rope) above 0.05 with its whole 95 % interval, judged at each value of "
            "K sqrt(B); and the gap at the highest K sqrt(B) minus the mean gap at all others below 0."
        ),
        studies=("complexity", "complexity_onehot"),
        judge=judge_u5,
    ),
    Entry(
        id="U6",
        statement="APE has sharp previous-token and induction patterns; RoPE attends to the same peak, diffusely.",
        paper="attention maps, judged by eye",
        criterion=(
            "At K = 4096 and 8192, B = 4, equal steps, rope minus APE: entropy of the induction head's last row "
            "above 0, and entropy of the previous-token head's label rows above 0. Same peak: in each code the "
            "induction head's last row gives a right label more attention than a wrong label and than a matching "
            "item. Each with its whole 95 % interval. Induction head: highest summed induction strength. Previous-"
            "token head: in the layers before it, the one whose labels look most at their items."
        ),
        studies=("complexity", "complexity_onehot"),
        judge=judge_u6,
    ),
    Entry(
        id="U7",
        statement=(
            "In-context learning falls as the context N grows, for every position code; RoPE and ALiBi cluster, "
            "below APE."
        ),
        paper="curves over N",
        criterion=(
            "For each code the slope of ICL on log2 N below 0, at the largest step that all its runs reached; and "
            "for each other code mean ICL over N minus APE's below 0, at the largest step that both reached. Each "
            "with its whole 95 % interval."
        ),
        studies=("context",),
        judge=judge_u7,
    ),
    Entry(
        id="L1",
        statement="In-context learning trained at N = 8 carries over to longer contexts.",
        paper="none: a question of ours, by position code",
        criterion=(
            "ICL at N = 16, and at N = 32, over ICL at N = 8 of the same decoder, above 0.8 with its whole 95 % "
            "interval; judged for each position code and length."
        ),
        studies=("longer_context",),
        judge=judge_l1,
    ),
)
