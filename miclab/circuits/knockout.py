"""Causal tests of checkpoints: the effect of knocking out heads and zeroing modalities on in-context learning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from miclab.circuits.controls import Control, control
from miclab.circuits.effects import Effect, Effects, PooledEffect
from miclab.circuits.existence import OnProgress, why_no_circuit
from miclab.circuits.find import CUTS, NO_PATTERN, PATTERNS, CircuitHeads, Head, head_name, strongest_heads
from miclab.circuits.head_names import Named, names_of
from miclab.circuits.interventions import (
    Edit,
    knock_out_heads,
    mean_heads,
    zero_items,
    zero_labels,
    zero_modality_with_labels,
)
from miclab.circuits.patterns import WORDS, set_patterns
from miclab.config.request import SplitSizes
from miclab.errors import ConfigError, RunError, nearest
from miclab.measures.evaluate import SplitScores, check_seeds, oracle_means, score_split
from miclab.model.decoder import Decoder
from miclab.runs.run import Run
from miclab.worlds.sequences import config_roles, training_batch
from miclab.worlds.world import world_from_tensors


class Interventions:
    """Interventions on one checkpoint, each compared with the untouched decoder on the same sequences.

    Arguments:
        run: the run.
        step: its checkpoint; None: the last good one.
        sizes: sequences looked at.
        split: the split whose accuracy is measured.
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
        self.watch, self.run = watch or (lambda name: None), run
        self.config, self.split, self.sizes = run.config, split, sizes or SplitSizes()
        self.world = world_from_tensors(run.config, run.world_tensors())
        self.step, self.parameters = run.parameters(step)
        self.untouched = self._scores(None, measured=True)
        self._seen: dict[tuple[str | Head, ...], Effect] = {}
        self._means: dict[str, Tensor] | None = None

    def _scores(self, edits: dict[str, Edit] | None, measured: bool = False) -> SplitScores:
        return score_split(
            self.config, self.world, self.parameters, self.split, self.sizes,
            measures=measured, oracles=measured, edits=edits,
        )  # fmt: skip

    @property
    def measures(self) -> dict[str, NDArray]:
        """Strengths on the split [layer, head]."""
        return {name: value.mean(0) for name, value in self.untouched.strengths.items()}

    @cached_property
    def strongest(self) -> CircuitHeads | None:
        """The candidate heads of the circuit, by strength. None if there are not two, or if attention gives no
        pattern."""
        return strongest_heads(self.measures)

    @cached_property
    def no_circuit(self) -> str:
        """Why the decoder has no induction circuit; empty where it has one."""
        return why_no_circuit(self.strongest, self.on_icl.untouched)

    @cached_property
    def on_icl(self) -> Interventions:
        """The same on novel classes, by which circuits are judged and heads are named."""
        return self if self.split == "icl" else Interventions(self.run, self.step, self.sizes, "icl", self.watch)

    @property
    def circuit(self) -> CircuitHeads | None:
        """The circuit's heads; None where there is no circuit."""
        return None if self.no_circuit else self.strongest

    @cached_property
    def named(self) -> tuple[Named, ...]:
        """What the circuit's heads are called, by pattern and need on novel classes; empty where it has no circuit."""
        if self.circuit is None:
            return ()
        return names_of(self.on_icl, self.circuit)

    @property
    def controls(self) -> dict[str, Control]:
        """The random other heads for each of the strongest, by the name of the effect. `Control.note` says why a
        decoder has none."""
        if self.strongest is None:
            return {}
        return {
            f"control of {name}": control(self.strongest, heads, self.config.seed)
            for name, heads in self.strongest.members().items()
        }

    def effect(self, name: str, edits: dict[str, Edit] | None, heads: tuple[Head, ...] = ()) -> Effect:
        """The effect of `edits`."""
        self.watch(name)
        scores = self.untouched if edits is None else self._scores(edits)
        return Effect(name, heads, scores.correct, scores.in_context, self.untouched.correct)

    def _edits(self, heads: tuple[Head, ...], baseline: str) -> dict[str, Edit]:
        """What cuts heads: their outputs or their patterns are replaced.

        Raises:
            ConfigError: there is no such baseline.
            RunError: the decoder's attention gives no pattern to replace, or there is no other sequence.
        """
        if baseline not in CUTS:
            raise ConfigError("baseline", baseline, nearest(baseline, CUTS))
        if baseline not in PATTERNS:
            return knock_out_heads(heads, self._means_of(baseline))
        decoder = Decoder(self.config)
        if not decoder.gives_patterns:
            raise RunError(f"No attention pattern can be set to {baseline}: the decoder's attention gives none. Use the"
                           " baseline zero or mean.")  # fmt: skip
        if baseline == "other_sequence" and self.sizes.sequences < 2:
            raise RunError("The pattern of another sequence needs two sequences of a set or more: raise --sequences.")
        return set_patterns(heads, baseline, config_roles(self.config), decoder.visible)

    def _means_of(self, baseline: str) -> dict[str, Tensor] | None:
        """What takes the place of heads' outputs: None is zero."""
        if baseline != "mean":
            return None
        if self._means is None:
            # A step far beyond any training: fresh sequences of the training distribution.
            batch = training_batch(self.config, self.world, 2**60)
            self._means = mean_heads(Decoder(self.config), self.parameters, batch)
        return self._means

    def knocked(self, name: str, heads: tuple[Head, ...], baseline: str = "zero") -> Effect:
        """Heads cut together.

        Arguments:
            name: of the effect.
            baseline: what takes the place of their outputs (`zero`, `mean`) or of their attention patterns (see
                `miclab.circuits.patterns`).
        """
        # The circuit's heads and the controls' are single heads too: the same knockout is computed once.
        key = (baseline, *sorted(heads))
        if key not in self._seen:
            self._seen[key] = self.effect(name, self._edits(heads, baseline), heads)
        return replace(self._seen[key], name=name, heads=heads)

    def single_knockouts(self, baseline: str = "zero") -> list[Effect]:
        """The untouched decoder, and every single head.

        Arguments:
            baseline: see `knocked`; `mean` is the head's mean output over a training batch.
        """
        options = self.config.decoder
        every = [(i, j) for i in range(options.layers) for j in range(options.heads)]
        singles = [self.knocked(f"head {head_name(head)}", (head,), baseline) for head in every]
        return [self.effect("untouched", None), *singles]

    def knockouts(self, baseline: str = "zero") -> list[Effect]:
        """`single_knockouts`, each of the two strongest heads, and both together. Each of these three has a control
        where the decoder has other heads: the mean over several draws of them (see `controls`). The strongest heads are
        cut and named even if they form no circuit: see `no_circuit`.

        Raises:
            RunError: the decoder has one head only, so that there is no circuit of two, or gives no pattern.
        """
        if self.strongest is None and "induction_total" in self.untouched.left_out:
            raise RunError(f"There are no heads of a circuit to knock out: {NO_PATTERN}.")
        if self.strongest is None:
            raise RunError(f"There is no circuit of two heads to knock out: {self.no_circuit}.")
        effects = self.single_knockouts(baseline)
        effects += [self.knocked(name, heads, baseline) for name, heads in self.strongest.members().items()]
        drawn = [self.drawn(name, chosen, baseline) for name, chosen in self.controls.items()]
        return [*effects, *(effect for effect in drawn if effect)]

    def drawn(self, name: str, chosen: Control, baseline: str) -> Effect | None:
        """The mean over a control's draws; None where it has none."""
        drawn = [self.knocked(name, heads, baseline) for heads in chosen.draws]
        if not drawn:
            return None
        correct, copied = (np.mean([getattr(e, part) for e in drawn], axis=0) for part in ("correct", "copied"))
        return Effect(name, (), correct, copied, self.untouched.correct, chosen.draws)

    def replaced_patterns(self) -> list[Effect]:
        """The patterns of the two strongest heads replaced in every way; none where there are no such heads."""
        heads = (self.strongest.previous_token, self.strongest.induction) if self.strongest else ()
        kinds = [kind for kind in PATTERNS if kind != "other_sequence" or self.sizes.sequences > 1]
        return [
            self.knocked(f"head {head_name(head)}, pattern {WORDS[kind]}", (head,), kind)
            for head in heads
            for kind in kinds
        ]

    def uniform_patterns(self) -> list[Effect]:
        """The untouched decoder, and each single head with its attention pattern set to uniform. This shows whether a
        head is needed for where it attends, as its output keeps its size."""
        options = self.config.decoder
        every = [(i, j) for i in range(options.layers) for j in range(options.heads)]
        effects = [self.knocked(f"head {head_name(h)} uniform", (h,), "uniform") for h in every]
        return [self.effect("untouched", None), *effects]

    def ablations(self) -> list[Effect]:
        """The untouched decoder, each modality's items zeroed, the labels zeroed, and both together."""
        effects = [self.effect("untouched", None)]
        for name in self.config.order:
            effects.append(self.effect(f"items of {name} zeroed", zero_items(name)))
        effects.append(self.effect("labels zeroed", zero_labels()))
        for name in self.config.order:
            effects.append(self.effect(f"items of {name} and labels zeroed", zero_modality_with_labels(name)))
        return effects


