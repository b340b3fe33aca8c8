"""W1 to W4: does multimodal training refine the circuit of stage 1, or make a new one? With docs/findings/refined.md.

The paper calls the circuit refined, and rests on correlations (C2). Here weights are exchanged and compared. The
control of W1 and W2 is a sibling. From the same checkpoint of stage 1 it goes on with M1 alone, on further sequences.
Steps, learning rate and warm-up are those of stage 2. The criteria were committed on 2026-11-26, before any run. On
2026-11-27, before any run of its study, W4 got numbers that are reported only. They are the overlap with heads
renumbered within layers, the overlap over training, edges by role, and decoders from scratch on both modalities.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from miclab.circuits.circuit_match import beyond, chance_overlap, matched_chance, matched_overlap, overlap
from miclab.circuits.edges import plain_edges
from miclab.circuits.find import stored_part
from miclab.claims.evidence import Evidence, EvidenceCells, grid
from miclab.claims.registry import claim
from miclab.claims.verdict import Finding
from miclab.statistics.grid import Expression, accuracy, mean

STUDY, PARTS, CIRCUITS = "refined", "refined_parts", "refined_circuits"
K2, SIBLING = 256, None
"""Values of the axis K2: of stage 2, and of the sibling, which has no M2."""
WHOSE = {"stage 2": K2, "sibling": SIBLING}
KEPT = 0.5
"""Of what the sibling keeps, the share that stage 2 has to keep more than."""
GROUPS = ("all heads", "all mlps")
SINGLE = (
    "head 0.0", "head 1.0",
    *(f"head {layer}.0 {part}" for layer in (0, 1) for part in ("query", "key", "value", "output")),
    "mlp 0", "mlp 1", "norms", "readout",
)  # fmt: skip
BESIDE_RANDOM = (*GROUPS, "head 0.0", "head 1.0", "mlp 0", "mlp 1", "readout")
"""Parts beside which the ICL lost by random weights is shown."""
INTO = {"later": "stage 1's weights put back into the later decoder", "earlier": "later weights put into stage 1's"}
PRODUCTS = tuple(f"head {layer}.0 {product}" for layer in (0, 1) for product in ("QK", "OV"))
KINDS = ("transplanted", "random", "fresh")
ENOUGH = 0.9
"""ICL that is enough."""
TRAINED = {
    "everything": (),
    "the projector": ("decoder",),
    "projector and MLPs": (
        "0.0", "1.0", "decoder.blocks.0.norm1", "decoder.blocks.1.norm1", "decoder.norm", "decoder.readout",
    ),
    "projector and head 0.0": (
        "1.0", "decoder.blocks.0.mlp", "decoder.blocks.0.norm2", "decoder.blocks.1.norm1", "decoder.blocks.1.norm2",
        "decoder.blocks.1.mlp", "decoder.norm", "decoder.readout",
    ),
    "projector and head 1.0": (
        "0.0", "decoder.blocks.0.norm1", "decoder.blocks.0.mlp", "decoder.blocks.0.norm2", "decoder.blocks.1.norm2",
        "decoder.blocks.1.mlp", "decoder.norm", "decoder.readout",
    ),
}  # fmt: skip
"""What is trained, and the parts that are frozen then. A norm's gain is trained with what reads it."""


def transplant_column(part: str, kind: str, receiver: str) -> str:
    """The column of a transplant's ICL."""
    return f"probe.transplant.{stored_part(part, f'{kind} into {receiver}')}"


def untouched_column(receiver: str) -> str:
    """The column of a receiver's ICL as it is."""
    return f"probe.transplant.untouched {receiver}"


def drift_column(matrix: str, number: str) -> str:
    """The column of how far a matrix moved."""
    return f"probe.drift.{stored_part(matrix, number)}"


COLUMNS = (
    *(untouched_column(receiver) for receiver in INTO),
    *(transplant_column(part, kind, into) for part in (*GROUPS, *SINGLE) for kind in KINDS for into in INTO),
)
OVERLAPS = tuple(
    f"probe.circuit_overlap.{name}"
    for name in (
        "overlap", "chance", "beyond chance", "any faithful beyond chance", "edges earlier", "edges later",
        "faithfulness earlier", "faithfulness later",
    )
)  # fmt: skip
MATCHED = tuple(
    f"probe.circuit_overlap.{name}"
    for name in (
        "matched", "matched chance", "matched beyond chance", "after a third: edges", "after a third: beyond chance",
        "after two thirds: edges", "after two thirds: beyond chance",
    )
)  # fmt: skip
"""Reported only."""
KINDS_OF_POSITION = ("item of m1", "item of m2", "label")
"""Kinds of positions at which keys and values are counted, in decoders of two modalities."""
DECODER = (4, 4)
"""Layers and heads of W4's decoders."""
DRIFTS = tuple(
    drift_column(matrix, number) for matrix in (*PRODUCTS, "readout") for number in ("change", "overlap", "angle")
)


