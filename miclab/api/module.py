"""A checkpoint as a plain `torch.nn.Module`."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from miclab.config.run import RunConfig
from miclab.model.classifier import Classifier, model_of
from miclab.model.decoder import Decoder
from miclab.worlds.sequences import Batch


class _Part(nn.Module):
    """A part of a model. It holds parameters and parts, and computes nothing."""


class Model(nn.Module):
    """The network of a configuration with its parameters, whose names in `state_dict` are those of miclab.

    Arguments:
        config: the run's configuration.
        parameters: by name.
    """

    def __init__(self, config: RunConfig, parameters: Mapping[str, Tensor]):
        super().__init__()
        self.function: Decoder | Classifier = model_of(config)
        """The computation: a function of parameters and a batch, with named activations (see `Decoder.trace`)."""
        for name, value in parameters.items():
            *owners, last = name.split(".")
            part: nn.Module = self
            for owner in owners:
                # Written directly: a modality may be called like a method of Module.
                if owner not in part._modules:
                    part._modules[owner] = _Part()
                part = part._modules[owner]  # type: ignore[assignment]
            part._parameters[last] = nn.Parameter(value.clone())

    def forward(self, batch: Batch) -> Float[Tensor, "batch label"]:
        """Logits over the labels at the query of each sequence."""
        return self.function.logits(dict(self.named_parameters()), batch)
