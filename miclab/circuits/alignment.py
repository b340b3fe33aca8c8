"""Alignment of a secondary modality with the host: do projected items lie where the host's prototypes of the same label
lie?

A row is a sampled pair: a class of the secondary modality and a class of the host with the same label. The number of
rows is fixed and stated, since plain linear CKA of n random rows in d dimensions is about d / (n + d).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from miclab.bridge import project
from miclab.config import RunConfig
from miclab.decoder import Parameters
from miclab.runs import Run
from miclab.seeds import stream
from miclab.world import World, world_from_tensors

ROWS = 1024
"""Rows of every CKA, unless asked otherwise."""


def plain_cka(x: Float[Tensor, "row a"], y: Float[Tensor, "row b"]) -> float:
    """Linear CKA (Kornblith et al. 2019, equation 3): |Y'X|^2 / (|X'X| |Y'Y|) of centred columns."""
    x, y = x.double() - x.double().mean(0), y.double() - y.double().mean(0)
    return float((y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()))


class _Gram:
    """The Gram matrix of features with its diagonal left out, known by sums alone: no n x n matrix is made.

    Arguments:
        features: one row per sample.
    """

    def __init__(self, features: Float[Tensor, "row column"]):
        self.features = features.double()
        self.squares = self.features.square().sum(1)
        self.row_sums = self.features @ self.features.sum(0) - self.squares
        self.total = self.row_sums.sum()

    def permuted(self, order: Tensor) -> _Gram:
        """The same with its rows in another order."""
        new = object.__new__(_Gram)
        new.features, new.squares = self.features[order], self.squares[order]
        new.row_sums, new.total = self.row_sums[order], self.total
        return new


def _unbiased_hsic(k: _Gram, m: _Gram) -> Tensor:
    """Unbiased HSIC (Song et al. 2012, equation 5), up to a common factor."""
    n = len(k.squares)
    shared = (k.features.T @ m.features).square().sum() - k.squares @ m.squares
    return shared + k.total * m.total / ((n - 1) * (n - 2)) - 2 * (k.row_sums @ m.row_sums) / (n - 2)


def debiased_cka(x: Float[Tensor, "row a"], y: Float[Tensor, "row b"]) -> float:
    """Linear CKA from unbiased HSIC: near 0 for unrelated rows, whatever their number; it can fall below 0."""
    k, m = _Gram(x), _Gram(y)
    return float(_unbiased_hsic(k, m) / (_unbiased_hsic(k, k) * _unbiased_hsic(m, m)).clamp(min=1e-300).sqrt())


@dataclass(frozen=True)
class Alignment:
    """Alignment of one secondary modality with the host.

    Arguments:
        modality: the secondary modality.
        rows: number of sampled pairs.
        cka: debiased linear CKA.
        plain_cka: the biased one, for comparison with the paper's figures.
        null_high: 95th percentile of the debiased CKA of shuffled pairs.
        p_value: share of shuffles that reach `cka`, with the one that was observed counted in.
        distance: mean L2 distance between a projected item and its host prototype.
        null_distance: the same for shuffled pairs.
    """

    modality: str
    rows: int
    cka: float
    plain_cka: float
    null_high: float
    p_value: float
    distance: float
    null_distance: float

    @property
    def above_null(self) -> bool:
        """Whether the alignment exceeds what shuffled pairs give, at 5 %."""
        return self.cka > self.null_high


@torch.no_grad()
def alignment(
    config: RunConfig,
    world: World,
    parameters: Parameters,
    modality: str,
    rows: int = ROWS,
    shuffles: int = 200,
) -> Alignment:
    """Alignment of a modality's projected items with the prototypes of the host's classes of the same label."""
    generator = stream(config.seed, "alignment", modality)
    classes = world.tables[modality].draw((rows,), generator)
    labels = world.tables[modality].label_of[classes]
    partners = world.tables[config.host_name].draw_with_label(labels, generator)
    features = project(config, parameters, modality, world.sources[modality].draw(classes, generator))
    prototypes = world.sources[config.host_name].prototypes[partners]
    observed = debiased_cka(features, prototypes)
    null, distances = [], []
    k, m = _Gram(features), _Gram(prototypes)
    # A shuffle changes neither norm, so only the shared term is computed again.
    norms = (_unbiased_hsic(k, k) * _unbiased_hsic(m, m)).clamp(min=1e-300).sqrt()
    for _ in range(shuffles):
        order = torch.randperm(rows, generator=generator)
        null.append(float(_unbiased_hsic(k, m.permuted(order)) / norms))
        distances.append(float((features - prototypes[order]).norm(dim=1).mean()))
    return Alignment(
        modality,
        rows,
        observed,
        plain_cka(features, prototypes),
        float(np.quantile(null, 0.95)),
        (1 + sum(value >= observed for value in null)) / (1 + shuffles),
        float((features - prototypes).norm(dim=1).mean()),
        float(np.mean(distances)),
    )


def align(run: Run, *, step: int | None = None, rows: int = ROWS) -> list[Alignment]:
    """Alignment of every secondary modality of a run's checkpoint; empty for a unimodal run."""
    world = world_from_tensors(run.config, run.world_tensors())
    _, parameters = run.parameters(step)
    secondary = [name for name in run.config.modalities if name != run.config.host_name]
    return [alignment(run.config, world, parameters, name, rows) for name in secondary]
