"""Alignment of a secondary modality with the host: whether projected items lie near the host's prototypes of the same
label.

A row is a sampled pair: a class of the secondary modality and a class of the host with the same label. Where exemplars
are paired by concept or class, the two are partners. The prototype of a class of real data is the mean of its
exemplars.
The number of rows is fixed and stated, since plain linear CKA of n random rows in d dimensions is about d / (n + d).

There are two nulls. Pairs shuffled one by one are unrelated rows. But rows of one class are not independent, so with
few classes the true spread is wider. The test therefore permutes whole labels (concepts) among their partners. A
mixture's prototype is then computed from the permuted concepts of its two classes.

Intervals come from independent draws of pairs, never from resampled rows. A resample holds some rows twice. The
similarity of a row to its own copy is then off the diagonal, which the debiased estimator leaves out. So the bias would
come back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from miclab.config import memory
from miclab.config.run import RunConfig
from miclab.errors import RunError
from miclab.measures.cka import Gram, debiased_cka, hsic_norms, plain_cka, unbiased_hsic
from miclab.model.decoder import Parameters
from miclab.model.projector import project, secondary_modalities
from miclab.runs.run import Run
from miclab.seeds import stream
from miclab.statistics.intervals import Interval, clustered_interval
from miclab.worlds.mixtures import MixtureSource
from miclab.worlds.world import World, world_from_tensors

ROWS = 1024
"""Rows of every CKA, unless another number is given."""
DRAWS = 20
"""Independent draws of `ROWS` rows, over which CKA is averaged."""
ROW_SHUFFLES = 40
"""Shuffles for the null of a metric row, which must be fast."""


LEAST_TRADERS = 5
"""Fewest labels (concepts) for a test: of the permutations of 4, one in 24 is the true one."""


def _trade(numbers: Int[Tensor, "*shape"], generator: torch.Generator) -> Int[Tensor, "*shape"]:
    """Permutes the distinct numbers, equal ones together."""
    distinct, place = numbers.unique(return_inverse=True)
    return distinct[torch.randperm(len(distinct), generator=generator)][place]


@dataclass(frozen=True)
class Pairs:
    """One draw of pairs, before anything is projected.

    Arguments:
        items: of the secondary modality.
        prototypes: the host's, of the same label or concept.
        traded: draws such prototypes after labels (concepts) have traded their partners.
        traders: how many of these there are.
        candidates: prototypes of the host among which the nearest is sought.
        answers: label (concept) of each candidate.
        right: label (concept) of each item.
    """

    items: Float[Tensor, "row dimension"]
    prototypes: Float[Tensor, "row width"]
    traded: Callable[[torch.Generator], Float[Tensor, "row width"]]
    traders: int
    candidates: Float[Tensor, "candidate width"]
    answers: Int[Tensor, " candidate"]
    right: Int[Tensor, " row"]

    @property
    def chance(self) -> float:
        """Share of items whose label (concept) a random candidate has."""
        counts = torch.bincount(self.answers, minlength=int(self.right.max()) + 1)
        return float((counts[self.right] / len(self.answers)).mean())


class _Draw:
    """One draw of pairs with its items projected, and their CKA.

    Arguments:
        features: projected items of the secondary modality.
        pairs: what they are paired with.
    """

    def __init__(self, features: Float[Tensor, "row width"], pairs: Pairs):
        self.features, self.prototypes = features, pairs.prototypes
        self._traded, self.traders = pairs.traded, pairs.traders
        nearest = torch.cdist(features, pairs.candidates).argmin(1)
        self.retrieved = float((pairs.answers[nearest] == pairs.right).float().mean())
        self.chance = pairs.chance
        self.k, self.m = Gram(features), Gram(self.prototypes)
        # A shuffle changes neither norm, so only the shared term is computed again.
        self.norms = hsic_norms(self.k, self.m)
        self.cka = float(unbiased_hsic(self.k, self.m) / self.norms)
        self.distance = float((features - self.prototypes).norm(dim=1).mean())

    def shuffled(self, generator: torch.Generator) -> tuple[float, float]:
        """Debiased CKA and distance after one shuffle of the pairs."""
        order = torch.randperm(len(self.features), generator=generator)
        cka = float(unbiased_hsic(self.k, self.m.permuted(order)) / self.norms)
        return cka, float((self.features - self.prototypes[order]).norm(dim=1).mean())

    def traded(self, generator: torch.Generator) -> float:
        """Debiased CKA after labels (concepts) have traded their partners, as wholes."""
        return debiased_cka(self.features, self._traded(generator))


def aligned_modalities(config: RunConfig) -> tuple[str, ...]:
    """Modalities whose alignment is defined: all but the host. In the joint-label task there is none, since an item's
    label is the group of its own modality."""
    return () if config.sequence.task == "joint_label" else secondary_modalities(config)


def sampled_pairs(config: RunConfig, world: World, modality: str, rows: int, generator: torch.Generator) -> Pairs:
    """A draw of pairs of a secondary modality with the host."""
    mine, host = world.tables[modality], world.tables[config.host_name]
    # Labels that only one of the two carries have no pair.
    common = min(len(mine.label_mass), len(host.label_mass))
    prototypes = world.sources[config.host_name].prototypes
    candidates = (host.label_of < common).nonzero()[:, 0]
    if config.sequence.pairing != "label":
        leading = world.tables[config.leader].draw((rows,), generator)
        of_host = world.partners.get(config.host_name, torch.arange(len(world.tables[config.leader].label_of)))
        classes, partners = (
            world.partners[modality][leading] if modality in world.partners else leading,
            of_host[leading],
        )
        answers, right = candidates, partners
        source = world.sources[config.leader]
        mixtures = source if isinstance(source, MixtureSource) else None
        shared = mixtures.parents[leading] if mixtures else leading

        def traded(generator: torch.Generator) -> Tensor:
            found = prototypes[of_host[_trade(shared, generator)]]
            return mixtures.mix(leading, *found.unbind(1)) if mixtures else found
    else:
        shared = torch.multinomial(mine.label_mass[:common], rows, replacement=True, generator=generator)
        classes = mine.draw_with_label(shared, generator)
        partners = host.draw_with_label(shared, generator)
        answers, right = host.label_of[candidates], shared

        def traded(generator: torch.Generator) -> Tensor:
            return prototypes[host.draw_with_label(_trade(shared, generator), generator)]

    items = world.sources[modality].draw(classes, generator)
    return Pairs(items, prototypes[partners], traded, len(shared.unique()), prototypes[candidates], answers, right)


def _draw(
    config: RunConfig, world: World, parameters: Parameters, modality: str, rows: int, generator: torch.Generator
) -> _Draw:
    pairs = sampled_pairs(config, world, modality, rows, generator)
    return _Draw(project(config, parameters, modality, pairs.items), pairs)


@dataclass(frozen=True)
class Alignment:
    """Alignment of one secondary modality with the host.

    Arguments:
        modality: the secondary modality.
        rows: number of sampled pairs in a draw.
        cka: debiased linear CKA of one draw of `rows` pairs, the mean over independent draws. Its interval is Student's
            t over the draws. Given world and weights, draws are independent, and each is nearly free of the bias of n
            (a ratio of unbiased terms). So the interval covers the limit of many pairs of this world. It does not
            describe other seeds.
        plain_cka: the biased one, for comparison with the paper's figures.
        null_high: 95th percentile of the debiased CKA of one draw with its pairs shuffled one by one, as in metric
            rows. With few classes it is too low.
        traded_high: the same, of labels (concepts) that trade their partners as wholes.
        p_value: share of traded draws that reach `cka`, the observed one included. It is conservative, since a single
            draw scatters more than the mean that it is compared with.
        distance: mean L2 distance between a projected item and its host prototype.
        null_distance: the same for shuffled pairs.
        null_plain: mean of the biased CKA of one draw with its pairs shuffled: what `plain_cka` is without alignment.
        retrieval: share of projected items whose nearest prototype of the host has their label (is their concept), the
            mean over draws, with its interval over draws.
        retrieval_chance: the same for a random prototype.
        traders: how many labels (concepts) trade, at least.
        step: the checkpoint's step.
    """

    modality: str
    rows: int
    cka: Interval
    plain_cka: float
    null_high: float
    traded_high: float
    p_value: float
    distance: float
    null_distance: float
    null_plain: float
    retrieval: Interval
    retrieval_chance: float
    traders: int
    step: int = -1

    @property
    def above_null(self) -> bool | None:
        """Whether the alignment exceeds what labels (concepts) with traded partners give, at 5 %; None where they are
        fewer than `LEAST_TRADERS`, too few to say."""
        return self.cka.mean > self.traded_high if self.traders >= LEAST_TRADERS else None


@torch.no_grad()
def alignment(
    config: RunConfig,
    world: World,
    parameters: Parameters,
    modality: str,
    rows: int = ROWS,
    shuffles: int = 200,
    draws: int = DRAWS,
) -> Alignment:
    """Alignment of a modality's projected items with the prototypes of the host's classes of the same label.

    Arguments:
        modality: one of `aligned_modalities`.
        rows: pairs in a draw, at least 4 (the debiased estimator needs so many).
        shuffles: shuffled draws behind each null.
        draws: independent draws behind the estimate.
    """
    if rows < 4:
        raise RunError(f"CKA of {rows} rows is not defined: the debiased estimator needs at least 4. Give more.")
    width = config.item_width + config.item_dimension(modality)
    memory.check({f"{rows:,} rows": rows * width * memory.NUMBER}, "rows")
    made = [
        _draw(config, world, parameters, modality, rows, stream(config.seed, "alignment", modality, index))
        for index in range(draws)
    ]
    generator = stream(config.seed, "alignment", modality, "shuffles")
    null = [made[index % draws].shuffled(generator) for index in range(shuffles)]
    trades = stream(config.seed, "alignment", modality, "trades")
    traded = [made[index % draws].traded(trades) for index in range(shuffles)]
    values = np.array([draw.cka for draw in made])
    observed = replace(clustered_interval([values[:, None]]), unit="draw")
    return Alignment(
        modality,
        rows,
        observed,
        float(np.mean([plain_cka(draw.features, draw.prototypes) for draw in made])),
        float(np.quantile([cka for cka, _ in null], 0.95)),
        float(np.quantile(traded, 0.95)),
        (1 + sum(cka >= observed.mean for cka in traded)) / (1 + shuffles),
        float(np.mean([draw.distance for draw in made])),
        float(np.mean([distance for _, distance in null])),
        float(np.mean([_shuffled_plain_cka(draw, generator) for draw in made])),
        replace(clustered_interval([np.array([[draw.retrieved] for draw in made])]), unit="draw"),
        float(np.mean([draw.chance for draw in made])),
        min(draw.traders for draw in made),
    )


def _shuffled_plain_cka(draw: _Draw, generator: torch.Generator) -> float:
    order = torch.randperm(len(draw.features), generator=generator)
    return plain_cka(draw.features, draw.prototypes[order])


@torch.no_grad()
def alignment_row(config: RunConfig, world: World, parameters: Parameters) -> dict[str, dict[str, Any]]:
    """Alignment of every secondary modality, cheap enough for a metric row: one draw of `ROWS` pairs, the first of
    those of `alignment`, and `ROW_SHUFFLES` shuffles. All rows of a run see the same pairs with the same noise, so a
    change from row to row is the projector's. No other random stream is touched."""
    found = {}
    for name in aligned_modalities(config):
        one = _draw(config, world, parameters, name, ROWS, stream(config.seed, "alignment", name, 0))
        generator = stream(config.seed, "alignment", name, "shuffles")
        null = [one.shuffled(generator)[0] for _ in range(ROW_SHUFFLES)]
        found[name] = row_part(one.cka, null, one.distance, one.retrieved, one.chance)
    return found


