"""Alignment and encoders (A1, A2), real data as M2 (R1), real pairings (D1 to D4), and what CKA says of ICL (D5). OwnD
has the conditions of D1 to D3 for a user's own embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from miclab.claims import paper
from miclab.claims.entries.multimodal import lead_of_k1
from miclab.claims.evidence import Evidence, EvidenceCells, grid
from miclab.claims.plots import panels
from miclab.claims.plots.figures import accuracy_axis, curves_of, need, new_figure
from miclab.claims.plots.panels import points
from miclab.claims.registry import LEDGER, claim
from miclab.claims.verdict import Finding
from miclab.statistics.correlation import resampled
from miclab.statistics.grid import Predicate, accuracy, highest, mean, slope
from miclab.statistics.intervals import Resampled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CKA, DISTANCE, NULL = "alignment.m2.cka", "alignment.m2.distance", "alignment.m2.null_high"
SHAPE = "dimension2 projector encoder2 encoder_step2 frozen"
PAIRINGS = ("words_pictures", "pictures_speech", "speech_pictures", "three_modalities")
GROUPS = {
    "synthetic data": ("alignment", "parts_trained"),
    "real data": ("real_secondary", *PAIRINGS),
}
"""Studies over whose cells CKA is compared with ICL."""
CELLS = f"source1 source2 K1 K2 {SHAPE} stage1_steps pairing K3 encoder_step3"
"""What distinguishes their cells."""
BEYOND = (
    "Pairs of synthetic data share their label alone: a projector that knows every label reaches a debiased CKA of "
    "about 0.01 (scripts/cka_ceiling.py; 2026-11-26). With few classes of real data CKA is as high by chance. In A3 "
    "pairs share more."
)
"""Why CKA cannot answer the question of A1 and D5."""
OWN = "own data"
"""The collection of claims that are judged on a user's own data."""
STRONG = 0.8
"""In-context accuracy on held-out concepts that counts as strong."""
FEW = 0.9
"""Share of the accuracy with all classes that few classes have to reach."""
CEILING = "probe.oracles.nearest_exemplar"
"""Accuracy of the nearest exemplar in the context, by both modalities: the upper bound of ICL."""
DECODERS: dict[str, Predicate] = {
    "after stage 1": lambda cell: cell.stage1_steps > 0 and cell.encoder_step2 > 0 and cell.pairing == "label",
    "from scratch": lambda cell: cell.stage1_steps == 0,
    "untrained encoders": lambda cell: cell.encoder_step2 == 0,
    "paired by concept": lambda cell: cell.pairing == "concept",
}
"""Decoders of the studies of two real sources."""
SHAPES: dict[str, Predicate] = {
    "32 dimensions": lambda cell: cell.dimension2 == 32,
    "512 dimensions": lambda cell: (cell.dimension2, cell.projector, cell.encoder2) == (512, "small", "none"),
    "512, large projector": lambda cell: cell.projector == "large",
    "512, pretrained encoder": lambda cell: cell.encoder2 != "none" and cell.encoder_step2 > 0 and not cell.frozen,
    "512, pretrained encoder, frozen": lambda cell: cell.frozen,
    "512, encoder that was never trained": lambda cell: cell.encoder2 != "none" and cell.encoder_step2 == 0,
}


@claim(
    "A1",
    "Raising the dimension of M2 from 32 to 512 worsens the alignment; a pretrained encoder mends it, better than a "
    "projector of equal size.",
    paper="CKA 0.16 falls to 0.07, and to 0.10 with an encoder; L2 distance 2.15 falls to 1.95",
    criterion=(
        "Debiased CKA of 1,024 pairs: at 32 dimensions minus at 512 above 0; at 512 with a pretrained encoder "
        "(trained on in stage 3) minus with the same small projector alone, and minus with a large projector, of "
        "equal size, above 0. L2 distance with it minus with the large projector below 0. Each with its whole 95 % "
        "interval."
    ),
    studies="alignment",
    beyond=BEYOND,
)
def a1(rows: Evidence) -> Iterator[Finding]:
    """Alignment by dimension of M2, and with an encoder against a projector of equal size."""
    cells = grid(rows, "alignment", SHAPE, (CKA, DISTANCE, NULL, "icl"))
    narrow, wide, large, encoder, *_ = SHAPES.values()
    yield cells.condition(
        mean(CKA, narrow) - mean(CKA, wide) > 0,
        "debiased CKA at 32 dimensions minus at 512",
        "the dimension of M2 is raised",
    )
    yield cells.condition(
        mean(CKA, encoder) - mean(CKA, wide) > 0,
        "debiased CKA with a pretrained encoder minus without",
        "an encoder is to mend what the dimension did",
    )
    yield cells.condition(
        mean(CKA, encoder) - mean(CKA, large) > 0,
        "debiased CKA with a pretrained encoder minus with a projector of equal size",
        "CKA is the measure of what an encoder mends",
    )
    yield cells.condition(
        mean(DISTANCE, encoder) - mean(DISTANCE, large) < 0,
        "L2 distance with a pretrained encoder minus with a projector of equal size",
        "L2 distance is the measure of what an encoder mends",
    )
    known = paper.figures("A1")
    for name, keep in SHAPES.items():
        yield cells.comparison(mean(CKA, keep), f"debiased CKA, {name}", known.get(f"CKA, {name}"))
    for name, keep in SHAPES.items():
        yield cells.comparison(mean(DISTANCE, keep), f"L2 distance, {name}", known.get(f"L2 distance, {name}"))
        yield cells.comparison(mean(NULL, keep), f"95 % of debiased CKA of shuffled pairs, {name}")
        yield cells.comparison(accuracy("icl", keep), f"ICL, {name}")
    page = "docs/findings/alignment.md"
    yield f"The paper's CKA is probably the plain one: {page} says from how many rows on it means anything."


