"""The cost of a decoder: its weights, and the floating-point operations of its matrix products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from miclab.config.run import RunConfig
from miclab.model.decoder import Decoder
from miclab.worlds.sequences import Batch, config_roles


@dataclass(frozen=True)
class Cost:
    """Sizes of a decoder.

    Arguments:
        parameters: weights, bridge and encoders included.
        attention_parameters: those of attention alone.
        flops: operations of a forward pass over every position of one sequence.
        attention_flops: those of attention alone.
    """

    parameters: int
    attention_parameters: int
    flops: int
    attention_flops: int


def cost(config: RunConfig) -> Cost:
    """The counted cost of a decoder. The product of an m x k and a k x n matrix has 2 m k n operations. Solving a
    triangular system has half of that. Elementwise operations, such as a softmax, are not counted.

    Raises:
        RunError: the run pretrains an encoder and has no decoder.
        ConfigError: the mechanism ignores a setting of the configuration.
    """
    decoder = Decoder(config)
    parameters = {name: torch.zeros(shape) for name, shape in decoder.shapes().items()}
    batch = _empty_batch(config)
    own = sum(value.numel() for name, value in parameters.items() if ".attention." in name)
    whole = _counted(lambda: decoder.trace(parameters, batch))
    attention = 0
    for i, mechanism in enumerate(decoder.attention):
        block = f"decoder.blocks.{i}.attention"
        given = {name: parameters[f"{block}.{name}"] for name in mechanism.shapes(i)}
        x = torch.zeros(1, config.sequence_length, decoder.width)
        positions = decoder.positions_of(parameters)
        attention += _counted(
            lambda m=mechanism, g=given, i=i, x=x, p=positions: m.everywhere(
                g, x, None, layer=i, positions=p, roles=batch.roles, point=lambda name, value: value
            )
        )
    return Cost(decoder.parameter_count(), own, whole, attention)


def _counted(work: Any) -> int:
    solved = {torch.ops.aten.linalg_solve_triangular: _triangular}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=solved) as counter:
        work()
    return counter.get_total_flops()


def _triangular(triangle: Any, values: Any, *, out_shape: Any = None, **options: Any) -> int:
    """Operations of solving a triangular system, from the shapes of the triangle and the right-hand sides."""
    *batch, rows, columns = out_shape if out_shape is not None else values
    return int(torch.Size(batch).numel() * rows * rows * columns)


def _empty_batch(config: RunConfig) -> Batch:
    """One sequence of zeros."""
    context = config.sequence.context
    whole: Tensor = torch.zeros(1, context, dtype=torch.long)
    items = {name: torch.zeros(1, context + 1, config.item_dimension(name)) for name in config.modalities}
    classes = {name: torch.zeros(1, context + 1, dtype=torch.long) for name in config.modalities}
    labels = torch.zeros(1, context, config.item_width)
    return Batch(items, labels, whole, whole[:, 0], classes, torch.zeros(1), config_roles(config))