def row_part(cka: float, null: Sequence[float], distance: float, retrieval: float, chance: float) -> dict[str, Any]:
    """A metric row's numbers of one modality; `null` are the CKA of shuffled pairs."""
    return {
        "cka": round(cka, 6),
        "null_high": round(float(np.quantile(null, 0.95)), 6),
        "distance": round(distance, 6),
        "retrieval": round(retrieval, 6),
        "retrieval_chance": round(chance, 6),
        "rows": ROWS,
    }


def align(run: Run, *, step: int | None = None, rows: int = ROWS) -> list[Alignment]:
    """Alignment of every secondary modality of a run's checkpoint.

    Raises:
        RunError: the run has one modality, or a joint-label task, or `rows` is below 4.
    """
    return align_over_training(run, steps=(step,), rows=rows)


def align_over_training(
    run: Run, *, steps: Iterable[int | None] | None = None, rows: int = ROWS, draws: int = DRAWS
) -> list[Alignment]:
    """Alignment of every secondary modality at several checkpoints, by step. All see the same pairs with the same
    noise, so a change is the model's.

    Arguments:
        steps: of the checkpoints; None in it: the last good one. By default all that are kept.

    Raises:
        RunError: as `align` does.
    """
    names = aligned_modalities(run.config)
    if not names:
        why = (
            "has one modality: there is nothing to align. Give a multimodal run"
            if len(run.config.modalities) < 2
            else "has a joint-label task, in which no class of one modality has the label of another's. Give a run of a"
            " shared-label task"
        )
        raise RunError(f"{run.path} {why}.")
    world = world_from_tensors(run.config, run.world_tensors())
    found = []
    for wanted in run.checkpoints if steps is None else steps:
        step, parameters = run.parameters(wanted)
        found += [
            replace(alignment(run.config, world, parameters, name, rows, draws=draws), step=step) for name in names
        ]
    return found
