"""Whether two models use the same heads: overlap of their top heads against chance, and correlation of ranks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from scipy.stats import hypergeom, spearmanr

from miclab.circuits.find import Head
from miclab.errors import ConfigError
from miclab.mllm.errors import ModelError
from miclab.mllm.layers import parse_head
from miclab.mllm.options import INDUCTION, PREVIOUS_TOKEN
from miclab.mllm.results import read_manifest, read_table

PAPER = "paper:"


@dataclass(frozen=True)
class Ranking:
    """Heads of one model by one measure.

    Arguments:
        model: its name.
        measure: name of the measure.
        heads: the strongest first, as many as are known.
        total: number of heads that the model has.
        strengths: of the same heads; empty if only the order is known.
    """

    model: str
    measure: str
    heads: tuple[Head, ...]
    total: int
    strengths: tuple[float, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether every head's strength is known."""
        return len(self.strengths) == self.total


@dataclass(frozen=True)
class Overlap:
    """Top heads of a model among the top heads of another.

    Arguments:
        measure: by which both are ranked.
        top: number of top heads of the first model.
        among: number of top heads of the second.
        shared: the heads in both.
        expected: number shared by chance.
        chance: probability of sharing as many or more by chance (hypergeometric).
        correlation: Spearman's, over all heads; None where a ranking is not whole or the heads differ in number.
        correlation_chance: its two-sided p-value, or None.
    """

    measure: str
    top: int
    among: int
    shared: tuple[Head, ...]
    expected: float
    chance: float
    correlation: float | None
    correlation_chance: float | None


@lru_cache(maxsize=1)
def published() -> dict[str, dict[str, Ranking]]:
    """The rankings that the paper gives, by model and measure."""
    body = json.loads(files("miclab.mllm").joinpath("rankings.json").read_text(encoding="utf-8"))
    found = {}
    for model, entry in body["rankings"].items():
        total = entry["layers"] * entry["heads"]
        found[model] = {
            measure: Ranking(model, measure, tuple(map(parse_head, entry[measure].split())), total)
            for measure in (PREVIOUS_TOKEN, INDUCTION)
        }
    return found


def rankings(reference: str) -> dict[str, Ranking]:
    """Rankings by measure: of a folder that `miclab mllm heads` wrote, or the paper's by name.

    Raises:
        ModelError: there is no such ranking.
        TaskError, DamagedError: the folder holds no results, or they are damaged.
    """
    if reference.startswith(PAPER):
        if reference not in published():
            raise ModelError(f"{reference!r} is not known: the paper gives {', '.join(published())}.")
        return published()[reference]
    folder = Path(reference)
    table = read_table(folder, "heads.parquet")
    model = str(read_manifest(folder)["asked"].get("model", folder.name))
    found = {}
    for (measure,), rows in table.group_by(["measure"], maintain_order=True):
        ordered = rows.sort("rank")
        heads = tuple(zip(ordered["layer"].to_list(), ordered["head"].to_list(), strict=True))
        found[str(measure)] = Ranking(model, str(measure), heads, len(heads), tuple(ordered["mean"].to_list()))
    return found


def overlap(a: Ranking, b: Ranking, top: int = 5, among: int = 10) -> Overlap:
    """The first `top` heads of `a` among the first `among` of `b`.

    Chance: `among` heads drawn from all heads of b without order. Heads of equal layer and number count as the same,
        which holds if one model was made from the other.

    Raises:
        ConfigError: more heads are requested than a ranking has.
    """
    for name, wanted, ranking in (("top", top, a), ("among", among, b)):
        if not 1 <= wanted <= len(ranking.heads):
            raise ConfigError(name, wanted, f"1 to {len(ranking.heads)}, which {ranking.model} has ranked")
    if a.total != b.total:
        raise ModelError(
            f"{a.model} has {a.total} heads and {b.model} {b.total}: their heads do not correspond. Compare a model "
            "with the backbone that it was made from."
        )
    shared = tuple(head for head in a.heads[:top] if head in set(b.heads[:among]))
    chance = float(hypergeom.sf(len(shared) - 1, b.total, among, top))
    correlation = significance = None
    if a.whole and b.whole and set(a.heads) == set(b.heads) and len(a.heads) > 2:
        place = dict(zip(b.heads, b.strengths, strict=True))
        pairs = np.array([(strength, place[head]) for head, strength in zip(a.heads, a.strengths, strict=True)])
        correlation, significance = map(float, tuple(spearmanr(pairs[:, 0], pairs[:, 1])))
    return Overlap(a.measure, top, among, shared, top * among / b.total, chance, correlation, significance)


def compare(a: str, b: str, top: int = 5, among: int = 10, measures: tuple[str, ...] = ()) -> list[Overlap]:
    """Overlaps by the named measures, or by all that both have.

    Raises:
        ModelError: there is no such ranking, or no common measure; the models' heads differ in number.
        ConfigError: more heads are requested than a ranking has.
    """
    of_a, of_b = rankings(a), rankings(b)
    common = [measure for measure in of_a if measure in of_b and (not measures or measure in measures)]
    if not common:
        raise ModelError(f"{a} and {b} have no measure in common; there are {', '.join(of_a)}, and {', '.join(of_b)}.")
    return [overlap(of_a[measure], of_b[measure], top, among) for measure in common]
