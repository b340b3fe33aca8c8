"""What measures of attention come to without any circuit: under uniform causal attention, and with random weights.

A number of attention says little by itself. In a context of 8 examples of one modality, uniform attention already gives
0.152 for the previous token. So every measure is shown beside these two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from miclab.config.run import RunConfig
from miclab.measures import registry
from miclab.measures.layer import Layer, causal, take
from miclab.measures.registry import Measure, chosen
from miclab.worlds.sequences import config_roles

BASELINES = {"uniform": "uniform attention", "random_weights": "random weights (highest head)"}
"""Baselines in words, by their names in `Baseline`."""
SAME = 1e-3
"""Levels that are so near to each other are one line of a chart."""


@dataclass(frozen=True)
class Baseline:
    """What a measure comes to without a circuit.

    Arguments:
        uniform: under uniform causal attention; None: it is no measure of the pattern alone.
        random_weights: highest head of the decoder with fresh random weights, on a few of the same sequences; None: not
            measured.
    """

    uniform: float | None = None
    random_weights: float | None = None


def uniform_pattern(length: int) -> Float[Tensor, "query key"]:
    """Uniform causal attention: every position attends alike to itself and to all before it."""
    visible = causal(length).float()
    return visible / visible.sum(-1, keepdim=True)


def uniform_levels(config: RunConfig, measures: bool | Iterable[str] = True) -> dict[str, float]:
    """Measures of the pattern under uniform causal attention, by name; those of one modality as NAME.MODALITY.

    It depends on the places of items and labels alone. No two classes of the context share a label here, and the query
    is of one of them, as in `icl`.

    Arguments:
        measures: names; True: those of every evaluation.
    """
    return _levels(config, [one for one in chosen(measures) if set(one.needs) == {"pattern"}])


def _levels(config: RunConfig, measures: Iterable[Measure]) -> dict[str, float]:
    roles = config_roles(config)
    labels = torch.arange(config.sequence.context)[None] // max(config.sequence.burstiness, 1)
    pattern = uniform_pattern(len(roles.kind))[None, None]
    layer = Layer(roles, labels, labels[:, 0], 1, {"attention.pattern": pattern})
    return {name: round(float(value.double().mean()), 6) for name, value in take(measures, layer)[0].items()}


def levels(name: str, config: RunConfig) -> list[tuple[float, str]]:
    """Levels that help to read a measure, `NAME` or `NAME.MODALITY`: what it can reach. Measures of
    the pattern have their value under uniform attention, too."""
    found = registry.guides(name, config)
    stem = name.partition(".")[0]
    uniform = uniform_levels(config, [stem]).get(name) if stem in registry.known() else None
    if uniform is None:
        return found
    words = f"{BASELINES['uniform']} {uniform:.3g}"
    # Two lines at one level have one name.
    same = [text for level, text in found if abs(level - uniform) < SAME]
    return [*(one for one in found if one[1] not in same), (uniform, "; ".join([*same, words]))]


def baselines(
    config: RunConfig, names: Iterable[str], random_weights: Mapping[str, float] | None = None
) -> dict[str, Baseline]:
    """Baselines of measures by name, `NAME` or `NAME.MODALITY`.

    Arguments:
        random_weights: values of the decoder with random weights, by name.
    """
    wanted = list(names)
    uniform = uniform_levels(config, dict.fromkeys(name.partition(".")[0] for name in wanted))
    return {name: Baseline(uniform.get(name), (random_weights or {}).get(name)) for name in wanted}
