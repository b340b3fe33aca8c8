"""X16: the predictions of docs/findings/position-constant.md, written before the runs, as one condition each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from miclab.claims.circuit import strongest
from miclab.claims.entries.position_constant import AXES, CONSTANT, KEYS, PLAIN, STUDY, decoder, decoders
from miclab.claims.evidence import Evidence, Quantity, grid
from miclab.claims.registry import claim
from miclab.claims.verdict import Finding
from miclab.statistics.grid import mean

MARGIN = 0.1
"""Of accuracy: what does nothing stays below it."""
WIDE = decoder(width=128)
SUFFICES = {
    "a bias of the keys": KEYS,
    "a constant on every token": CONSTANT,
    "a constant on items": decoder(constant=1.0, constant_on="items"),
}
DOES_NOTHING = {
    "a bias of the queries": decoder(bias="query"),
    "a constant with centred keys": decoder(constant=1.0, centre="all"),
    "a constant on labels": decoder(constant=1.0, constant_on="labels"),
    "a first token": decoder(first="learnt"),
    "a constant of norm 1, width 128": decoder(width=128, constant=1.0),
    "a constant of norm 4, width 128": decoder(width=128, constant=4.0),
}
BESIDE = {
    "noise on every token": decoder(token_noise=1.0),
    "a constant and noise": decoder(constant=1.0, token_noise=1.0),
    "a bias of the keys and jitter": decoder(bias="key", jitter=48),
}
DEEP = decoder(layers=3)


def second_layer(row: Mapping[str, Any]) -> float | None:
    """Attention of a label on its own item in layer 1, of the head that has most."""
    return strongest(row, "label_to_item.m1", layer=1)


@claim(
    "X16",
    "In two layers of width 64 rope lacks a constant in its keys, and a third layer makes up for it.",
    paper="none: it does not study what rotary codes lack",
    criterion=(
        "The predictions of 2026-11-26 at (4096, 2), step 1,500. ICL minus that of plain rope of equal width is above "
        "0 with a bias of the keys, a constant on every token, and one on items; it is below 0.1 with a bias of the "
        "queries, a constant with centred keys, one on labels, a first token, and a constant at width 128 (norms 1 "
        "and 4). In three layers PH of layer 1 is above 0.5, and below 0.5 with keys centred by position. Whole "
        "intervals. The predictions were written before the runs, this claim after them."
    ),
    studies=STUDY,
)
def x16(rows: Evidence) -> Iterator[Finding]:
    """ICL with parts of the constant minus ICL of plain rope; and the heads of three layers."""
    everything = grid(rows, STUDY, AXES, "icl").where(K=4096, B=2)
    gain = "ICL minus ICL of plain rope of equal width"
    for name, one in SUFFICES.items():
        cells = decoders(everything, one, PLAIN)
        yield cells.condition(mean("icl", **one) - mean("icl", **PLAIN) > 0, gain, f"rope has {name}")
    for name, one in DOES_NOTHING.items():
        plain = WIDE if one["width"] == WIDE["width"] else PLAIN
        cells = decoders(everything, one, plain)
        yield cells.condition(mean("icl", **one) - mean("icl", **plain) < MARGIN, gain, f"rope has {name}")
    quantities: Mapping[str, Quantity] = {"PH": second_layer}
    heads = grid(rows, STUDY, AXES, quantities).where(K=4096, B=2)
    quantity = "attention of a label on its own item, layer 1, three layers"
    yield decoders(heads, DEEP).condition(mean("PH") > 0.5, quantity, "rope has three layers")
    centred = {**DEEP, "centre": "position"}
    yield decoders(heads, centred).condition(mean("PH") < 0.5, quantity, "its keys are centred by position")
    for classes in (4096, 2048):
        here = grid(rows, STUDY, AXES, "icl").where(K=classes, B=2)
        for name, one in {"plain rope": PLAIN, **SUFFICES, **BESIDE, "three layers": DEEP}.items():
            yield decoders(here, one).comparison(mean("icl"), f"ICL at K = {classes}, {name}")