def lost(part: str, kind: str, receiver: str, classes: int | None) -> Expression:
    """ICL that a transplant loses."""
    column = transplant_column(part, kind, receiver)
    return mean(untouched_column(receiver), K2=classes) - mean(column, K2=classes)


def kept(part: str, receiver: str, classes: int | None) -> Expression:
    """What a transplant keeps of what fresh weights in the part would lose."""
    fresh = lost(part, "fresh", receiver, classes)
    return (fresh - lost(part, "transplanted", receiver, classes)) / fresh


def over_sibling(column: str) -> Expression:
    """The mean of a column for stage 2 over that for the sibling."""
    return mean(column, K2=K2) / mean(column, K2=SIBLING)


def _cells(rows: Evidence, columns: tuple[str, ...]) -> EvidenceCells:
    return grid(rows, STUDY, "K2", list(columns))


@claim(
    "W1",
    "Stage 2 refines the parts of stage 1's decoder: each still works with the other stage's weights.",
    paper="the circuit is refined, not rebuilt; shown by correlations alone",
    criterion=(
        "Criterion of 2026-11-26. Two layers of one head, rope, K1 = 8192, K2 = 256, B = 4; 5,000 steps of stage "
        "1, then 1,500 of stage 2 or of its sibling (M1 alone, further sequences, the same checkpoint, rate and "
        "warm-up). Stage 1's weights of a part are put back into the later decoder, and the later ones into stage "
        "1's. Kept: 1 - ICL lost / ICL lost with fresh random weights in the part. For all heads together and for "
        "all MLPs together, in both directions: what stage 2 keeps over what the sibling keeps is above one half, "
        "whole 95 % interval (t over seeds). At or below one half the part was made anew. Only reported: every "
        "single part, norms, readout, and as many weights from random places of the decoder."
    ),
    studies=STUDY,
    meaning={
        "holds": "A reader may call the parts refined: stage 2 builds on stage 1's weights and they stay exchangeable.",
        "fails": "A reader should not call the parts refined: weights of the two stages no longer fit together.",
    },
)
def w1(rows: Evidence) -> Iterator[Finding]:
    """What each part keeps when its weights are exchanged."""
    cells = _cells(rows, COLUMNS)
    for into, words in INTO.items():
        for part in GROUPS:
            ratio = kept(part, into, K2) / kept(part, into, SIBLING)
            yield cells.condition(
                ratio > KEPT,
                f"{words}: kept by stage 2 over kept by the sibling",
                f"{words}: {part}",
                f"{part}, {into}",
            )
    for into, words in INTO.items():
        for part in (*GROUPS, *SINGLE):
            for whose, classes in WHOSE.items():
                yield cells.comparison(lost(part, "transplanted", into, classes), f"{whose}, {words}: {part}: ICL lost")
                if part in BESIDE_RANDOM:
                    more = lost(part, "random", into, classes)
                    yield cells.comparison(more, f"{whose}, {words}: {part}: ICL lost by as many random weights")
                if part in GROUPS:
                    fresh = lost(part, "fresh", into, classes)
                    yield cells.comparison(fresh, f"{whose}, {words}: {part}: ICL lost by fresh weights")
                    yield cells.comparison(kept(part, into, classes), f"{whose}, {words}: {part}: kept")


