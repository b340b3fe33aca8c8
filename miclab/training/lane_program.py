"""The step of a group of lanes as one program: losses, gradients and the optimiser's update.

    (flat, mean, square, numbers, busy, fixed, raw) -> losses, (flat, mean, square)

Every argument and result has the lanes as its first axis, and nothing mixes them. The program changes no argument. So a
call that failed, for lack of memory or in the compiler, has moved no lane and can be made again in another way.

Drawing the sequences is a program beside it. That needs another default device of PyTorch, under which the compiler
does not take all that a decoder may do.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from miclab.config.run import RunConfig
from miclab.training import numerics, optimiser
from miclab.training.flat_parameters import TrainedParameters, gradient_function
from miclab.training.step import compiled_once, graph_key
from miclab.worlds.lane_sampler import LaneSampler
from miclab.worlds.sequences import RawBatch, config_roles


def lane_function(
    config: RunConfig,
    trained: TrainedParameters,
    terms: tuple[str, ...],
    free: Bool[Tensor, " weight"] | None,
) -> Callable:
    """The program of a group, eager.

    Arguments:
        trained: gives names and shapes.
        terms: those of the loss that count.
        free: which weights of a row are moved; None: all.
    """
    # Tensors of the CPU would keep a GPU's program from being one graph.
    gradient, roles = gradient_function(config, trained, terms), config_roles(config).on(trained.flat.device)
    size, own = len(trained.flat), config.optimiser

    def one(flat: Tensor, fixed: Mapping[str, Tensor], raw: Mapping[str, Any]) -> tuple[Any, Tensor]:
        return gradient(flat, RawBatch(**raw, roles=roles).batch(), fixed)

    def group_step(flat, mean, square, numbers, busy, fixed, raw):
        losses, slope = torch.func.vmap(one)(flat[:, :size], fixed, raw)
        # An idle lane may be one that diverged, whose slope is not finite.
        slope = F.pad(torch.where(busy, slope, 0.0), (0, flat.shape[1] - size))
        before = [part for part in (flat, mean, square) if part is not None]
        after = [part.clone() for part in before]
        averages = after[1:] or [None, None]
        optimiser.move(own, after[0], slope, averages[0], averages[1], numbers.T[..., None], free)
        return losses, tuple(torch.where(busy, new, old) for new, old in zip(after, before, strict=True))

    return group_step


def lane_program(
    config: RunConfig, trained: TrainedParameters, terms: tuple[str, ...], free: Bool[Tensor, " weight"] | None
) -> Callable:
    """`lane_function`, compiled once for all groups of one `graph_key` and width."""
    key = ("lanes", graph_key(config, terms), config.numerics.lanes)
    options = numerics.group_options(config.numerics.device)
    return compiled_once(key, lambda: lane_function(config, trained, terms, free), options)


def compiled_draw(sampler: LaneSampler) -> Callable:
    """`LaneSampler.drawn`, compiled once for all groups with equal sequences."""
    program = compiled_once(
        ("drawing", sampler.key), lambda: sampler.drawn, numerics.group_options(sampler.device.type)
    )

    def draw(*inputs: Any) -> Any:
        with warnings.catch_warnings(), sampler.device:
            # Drawing reads functions with a cache, whose values are constants of the program.
            warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
            # A CUDA graph writes every batch into the same memory, so each is copied.
            return mapped(Tensor.clone, program(*inputs))

    return draw


class Parts:
    """Calls programs on all lanes of a group, or on equal parts of it where the device's memory is too small.

    Arguments:
        width: lanes of the group.
        on_halved: called with the lanes computed at once, where the device's memory was too small for more.
    """

    def __init__(self, width: int, on_halved: Callable[[int], None]):
        self.width, self.at_once, self.on_halved = width, width, on_halved

    def __call__(self, program: Callable, inputs: tuple[Any, ...]) -> Any:
        """What a program gives for all lanes. Where memory is too small, half as many are computed at once. No lane has
        been moved by then, and all parts have one size, so that a lane's place still does not matter."""
        while True:
            try:
                if self.at_once == self.width:
                    return program(*inputs)
                starts = range(0, self.width, self.at_once)
                # A CUDA graph writes every part into the same memory, so each is copied.
                parts = [
                    mapped(Tensor.clone, program(*mapped(lambda value, here=here: value[here], inputs)))
                    for here in (slice(start, start + self.at_once) for start in starts)
                ]
                return _joined(parts)
            except torch.OutOfMemoryError:
                if self.at_once == 1:
                    raise
            # Beyond the handler: until its end the error holds the tensors of the step that failed.
            half = self.at_once // 2
            self.at_once = max(number for number in range(1, half + 1) if self.width % number == 0)
            torch.cuda.empty_cache()
            self.on_halved(self.at_once)


def stacked(parts: Sequence[Any]) -> Any:
    """Tensors, or nested mappings of them, with the lanes as a new first axis."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.stack(list(parts))
    return {name: stacked([part[name] for part in parts]) for name in first}


def mapped(function: Callable[[Tensor], Tensor], nested: Any) -> Any:
    """Nested mappings and tuples of tensors, with a function applied to each tensor."""
    if nested is None or isinstance(nested, Tensor):
        return None if nested is None else function(nested)
    if isinstance(nested, Mapping):
        return {name: mapped(function, part) for name, part in nested.items()}
    return tuple(mapped(function, part) for part in nested)


def _joined(parts: Sequence[Any]) -> Any:
    """The lanes of all parts in one."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, Mapping):
        return {name: _joined([part[name] for part in parts]) for name in first}
    return tuple(_joined(column) for column in zip(*parts, strict=True))
