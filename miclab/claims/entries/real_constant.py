"""Real items with and without the mean that centring removes: X21 to X23, with the criteria of
docs/findings/real-constant.md. Intervals are Student's t over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from miclab.claims.circuit import strongest
from miclab.claims.evidence import Evidence, EvidenceCells, Quantity, grid
from miclab.claims.registry import claim
from miclab.claims.verdict import Finding
from miclab.statistics.grid import Expression, mean

STUDY, BESIDE = "real_constant", "words_pictures"
AXES = "source1 code centre1 constant centre width"
PAPER = "none: it does not study what centring of items removes"
SPEECH: Mapping[str, Any] = {
    "source1": "uncentred:concepts.speech", "code": "rope", "centre1": "off", "constant": 0.0, "centre": "off",
    "width": 64,
}  # fmt: skip
"""Rope on spoken words that keep their mean: what the other decoders of one modality differ from."""
CENTRED = {**SPEECH, "centre1": "training"}
KEYS_CENTRED = {**SPEECH, "centre": "all"}
WORDS = {**SPEECH, "source1": "concepts.words"}
WITH_CONSTANT = {**WORDS, "constant": 1.0}
LEARNT, LEARNT_CENTRED, LEARNT_WORDS = ({**one, "code": "learned"} for one in (SPEECH, CENTRED, WORDS))
DECODERS = {
    "spoken words, rope": SPEECH,
    "spoken words centred, rope": CENTRED,
    "spoken words, rope with centred keys": KEYS_CENTRED,
    "spoken words, learnt positions": LEARNT,
    "spoken words centred, learnt positions": LEARNT_CENTRED,
    "words as shipped, rope": WORDS,
    "words with a constant on items, rope": WITH_CONSTANT,
    "words as shipped, learnt positions": LEARNT_WORDS,
}
MARGIN = 0.1
"""Of accuracy: what does nothing stays below it."""
FEW = 32
"""Classes of pictures in X23."""


def previous_token(row: Mapping[str, Any]) -> float | None:
    """Attention of a label on its own item in layer 0, of the head that has most."""
    return strongest(row, "label_to_item.m1", layer=0)


def _cells(rows: Evidence, quantities: str | Mapping[str, Quantity], *decoders: Mapping[str, Any]) -> EvidenceCells:
    """The cells of some decoders."""
    return grid(rows, STUDY, AXES, quantities).where(
        lambda cell: any(all(vars(cell)[k] == v for k, v in one.items()) for one in decoders)
    )


def gain(one: Mapping[str, Any], other: Mapping[str, Any]) -> Expression:
    """ICL of a decoder minus that of another."""
    return mean("icl", **one) - mean("icl", **other)


@claim(
    "X21",
    "With the common direction that centring removes, rope reads real items better.",
    paper=PAPER,
    criterion=(
        "951 classes, step 1,000, rope in two layers of width 64, ICL on held-out concepts: with spoken words that "
        "keep their mean minus with the mean removed from items, and minus with the mean removed from keys alone; and "
        "with word vectors and a constant of norm 1 on items minus with word vectors as shipped. Each above 0, whole "
        "interval."
    ),
    studies=STUDY,
)
def x21(rows: Evidence) -> Iterator[Finding]:
    """What rope gains by a common direction of real items."""
    pairs = {
        "the mean is removed from spoken words": (SPEECH, CENTRED),
        "the mean of spoken words is removed from keys": (SPEECH, KEYS_CENTRED),
        "a constant is added to word vectors": (WITH_CONSTANT, WORDS),
    }
    for place, (one, other) in pairs.items():
        quantity = "ICL with the common direction minus without"
        yield _cells(rows, "icl", one, other).condition(gain(one, other) > 0, quantity, place)
    heads: Mapping[str, Quantity] = {"PH": previous_token}
    for name, one in DECODERS.items():
        yield _cells(rows, "icl", one).comparison(mean("icl"), f"ICL, {name}")
    for name, one in DECODERS.items():
        quantity = f"attention of a label on its own item, layer 0, {name}"
        yield _cells(rows, heads, one).comparison(mean("PH"), quantity)


@claim(
    "X22",
    "It is rope that needs the common direction of real items: learnt positions do not.",
    paper=PAPER,
    criterion=(
        "951 classes of spoken words, step 1,000, width 64, ICL on held-out concepts with the mean minus with the mean "
        "removed from items: with learnt positions below 0.1; with rope minus with learnt positions above 0. Each with "
        "its whole interval."
    ),
    studies=STUDY,
)
def x22(rows: Evidence) -> Iterator[Finding]:
    """What learnt positions gain by the mean of real items, and what rope gains more."""
    cells = _cells(rows, "icl", SPEECH, CENTRED, LEARNT, LEARNT_CENTRED)
    learnt, rope = gain(LEARNT, LEARNT_CENTRED), gain(SPEECH, CENTRED)
    quantity = "ICL with the mean of spoken words minus without"
    yield cells.condition(learnt < MARGIN, f"{quantity}, learnt positions", "learnt positions are looked at")
    yield cells.condition(rope - learnt > 0, f"{quantity}, rope minus learnt positions", "the codes are compared")
    everything = _cells(rows, "icl", *DECODERS.values())
    for name, lead in {
        "spoken words": gain(LEARNT, SPEECH),
        "spoken words centred": gain(LEARNT_CENTRED, CENTRED),
        "words as shipped": gain(LEARNT_WORDS, WORDS),
        "words, rope with the constant on items": gain(LEARNT_WORDS, WITH_CONSTANT),
    }.items():
        yield everything.comparison(lead, f"ICL of learnt positions minus that of rope, {name}")


@claim(
    "X23",
    "A lost constant is not why 32 classes of pictures do not suffice after words (D1).",
    paper=PAPER,
    criterion=(
        "Words, then 32 classes of pictures, as in D1 (2,000 and 1,000 steps): ICL on held-out concepts with a "
        "constant of norm 1 on items, in both stages, minus ICL without is below 0.1, whole interval."
    ),
    studies=(STUDY, BESIDE),
)
def x23(rows: Evidence) -> Iterator[Finding]:
    """D1 with 32 classes with and without a constant on items."""
    axes = f"{AXES} K2 stage1_steps encoder_step2 pairing"
    quantities: Mapping[str, Quantity] = {"icl": "icl", "iwl": "iwl", "PH": previous_token}
    cells = grid(rows, (STUDY, BESIDE), axes, quantities).where(
        lambda cell: cell.K2 == FEW and cell.stage1_steps and cell.encoder_step2 and cell.pairing == "label"
    )
    difference = mean("icl", constant=1.0) - mean("icl", constant=0.0)
    yield cells.condition(
        difference < MARGIN, "ICL with a constant on items minus without, 32 classes", "a constant is to help D1"
    )
    for name, constant in (("as shipped", 0.0), ("with the constant", 1.0)):
        for quantity, words in (
            ("icl", "ICL"),
            ("iwl", "IWL"),
            ("PH", "attention of a label on its own word, layer 0"),
        ):
            yield cells.where(constant=constant).comparison(mean(quantity), f"{words}, {name}")
