"""Pretraining of an encoder as a classifier of its modality's classes, from one item. The head is dropped later."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from miclab.config.run import RunConfig
from miclab.model.decoder import Decoder, Parameters
from miclab.model.encoders import encode, encoder_shapes, initial_encoder
from miclab.seeds import stream
from miclab.worlds.sequences import Batch

SHARPNESS = 16.0
"""Factor from cosines of features and classes to logits."""


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
        """Initial parameters, a function of the seed."""
        head = torch.randn(self.shapes()["classifier"], generator=stream(seed, "parameters", "classifier"))
        return {**initial_encoder(self.modality, self.name, seed), "classifier": head}

    def logits(self, parameters: Parameters, batch: Batch) -> Float[Tensor, "batch label"]:
        """Logits over the classes of the item."""
        features = encode(self.modality, parameters, self.name, batch.items[self.name][:, -1])
        return SHARPNESS * features @ F.normalize(parameters["classifier"], dim=0)


def model_of(config: RunConfig) -> Decoder | Classifier:
    """The model that a configuration trains."""
    return Classifier(config) if config.is_classification else Decoder(config)
