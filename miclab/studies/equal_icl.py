"""Analyses of the first checkpoint at which ICL is at least `state.EQUAL_ICL`, so that decoders are compared at equal
accuracy and not at equal steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from miclab.config.request import SplitSizes
from miclab.errors import RunError
from miclab.runs.run import Run
from miclab.studies import state

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from miclab.circuits.knockout import Interventions
    from miclab.circuits.patching import Metric

MOST_HEADS = 4
"""Heads on a path up to which each number is shown; longer paths are taken together."""


def values(
    analysis: str, disk: Run, step: int, sizes: SplitSizes, interventions: Callable[[], Interventions]
) -> dict[str, NDArray[np.floating]]:
    """Each quantity by set of novel classes [set].

    Arguments:
        analysis: `circuit`, `cuts` or `joining`.
        disk: the run.
        step: its checkpoint.
        sizes: sequences looked at.
        interventions: on that checkpoint.

    Raises:
        RunError: ICL never reaches the level, or the analysis is impossible for the decoder.
    """
    row = next((row for row in disk.rows() if row["step"] == step), None)
    if row is None or not state.reaches(row):
        best = max((row["accuracy"]["icl"] for row in disk.rows()), default=0.0)
        raise RunError(f"ICL never reaches {state.EQUAL_ICL} (highest {best:.3f}), at which decoders are compared.")
    if analysis == "circuit":
        return _circuit(disk, step, sizes)
    if analysis == "cuts":
        from miclab.circuits.cumulative_knockout import cumulative_knockouts

        return {effect.name: effect.correct.mean(1) for effect in cumulative_knockouts(interventions())}
    from miclab.circuits.joining_layer import hidden_from, joining_layer

    found: dict[str, NDArray[np.floating]] = {}
    for modality in disk.config.order:
        icl = hidden_from(interventions(), modality)
        layer = joining_layer(icl)
        if layer is not None:
            found[f"layer of {modality}"] = layer
        found |= {f"{modality} hidden from {first}": icl[first] for first in range(len(icl) - 1)}
    return found


def _circuit(disk: Run, step: int, sizes: SplitSizes) -> dict[str, NDArray[np.floating]]:
    """Faithfulness of a found circuit, and the shares of its effect by the number of heads on paths."""
    from miclab.circuits.path_lengths import circuit_path_lengths

    lengths = circuit_path_lengths(disk, step, sizes)
    found = {"share of edges": np.array([len(lengths.edges) / lengths.count])}
    shown: dict[Metric, str] = {"logit_difference": "logits", "accuracy": "accuracy"}
    for metric, words in shown.items():
        found[f"faithfulness of {words}"] = lengths.faithfulness(metric)
        shares = lengths.shares(metric)
        for heads in range(min(MOST_HEADS, len(shares) - 1) + 1):
            found[f"{words} through {heads} heads"] = shares[heads]
        if len(shares) > MOST_HEADS + 1:
            found[f"{words} through more heads"] = shares[MOST_HEADS + 1 :].sum(0)
    if not all(np.isfinite(sets).all() for sets in found.values()):
        raise RunError("The circuit's effect is 0 in a set of novel classes, so there are no shares of it.")
    return found