def _watching(on_progress: OnProgress | None, done: int, run: str) -> Callable[[str], None] | None:
    """`on_progress` for one run, called for each intervention."""
    return None if on_progress is None else lambda name: on_progress(done, f"{run}: {name}")


def _pooled(
    runs: Sequence[Run],
    make: Callable[[Interventions], list[Effect]],
    step: int | None,
    sizes: SplitSizes | None,
    split: str,
    on_progress: OnProgress | None,
) -> tuple[Effects, list[Interventions]]:
    """`make` over runs, and its interventions. An effect that one run lacks is left out."""
    check_seeds(runs)
    works: list[Interventions] = []
    by_name: dict[str, list[Effect]] = {}
    for done, run in enumerate(runs, 1):
        work = Interventions(run, step, sizes, split, _watching(on_progress, done - 1, run.path.name))
        works.append(work)
        for effect in make(work):
            by_name.setdefault(effect.name, []).append(effect)
        if on_progress:
            on_progress(done, run.path.name)
    effects = tuple(PooledEffect(n, tuple(found)) for n, found in by_name.items() if len(found) == len(runs))
    names, steps = tuple(run.path.name for run in runs), tuple(work.step for work in works)
    return Effects(names, steps, split, effects, oracle_means([work.untouched for work in works])), works


