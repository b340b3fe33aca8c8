"""Alignment and encoders (A1, A2), real data as M2 (R1), real pairings (D1 to D4), and what CKA tells of ICL (D5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from miclab.claims.evidence import Cells, Evidence, Key, Means, Statistic
from miclab.claims.statistics import contrast, fit, weighted
from miclab.claims.verdict import Apart, Condition, Entry, Findings
from miclab.statistics.correlation import correlate
from miclab.statistics.intervals import Interval

CKA, DISTANCE, NULL = "alignment.m2.cka", "alignment.m2.distance", "alignment.m2.null_high"
SHAPE = (
    "modalities.m2.dimension",
    "bridge.projector",
    "modalities.m2.encoder",
    "modalities.m2.encoder_step",
    "frozen",
)
FROZEN, SECOND, FIRST = "frozen", "modalities.m2.classes", "modalities.m1.classes"
SOURCE, STEPS, PRETRAINED, PAIRING = (
    "modalities.m2.source",
    "parent.step",
    "modalities.m2.encoder_step",
    "sequence.pairing",
)
PAIRINGS = ("words_pictures", "pictures_speech", "speech_pictures", "three_modalities")
GROUPS = {
    "synthetic data": ("alignment", "parts_trained"),
    "real data": ("real_secondary", *PAIRINGS),
}
"""Studies over whose cells CKA is compared with ICL."""
CELLS = (
    "modalities.m1.source",
    SOURCE,
    FIRST,
    SECOND,
    *SHAPE,
    STEPS,
    PAIRING,
    "modalities.m3.classes",
    "modalities.m3.encoder_step",
)
"""What tells their cells apart."""
STRONG = 0.8
"""In-context accuracy on held-out concepts that counts as strong."""
FEW = 0.9
"""Share of the accuracy with all classes that few classes have to reach."""


def _difference(cells: Cells, one: Callable[[Key], bool], other: Callable[[Key], bool], name: str):
    """Mean of a quantity over the cells that `one` accepts minus that over those of `other`."""
    left, right = (np.array([keep(key) for key in cells.keys], dtype=bool) for keep in (one, other))

    def statistic(means: Means) -> NDArray[np.floating]:
        return means[name][..., left].mean(-1) - means[name][..., right].mean(-1)

    return statistic


def mean_where(cells: Cells, keep: Callable[[Key], bool], name: str) -> Statistic:
    """Mean of a quantity over the cells that `keep` accepts."""
    chosen = np.array([keep(key) for key in cells.keys], dtype=bool)
    return lambda means: means[name][..., chosen].mean(-1)


def judge_a1(evidence: Evidence) -> Findings:
    """Alignment by dimension of M2, and with an encoder against a projector of equal size."""
    cells = evidence.cells(("alignment",), SHAPE, (CKA, DISTANCE, NULL, "icl"))
    shapes: dict[str, Callable[[Key], bool]] = {
        "32 dimensions": lambda key: key[0] == 32,
        "512 dimensions": lambda key: key[0] == 512 and key[1] == "small" and key[2] == "none",
        "512, large projector": lambda key: key[1] == "large",
        "512, pretrained encoder": lambda key: key[2] != "none" and key[3] > 0 and not key[4],
        "512, pretrained encoder, frozen": lambda key: bool(key[4]),
        "512, encoder that was never trained": lambda key: key[2] != "none" and key[3] == 0,
    }
    narrow, wide, large, encoder, *_ = shapes.values()
    conditions = (
        contrast(cells, _difference(cells, narrow, wide, CKA), "debiased CKA at 32 dimensions minus at 512",
                 clause="the dimension of M2 is raised", low=0.0),
        contrast(cells, _difference(cells, encoder, wide, CKA), "debiased CKA with a pretrained encoder minus without",
                 clause="an encoder is to mend what the dimension did", low=0.0),
        contrast(cells, _difference(cells, encoder, large, CKA),
                 "debiased CKA with a pretrained encoder minus with a projector of equal size",
                 clause="CKA is the measure of what an encoder mends", low=0.0),
        contrast(cells, _difference(cells, encoder, large, DISTANCE),
                 "L2 distance with a pretrained encoder minus with a projector of equal size",
                 clause="L2 distance is the measure of what an encoder mends", high=0.0),
    )  # fmt: skip
    figures = {"32 dimensions": 0.16, "512 dimensions": 0.07, "512, pretrained encoder": 0.10}
    apart = [
        Apart(
            quantity=f"debiased CKA, {name}",
            measured=cells.interval(mean_where(cells, keep, CKA)),
            paper=figures.get(name),
        )
        for name, keep in shapes.items()
    ]
    lengths = {"512, large projector": 2.15, "512, pretrained encoder": 1.95}
    for name, keep in shapes.items():
        measured = cells.interval(mean_where(cells, keep, DISTANCE))
        apart.append(Apart(quantity=f"L2 distance, {name}", measured=measured, paper=lengths.get(name)))
        measured = cells.interval(mean_where(cells, keep, NULL))
        apart.append(Apart(quantity=f"95 % of debiased CKA of shuffled pairs, {name}", measured=measured))
        apart.append(Apart(quantity=f"ICL, {name}", measured=cells.interval(mean_where(cells, keep, "icl"))))
    note = "The paper's CKA is probably the plain one: docs/alignment.md says from how many rows on it means anything."
    return Findings(conditions=conditions, apart=tuple(apart), notes=(note,))


def judge_a2(evidence: Evidence) -> Findings:
    """All parts trained against the best of the other choices, with much and with little data."""
    cells = evidence.cells(("parts_trained",), (FROZEN, SECOND), ("icl",))
    counts = sorted({key[1] for key in cells.keys})
    parts = sorted({key[0] for key in cells.keys})

    def score(frozen: tuple[str, ...], count: int, means: Means) -> NDArray[np.floating]:
        return means["icl"][..., cells.keys.index((frozen, count))]

    def lead(count: int, means: Means) -> NDArray[np.floating]:
        others = np.stack([score(frozen, count, means) for frozen in parts if frozen], -1)
        return score((), count, means) - others.max(-1)

    few, many = counts[0], counts[-1]
    conditions = (
        contrast(cells, partial(lead, many), f"ICL with all parts trained minus the highest other at K2 = {many}",
                 clause="there is much data", low=0.0),
        contrast(cells, lambda m: lead(many, m) - lead(few, m),
                 f"that lead at K2 = {many} minus the same at K2 = {few}", clause="need of data is judged", low=0.0),
    )  # fmt: skip
    apart = tuple(
        Apart(
            quantity=f"ICL at K2 = {count}, frozen: {', '.join(frozen) or 'nothing'}",
            measured=cells.interval(partial(score, frozen, count)),
        )
        for count in counts
        for frozen in parts
    )
    return Findings(conditions=conditions, apart=apart)


def judge_r1(evidence: Evidence) -> Findings:
    """Slope of ICL on log2 K1 minus that on log2 K2, for each data set."""
    everything = evidence.cells(("real_secondary",), (SOURCE, FIRST, SECOND), ("icl",))
    conditions, apart = [], []
    for source in dict.fromkeys(key[0] for key in everything.keys):
        cells = everything.where(lambda key, wanted=source: key[0] == wanted)
        axes = {"log2 K1": np.log2(cells.column(1)), "log2 K2": np.log2(cells.column(2))}
        one, two = fit(axes, "log2 K1"), fit(axes, "log2 K2")
        conditions.append(
            contrast(cells, lambda m, w=one - two: weighted(m["icl"], w),
                     "slope of ICL on log2 K1 minus slope on log2 K2", clause=f"M2 is {source}", low=0.0)
        )  # fmt: skip
        for name, weights in (("K1", one), ("K2", two)):
            measured = cells.interval(lambda m, w=weights: weighted(m["icl"], w))
            apart.append(Apart(quantity=f"{source}: slope of ICL on log2 {name}", measured=measured))
    return Findings(conditions=tuple(conditions), apart=tuple(apart))


def judge_pairing(study: str, evidence: Evidence) -> Findings:
    """ICL on held-out concepts by number of secondary classes, stage 1, and pretraining of encoders."""
    oracle = "probe.oracles.nearest_exemplar"
    axes = (SECOND, STEPS, PRETRAINED, PAIRING)
    cells = evidence.cells((study,), axes, ("icl", oracle))
    counts = sorted({key[0] for key in cells.keys})
    few, many = counts[0], counts[-1]

    def full(key: Key) -> bool:
        return key[1] > 0 and key[2] > 0 and key[3] == "label"

    def scratch(key: Key) -> bool:
        return key[1] == 0

    def untrained(key: Key) -> bool:
        return key[2] == 0

    def most(key: Key) -> bool:
        return full(key) and key[0] == many

    def least(key: Key) -> bool:
        return full(key) and key[0] == few

    whole, part = mean_where(cells, most, "icl"), mean_where(cells, least, "icl")
    conditions = (
        contrast(cells, whole, f"ICL on held-out concepts at K2 = {many}", clause="all classes are there", low=STRONG),
        contrast(cells, lambda m: part(m) / whole(m), f"ICL at K2 = {few} over ICL at K2 = {many}",
                 clause=f"few classes ({few}) have to do", low=FEW),
        contrast(cells, _difference(cells, full, scratch, "icl"), "ICL after stage 1 minus from scratch",
                 clause="stage 1 is left away for comparison", low=0.0),
        contrast(cells, _difference(cells, full, untrained, "icl"),
                 "ICL with pretrained encoders minus with untrained ones",
                 clause="the encoder is left untrained for comparison", low=0.0),
    )  # fmt: skip
    apart = [Apart(quantity=f"nearest exemplar (the ceiling) at K2 = {many}",
                   measured=cells.interval(mean_where(cells, most, oracle)))]  # fmt: skip
    for name, keep in (("as named", full), ("from scratch", scratch), ("untrained encoders", untrained),
                       ("paired by concept", lambda key: key[3] == "concept")):  # fmt: skip
        for count in counts:
            if any(keep(key) and key[0] == count for key in cells.keys):
                chosen = mean_where(cells, lambda key, k=keep, c=count: k(key) and key[0] == c, "icl")
                apart.append(Apart(quantity=f"ICL at K2 = {count}, {name}", measured=cells.interval(chosen)))
    return Findings(conditions=conditions, apart=tuple(apart))


def aligned_correlation(cells: Cells) -> Interval | None:
    """Pearson's correlation of CKA and ICL over cells; cells are resampled, since they are compared, not seeds."""
    if not cells.decidable:
        return None
    means = cells.draws[0]
    return correlate(means[CKA], means["icl"], np.arange(len(cells.keys))).pearson_interval


