"""U6 and U7 by their parts: X10 (what makes attention diffuse) and X11 (what a longer context costs), by what two
decoders differ in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from miclab.claims.entries.controls_unimodal import GAP
from miclab.claims.entries.positions import SHARPNESS
from miclab.claims.evidence import Evidence, EvidenceCells, grid
from miclab.claims.registry import claim
from miclab.claims.verdict import Finding
from miclab.statistics.grid import accuracy, mean

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
"""Suspected causes: (name, decoder with the cause, decoder without it)."""
CANDIDATES = (
    "Six candidates: rotation (rope minus one-hot at width 128; rope minus learnt at 64; rope minus no code at 64), "
    "the lack of an absolute code (no code minus learnt, 64), width (rope 64 minus 128), the released slip (64)."
)


def _name(decoder: tuple[Any, ...]) -> str:
    return f"{decoder[0]} in {decoder[1]}"


def _causes(everything: EvidenceCells, quantity: str, words: str, *, rises: bool) -> Iterator[Finding]:
    """A condition for each suspected cause: that the quantity is higher (or lower) with it than without."""
    for name, having, lacking in PARTS:
        plus, minus = (having, lacking) if rises else (lacking, having)
        cells = everything.where(lambda cell, both=(having, lacking): cell.key[:2] in both)
        one, other = (mean(quantity, code=code, width=width) for code, width in (plus, minus))
        yield cells.condition(
            one - other > GAP,
            f"{words}, {_name(plus)} minus {_name(minus)}",
            f"it is put down to {name}",
            f"{_name(plus)} against {_name(minus)}",
        )


def _every_decoder(everything: EvidenceCells, quantity: str, words: str) -> Iterator[Finding]:
    for decoder, cells in everything.by("code width"):
        shown = accuracy(quantity) if quantity == "icl" else mean(quantity)
        yield cells.comparison(shown, f"{words}, {_name(decoder)}")


@claim(
    "X10",
    "Rotary positions attend diffusely (U6) by this one difference of the decoders.",
    paper="none: its rotary decoder is half as wide, and its rotary code is not a rotation",
    criterion=(
        "At K = 4096, B = 4, equal steps: entropy (of 1) of the previous-token head's label rows, of two decoders "
        f"that differ in one thing: above 0.05 higher with its whole 95 % interval. {CANDIDATES} The induction "
        "head's entropy and ICL are reported apart."
    ),
    studies="position_width",
)
def x10(rows: Evidence) -> Iterator[Finding]:
    """Entropy of the previous-token head's label rows between decoders that differ in one thing."""
    cells = grid(
        rows, "position_width", "code width hidden K B",
        {"icl": "icl", **{name: SHARPNESS[name] for name in ("query", "labels")}},
        where=lambda cell: (cell.hidden, cell.K, cell.B) == (0, 4096, 4),
    )  # fmt: skip
    labels = "entropy of the previous-token head's label rows"
    yield from _causes(cells, "labels", labels, rises=True)
    yield from _every_decoder(cells, "labels", labels)
    yield from _every_decoder(cells, "query", "entropy of the induction head's last row")
    yield from _every_decoder(cells, "icl", "ICL")


@claim(
    "X11",
    "Rotary positions lose in a context of 16 (U7) by this one difference of the decoders.",
    paper="none: its rotary decoder is half as wide, and its rotary code is not a rotation",
    criterion=(
        "ICL of decoders trained at N = 16 (K = 8192, B = 4) at equal steps, of two that differ in one thing: above"
        f" 0.05 lower with its whole 95 % interval. {CANDIDATES}"
    ),
    studies="context_codes",
)
def x11(rows: Evidence) -> Iterator[Finding]:
    """ICL in a context of 16 between decoders that differ in one thing."""
    cells = grid(rows, "context_codes", "code width N", "icl")
    yield from _causes(cells, "icl", "ICL at N = 16", rises=False)
    for _, having, lacking in PARTS:
        yield cells.leaves_first(
            lambda cell, mine=lacking: cell.key[:2] == mine,
            lambda cell, mine=having: cell.key[:2] == mine,
            f"share of seeds in which {_name(lacking)} leaves the plateau before {_name(having)}",
        )
    yield from _every_decoder(cells, "icl", "ICL at N = 16")
