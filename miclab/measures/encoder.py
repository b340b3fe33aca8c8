"""Measures of an encoder in pretraining: accuracies, and the nearest exemplar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from miclab.config.request import SplitSizes
from miclab.config.run import RunConfig
from miclab.model.classifier import Classifier
from miclab.model.decoder import Parameters
from miclab.model.encoders import encode
from miclab.seeds import stream
from miclab.worlds.sequences import Batch, ClassPlan, plan_training, realise
from miclab.worlds.world import World, novel_world

WAYS = 8
"""Classes among which the nearest exemplar is sought."""


def classified(config: RunConfig, world: World, name: str, count: int) -> Batch:
    """Items of the classes of a world, as in training; `name` is that of the random stream."""
    generator = stream(config.seed, "evaluation", name, 0)
    return realise(config, world, plan_training(config, world, count, generator), generator)


def episodes(
    config: RunConfig, world: World, modality: str, index: int, count: int
) -> Float[Tensor, "episode item dimension"]:
    """Items of episodes of a set of novel classes: one exemplar of each of `WAYS`, then the query of the first."""
    generator = stream(config.seed, "evaluation", "nearest", index)
    novel = novel_world(config, world, "evaluation", index)
    known = len(novel.tables[modality].label_of)
    ways = min(WAYS, known)
    classes = torch.rand(count, known, generator=generator).topk(ways).indices
    classes = torch.cat([classes, classes[:, :1]], 1)
    return realise(config, novel, ClassPlan({modality: classes}, classes), generator).items[modality]


def is_nearest(features: Float[Tensor, "episode item width"]) -> Bool[Tensor, " episode"]:
    """Whether, in each of `episodes`, the exemplar of the query's class is nearest."""
    scores = (features[:, :-1] @ features[:, -1:].transpose(1, 2)).squeeze(2)
    return scores.argmax(1) == 0


def _accuracy(model: Classifier, world: World, parameters: Parameters, name: str, count: int) -> float:
    batch = classified(model.config, world, name, count)
    return float((model.logits(parameters, batch).argmax(-1) == batch.target).float().mean())


def _nearest(model: Classifier, world: World, parameters: Parameters, index: int, count: int) -> float:
    items = episodes(model.config, world, model.name, index, count)
    return float(is_nearest(encode(model.modality, parameters, model.name, items)).float().mean())


@torch.no_grad()
def classifier_row(config: RunConfig, world: World, parameters: Parameters, sizes: SplitSizes) -> dict[str, Any]:
    """Metric row of an encoder's training: accuracy on items as in training and, with real data, on held-out exemplars.
    On novel classes it is the accuracy of the nearest exemplar, by set."""
    if sizes.evaluation_seed >= 0:
        config = replace(config, seed=sizes.evaluation_seed)
    model = Classifier(config)
    count = sizes.sequences * sizes.novel_sets
    accuracy = {"train": _accuracy(model, world, parameters, "train", count)}
    if model.modality.source:
        accuracy["held_out"] = _accuracy(model, world.evaluated(), parameters, "held out", count)
    sets = [_nearest(model, world, parameters, index, sizes.sequences) for index in range(sizes.novel_sets)]
    return encoder_row(accuracy, sets)


def encoder_row(accuracy: Mapping[str, float], sets: Sequence[float]) -> dict[str, Any]:
    """A metric row from the accuracies of items, and of the nearest exemplar by set of novel classes."""
    accuracy = {**accuracy, "nearest": float(np.mean(sets))}
    return {
        "accuracy": {name: round(value, 6) for name, value in accuracy.items()},
        "nearest_sets": [round(value, 6) for value in sets],
    }
