"""What depth does to the circuit: Z1 to Z3, with the criteria of docs/findings/depth.md, committed before any run.

Decoders are compared at equal in-context learning: at the first checkpoint whose ICL is at least 0.95. Runs that never
reach it are left out of the conditions, and a note counts and names them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from miclab.claims.evidence import Evidence, EvidenceCells, OverTraining, Quantity, column_values, grid, steps_to
from miclab.claims.registry import claim
from miclab.claims.verdict import Finding
from miclab.statistics.grid import column, mean

STUDY, TWO_STAGES = "depth", "depth_multimodal"
LEVEL = 0.95
SHALLOW = 2
AXES = "code layers"
WORDS = {"rope": "rope", "learned": "learnt positions"}
SHARES = {
    f"probe.circuit.{part} through {heads} heads": (part, heads)
    for part in ("logits", "accuracy")
    for heads in (1, 2, 3)
}
TWO = "probe.circuit.logits through 2 heads"
FAITHFUL = "probe.circuit.faithfulness of accuracy"
UNTOUCHED, TOP, RANDOM = (f"probe.cuts.{name}" for name in ("untouched", "top 1", "random 1"))
LAYER = {name: f"probe.joining.layer of {name}" for name in ("m1", "m2")}
"""Columns of the first checkpoint with ICL of 0.95."""


def share(name: str) -> Quantity:
    """A share by its column; 0 for paths of more heads than the decoder has layers."""

    def of(row: Mapping[str, Any]) -> Any:
        found = column_values(row, name)
        return 0.0 if found is None and row.get(TWO) is not None else found

    return of


def _highest(rows: Sequence[Mapping[str, Any]]) -> float:
    return max(row["icl"] for row in rows)


def at_level(
    rows: Evidence, study: str, quantities: Sequence[str] | Mapping[str, Quantity]
) -> tuple[EvidenceCells, list[str]]:
    """Cells without the runs that never reach the level, and a note for each cell that has such runs."""
    cells = grid(rows, study, AXES, quantities)
    trained = grid(rows, study, AXES, {"icl": OverTraining(_highest)})
    planned, notes = dict(cells.planned), []
    for cell in trained.cells:
        found = {seed: float(one["icl"].mean()) for seed, one in trained.values.get(cell.key, {}).items()}
        short = {seed: icl for seed, icl in found.items() if icl < LEVEL}
        planned[cell.key] = {seed: name for seed, name in planned[cell.key].items() if seed not in short}
        if short:
            named = ", ".join(f"seed {seed} (highest {icl:.3f})" for seed, icl in sorted(short.items()))
            notes.append(
                f"{len(short)} of {len(found)} runs of {cell.layers} layers with {WORDS[cell.code]} never reach an ICL"
                f" of {LEVEL} and are left out: {named}."
            )
    values = {key: {s: one for s, one in by.items() if s in planned[key]} for key, by in cells.values.items()}
    return replace(cells, planned=planned, values=values), notes


def codes(cells: EvidenceCells) -> Iterator[tuple[str, EvidenceCells]]:
    """Each position code in words, with its cells."""
    for code, here in cells.by("code"):
        yield WORDS[code], here


def steps(rows: Evidence, study: str) -> Iterator[Finding]:
    """Steps to the level by depth, for comparison."""
    quantities: Mapping[str, Quantity] = {"steps": steps_to("icl", LEVEL, censored="last")}
    for words, here in codes(grid(rows, study, AXES, quantities)):
        for layers, cells in here.by("layers"):
            yield cells.comparison(
                mean("steps"),
                f"steps to an ICL of {LEVEL}, {layers} layers, {words} (the last where it is not reached)",
            )


@claim(
    "Z1",
    "The circuit stays two attention layers deep in deeper decoders.",
    paper="none: its circuits are of two layers",
    criterion=(
        "One head a layer, at the first checkpoint whose ICL is at least 0.95: of the circuit found at a faithfulness "
        "of 0.9, the share of the effect (logit difference) on paths with exactly two attention layers is above 0.9, "
        "whole 95 % interval over seeds, at depths 4, 8 and 12. Runs that never reach 0.95 are left out and counted."
    ),
    studies=STUDY,
)
def z1(rows: Evidence) -> Iterator[Finding]:
    """Share of a found circuit's effect on paths with two heads."""
    found, notes = at_level(rows, STUDY, {**{name: share(name) for name in SHARES}, FAITHFUL: FAITHFUL})
    yield from notes
    for words, here in codes(found):
        for layers, cells in here.where(lambda cell: cell.layers > SHALLOW).by("layers"):
            yield cells.condition(
                mean(TWO) > 0.9,
                "share of the circuit's effect on paths with exactly two attention layers",
                f"the decoder has {layers} layers and {words}",
            )
        for layers, cells in here.by("layers"):
            where = f"{layers} layers, {words}"
            yield cells.comparison(mean(FAITHFUL), f"faithfulness on other sequences, {where}")
            for name, (part, heads) in SHARES.items():
                if name != TWO or layers == SHALLOW:
                    part = "logit difference" if part == "logits" else part
                    yield cells.comparison(mean(name), f"share of {part} on paths with {heads} heads, {where}")
    yield from steps(rows, STUDY)