@claim(
    "W2",
    "Stage 2 refines the heads of stage 1: their products read and write the same directions.",
    paper="the circuit is refined, not rebuilt; shown by correlations alone",
    criterion=(
        "Criterion of 2026-11-26; decoders and sibling as in W1. For QK and OV of each of the two heads: overlap "
        "of the leading singular directions before and after (mean squared cosine of principal angles, from "
        "chance, 0, to the same space, 1; as many directions as the effective rank before, at most half; mean of "
        "both sides). Overlap over stage 2 divided by overlap over the sibling's training is above one half, "
        "whole 95 % interval (t over seeds). At or below one half the head was made anew. Only reported: relative "
        "changes, angles, the readout."
    ),
    studies=STUDY,
    meaning={
        "holds": "A reader may call the heads refined: most directions that training longer keeps, stage 2 keeps too.",
        "fails": "A reader should not call the heads refined: their weights turned away from those of stage 1.",
    },
)
def w2(rows: Evidence) -> Iterator[Finding]:
    """How far QK and OV of each head moved."""
    cells = _cells(rows, DRIFTS)
    for matrix in PRODUCTS:
        yield cells.condition(
            over_sibling(drift_column(matrix, "overlap")) > KEPT,
            "overlap with stage 1 after stage 2, over that after the sibling's training",
            f"leading directions of {matrix}",
        )
    for matrix in (*PRODUCTS, "readout"):
        for whose, classes in WHOSE.items():
            for number, words in (
                ("overlap", "overlap"), ("change", "relative change"), ("angle", "mean angle in degrees"),
            ):  # fmt: skip
                column = drift_column(matrix, number)
                yield cells.comparison(mean(column, K2=classes), f"{whose}: {matrix}: {words}")


@claim(
    "W3",
    "Stage 2 need not train the heads: the projector and the MLPs are enough.",
    paper="none: it trains everything, or the projector alone",
    criterion=(
        "Criterion of 2026-11-26; decoders as in W1, stage 2 of 1,500 steps. ICL with everything trained minus "
        "ICL with the projector and the MLPs trained (heads, norms before heads and readout as stage 1 left them) "
        "is below 0.1 at each of K2 = 32, 256, 2048, whole 95 % interval (t over seeds). At or above 0.1 heads "
        "have to be trained. Control: the projector and one head instead of the MLPs, and the projector alone, "
        "reported beside it with the least that reaches an ICL of 0.9."
    ),
    studies=PARTS,
    meaning={
        "holds": "A reader may keep the heads of stage 1 as they are: nothing about attention has to be learnt anew.",
        "fails": "A reader has to train heads in stage 2: stage 1's attention is not enough for a new modality.",
    },
)
def w3(rows: Evidence) -> Iterator[Finding]:
    """ICL by what was trained, at each K2."""
    cells = grid(rows, PARTS, "frozen K2", "icl")
    counts = sorted(set(cells.axis("K2")))
    for count in counts:
        pair = cells.where(K2=count).where(
            lambda cell: cell.frozen in (TRAINED["everything"], TRAINED["projector and MLPs"])
        )
        missing = mean("icl", frozen=()) - mean("icl", frozen=TRAINED["projector and MLPs"])
        yield pair.condition(
            missing < 0.1, "ICL with everything trained minus ICL with projector and MLPs trained", f"K2 is {count}"
        )
    for count in counts:
        for name, frozen in TRAINED.items():
            one = cells.where(K2=count, frozen=frozen)
            yield one.comparison(accuracy("icl"), f"ICL at K2 = {count}, trained: {name}")
    for count in counts:
        yield from _least(cells.where(K2=count), count)


def _least(cells: EvidenceCells, count: int) -> Iterator[Finding]:
    """A note on which trainings reach enough, if every one has rows."""
    known = {name: cells.where(frozen=frozen) for name, frozen in TRAINED.items()}
    if all(one.seeds for one in known.values()):
        reached = [name for name, one in known.items() if float(one.estimate(mean("icl"))) >= ENOUGH]
        yield f"At K2 = {count} a mean ICL of {ENOUGH} is reached by training: {', '.join(reached) or 'none of them'}."


