"""One training step: from a raw batch to the batch, the loss, its gradient and the optimiser's update.

The step is one function of tensors, eager or compiled. A process compiles it once for all runs whose steps differ only
in the values of tensors. A run's own tensors (its world, weights, averages and learning rate) are arguments. Every
field of a configuration counts as changing the step, except those in `PASSED_IN`.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Hashable
from typing import Any

import torch

from miclab.config.run import RunConfig
from miclab.config.schema import to_mapping
from miclab.training import compiler_cache, numerics, optimiser
from miclab.training.flat_parameters import TrainedParameters, gradient_function, moving
from miclab.training.objective import Losses, Objective
from miclab.worlds.sequences import RawBatch

Step = Callable[[RawBatch, float, int], Losses]
_compiled: dict[Hashable, Callable] = {}


PASSED_IN = {
    "": ("seed", "seeds", "parent", "objective"),
    "sequence": (
        "burstiness", "bursty_fraction", "novel_fraction", "distinct_labels", "leader", "task", "pairing", "groups",
        "unpaired_independent", "swapped_shift", "token_noise",
    ),
    "optimiser": ("learning_rate", "schedule", "warmup_steps", "decay_steps"),
    "numerics": ("mode", "lanes", "sampler"),
    "modalities.NAME": (
        "classes", "dimension", "noise", "zipf_exponent", "labels", "novel_classes", "source", "content", "blends",
        "prototype_correlation",
        "shift", "encoder_run", "encoder_step",
    ),
}  # fmt: skip
"""Fields that change a step only through its arguments, or through entries that `graph_key` adds. Those are shapes,
whether there is any noise, and the active terms of the loss."""


def graph_key(config: RunConfig, active: tuple[str, ...] | None = None) -> Hashable:
    """Everything that a step depends on, except values of tensors. Two configurations with the same key have the same
    step.

    Arguments:
        active: the terms of the loss that count; None: those of the first step.
    """
    plain = to_mapping(config)
    for part in (plain, *(plain[name] for name in ("sequence", "optimiser", "numerics"))):
        owner = next((name for name, value in plain.items() if value is part), "")
        for field in PASSED_IN[owner]:
            del part[field]
    for name, modality in plain["modalities"].items():
        own = config.modalities[name]
        for field in PASSED_IN["modalities.NAME"]:
            del modality[field]
        modality["items"] = (config.item_dimension(name), config.encodes(name), bool(own.noise or not own.source))
    terms = Objective(config).active(0) if active is None else active
    added = {
        "labels": config.label_count,
        "is_classification": config.is_classification,
        "host_width": 0 if config.is_classification else config.item_width,
        "token_noise": bool(config.sequence.token_noise),
        "terms": [(name, to_mapping(config.objective[name])) for name in terms if name in config.objective],
        "active": terms,
    }
    # Modalities in their order, which is that of the tokens.
    return json.dumps([plain, added])


def step_function(config: RunConfig, trained: TrainedParameters, active: tuple[str, ...] | None = None) -> Callable:
    """The step as a function of tensors alone; it changes `flat`, `mean` and `square` in place and returns the losses.

    Arguments:
        trained: only its names and shapes are used.
        active: the terms of the loss that count; None: those of the first step.
    """
    gradient = gradient_function(config, trained, active)
    free = moving(config, trained.shapes)
    free = None if free is None else free.to(trained.flat.device)

    def step(flat, mean, square, numbers, fixed, raw):
        losses, slope = gradient(flat, raw.batch(), fixed)
        optimiser.move(config.optimiser, flat, slope, mean, square, numbers, free)
        return losses

    return step


def compiled_once(key: Hashable, make: Callable[[], Callable], options: dict[str, Any]) -> Callable:
    """A compiled function, one of each key in a process.

    Arguments:
        key: what the function depends on, except values and shapes of its arguments.
        make: makes the function, which has no default arguments.
        options: of the compiler.
    """
    if key not in _compiled:
        function: Any = make()
        # The compiler counts versions by code object and gives up after a few, so each key gets its own code object.
        code = function.__code__.replace(co_name=f"{function.__name__}_{len(_compiled)}")
        own = types.FunctionType(code, function.__globals__, code.co_name, None, function.__closure__)
        compiler_cache.use_own_folder()
        _compiled[key] = torch.compile(own, dynamic=False, fullgraph=True, options=options)
    return _compiled[key]


def compiled_step(config: RunConfig, trained: TrainedParameters, active: tuple[str, ...]) -> Callable:
    """`step_function`, compiled once for all configurations of one `graph_key`."""
    key = graph_key(config, active)
    return compiled_once(key, lambda: step_function(config, trained, active), numerics.COMPILER_OPTIONS)


def training_step(config: RunConfig, trained: TrainedParameters, state: optimiser.State) -> Step:
    """A function from (raw batch, learning rate, finished steps) to the losses before the update. It changes
    `trained.flat` and `state` in place. It is compiled if `config.numerics.mode` says so, and once more where a term of
    the loss ends.

    Arguments:
        state: what `optimiser.initial_state` gives for {"trained": trained.flat}.
    """
    make = compiled_step if config.numerics.mode == "compiled" else step_function
    objective, functions = Objective(config), {}
    mean, square = state.get("mean.trained"), state.get("square.trained")

    def step(raw: RawBatch, rate: float, finished: int) -> Losses:
        active = objective.active(finished)
        if active not in functions:
            functions[active] = make(config, trained, active)
        numbers = optimiser.coefficients(config.optimiser, optimiser.next_step(state, "trained"), rate)
        numbers = numbers.to(trained.flat.device)
        return functions[active](trained.flat, mean, square, numbers, trained.fixed, raw)

    return step
