"""Measures of an encoder in pretraining: accuracies, and the nearest exemplar."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from miclab.config.request import SplitSizes
from miclab.config.run import RunConfig
from miclab.model.classifier import Classifier
from miclab.model.decoder import Parameters
from miclab.model.encoders import encode
from miclab.seeds import stream
from miclab.worlds.sequences import ClassPlan, plan_training, realise
from miclab.worlds.world import World, novel_world

WAYS = 8
"""Classes among which the nearest exemplar is sought."""


def _accuracy(model: Classifier, world: World, parameters: Parameters, name: str, count: int) -> float:
    generator = stream(model.config.seed, "evaluation", name, 0)
    batch = realise(model.config, world, plan_training(model.config, world, count, generator), generator)
    return float((model.logits(parameters, batch).argmax(-1) == batch.target).float().mean())


def _nearest(model: Classifier, world: World, parameters: Parameters, index: int, count: int) -> float:
    """Share of episodes in which, among features of one exemplar of each of `WAYS` novel classes, that of the query's
    class is nearest."""
    generator = stream(model.config.seed, "evaluation", "nearest", index)
    novel = novel_world(model.config, world, "evaluation", index)
    known = len(novel.tables[model.name].label_of)
    ways = min(WAYS, known)
    classes = torch.rand(count, known, generator=generator).topk(ways).indices
    classes = torch.cat([classes, classes[:, :1]], 1)
    items = realise(model.config, novel, ClassPlan({model.name: classes}, classes), generator).items[model.name]
    features = encode(model.modality, parameters, model.name, items)
    scores = (features[:, :-1] @ features[:, -1:].transpose(1, 2)).squeeze(2)
    return float((scores.argmax(1) == 0).float().mean())


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
    accuracy["nearest"] = float(np.mean(sets))
    return {
        "accuracy": {name: round(value, 6) for name, value in accuracy.items()},
        "nearest_sets": [round(value, 6) for value in sets],
    }
