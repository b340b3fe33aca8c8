"""Is it the number of classes that keeps words and pictures from being read in context? Blends as further classes
(D6, D7).

A decoder trained on real data has 951 classes, so few that it learns them by heart (docs/alignment.md). Blends of two
(`miclab.worlds.mixtures`) give it as many as the synthetic world has. A modality keeps its classes: blends of words
stand in stage 1 and, as partners of pictures, in stage 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from miclab.claims.entries.real_data import FEW, SECOND, STRONG, mean_where
from miclab.claims.evidence import Cells, Evidence, Key
from miclab.claims.statistics import contrast
from miclab.claims.verdict import Apart, Entry, Findings

BLENDS, SECOND_BLENDS = "modalities.m1.blends", "modalities.m2.blends"
CEILINGS = {"words and pictures": "nearest_exemplar", "pictures": "nearest_exemplar_of_m2"}
ZEROED = {"words": "probe.ablation.items of m1 zeroed", "pictures": "probe.ablation.items of m2 zeroed"}


STUDY = "words_pictures_blended"
COLUMNS = {
    "ICL": "icl",
    **{f"nearest exemplar by {name}": f"probe.oracles.{column}" for name, column in CEILINGS.items()},
    **{f"ICL with {name} zeroed": column for name, column in ZEROED.items()},
}


def _apart(cells: Cells, kinds: Mapping[str, Callable[[Key], bool]]) -> tuple[Apart, ...]:
    return tuple(
        Apart(quantity=f"{score}, {name}", measured=cells.interval(mean_where(cells, keep, column)))
        for name, keep in kinds.items()
        for score, column in COLUMNS.items()
    )


def judge_d6(evidence: Evidence) -> Findings:
    """ICL on held-out concepts with and without blends of words, with all classes of pictures and with few."""
    everything = evidence.cells((STUDY,), (BLENDS, SECOND, SECOND_BLENDS), tuple(COLUMNS.values()))
    cells = everything.where(lambda key: not key[2])
    counts = sorted({key[1] for key in cells.keys})
    few, many = counts[0], counts[-1]

    kinds: dict[str, Callable[[Key], bool]] = {
        f"blends, K2 = {many}": lambda key: bool(key[0]) and key[1] == many,
        f"no blends, K2 = {many}": lambda key: not key[0] and key[1] == many,
        f"blends, K2 = {few}": lambda key: bool(key[0]) and key[1] == few,
    }
    blended, plain, least = (mean_where(cells, keep, "icl") for keep in kinds.values())
    conditions = (
        contrast(cells, blended, f"ICL on held-out concepts with blends, K2 = {many}",
                 clause="strong in-context learning is asked for", low=STRONG),
        contrast(cells, lambda m: blended(m) - plain(m), "ICL with blends minus without, at equal steps",
                 clause="blends are left away for comparison", low=0.0),
        contrast(cells, lambda m: least(m) / blended(m), f"ICL at K2 = {few} over ICL at K2 = {many}, both with blends",
                 clause=f"few classes of pictures ({few}) have to do", low=FEW),
    )  # fmt: skip
    return Findings(conditions=conditions, apart=_apart(cells, kinds))


def judge_d7(evidence: Evidence) -> Findings:
    """ICL with few classes of pictures and their blends over ICL with all classes."""
    cells = evidence.cells((STUDY,), (BLENDS, SECOND, SECOND_BLENDS), tuple(COLUMNS.values()))
    blended = cells.where(lambda key: bool(key[0]))
    many = max(key[1] for key in blended.keys)
    whole = mean_where(blended, lambda key: key[1] == many, "icl")
    kinds = {
        f"K2 = {key[1]} and {key[2]} blends": lambda found, key=key: found == key for key in blended.keys if key[2]
    }
    conditions = tuple(
        contrast(blended, lambda m, keep=keep: mean_where(blended, keep, "icl")(m) / whole(m),
                 f"ICL at {name} over ICL at K2 = {many}", clause=f"pictures are of {name}", low=FEW)
        for name, keep in kinds.items()
    )  # fmt: skip
    return Findings(conditions=conditions, apart=_apart(blended, kinds))


ENTRIES = (
    Entry(
        id="D6",
        statement=(
            "What keeps a decoder of words and pictures from reading its context on concepts that it has not seen is "
            "that 951 classes are few: with blends of two as further classes it does."
        ),
        paper="asked for by its critics; not studied there",
        criterion=(
            "With 30,000 blends of words in both stages, ICL on held-out concepts with all 951 classes of pictures "
            "above 0.8, and above that without blends at equal steps; with 32 classes of pictures above 0.9 of that "
            "with 951. Each with its whole 95 % interval."
        ),
        studies=(STUDY,),
        judge=judge_d6,
    ),
    Entry(
        id="D7",
        statement="Few classes of pictures do for words and pictures, if there are blends of two among them as well.",
        paper="asked for by its critics; not studied there",
        criterion=(
            "With 30,000 blends of words in both stages: ICL on held-out concepts with 32 classes of pictures and 480 "
            "blends of them, and with 128 and 7,800, over ICL with all 951, above 0.9 with its whole 95 % interval."
        ),
        studies=(STUDY,),
        judge=judge_d7,
    ),
)
