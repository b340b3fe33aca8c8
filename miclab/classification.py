"""How an encoder is pretrained: as a classifier of its modality's classes, from one item; the head is dropped later."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from miclab.config import RunConfig
from miclab.decoder import Decoder, Parameters
from miclab.encoders import encode, encoder_shapes, initial_encoder
from miclab.request import SplitSizes
from miclab.seeds import stream
from miclab.sequences import Batch, ClassPlan, plan_training, realise
from miclab.world import World, novel_world

SHARPNESS = 16.0
"""What the cosines of features and classes are multiplied with to be logits."""
WAYS = 8
"""Classes among which the nearest exemplar is sought."""


class Classifier:
    """Encoder and head of a run whose task is `classification`.

    Arguments:
        config: the run's configuration.
    """

    def __init__(self, config: RunConfig):
        self.config = config
        self.name, self.modality = next(iter(config.modalities.items()))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter."""
        return {**encoder_shapes(self.config), "classifier": (self.modality.features, self.config.label_count)}

    def initial_parameters(self, seed: int) -> dict[str, Tensor]:
        """Fresh parameters, a function of the seed."""
        head = torch.randn(self.shapes()["classifier"], generator=stream(seed, "parameters", "classifier"))
        return {**initial_encoder(self.modality, self.name, seed), "classifier": head}

    def logits(self, parameters: Parameters, batch: Batch) -> Float[Tensor, "batch label"]:
        """Logits over the classes of the item."""
        features = encode(self.modality, parameters, self.name, batch.items[self.name][:, -1])
        return SHARPNESS * features @ F.normalize(parameters["classifier"], dim=0)

    def loss(self, parameters: Parameters, batch: Batch) -> Float[Tensor, ""]:
        """Mean cross-entropy, in nats, over the classes."""
        return F.cross_entropy(self.logits(parameters, batch), batch.target)


def model_of(config: RunConfig) -> Decoder | Classifier:
    """What a configuration trains."""
    return Classifier(config) if config.is_classification else Decoder(config)


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
    """What the training of an encoder writes down at an evaluation: accuracy on items as in training and, with real
    data, on held-out exemplars; and on novel classes the accuracy of the nearest exemplar, by set."""
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