@claim(
    "A2",
    "Training encoder, projector and decoder together is best, and needs the most data.",
    paper="a table",
    criterion=(
        "ICL with nothing frozen minus the highest mean with any part frozen: above 0 at the largest K2; and "
        "larger there than at the smallest K2. Each with its whole 95 % interval."
    ),
    studies="parts_trained",
)
def a2(rows: Evidence) -> Iterator[Finding]:
    """All parts trained against the best of the other choices, with much and with little data."""
    cells = grid(rows, "parts_trained", "frozen K2", "icl")
    few, many = min(cells.axis("K2")), max(cells.axis("K2"))
    lead = {
        count: mean("icl", frozen=(), K2=count) - highest("icl", lambda cell: cell.frozen, K2=count)
        for count in (few, many)
    }
    yield cells.condition(
        lead[many] > 0, f"ICL with all parts trained minus the highest other at K2 = {many}", "there is much data"
    )
    yield cells.condition(
        lead[many] - lead[few] > 0, f"that lead at K2 = {many} minus the same at K2 = {few}", "need of data is judged"
    )
    for count in sorted(set(cells.axis("K2"))):
        for frozen in sorted(set(cells.axis("frozen"))):
            yield cells.comparison(
                accuracy("icl", frozen=frozen, K2=count),
                f"ICL at K2 = {count}, frozen: {', '.join(frozen) or 'nothing'}",
            )


@claim(
    "R1",
    "The asymmetry between M1 and M2 holds with real pictures as M2.",
    paper="curves (Omniglot, mini-ImageNet, ViT)",
    criterion=(
        "Over K1 x K2 after stage 1, with a pretrained ViT: least-squares slope of ICL on log2 K1 minus that on "
        "log2 K2 above 0 with its whole 95 % interval; judged for glyphs and for pictures of things."
    ),
    studies="real_secondary",
)
def r1(rows: Evidence) -> Iterator[Finding]:
    """Slope of ICL on log2 K1 minus that on log2 K2, for each data set."""
    for source, cells in grid(rows, "real_secondary", "source2 K1 K2", "icl").by("source2"):
        yield cells.condition(lead_of_k1() > 0, "slope of ICL on log2 K1 minus slope on log2 K2", f"M2 is {source}")
        for name, other in (("K1", "K2"), ("K2", "K1")):
            alone = slope("icl", f"log2 {name}", beside=f"log2 {other}")
            yield cells.comparison(alone, f"{source}: slope of ICL on log2 {name}")


def _paired(rows: Evidence, study: str) -> EvidenceCells:
    return grid(rows, study, "K2 stage1_steps encoder_step2 pairing", ("icl", CEILING))


def pairing(rows: Evidence, study: str) -> Iterator[Finding]:
    """ICL on held-out concepts by number of secondary classes, stage 1, and pretraining of encoders."""
    cells = _paired(rows, study)
    few, many = min(cells.axis("K2")), max(cells.axis("K2"))
    full, scratch, untrained, _ = DECODERS.values()
    whole, part = mean("icl", full, K2=many), mean("icl", full, K2=few)
    yield cells.condition(
        accuracy("icl", full, K2=many) > STRONG, f"ICL on held-out concepts at K2 = {many}", "all classes are there"
    )
    yield cells.condition(
        part / whole > FEW, f"ICL at K2 = {few} over ICL at K2 = {many}", f"few classes ({few}) have to do"
    )
    yield cells.condition(
        mean("icl", full) - mean("icl", scratch) > 0,
        "ICL after stage 1 minus from scratch",
        "stage 1 is left away for comparison",
    )
    yield cells.condition(
        mean("icl", full) - mean("icl", untrained) > 0,
        "ICL with pretrained encoders minus with untrained ones",
        "the encoder is left untrained for comparison",
    )
    yield cells.comparison(accuracy(CEILING, full, K2=many), f"nearest exemplar (the ceiling) at K2 = {many}")
    for name, keep in DECODERS.items():
        for count in sorted(set(cells.axis("K2"))):
            if cells.chosen(keep, K2=count).any():
                yield cells.comparison(accuracy("icl", keep, K2=count), f"ICL at K2 = {count}, {name}")


