"""An optimiser step on plain dictionaries of tensors.

The rules are those of PyTorch's classes of the same names, written on whole tensors, so that a compiled training step
holds them as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from miclab.config.parts import OptimiserConfig

State = dict[str, Tensor]
EPSILON = 1e-8
"""Added to the root of the mean square (adam, adamw)."""


def initial_state(config: OptimiserConfig, parameters: Mapping[str, Tensor]) -> State:
    """Optimiser state of the parameters that are trained: `mean.<name>`, `square.<name>`, `step.<name>`."""
    if config.name == "sgd":
        return {}
    state = {}
    for name, value in parameters.items():
        state[f"mean.{name}"] = torch.zeros_like(value)
        state[f"square.{name}"] = torch.zeros_like(value)
        # Read in every step, so it stays on the CPU.
        state[f"step.{name}"] = torch.zeros(())
    return state


def learning_rate(config: OptimiserConfig, step: int) -> float:
    """Learning rate of the update after `step` finished ones: warm-up, then constant or half a cosine to 0."""
    rate = config.learning_rate
    if step < config.warmup_steps:
        return rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return rate
    done = min(1.0, (step - config.warmup_steps) / (config.decay_steps - config.warmup_steps))
    return rate * (1 + math.cos(math.pi * done)) / 2


def coefficients(config: OptimiserConfig, step: int, rate: float) -> Float[Tensor, " 3"]:
    """The scalars of update number `step` (from 1): the factor of decay, the step size, and the bias correction. The
    last corrects the root of the mean square for its start at 0."""
    kept = 1 - rate * config.weight_decay if config.name == "adamw" else 1.0
    if config.name == "sgd":
        return torch.tensor([kept, rate, 1.0])
    return torch.tensor([kept, rate / (1 - config.beta1**step), 1 / math.sqrt(1 - config.beta2**step)])


def move(
    config: OptimiserConfig,
    value: Float[Tensor, "*shape"],
    slope: Float[Tensor, "*shape"],
    mean: Float[Tensor, "*shape"] | None,
    square: Float[Tensor, "*shape"] | None,
    numbers: Float[Tensor, "3 ..."],
    free: Bool[Tensor, " weight"] | None = None,
) -> None:
    """Changes `value`, `mean` and `square` in place by one step along `slope`. The result depends on the arguments
    alone.

    Arguments:
        mean, square: averages of the slopes and of their squares; None for sgd.
        numbers: what `coefficients` gives; with further axes where runs lie in one tensor.
        free: which weights are moved; None: all.
    """
    if free is not None:
        before = value.clone()
        move(config, value, slope, mean, square, numbers)
        value.copy_(torch.where(free, value, before))
        return
    kept, size, correction = numbers
    if config.name == "adamw":
        value.mul_(kept)
    else:
        slope = slope + config.weight_decay * value
    if mean is None or square is None:
        value.sub_(size * slope)
        return
    mean.lerp_(slope, 1 - config.beta1)
    square.mul_(config.beta2).addcmul_(slope, slope, value=1 - config.beta2)
    value.sub_(size * mean / (square.sqrt() * correction + EPSILON))


@torch.no_grad()
def update(
    config: OptimiserConfig,
    parameters: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    state: State,
    rate: float,
) -> None:
    """Changes `parameters` and `state` in place by one step along `gradients`, whose names say what is trained."""
    for name, slope in gradients.items():
        numbers = coefficients(config, next_step(state, name), rate)
        move(config, parameters[name], slope, state.get(f"mean.{name}"), state.get(f"square.{name}"), numbers)


def next_step(state: State, name: str) -> int:
    """The number of a parameter's next update, from 1. It is counted in `state` (0 for sgd)."""
    counter = state.get(f"step.{name}")
    return 0 if counter is None else int(counter.add_(1))
