"""U6 and U7 taken apart: X10 (what makes attention diffuse) and X11 (what a longer context costs), by what two decoders
differ in."""

from __future__ import annotations

from typing import Any

import numpy as np

from miclab.claims.entries.controls_unimodal import GAP, HIDDEN, POSITIONS, WIDTH
from miclab.claims.entries.positions import BURSTS, CLASSES, CONTEXT, sharpness
from miclab.claims.evidence import Cells, Evidence, Statistic
from miclab.claims.statistics import contrast, weighted
from miclab.claims.verdict import Apart, Condition, Entry, Findings

Decoder = tuple[str, int]
"""Position code and width."""
PARTS: tuple[tuple[str, Decoder, Decoder], ...] = (
    ("rotation instead of one-hot positions, in a width of 128", ("rope", 128), ("onehot", 128)),
    ("rotation instead of a learnt code, in 64", ("rope", 64), ("learned", 64)),
    ("rotation instead of no code, in 64", ("rope", 64), ("none", 64)),
    ("no code instead of a learnt one, in 64", ("none", 64), ("learned", 64)),
    ("a width of 64 instead of 128 under rope", ("rope", 64), ("rope", 128)),
    ("the slip of the released rotary code, in 64", ("rope_released", 64), ("rope", 64)),
)
"""What could be to blame, the decoder that has it, and the one that has it not."""


def _lead(cells: Cells, quantity: str, plus: Decoder, minus: Decoder) -> Statistic:
    sign = np.array([float(key[:2] == plus) - float(key[:2] == minus) for key in cells.keys])
    return lambda means: weighted(means[quantity], sign)


def _judge(everything: Cells, quantity: str, told: str, rises: bool) -> tuple[Condition, ...]:
    """A condition for each part: that the quantity is higher (or lower) with it than without."""
    conditions = []
    for name, having, lacking in PARTS:
        plus, minus = (having, lacking) if rises else (lacking, having)
        cells = everything.where(lambda key, both=(having, lacking): key[:2] in both)
        conditions.append(
            contrast(cells, _lead(cells, quantity, plus, minus), f"{told}, {_name(plus)} minus {_name(minus)}",
                     clause=f"it is put down to {name}", low=GAP)
        )  # fmt: skip
    return tuple(conditions)


def _apart(everything: Cells, quantity: str, told: str) -> tuple[Apart, ...]:
    found = []
    for decoder in dict.fromkeys(key[:2] for key in everything.keys):
        cells = everything.where(lambda key, mine=decoder: key[:2] == mine)
        found.append(
            Apart(quantity=f"{told}, {_name(decoder)}", measured=cells.interval(lambda m: m[quantity].mean(-1)))
        )
    return tuple(found)


def _name(decoder: tuple[Any, ...]) -> str:
    return f"{decoder[0]} in {decoder[1]}"


def judge_x10(evidence: Evidence) -> Findings:
    """Entropy of the previous-token head's label rows between decoders that differ in one thing."""
    quantities = {
        "icl": "icl",
        **{name: (lambda row, name=name: sharpness(row)[name]) for name in ("query", "labels")},
    }
    cells = evidence.cells(
        ("position_width",), (POSITIONS, WIDTH, HIDDEN, CLASSES, BURSTS), quantities,
        where=lambda key: key[2:] == (0, 4096, 4),
    )  # fmt: skip
    return Findings(
        conditions=_judge(cells, "labels", "entropy of the previous-token head's label rows", rises=True),
        apart=(
            *_apart(cells, "labels", "entropy of the previous-token head's label rows"),
            *_apart(cells, "query", "entropy of the induction head's last row"),
            *_apart(cells, "icl", "ICL"),
        ),
    )


def judge_x11(evidence: Evidence) -> Findings:
    """ICL in a context of 16 between decoders that differ in one thing."""
    cells = evidence.cells(("context_codes",), (POSITIONS, WIDTH, CONTEXT), ("icl",))
    return Findings(
        conditions=_judge(cells, "icl", "ICL at N = 16", rises=False), apart=_apart(cells, "icl", "ICL at N = 16")
    )


_CANDIDATES = (
    "Six candidates: rotation (rope minus one-hot at width 128; rope minus learnt at 64; rope minus no code at 64), "
    "the lack of an absolute code (no code minus learnt, 64), width (rope 64 minus 128), the released slip (64)."
)
ENTRIES = (
    Entry(
        id="X10",
        statement="Rotary positions attend diffusely (U6) by this one difference of the decoders.",
        paper="none: its rotary decoder is half as wide, and its rotary code is not a rotation",
        criterion=(
            "At K = 4096, B = 4, equal steps: entropy (of 1) of the previous-token head's label rows, of two decoders "
            f"that differ in one thing: above 0.05 higher with its whole 95 % interval. {_CANDIDATES} The induction "
            "head's entropy and ICL are reported apart."
        ),
        studies=("position_width",),
        judge=judge_x10,
    ),
    Entry(
        id="X11",
        statement="Rotary positions lose in a context of 16 (U7) by this one difference of the decoders.",
        paper="none: its rotary decoder is half as wide, and its rotary code is not a rotation",
        criterion=(
            "ICL of decoders trained at N = 16 (K = 8192, B = 4) at equal steps, of two that differ in one thing: above"
            f" 0.05 lower with its whole 95 % interval. {_CANDIDATES}"
        ),
        studies=("context_codes",),
        judge=judge_x11,
    ),
)
