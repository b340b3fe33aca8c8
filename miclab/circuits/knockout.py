"""Causal tests of checkpoints: knock out heads, zero modalities, and see what happens to in-context learning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from miclab.circuits.heads import CircuitHeads, Control, Tell, circuit_heads, control, head_name
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
from miclab.evaluate import SplitScores, check_seeds, oracle_means, score_split
from miclab.intervals import Interval, clustered_interval, ratio_interval
from miclab.request import SplitSizes
from miclab.runs import Run
from miclab.sequences import training_batch
from miclab.world import world_from_tensors

Scores = NDArray[np.floating]
"""Scores by set of novel classes and sequence."""


@dataclass(frozen=True)
class Effect:
    """What an intervention does to one run's answers on a split.

    Arguments:
        name: the intervention, in words.
        heads: layer and head (from 0) of what was knocked out; empty for a control, which has draws.
        correct: 1 where the answer is the target, by set and sequence; of a control, the mean over its draws.
        copied: 1 where the answer is a label of the context (CLA); of a control, the mean.
        before: `correct` of the untouched decoder on the same sequences.
        draws: of a control, the heads of each draw; else empty.
    """

    name: str
    heads: tuple[Head, ...]
    correct: Scores
    copied: Scores
    before: Scores
    draws: tuple[tuple[Head, ...], ...] = ()

    @cached_property
    def _alone(self) -> PooledEffect:
        return PooledEffect(self.name, (self,))

    @property
    def accuracy(self) -> Interval:
        """Accuracy under the intervention, clustered by set. A control's is that of the mean of its draws."""
        return self._alone.accuracy

    @property
    def change(self) -> Interval:
        """Accuracy minus that of the untouched decoder, on the same sequences."""
        return self._alone.change

    @property
    def share(self) -> Interval | None:
        """Accuracy as a share of the untouched decoder's; None where that is 0."""
        return self._alone.share

    @property
    def in_context(self) -> Interval:
        """Share of answers that are labels of the context."""
        return self._alone.in_context

    @property
    def knocked_out(self) -> str:
        """The heads in words, counted from 1: `1.1, 2.1`, or `1.2 | 1.3` of a control with two draws."""
        return " | ".join(", ".join(map(head_name, heads)) for heads in self.draws or (self.heads,))


@dataclass(frozen=True)
class PooledEffect:
    """What an intervention does over one or several runs, seeds of one experiment; intervals are clustered by set of
    novel classes, then by seed.

    Arguments:
        name: the intervention, in words.
        by_run: the effect in each run.
    """

    name: str
    by_run: tuple[Effect, ...]

    @cached_property
    def accuracy(self) -> Interval:
        """Accuracy under the intervention."""
        return clustered_interval([e.correct for e in self.by_run])

    @cached_property
    def change(self) -> Interval:
        """Accuracy minus that of the untouched decoders, on the same sequences."""
        return clustered_interval([e.correct - e.before for e in self.by_run])

    @cached_property
    def share(self) -> Interval | None:
        """Accuracy as a share of the untouched decoders', both of the same resamples; None where that is 0."""
        return ratio_interval([e.correct for e in self.by_run], [e.before for e in self.by_run])

    @cached_property
    def in_context(self) -> Interval:
        """Share of answers that are labels of the context."""
        return clustered_interval([e.copied for e in self.by_run])

    @property
    def knocked_out(self) -> str:
        """The heads in words; by run, divided by slashes, where the runs differ."""
        return " / ".join(dict.fromkeys(e.knocked_out for e in self.by_run))


