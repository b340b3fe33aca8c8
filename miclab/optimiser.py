"""One optimiser step on plain dictionaries of tensors, by PyTorch's own functional updates."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from miclab.settings import OptimiserConfig

State = dict[str, Tensor]


def initial_state(config: OptimiserConfig, parameters: Mapping[str, Tensor]) -> State:
    """Optimiser state of the parameters that are trained: `mean.<name>`, `square.<name>`, `step.<name>`."""
    if config.name == "sgd":
        return {}
    state = {}
    for name, value in parameters.items():
        state[f"mean.{name}"] = torch.zeros_like(value)
        state[f"square.{name}"] = torch.zeros_like(value)
        state[f"step.{name}"] = torch.zeros((), device=value.device)
    return state


def learning_rate(config: OptimiserConfig, step: int) -> float:
    """Learning rate of the update that follows `step` finished ones: warm-up, then constant or half a cosine to 0."""
    rate = config.learning_rate
    if step < config.warmup_steps:
        return rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return rate
    done = min(1.0, (step - config.warmup_steps) / (config.decay_steps - config.warmup_steps))
    return rate * (1 + math.cos(math.pi * done)) / 2


@torch.no_grad()
def update(
    config: OptimiserConfig,
    parameters: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    state: State,
    rate: float,
) -> None:
    """Changes `parameters` and `state` in place by one step along `gradients`, whose names say what is trained."""
    names = list(gradients)
    values, slopes = [parameters[n] for n in names], [gradients[n] for n in names]
    if config.name == "sgd":
        sgd(
            values,
            slopes,
            [None] * len(names),
            fused=True,
            weight_decay=config.weight_decay,
            momentum=0.0,
            lr=rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        return
    step = adamw if config.name == "adamw" else adam
    step(
        values,
        slopes,
        [state[f"mean.{n}"] for n in names],
        [state[f"square.{n}"] for n in names],
        [],
        [state[f"step.{n}"] for n in names],
        fused=True,
        amsgrad=False,
        beta1=config.beta1,
        beta2=config.beta2,
        lr=rate,
        weight_decay=config.weight_decay,
        eps=1e-8,
        maximize=False,
    )
