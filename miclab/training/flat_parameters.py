"""Loss and gradients of the trained parameters, which lie in one flat tensor.

With one tensor in and one out, the compiled step has no checks and allocations of dozens of small ones. The optimiser's
update is one operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from miclab.config.frozen import frozen_heads
from miclab.config.run import RunConfig
from miclab.errors import ConfigError
from miclab.model.classifier import model_of
from miclab.model.parts import head_masks, joined
from miclab.training.objective import Losses, Objective
from miclab.worlds.sequences import Batch

Flat = Float[Tensor, " weight"]


def trained_names(config: RunConfig, names: list[str]) -> list[str]:
    """The parameters that no part in `config.frozen` covers; the vectors of jitter are never trained."""
    frozen = (*config.frozen, "decoder.jitter")
    return [n for n in names if not any(n == part or n.startswith(f"{part}.") for part in frozen)]


def moving(config: RunConfig, shapes: Mapping[str, tuple[int, ...]]) -> Bool[Tensor, " weight"] | None:
    """Which weights of the flat tensor are trained, where heads are frozen that share parameters with others; None: all
    are.

    Arguments:
        shapes: of the parameters that lie in the flat tensor.
    """
    heads = frozen_heads(config)
    if not heads:
        return None
    every = model_of(config).shapes()
    still = joined(mask for head in heads for mask in head_masks(config, every, *head).values())
    free = {name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()}
    return torch.cat([(one & ~still[name] if name in still else one).flatten() for name, one in free.items()])


def views(flat: Float[Tensor, "*lane weight"], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Named parts of a flat tensor, or of each row of one, sharing its memory."""
    parts = flat.split([math.prod(shape) for shape in shapes.values()], -1)
    lanes = flat.shape[:-1]
    return {name: part.view((*lanes, *shape)) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


class TrainedParameters:
    """Parameters of a run under training.

    Arguments:
        config: says which parts are frozen.
        parameters: all of them; they are copied.

    Raises:
        ConfigError: everything is frozen.
    """

    def __init__(self, config: RunConfig, parameters: Mapping[str, Tensor]):
        shapes = model_of(config).shapes()
        self.shapes = {name: shapes[name] for name in trained_names(config, list(shapes))}
        found = moving(config, self.shapes)
        if not self.shapes or (found is not None and not found.any()):
            raise ConfigError("frozen", config.frozen, "parts that leave at least one to be trained")
        self.flat = torch.cat([parameters[name].flatten() for name in self.shapes])
        self.fixed = {name: parameters[name] for name in shapes if name not in self.shapes}
        self.lie_in(self.flat)

    def lie_in(self, flat: Flat) -> None:
        """From now on the trained parameters are those of `flat`, which is a part of a larger tensor or a tensor."""
        self.flat = flat
        # The views follow every update of `flat` in place.
        self.named = {**self.fixed, **views(flat, self.shapes)}


def gradient_function(
    config: RunConfig, trained: TrainedParameters, active: tuple[str, ...] | None = None
) -> Callable[..., tuple[Losses, Flat]]:
    """A function from (flat parameters, batch, fixed parameters) to (losses, flat gradient of `loss`).

    Arguments:
        trained: gives names and shapes, and the fixed parameters of a call that names none.
        active: the terms of the objective that count; None: those of the first step.
    """
    # Masks and codes of positions are made where the parameters are.
    with trained.flat.device:
        objective = Objective(config)
    shapes, usual = trained.shapes, trained.fixed
    terms = objective.active(0) if active is None else active

    def loss_and_gradient(flat: Flat, batch: Batch, fixed: Mapping[str, Tensor] = usual) -> tuple[Losses, Tensor]:
        def loss_of(values: Tensor) -> tuple[Tensor, Losses]:
            losses = objective.losses({**fixed, **views(values, shapes)}, batch, terms)
            return losses["loss"], losses

        gradient, losses = torch.func.grad(loss_of, has_aux=True)(flat)
        return losses, gradient

    return loss_and_gradient