class Interventions:
    """Interventions on one checkpoint, each compared with the untouched decoder on the same sequences.

    Arguments:
        run: the run.
        step: its checkpoint; None: the last good one.
        sizes: sequences looked at.
        split: the split whose accuracy is asked for.
        watch: called with the name of each intervention before it is computed.
    """

    def __init__(
        self,
        run: Run,
        step: int | None = None,
        sizes: SplitSizes | None = None,
        split: str = "icl",
        watch: Callable[[str], None] | None = None,
    ):
        self.watch = watch or (lambda name: None)
        self.config, self.split, self.sizes = run.config, split, sizes or SplitSizes()
        self.world = world_from_tensors(run.config, run.world_tensors())
        self.step, self.parameters = run.parameters(step)
        self.untouched = self._scores(None, measured=True)

    def _scores(self, edits: dict[str, Edit] | None, measured: bool = False) -> SplitScores:
        return score_split(
            self.config,
            self.world,
            self.parameters,
            self.split,
            self.sizes,
            measures=measured,
            oracles=measured,
            edits=edits,
        )

    @property
    def measures(self) -> dict[str, NDArray]:
        """Strengths on the split [layer, head]."""
        return {name: value.mean(0) for name, value in self.untouched.strengths.items()}

    @cached_property
    def circuit(self) -> CircuitHeads | None:
        """The circuit's heads; None for a decoder with a single head, which has no circuit of two."""
        options = self.config.decoder
        return circuit_heads(self.measures) if options.layers * options.heads > 1 else None

    @property
    def controls(self) -> dict[str, Control]:
        """The random other heads for each part of the circuit, by the name of the effect; see `Control.note` for why a
        decoder has none."""
        if self.circuit is None:
            return {}
        return {
            f"control of {name}": control(self.circuit, heads, self.config.seed)
            for name, heads in self.circuit.members().items()
        }

    def effect(self, name: str, edits: dict[str, Edit] | None, heads: tuple[Head, ...] = ()) -> Effect:
        """What `edits` do."""
        self.watch(name)
        scores = self.untouched if edits is None else self._scores(edits)
        return Effect(name, heads, scores.correct, scores.in_context, self.untouched.correct)

    def knockouts(self, baseline: str = "zero") -> list[Effect]:
        """The untouched decoder, every single head, the circuit's two heads, both, and the mean of several draws of
        other heads as control for each of these three, where the decoder has other heads (see `controls`).

        Arguments:
            baseline: `zero`, or `mean` (the head's mean output over a training batch).

        Raises:
            RunError: the decoder has one head only, so that there is no circuit of two.
        """
        options = self.config.decoder
        if self.circuit is None:
            raise RunError("A decoder with a single head has no circuit of two heads to knock out.")
        instead = None
        if baseline == "mean":
            # A step far beyond any training: fresh sequences of the training distribution.
            batch = training_batch(self.config, self.world, 2**60)
            instead = mean_heads(Decoder(self.config), self.parameters, batch)
        seen: dict[tuple[Head, ...], Effect] = {}

        def knocked(name: str, heads: tuple[Head, ...]) -> Effect:
            # The circuit's heads and the controls' are single heads too: the same knockout is computed once.
            key = tuple(sorted(heads))
            if key not in seen:
                seen[key] = self.effect(name, knock_out_heads(heads, instead), heads)
            return replace(seen[key], name=name, heads=heads)

        every = [(i, j) for i in range(options.layers) for j in range(options.heads)]
        effects = [self.effect("untouched", None)]
        effects += [knocked(f"head {head_name(head)}", (head,)) for head in every]
        effects += [knocked(name, heads) for name, heads in self.circuit.members().items()]
        for name, chosen in self.controls.items():
            drawn = [knocked(name, heads) for heads in chosen.draws]
            if drawn:
                correct, copied = (np.mean([getattr(e, part) for e in drawn], axis=0) for part in ("correct", "copied"))
                effects.append(Effect(name, (), correct, copied, self.untouched.correct, chosen.draws))
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


@dataclass(frozen=True)
class Effects:
    """Interventions on one or several runs, seeds of one experiment.

    Arguments:
        runs: names of the runs.
        steps: the checkpoint of each.
        split: the split whose accuracy was asked for.
        effects: of each intervention that could be made in every run.
        circuits: the circuit's heads in each run; None for a decoder with a single head.
        oracles: what can be reached without a network on the same sequences, untouched.
        notes: remarks on controls, by name: why there is none, or that layers could not be matched.
    """

    runs: tuple[str, ...]
    steps: tuple[int, ...]
    split: str
    effects: tuple[PooledEffect, ...]
    circuits: tuple[CircuitHeads | None, ...]
    oracles: dict[str, float]
    notes: dict[str, str]


def _watching(tell: Tell | None, done: int, run: str) -> Callable[[str], None] | None:
    """`tell` as it is called while a run is looked at, of which each intervention takes a while."""
    return None if tell is None else lambda name: tell(done, f"{run}: {name}")


def _pooled(
    runs: Sequence[Run],
    make: Callable[[Interventions], list[Effect]],
    step: int | None,
    sizes: SplitSizes | None,
    split: str,
    tell: Tell | None,
) -> Effects:
    """`make` over runs; an effect that one run lacks is left out."""
    check_seeds(runs)
    works, by_name, notes = [], {}, {}
    for done, run in enumerate(runs, 1):
        work = Interventions(run, step, sizes, split, _watching(tell, done - 1, run.path.name))
        works.append(work)
        for effect in make(work):
            by_name.setdefault(effect.name, []).append(effect)
        if tell:
            tell(done, run.path.name)
        for name, chosen in work.controls.items():
            if chosen.note:
                notes.setdefault(name, f"{chosen.note} ({run.path.name})" if len(runs) > 1 else chosen.note)
    effects = tuple(PooledEffect(n, tuple(found)) for n, found in by_name.items() if len(found) == len(runs))
    return Effects(
        tuple(run.path.name for run in runs),
        tuple(work.step for work in works),
        split,
        effects,
        tuple(work.circuit for work in works),
        oracle_means([work.untouched for work in works]),
        notes,
    )


def knock_out(
    runs: Sequence[Run],
    *,
    baseline: str = "zero",
    step: int | None = None,
    sizes: SplitSizes | None = None,
    split: str = "icl",
    tell: Tell | None = None,
) -> Effects:
    """`Interventions.knockouts` of each run's own circuit, over all of them.

    Arguments:
        runs: seeds of one experiment.
        baseline: what takes the place of a head's output, `zero` or `mean`.
        step: the checkpoint of each; None: its last good one.
        sizes: sequences looked at.
        split: the split whose accuracy is asked for.

    Raises:
        RunError: the runs differ in more than the seed, there is none, or their decoder has a single head.
        ConfigError: there is no such checkpoint or split.
    """
    return _pooled(runs, lambda work: work.knockouts(baseline), step, sizes, split, tell)


def ablate(
    runs: Sequence[Run],
    *,
    step: int | None = None,
    sizes: SplitSizes | None = None,
    split: str = "icl",
    tell: Tell | None = None,
) -> Effects:
    """`Interventions.ablations` of each run, over all of them; arguments and errors are those of `knock_out`."""
    made = _pooled(runs, Interventions.ablations, step, sizes, split, tell)
    # Controls belong to knockouts.
    return replace(made, notes={})
