"""Is it the number of classes that keeps words and pictures from being read in context? Blends as further classes (D6).

A decoder trained on real data has 951 classes, so few that it learns them by heart (docs/alignment.md). Blends of two
(`miclab.blends`) give it as many as the synthetic world has, and leave everything else as it is.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from miclab.claims.evidence import Evidence, Key, Statistic
from miclab.claims.real import FEW, SECOND, STRONG
from miclab.claims.statistics import contrast
from miclab.claims.verdict import Apart, Entry, Findings

BLENDS = "modalities.m1.blends"
CEILINGS = {"words and pictures": "nearest_exemplar", "pictures": "nearest_exemplar_of_m2"}
ZEROED = {"words": "probe.ablation.items of m1 zeroed", "pictures": "probe.ablation.items of m2 zeroed"}


def judge_d6(evidence: Evidence) -> Findings:
    """ICL on held-out concepts with and without blends in stage 1, with all classes of pictures and with few."""
    ceilings = {name: f"probe.oracles.{column}" for name, column in CEILINGS.items()}
    quantities = ("icl", "iwl", *ceilings.values(), *ZEROED.values())
    cells = evidence.cells(("words_pictures_blended",), (BLENDS, SECOND), quantities)
    counts = sorted({key[1] for key in cells.keys})
    few, many = counts[0], counts[-1]

    def mean(score: str, keep: Callable[[Key], bool]) -> Statistic:
        chosen = np.array([keep(key) for key in cells.keys], dtype=bool)
        return lambda means: means[score][..., chosen].mean(-1)

    kinds: dict[str, Callable[[Key], bool]] = {
        f"blends, K2 = {many}": lambda key: bool(key[0]) and key[1] == many,
        f"no blends, K2 = {many}": lambda key: not key[0] and key[1] == many,
        f"blends, K2 = {few}": lambda key: bool(key[0]) and key[1] == few,
    }
    blended, plain, least = (mean("icl", keep) for keep in kinds.values())
    conditions = (
        contrast(cells, blended, f"ICL on held-out concepts with blends, K2 = {many}",
                 clause="strong in-context learning is asked for", low=STRONG),
        contrast(cells, lambda m: blended(m) - plain(m), "ICL with blends minus without, at equal steps",
                 clause="blends are left away for comparison", low=0.0),
        contrast(cells, lambda m: least(m) / blended(m), f"ICL at K2 = {few} over ICL at K2 = {many}, both with blends",
                 clause=f"few classes of pictures ({few}) have to do", low=FEW),
    )  # fmt: skip
    told = {"ICL": "icl", "IWL": "iwl"}
    told |= {f"nearest exemplar by {name}": column for name, column in ceilings.items()}
    told |= {f"ICL with {name} zeroed": column for name, column in ZEROED.items()}
    apart = tuple(
        Apart(quantity=f"{score}, {name}", measured=cells.interval(mean(column, keep)))
        for name, keep in kinds.items()
        for score, column in told.items()
    )
    return Findings(conditions=conditions, apart=apart)


ENTRIES = (
    Entry(
        id="D6",
        statement=(
            "What keeps a decoder of words and pictures from reading its context on concepts that it has not seen is "
            "that 951 classes are few: with blends of two as further classes it does."
        ),
        paper="asked for by its critics; not studied there",
        criterion=(
            "With 30,000 blends of words in stage 1, ICL on held-out concepts with all 951 classes of pictures above "
            "0.8, and above that without blends at equal steps; with 32 classes of pictures above 0.9 of that with "
            "951. Each with its whole 95 % interval."
        ),
        studies=("words_pictures_blended",),
        judge=judge_d6,
    ),
)
