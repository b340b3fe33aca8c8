"""What measures of attention come to without any circuit: under uniform causal attention, and with random weights.

A number of attention says little by itself. In a context of 8 examples of one modality, uniform attention already gives
0.152 for the previous token. So every measure is shown beside these two. A mechanism may hide positions, as a sliding
window does. Uniform attention is then over those that a layer may see.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from miclab.config.run import RunConfig
from miclab.measures import registry
from miclab.measures.layer import Layer, causal, take
from miclab.measures.registry import Measure, chosen
from miclab.model.decoder import Decoder
from miclab.worlds.sequences import config_roles

BASELINES = {"uniform": "uniform attention", "random_weights": "random weights (highest head)"}
"""Baselines in words, by their names in `Baseline`."""
SAME = 1e-3
"""Levels that are so near to each other are one line of a chart."""


@dataclass(frozen=True)
class Baseline:
    """What a measure comes to without a circuit.

    Arguments:
        uniform: under uniform attention to what a layer may see; None: layers differ, or it is no measure of the
            pattern alone.
        random_weights: highest head of the decoder with fresh random weights, on a few of the same sequences; None: not
            measured.
        by_layer: the same as `uniform` for each layer, a mean over its heads; empty where layers do not differ.
    """

    uniform: float | None = None
    random_weights: float | None = None
    by_layer: tuple[float, ...] = ()

    def shown(self, part: str) -> float | str | None:
        """A baseline of `BASELINES` as the cell of a table."""
        if part == "uniform" and self.by_layer:
            return ", ".join(f"layer {i}: {level:.3f}" for i, level in enumerate(self.by_layer))
        return getattr(self, part)


def uniform_over(seen: Bool[Tensor, "*head query key"]) -> Float[Tensor, "*head query key"]:
    """Uniform attention: every position attends alike to all that it may see."""
    visible = seen.float()
    return visible / visible.sum(-1, keepdim=True).clamp(min=1)


def uniform_pattern(length: int) -> Float[Tensor, "query key"]:
    """Uniform causal attention: every position attends alike to itself and to all before it."""
    return uniform_over(causal(length))


def uniform_levels(config: RunConfig, measures: bool | Iterable[str] = True) -> dict[str, float]:
    """Measures of the pattern under uniform causal attention, by name; those of one modality as NAME.MODALITY.

    It depends on the places of items and labels alone. No two classes of the context share a label here, and the query
    is of one of them, as in `icl`.

    Arguments:
        measures: names; True: those of every evaluation.
    """
    found = _levels(config, _of_pattern(measures), causal(config.sequence_length)[None])
    return {name: float(values[0]) for name, values in found.items()}


def uniform_by_head(config: RunConfig, measures: bool | Iterable[str] = True) -> dict[str, NDArray[np.floating]]:
    """The same as `uniform_levels`, but each head attends alike to the positions that its layer's mechanism lets it
    see [layer, head]. Where that is every earlier position, both are equal.

    Arguments:
        measures: names; True: those of every evaluation.
    """
    decoder, wanted = Decoder(config), _of_pattern(measures)
    masks: list[Tensor] = []
    rows: list[dict[str, NDArray[np.floating]]] = []
    for i in range(config.decoder.layers):
        seen = decoder.visible(i).cpu()
        same = next((j for j, mask in enumerate(masks) if torch.equal(mask, seen)), None)
        masks.append(seen)
        rows.append(_levels(config, wanted, seen) if same is None else rows[same])
    heads = config.decoder.heads
    return {name: np.stack([np.broadcast_to(row[name], heads) for row in rows]) for name in rows[0]}


def _of_pattern(measures: bool | Iterable[str]) -> list[Measure]:
    return [one for one in chosen(measures) if set(one.needs) == {"pattern"}]


def _levels(
    config: RunConfig, measures: Iterable[Measure], seen: Bool[Tensor, "head query key"]
) -> dict[str, NDArray[np.floating]]:
    """Measures of uniform attention to what is seen, by name [head]."""
    roles = config_roles(config)
    labels = torch.arange(config.sequence.context)[None] // max(config.sequence.burstiness, 1)
    shown = {"attention.pattern": uniform_over(seen)[None]}
    layer = Layer(roles, labels, labels[:, 0], len(seen), shown, visible=seen[None])
    return {name: value.double().mean(0).numpy().round(6) for name, value in take(measures, layer)[0].items()}


def levels(name: str, config: RunConfig) -> list[tuple[float, str]]:
    """Levels that help to read a measure, `NAME` or `NAME.MODALITY`: what it can reach. Measures of
    the pattern have their value under uniform attention, too."""
    found = registry.guides(name, config)
    stem = name.partition(".")[0]
    uniform = baselines(config, [name])[name] if stem in registry.known() else Baseline()
    lines = [] if uniform.uniform is None else [(uniform.uniform, "")]
    for level in dict.fromkeys(uniform.by_layer):
        own = [str(i) for i, one in enumerate(uniform.by_layer) if one == level]
        lines.append((level, f", layer{'s' if len(own) > 1 else ''} {', '.join(own)}:"))
    for level, where in lines:
        # Two lines at one level have one name.
        same = [text for other, text in found if abs(other - level) < SAME]
        words = "; ".join([*same, f"{BASELINES['uniform']}{where} {level:.3g}"])
        found = [*(one for one in found if one[1] not in same), (level, words)]
    return list(found)


def baselines(
    config: RunConfig, names: Iterable[str], random_weights: Mapping[str, float] | None = None
) -> dict[str, Baseline]:
    """Baselines of measures by name, `NAME` or `NAME.MODALITY`.

    Arguments:
        random_weights: values of the decoder with random weights, by name.
    """
    wanted = list(names)
    levels = uniform_by_head(config, dict.fromkeys(name.partition(".")[0] for name in wanted))
    found = {}
    for name in wanted:
        by_layer = tuple(float(level) for level in levels[name].mean(1).round(6)) if name in levels else ()
        alike = len(set(by_layer)) <= 1
        uniform = by_layer[0] if by_layer and alike else None
        found[name] = Baseline(uniform, (random_weights or {}).get(name), () if alike else by_layer)
    return found