def knock_out(
    runs: Sequence[Run],
    *,
    baseline: str = "zero",
    step: int | None = None,
    sizes: SplitSizes | None = None,
    split: str = "icl",
    on_progress: OnProgress | None = None,
) -> Effects:
    """`Interventions.knockouts` of each run's own circuit, over all of them; where a run has no circuit, only
    `Interventions.single_knockouts`.

    Arguments:
        runs: seeds of one experiment.
        baseline: what takes the place of heads' outputs or patterns, of `CUTS`.
        step: the checkpoint of each; None: its last good one.
        sizes: sequences looked at.
        split: the split whose accuracy is measured.

    Raises:
        RunError: the runs differ in more than the seed, or there is none.
        ConfigError: there is no such checkpoint or split.
    """

    def make(work: Interventions) -> list[Effect]:
        return work.knockouts(baseline) if work.circuit else work.single_knockouts(baseline)

    found, works = _pooled(runs, make, step, sizes, split, on_progress)
    notes: dict[str, str] = {}
    for run, work in zip(found.runs, works, strict=True):
        for name, chosen in work.controls.items() if work.circuit else ():
            if chosen.note:
                notes.setdefault(name, f"{chosen.note} ({run})" if len(works) > 1 else chosen.note)
    return replace(
        found,
        circuits=tuple(work.circuit for work in works),
        no_circuit=tuple(work.no_circuit for work in works),
        named=tuple(work.named for work in works),
        notes=notes,
    )


def knock_out_together(
    runs: Sequence[Run],
    heads: Sequence[Head],
    *,
    baseline: str = "zero",
    step: int | None = None,
    sizes: SplitSizes | None = None,
    split: str = "icl",
) -> Effects:
    """The untouched decoder, and the same heads cut together in every run.

    Arguments:
        heads: layer and head of each, from 0; the others are those of `knock_out`, as are the errors.
    """
    chosen = tuple(sorted(set(heads)))
    name = f"head{'s' * (len(chosen) > 1)} {', '.join(map(head_name, chosen))}"

    def make(work: Interventions) -> list[Effect]:
        return [work.effect("untouched", None), work.knocked(name, chosen, baseline)]

    return _pooled(runs, make, step, sizes, split, None)[0]


def ablate(
    runs: Sequence[Run],
    *,
    step: int | None = None,
    sizes: SplitSizes | None = None,
    split: str = "icl",
    on_progress: OnProgress | None = None,
) -> Effects:
    """`Interventions.ablations` of each run, over all of them; arguments and errors are those of `knock_out`."""
    return _pooled(runs, Interventions.ablations, step, sizes, split, on_progress)[0]