def judge_d5(evidence: Evidence) -> Findings:
    """Correlation of the debiased CKA of M2 with multimodal ICL over the cells of all studies."""
    conditions = []
    for name, studies in GROUPS.items():
        cells = evidence.cells(studies, CELLS, (CKA, "icl"))
        measured = aligned_correlation(cells)
        conditions.append(
            Condition(clause=f"the runs are on {name}", quantity="Pearson correlation of M2's debiased CKA and ICL",
                      measured=measured, low=0.0, used=cells.used, absent=cells.absent)
        )  # fmt: skip
    return Findings(conditions=tuple(conditions))


def _pairing_entry(name: str, study: str, told: Sequence[str]) -> Entry:
    first, second = told
    return Entry(
        id=name,
        statement=(
            f"A decoder trained on {first} takes up {second} from few classes and reads its context on concepts that "
            f"neither has seen, if it was trained on {first} first and the encoder was pretrained."
        ),
        paper="asked for by its critics; not studied there",
        criterion=(
            "ICL on held-out concepts with all 951 classes of M2 above 0.8; with 32 classes above 0.9 of that; after "
            "stage 1 minus from scratch (as many steps in all), and with pretrained minus with untrained encoders "
            "(means over K2), above 0. Each with its whole 95 % interval."
        ),
        studies=(study,),
        judge=partial(judge_pairing, study),
    )


