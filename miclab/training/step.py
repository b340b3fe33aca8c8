"""One training step: what chance drew becomes a batch, a loss, its gradient and the optimiser's update.

All of it is one function of tensors, run as it is or compiled. A process compiles it once for all runs whose steps are
the same but for the values of tensors: what a run owns (its world, weights, averages and learning rate) is passed in.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Hashable

import torch
from jaxtyping import Float
from torch import Tensor

from miclab.config.run import RunConfig
from miclab.training import numerics, optimiser
from miclab.training.flat_parameters import TrainedParameters, gradient_function
from miclab.worlds.sequences import Draft

Step = Callable[[Draft, float], Float[Tensor, ""]]
_compiled: dict[Hashable, Callable] = {}


def graph_key(config: RunConfig) -> Hashable:
    """All that the compiled step depends on, tensors' values aside: two configurations with the same key have the
    same step. Classes, frequencies, noise, seeds and rates are not part of it."""
    rule, modalities = config.optimiser, config.modalities.items()
    return (
        config.is_classification,
        config.decoder,
        config.bridge,
        frozenset(config.frozen),
        config.order,
        config.host_name,
        tuple((n, config.item_dimension(n), _encoder(config, n), bool(m.noise or not m.source)) for n, m in modalities),
        config.sequence.context,
        (config.sequence.first_token, config.sequence.jitter, bool(config.sequence.token_noise)),
        config.label_count,
        (rule.name, rule.weight_decay, rule.beta1, rule.beta2, rule.batch_size),
        config.numerics.threads,
    )


def _encoder(config: RunConfig, name: str) -> Hashable:
    modality = config.modalities[name]
    return (modality.encoder, modality.shape, modality.features) if config.encodes(name) else None


def step_function(config: RunConfig, trained: TrainedParameters) -> Callable:
    """The step as a function of tensors alone; it changes `flat`, `mean` and `square` in place and returns the loss.

    Of `trained` only names and shapes are used.
    """
    loss_and_gradient = gradient_function(config, trained)

    def step(flat, mean, square, numbers, fixed, draft):
        loss, slope = loss_and_gradient(flat, draft.batch(), fixed)
        optimiser.move(config.optimiser, flat, slope, mean, square, numbers)
        return loss

    return step


def _compile(config: RunConfig, trained: TrainedParameters) -> Callable:
    key = graph_key(config)
    if key not in _compiled:
        step = step_function(config, trained)
        # The compiler counts versions by code, and gives up after a few: each key gets a code of its own.
        code = step.__code__.replace(co_name=f"step_{len(_compiled)}")
        own = types.FunctionType(code, step.__globals__, code.co_name, None, step.__closure__)
        _compiled[key] = torch.compile(own, dynamic=False, fullgraph=True, options=numerics.COMPILER_OPTIONS)
    return _compiled[key]


def training_step(config: RunConfig, trained: TrainedParameters, state: optimiser.State) -> Step:
    """A function from (draft, learning rate) to the loss before the update; it changes `trained.flat` and `state` in
    place. Compiled if `config.numerics.mode` says so.

    Arguments:
        state: what `optimiser.initial_state` gives for {"trained": trained.flat}.
    """
    function = _compile(config, trained) if config.numerics.mode == "compiled" else step_function(config, trained)
    mean, square = state.get("mean.trained"), state.get("square.trained")

    def step(draft: Draft, rate: float) -> Tensor:
        numbers = optimiser.coefficients(config.optimiser, optimiser.next_step(state, "trained"), rate)
        return function(trained.flat, mean, square, numbers, trained.fixed, draft)

    return step