def _pairing_claim(
    id: str, study: str, first: str, second: str, every: str = "all 951", few: str = "32", collection: str = LEDGER
) -> None:
    @claim(
        id,
        f"A decoder trained on {first} takes up {second} from few classes and reads its context on concepts that "
        f"neither has seen, if it was trained on {first} first and the encoder was pretrained.",
        paper="asked for by its critics; not studied there",
        criterion=(
            f"ICL on held-out concepts with {every} classes of M2 above 0.8; with {few} classes above 0.9 of that; "
            "after stage 1 minus from scratch (as many steps in all), and with pretrained minus with untrained "
            "encoders (means over K2), above 0. Each with its whole 95 % interval."
        ),
        studies=study,
        figure=curves_of(lambda rows: _paired(rows, study), DECODERS, x="K2"),
        collection=collection,
    )
    def judged(rows: Evidence) -> Iterator[Finding]:
        yield from pairing(rows, study)


_pairing_claim("D1", "words_pictures", "words", "pictures")
_pairing_claim("D2", "pictures_speech", "pictures", "spoken words")
_pairing_claim("D3", "speech_pictures", "spoken words", "pictures")
_pairing_claim("D4", "three_modalities", "words", "pictures and spoken words at once")
# No part of the ledger: whoever has embeddings makes its rows, with their paths as parameters.
_pairing_claim("OwnD", "own_embeddings", "M1", "M2", "all", "few", OWN)


def aligned_correlation(cells: EvidenceCells) -> Resampled | None:
    """Pearson's correlation of CKA and ICL over cells; cells are resampled, since they are compared, not seeds."""
    if not cells.decidable:
        return None
    return resampled(cells.means[CKA], cells.means["icl"], np.arange(len(cells.keys)))


def _alignment(rows: Evidence) -> Figure:
    figure, axes = new_figure(2)
    drawn = 0
    for place, (name, studies) in zip(axes, GROUPS.items(), strict=True):
        cells = {study: grid(rows, study, CELLS, (CKA, "icl")) for study in studies}
        x, y = ([p.mean for c in cells.values() for p in points(c, what)] for what in (CKA, "icl"))
        groups = [study for study, c in cells.items() for _ in points(c, "icl")]
        everything = grid(rows, studies, CELLS, (CKA, "icl"))
        found = aligned_correlation(everything)
        interval = found.interval("configuration", len(everything.keys)) if found else None
        panels.scatter(place, x, y, groups, "debiased CKA of M2 with M1", interval)
        place.set_title(f"{name}: {place.get_title(loc='left') or 'r: rows are missing'}", fontsize=8, loc="left")
        accuracy_axis(place, ylabel="multimodal ICL")
        place.locator_params(axis="x", nbins=4)
        if groups:
            place.legend(frameon=False, fontsize=6)
        drawn += len(groups)
    need(drawn)
    return figure


@claim(
    "D5",
    "The better M2 is aligned with M1, by CKA, the better the multimodal in-context learning.",
    paper="CKA below about 0.1 is named a sign of failure",
    criterion=(
        "Pearson correlation over the cells of all studies of alignment and real data (last rows, means over "
        "seeds) of M2's debiased CKA with ICL, above 0 with its whole 95 % interval (cells resampled); judged for "
        "synthetic and for real data."
    ),
    studies=("alignment", "parts_trained", "real_secondary", *PAIRINGS),
    figure=_alignment,
    beyond=BEYOND,
)
def d5(rows: Evidence) -> Iterator[Finding]:
    """Correlation of the debiased CKA of M2 with multimodal ICL over the cells of all studies."""
    for name, studies in GROUPS.items():
        cells = grid(rows, studies, CELLS, (CKA, "icl"))
        found = aligned_correlation(cells)
        yield cells.judged(
            found.interval("configuration", len(cells.keys)) if found else None,
            "Pearson correlation of M2's debiased CKA and ICL",
            f"the runs are on {name}",
            low=0.0,
            p=found.p(0.0, np.inf) if found else None,
        )