@claim(
    "Z2",
    "Deep decoders need their top induction head less.",
    paper="none: it has two layers",
    criterion=(
        "One head a layer, at the first checkpoint whose ICL is at least 0.95: ICL minus ICL with the output of the "
        "head of the highest summed induction strength set to zero, over the same at depth 2, paired by seed, is "
        "below 0.5 at depths 8 and 12, whole 95 % interval over seeds; random other heads are shown beside it. Runs "
        "that never reach 0.95 are left out and counted."
    ),
    studies=STUDY,
)
def z2(rows: Evidence) -> Iterator[Finding]:
    """What cutting the top induction head costs, over what it costs at depth 2."""
    found, notes = at_level(rows, STUDY, [UNTOUCHED, TOP, RANDOM])
    yield from notes
    drop, other = column(UNTOUCHED) - column(TOP), column(UNTOUCHED) - column(RANDOM)
    for words, here in codes(found):
        for layers in (layers for layers in sorted(set(here.axis("layers"))) if layers >= 8):
            cells = here.where(lambda cell, layers=layers: cell.layers in (SHALLOW, layers))
            yield cells.condition(
                mean(drop, layers=layers) / mean(drop, layers=SHALLOW) < 0.5,
                "drop of ICL without the top induction head, over that at depth 2",
                f"the decoder has {layers} layers and {words}",
            )
        for layers, cells in here.by("layers"):
            yield cells.comparison(mean(drop), f"drop of ICL without the top induction head, {layers} layers, {words}")
            yield cells.comparison(mean(other), f"drop of ICL without a random other head, {layers} layers, {words}")


@claim(
    "Z3",
    "In decoders of two stages M2 joins at the same layer whatever the depth.",
    paper="none: it has two layers",
    criterion=(
        "Two stages, one head a layer, at the first checkpoint of stage 2 whose ICL is at least 0.95. Items of M2 are "
        "hidden, from layer n on, from positions that hold no item of M2. M2 joins at the mean of the layers (from 0), "
        "weighted by the ICL that is gained when that layer too may see them. That layer minus the one at depth 2, "
        "paired by seed, is between -1 and 1 at depths 4 and 8, whole 95 % interval over seeds. Runs that never reach "
        "0.95 are left out and counted."
    ),
    studies=TWO_STAGES,
)
def z3(rows: Evidence) -> Iterator[Finding]:
    """The layer at which M2 joins, minus that at depth 2."""
    found, notes = at_level(rows, TWO_STAGES, [LAYER["m2"]])
    yield from notes
    for words, here in codes(found):
        for layers in (layers for layers in sorted(set(here.axis("layers"))) if layers > SHALLOW):
            cells = here.where(lambda cell, layers=layers: cell.layers in (SHALLOW, layers))
            one, other = mean(LAYER["m2"], layers=layers), mean(LAYER["m2"], layers=SHALLOW)
            yield cells.condition(
                (one - other).between(-1, 1),
                "layer at which M2 joins minus that at depth 2",
                f"the decoder has {layers} layers and {words}",
            )
        for layers, cells in here.by("layers"):
            yield cells.comparison(mean(LAYER["m2"]), f"layer at which M2 joins, of {layers}, {words}")
        # Added on 2026-11-27, when four of five decoders of two layers had not reached the level: it needs none
        deep, middle = (mean(LAYER["m2"], layers=layers) for layers in (8, 4))
        yield here.where(lambda cell: cell.layers in (4, 8)).comparison(
            deep - middle, f"layer at which M2 joins at depth 8 minus that at depth 4, {words}"
        )
    both, _ = at_level(rows, TWO_STAGES, [LAYER["m1"]])
    for words, here in codes(both):
        for layers, cells in here.by("layers"):
            yield cells.comparison(mean(LAYER["m1"]), f"layer at which M1 joins, of {layers}, {words}")
    yield from steps(rows, TWO_STAGES)
