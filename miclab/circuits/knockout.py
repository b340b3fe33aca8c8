"""Causal tests of checkpoints: the effect of knocking out heads and zeroing modalities on in-context learning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from miclab.circuits.controls import Control, control
from miclab.circuits.effects import Effect, PooledEffect, effects_table
from miclab.circuits.existence import OnProgress, circuit_lines, circuits_json, why_no_circuit
from miclab.circuits.find import NO_PATTERN, CircuitHeads, head_name, strongest_heads
from miclab.circuits.interventions import (
    Edit,
    Head,
    knock_out_heads,
    mean_heads,
    uniform_patterns,
    zero_items,
    zero_labels,
    zero_modality_with_labels,
)
from miclab.config.request import SplitSizes
from miclab.errors import RunError
from miclab.measures.evaluate import SplitScores, check_seeds, oracle_means, score_split
from miclab.measures.evaluations import at_steps
from miclab.model.decoder import Decoder
from miclab.runs.run import Run
from miclab.tables import Table, Tabled
from miclab.worlds.sequences import training_batch
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
        self.watch = watch or (lambda name: None)
        self.config, self.split, self.sizes = run.config, split, sizes or SplitSizes()
        self.world = world_from_tensors(run.config, run.world_tensors())
        self.step, self.parameters = run.parameters(step)
        self.untouched = self._scores(None, measured=True)
        self._seen: dict[tuple[str | Head, ...], Effect] = {}
        self._means: dict[str, Tensor] | None = None

    def _scores(self, edits: dict[str, Edit] | None, measured: bool = False, split: str = "") -> SplitScores:
        return score_split(
            self.config, self.world, self.parameters, split or self.split, self.sizes,
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
        icl = self.untouched if self.split == "icl" else self._scores(None, measured=True, split="icl")
        return why_no_circuit(self.strongest, icl)

    @property
    def circuit(self) -> CircuitHeads | None:
        """The circuit's heads; None where there is no circuit."""
        return None if self.no_circuit else self.strongest

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

    def _baseline(self, baseline: str) -> dict[str, Tensor] | None:
        """The replacement of heads' outputs; None: zeros."""
        if baseline != "mean":
            return None
        if self._means is None:
            # A step far beyond any training: fresh sequences of the training distribution.
            batch = training_batch(self.config, self.world, 2**60)
            self._means = mean_heads(Decoder(self.config), self.parameters, batch)
        return self._means

    def _knocked(self, name: str, heads: tuple[Head, ...], baseline: str) -> Effect:
        # The circuit's heads and the controls' are single heads too: the same knockout is computed once.
        key = (baseline, *sorted(heads))
        if key not in self._seen:
            self._seen[key] = self.effect(name, knock_out_heads(heads, self._baseline(baseline)), heads)
        return replace(self._seen[key], name=name, heads=heads)

    def single_knockouts(self, baseline: str = "zero") -> list[Effect]:
        """The untouched decoder, and every single head.

        Arguments:
            baseline: `zero`, or `mean` (the head's mean output over a training batch).
        """
        options = self.config.decoder
        every = [(i, j) for i in range(options.layers) for j in range(options.heads)]
        singles = [self._knocked(f"head {head_name(head)}", (head,), baseline) for head in every]
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
        effects += [self._knocked(name, heads, baseline) for name, heads in self.strongest.members().items()]
        for name, chosen in self.controls.items():
            drawn = [self._knocked(name, heads, baseline) for heads in chosen.draws]
            if drawn:
                correct, copied = (np.mean([getattr(e, part) for e in drawn], axis=0) for part in ("correct", "copied"))
                effects.append(Effect(name, (), correct, copied, self.untouched.correct, chosen.draws))
        return effects

    def uniform_patterns(self) -> list[Effect]:
        """The untouched decoder, and each single head with its attention pattern set to uniform. This shows whether a
        head is needed for where it attends, as its output keeps its size."""
        options = self.config.decoder
        every = [(i, j) for i in range(options.layers) for j in range(options.heads)]
        effects = [self.effect(f"head {head_name(h)} uniform", uniform_patterns([h]), (h,)) for h in every]
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


@dataclass(frozen=True)
class Effects(Tabled):
    """Interventions on one or several runs, seeds of one experiment.

    Arguments:
        runs: names of the runs.
        steps: the checkpoint of each.
        split: the split whose accuracy was measured.
        effects: of each intervention that could be made in every run.
        oracles: baselines without a network on the same, unchanged sequences.
        circuits: of knockouts, the circuit's heads in each run; None where it has no circuit.
        no_circuit: of knockouts, why each run has none; empty where it has one.
        notes: remarks on controls, by name: why there is none, or that layers could not be matched.
    """

    runs: tuple[str, ...]
    steps: tuple[int, ...]
    split: str
    effects: tuple[PooledEffect, ...]
    oracles: dict[str, float]
    circuits: tuple[CircuitHeads | None, ...] = ()
    no_circuit: tuple[str, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)

    def tables(self) -> tuple[Table, ...]:
        """A row for each intervention and each oracle."""
        lines = list(circuit_lines(self.runs, self.circuits, self.no_circuit)) if self.circuits else []
        for note in dict.fromkeys(self.notes.values()):
            lines.append(f"{', '.join(name for name, text in self.notes.items() if text == note)}: {note}")
        title = f"{at_steps(self.runs, self.steps)}, split {self.split} [95 % interval]"
        return (effects_table(title, self.effects, self.oracles, lines),)

    def as_json(self) -> dict[str, Any]:
        """Everything as plain data. An effect that could not be measured has its reason and no numbers, since a missing
        control is not a control without effect."""
        made = {e.name for e in self.effects}
        rows = [e.as_json(self.runs, self.notes.get(e.name, "")) for e in self.effects]
        rows += [
            {"name": name, "heads": None, "accuracy": None, "change": None, "share_of_untouched": None,
             "context_label_accuracy": None, "reason": note}
            for name, note in self.notes.items() if name not in made
        ]  # fmt: skip
        circuits = circuits_json(self.runs, self.circuits, self.no_circuit) if self.circuits else {}
        if not circuits:
            rows = [{key: value for key, value in row.items() if key != "heads"} for row in rows]
        oracles = {name: round(value, 6) for name, value in self.oracles.items()}
        return {"runs": self.runs, "steps": self.steps, "split": self.split, **circuits, "oracles": oracles,
                "effects": rows}  # fmt: skip


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
        baseline: replacement of a head's output, `zero` or `mean`.
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
        return [work.effect("untouched", None), work._knocked(name, chosen, baseline)]

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
