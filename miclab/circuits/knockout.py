"""Causal tests of a checkpoint: knock out heads, zero modalities, and see what happens to in-context learning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from miclab.circuits.interventions import (
    Edit,
    Head,
    knock_out_heads,
    mean_heads,
    zero_items,
    zero_labels,
    zero_modality_with_labels,
)
from miclab.decoder import Decoder
from miclab.errors import RunError
from miclab.evaluate import SplitScores, score_split
from miclab.intervals import Interval, clustered_interval
from miclab.request import SplitSizes
from miclab.runs import Run
from miclab.sequences import training_batch
from miclab.world import world_from_tensors


@dataclass(frozen=True)
class Effect:
    """What an intervention does to the accuracy on a split.

    Arguments:
        name: the intervention, in words.
        heads: layer and head (from 0) of what was knocked out.
        accuracy: under the intervention.
        change: accuracy minus that of the untouched decoder, on the same sequences.
        in_context: share of answers that are labels of the context.
    """

    name: str
    heads: tuple[Head, ...]
    accuracy: Interval
    change: Interval
    in_context: float


@dataclass(frozen=True)
class CircuitHeads:
    """The heads of the induction circuit by their strength.

    Arguments:
        induction: the head with the highest summed induction strength.
        previous_token: the head, in a layer before it if there is one, whose labels look most at their own items.
        rest: all other heads.
    """

    induction: Head
    previous_token: Head
    rest: tuple[Head, ...]


def circuit_heads(measures: Mapping[str, NDArray]) -> CircuitHeads:
    """Finds the circuit's heads in strengths by name [layer, head].

    A plain previous-token strength would also count heads of the last layer, which feed no later head; so the
    previous-token head is sought in the layers before the induction head, by `label_to_item`.
    """
    induction = np.asarray(measures["induction_total"])
    top = np.unravel_index(int(induction.argmax()), induction.shape)
    found = (int(top[0]), int(top[1]))
    looking = np.max([np.asarray(v) for k, v in measures.items() if k.startswith("label_to_item.")], axis=0).copy()
    looking[found] = -np.inf
    if found[0] > 0:
        looking[found[0] :] = -np.inf
    place = np.unravel_index(int(looking.argmax()), looking.shape)
    previous = (int(place[0]), int(place[1]))
    rest = [(i, j) for i in range(induction.shape[0]) for j in range(induction.shape[1])]
    return CircuitHeads(found, previous, tuple(h for h in rest if h not in (found, previous)))


class Interventions:
    """Interventions on one checkpoint, each compared with the untouched decoder on the same sequences.

    Arguments:
        run: the run.
        step: its checkpoint; None: the last good one.
        sizes: sequences looked at.
        split: the split whose accuracy is asked for.
    """

    def __init__(self, run: Run, step: int | None = None, sizes: SplitSizes | None = None, split: str = "icl"):
        self.config, self.split, self.sizes = run.config, split, sizes or SplitSizes()
        self.world = world_from_tensors(run.config, run.world_tensors())
        self.step, self.parameters = run.parameters(step)
        self.untouched = self._scores(None, measures=True)

    def _scores(self, edits: dict[str, Edit] | None, measures: bool = False) -> SplitScores:
        return score_split(
            self.config, self.world, self.parameters, self.split, self.sizes, measures=measures, edits=edits
        )

    @property
    def measures(self) -> dict[str, NDArray]:
        """Strengths on the split [layer, head]."""
        return {name: value.mean(0) for name, value in self.untouched.strengths.items()}

    def effect(self, name: str, edits: dict[str, Edit] | None, heads: tuple[Head, ...] = ()) -> Effect:
        """What `edits` do."""
        scores = self.untouched if edits is None else self._scores(edits)
        change = clustered_interval([scores.correct - self.untouched.correct])
        return Effect(name, heads, scores.interval(), change, float(scores.in_context.mean()))

    def knockouts(self, baseline: str = "zero") -> list[Effect]:
        """The untouched decoder, every single head, the circuit's two heads, both, and other heads as control.

        Arguments:
            baseline: `zero`, or `mean` (the head's mean output over a training batch).

        Raises:
            RunError: the decoder has one head only, so that there is no circuit of two.
        """
        options = self.config.decoder
        if options.layers * options.heads < 2:
            raise RunError("A decoder with a single head has no circuit of two heads to knock out.")
        decoder = Decoder(self.config)
        instead = None
        if baseline == "mean":
            # A step far beyond any training: fresh sequences of the training distribution.
            instead = mean_heads(decoder, self.parameters, training_batch(self.config, self.world, 2**60))
        found = circuit_heads(self.measures)
        every = [(i, j) for i in range(options.layers) for j in range(options.heads)]
        chosen: list[tuple[str, tuple[Head, ...]]] = [(f"head {i + 1}.{j + 1}", ((i, j),)) for i, j in every]
        chosen.append(("previous-token head", (found.previous_token,)))
        chosen.append(("induction head", (found.induction,)))
        chosen.append(("both", (found.previous_token, found.induction)))
        generator = np.random.default_rng(0)
        for count in (1, 2):
            if len(found.rest) >= count:
                picks = generator.permutation(len(found.rest))[:count]
                heads = tuple(found.rest[int(k)] for k in picks)
                chosen.append((f"{count} random other head{'s' * (count > 1)} (control)", heads))
        effects = [self.effect("untouched", None)]
        seen: dict[frozenset[Head], Effect] = {}
        for name, heads in chosen:
            # The circuit's heads are single heads too: the same knockout is computed once.
            key = frozenset(heads)
            if key not in seen:
                seen[key] = self.effect(name, knock_out_heads(heads, instead), heads)
            effects.append(replace(seen[key], name=name, heads=heads))
        return effects

    def ablations(self) -> list[Effect]:
        """The untouched decoder, each modality's items zeroed, the labels zeroed, and both together."""
        effects = [self.effect("untouched", None)]
        for name in self.config.order:
            effects.append(self.effect(f"items of {name} zeroed", zero_items(name)))
        effects.append(self.effect("labels zeroed", zero_labels()))
        for name in self.config.order:
            effects.append(self.effect(f"items of {name} and labels zeroed", zero_modality_with_labels(name)))
        return effects