ENTRIES = (
    Entry(
        id="A1",
        statement=(
            "Raising the dimension of M2 from 32 to 512 worsens the alignment; a pretrained encoder mends it, better "
            "than a projector of equal size."
        ),
        paper="CKA 0.16 falls to 0.07, and to 0.10 with an encoder; L2 distance 2.15 falls to 1.95",
        criterion=(
            "Debiased CKA of 1,024 pairs: at 32 dimensions minus at 512 above 0; at 512 with a pretrained encoder "
            "(trained on in stage 3) minus with the same small projector alone, and minus with a large projector, of "
            "equal size, above 0. L2 distance with it minus with the large projector below 0. Each with its whole 95 % "
            "interval."
        ),
        studies=("alignment",),
        judge=judge_a1,
    ),
    Entry(
        id="A2",
        statement="Training encoder, projector and decoder together is best, and needs the most data.",
        paper="a table",
        criterion=(
            "ICL with nothing frozen minus the highest mean with any part frozen: above 0 at the largest K2; and "
            "larger there than at the smallest K2. Each with its whole 95 % interval."
        ),
        studies=("parts_trained",),
        judge=judge_a2,
    ),
    Entry(
        id="R1",
        statement="The asymmetry between M1 and M2 holds with real pictures as M2.",
        paper="curves (Omniglot, mini-ImageNet, ViT)",
        criterion=(
            "Over K1 x K2 after stage 1, with a pretrained ViT: least-squares slope of ICL on log2 K1 minus that on "
            "log2 K2 above 0 with its whole 95 % interval; judged for glyphs and for pictures of things."
        ),
        studies=("real_secondary",),
        judge=judge_r1,
    ),
    _pairing_entry("D1", "words_pictures", ("words", "pictures")),
    _pairing_entry("D2", "pictures_speech", ("pictures", "spoken words")),
    _pairing_entry("D3", "speech_pictures", ("spoken words", "pictures")),
    _pairing_entry("D4", "three_modalities", ("words", "pictures and spoken words at once")),
    Entry(
        id="D5",
        statement="The better M2 is aligned with M1, by CKA, the better the multimodal in-context learning.",
        paper="CKA below about 0.1 is named a sign of failure",
        criterion=(
            "Pearson correlation over the cells of all studies of alignment and real data (last rows, means over "
            "seeds) of M2's debiased CKA with ICL, above 0 with its whole 95 % interval (cells resampled); judged for "
            "synthetic and for real data."
        ),
        studies=("alignment", "parts_trained", "real_secondary", *PAIRINGS),
        judge=judge_d5,
    ),
)