@claim(
    "W4",
    "Stage 2 refines the circuit of stage 1: the edges that are enough before are those that are enough after.",
    paper="the circuit is refined, not rebuilt; shown by correlations alone",
    criterion=(
        "Criterion of 2026-11-26. Four layers of four heads, rope, K1 = 8192, K2 = 256, B = 4, stages and sibling "
        "as in W1. Circuits that keep 0.9 of the accuracy on novel classes (items_swapped, resample ablation, "
        "EAP-IG and search) before and after. Overlap: edges of both over edges of either, from chance (random "
        "circuits of equal sizes), 0, to the same circuit, 1. Overlap over stage 2 divided by overlap over the "
        "sibling's training is above one half, whole 95 % interval (t over seeds). At or below one half the "
        "circuit was made anew. Only reported: sizes, faithfulness, and the overlap with a circuit as faithful "
        "sought from a random order of edges."
    ),
    studies=CIRCUITS,
    meaning={
        "holds": "A reader may say that stage 2 keeps the circuit: most edges that training longer keeps stay.",
        "fails": "A reader should not say that stage 2 keeps the circuit: other edges carry the answer.",
    },
)
def w4(rows: Evidence) -> Iterator[Finding]:
    """Overlap of found circuits before and after."""
    cells = _grown(rows, OVERLAPS)
    yield cells.condition(
        over_sibling("probe.circuit_overlap.beyond chance") > KEPT,
        "overlap beyond chance with stage 1's circuit after stage 2, over that after the sibling's training",
        "circuits of four layers of four heads",
    )
    for name in OVERLAPS:
        for whose, classes in WHOSE.items():
            yield cells.comparison(mean(name, K2=classes), f"{whose}: {name.removeprefix('probe.circuit_overlap.')}")
    more = _grown(rows, MATCHED)
    for name in MATCHED:
        for whose, classes in WHOSE.items():
            yield more.comparison(mean(name, K2=classes), f"{whose}: {name.removeprefix('probe.circuit_overlap.')}")
    for kind in KINDS_OF_POSITION:
        for when, words in (("later", "edges"), ("kept", "edges that stage 1 has too")):
            # Own and rival examples do the same: the corruption makes them trade places.
            own, rival = (f"probe.circuit_overlap.{example} {kind} {when}" for example in ("own", "rival"))
            cells = _grown(rows, [own, rival]).where(K2=K2)
            yield cells.comparison(
                mean(own) + mean(rival), f"stage 2: keys and values of {kind} (own or rival): {words}"
            )
    yield from _from_scratch(rows)


def _grown(rows: Evidence, columns: Sequence[str]) -> EvidenceCells:
    """Runs that started from stage 1: those of stage 2, and the siblings, whose K2 is None."""
    return grid(rows, CIRCUITS, "K2 stage1_steps", columns).where(lambda cell: bool(cell.stage1_steps))


def _from_scratch(rows: Evidence) -> Iterator[Finding]:
    """Decoders trained on both modalities from the start, beside stage 1 of the same seed, whose initial weights they
    have, and of the next seed, whose initial weights are others. A single seed has no next one."""
    later = "probe.circuit_overlap.circuit later"
    alone, scores = (grid(rows, CIRCUITS, "K2 stage1_steps", [one]).where(stage1_steps=0) for one in (later, "icl"))
    earlier = "probe.circuit_overlap.circuit earlier"
    stage_one = next(iter(_grown(rows, [earlier]).where(K2=K2).values.values()), {})
    seeds = sorted(stage_one)
    following = dict(zip(seeds, (*seeds[1:], *seeds[:1]), strict=True)) if len(seeds) > 1 else {}
    for beside, words in ((dict(zip(seeds, seeds, strict=True)), "stage 1"), (following, "stage 1 of the next seed")):
        cells = replace(alone, values={
            key: {
                seed: _compared(stage_one[beside[seed]][earlier], found[later])
                for seed, found in by_seed.items() if seed in beside
            }
            for key, by_seed in alone.values.items()
        })  # fmt: skip
        for name in ("edges", "overlap", "beyond chance", "matched", "matched chance", "matched beyond chance"):
            yield cells.comparison(mean(name), f"from scratch, beside {words}: {name}")
    yield scores.comparison(accuracy("icl"), "from scratch: ICL")
    for whose, classes in WHOSE.items():
        yield _grown(rows, ["icl"]).where(K2=classes).comparison(accuracy("icl"), f"{whose}: ICL")


def _compared(before: NDArray[np.floating], after: NDArray[np.floating]) -> dict[str, NDArray[np.floating]]:
    """Overlap of two circuits, given by the numbers of their edges, as they are and with heads renumbered."""
    every = plain_edges(*DECODER)
    one, other = (frozenset(every[round(place)] for place in numbers.tolist()) for numbers in (before, after))
    shared, matched = overlap(one, other), matched_overlap(one, other, *DECODER) or 0.0
    chance = chance_overlap(len(one), len(other), len(every))
    best = matched_chance(len(one), len(other), every, *DECODER) or 0.0
    found = {
        "edges": len(other), "overlap": shared, "beyond chance": beyond(shared, chance), "matched": matched,
        "matched chance": best, "matched beyond chance": beyond(matched, best),
    }  # fmt: skip
    return {name: np.array([value], dtype=float) for name, value in found.items()}
