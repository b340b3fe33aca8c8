"""The effect of an intervention on the answers of one or several runs, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miclab.circuits.existence import circuit_lines, circuits_json
from miclab.circuits.find import CircuitHeads, Head, head_name
from miclab.circuits.head_names import PLACES, Named, names_table, shown_name
from miclab.measures.evaluations import at_steps
from miclab.statistics.intervals import Interval, accuracy_interval, clustered_interval, ratio_interval
from miclab.tables import Table, Tabled, table

Scores = NDArray[np.floating]
"""Scores by set of novel classes and sequence."""


@dataclass(frozen=True)
class Effect:
    """The effect of an intervention on one run's answers on a split.

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
        """The heads in words, counted from 0: `0.0, 1.0`, or `0.1 | 0.2` of a control with two draws."""
        return " | ".join(", ".join(map(head_name, heads)) for heads in self.draws or (self.heads,))


EFFECT_COLUMNS = ("intervention", "heads", "accuracy", "change of accuracy", "accuracy / untouched (share)",
                  "answers in context")  # fmt: skip


def effects_table(
    title: str,
    effects: Sequence[Effect | PooledEffect],
    oracles: Mapping[str, float] | None = None,
    notes: Iterable[str] = (),
) -> Table:
    """A row for each intervention, of one run or of several, and one for each oracle. Heads have a column if heads were
    knocked out. The untouched decoder has no change."""
    rows: list[tuple[Any, ...]] = []
    for effect in effects:
        change, share = (None, None) if effect.name == "untouched" else (effect.change, effect.share)
        rows.append((effect.name, effect.knocked_out, effect.accuracy, change, share, effect.in_context))
    for name, value in (oracles or {}).items():
        rows.append((f"oracle: {name.replace('_', ' ')}", "", value, None, None, None))
    shown = [place for place in range(len(EFFECT_COLUMNS)) if place != 1 or any(row[1] for row in rows)]
    return table(title, [EFFECT_COLUMNS[i] for i in shown], [[row[i] for i in shown] for row in rows], notes)


@dataclass(frozen=True)
class PooledEffect:
    """The effect of an intervention on one or several runs that are seeds of one experiment. Intervals are over seeds,
    or over the sets of novel classes of one run.

    Arguments:
        name: the intervention, in words.
        by_run: the effect in each run.
    """

    name: str
    by_run: tuple[Effect, ...]

    @cached_property
    def accuracy(self) -> Interval:
        """Accuracy under the intervention."""
        return accuracy_interval([e.correct for e in self.by_run])

    @cached_property
    def change(self) -> Interval:
        """Accuracy minus that of the untouched decoders, on the same sequences."""
        return clustered_interval([e.correct - e.before for e in self.by_run])

    @cached_property
    def share(self) -> Interval | None:
        """Accuracy as a share of the untouched decoders', seed by seed; None where that is 0."""
        return ratio_interval([e.correct for e in self.by_run], [e.before for e in self.by_run])

    @cached_property
    def in_context(self) -> Interval:
        """Share of answers that are labels of the context."""
        return accuracy_interval([e.copied for e in self.by_run])

    def as_json(self, runs: Sequence[str], note: str = "") -> dict[str, Any]:
        """The effect as plain data.

        Arguments:
            runs: names of the runs, in the order of `by_run`.
            note: a remark on it.
        """
        by_run = dict(zip(runs, self.by_run, strict=True))
        found: dict[str, Any] = {
            "name": self.name,
            "heads": {run: list(map(head_name, e.heads)) for run, e in by_run.items()},
            "accuracy": self.accuracy.as_json(),
            "change": self.change.as_json(),
            "share_of_untouched": self.share.as_json() if self.share else None,
            "context_label_accuracy": self.in_context.as_json(),
        }
        if any(e.draws for e in self.by_run):
            found["draws"] = {run: [list(map(head_name, heads)) for heads in e.draws] for run, e in by_run.items()}
        return found | ({"reason": note} if note else {})

    @property
    def knocked_out(self) -> str:
        """The heads in words; by run, divided by slashes, where the runs differ."""
        return " / ".join(dict.fromkeys(e.knocked_out for e in self.by_run))


@dataclass(frozen=True)
class Effects(Tabled):
    """Interventions on one or several runs, seeds of one experiment.

    Arguments:
        runs: names of the runs.
        steps: the checkpoint of each.
        split: the split whose accuracy was measured.
        effects: of each intervention that could be made in every run.
        oracles: what can be reached without a network on the same sequences, untouched.
        circuits: of knockouts, the circuit's heads in each run; None where it has no circuit.
        no_circuit: of knockouts, why each run has none; empty where it has one.
        named: of knockouts, what the circuit's heads of each run are called, by pattern and need.
        notes: remarks on controls, by name: why there is none, or that layers could not be matched.
    """

    runs: tuple[str, ...]
    steps: tuple[int, ...]
    split: str
    effects: tuple[PooledEffect, ...]
    oracles: dict[str, float]
    circuits: tuple[CircuitHeads | None, ...] = ()
    no_circuit: tuple[str, ...] = ()
    named: tuple[tuple[Named, ...], ...] = ()
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def true_words(self) -> frozenset[str]:
        """What the circuit's heads may be called in every run, by their patterns."""
        return frozenset(PLACES).intersection(*({one.pattern for one in names} for names in self.named))

    def tables(self) -> tuple[Table, ...]:
        """A row for each intervention and each oracle; of knockouts, then what the circuit's heads are called."""
        lines = list(circuit_lines(self.runs, self.named, self.no_circuit)) if self.circuits else []
        for note in dict.fromkeys(self.notes.values()):
            lines.append(f"{', '.join(name for name, text in self.notes.items() if text == note)}: {note}")
        title = f"{at_steps(self.runs, self.steps)}, split {self.split} [95 % interval]"
        named = [replace(effect, name=shown_name(effect.name, self.true_words)) for effect in self.effects]
        shown = effects_table(title, named if self.circuits else self.effects, self.oracles, lines)
        return (shown, names_table(self.runs, self.named)) if any(self.named) else (shown,)

    def as_json(self) -> dict[str, Any]:
        """Everything as plain data. An effect that could not be measured has its reason and no numbers. A missing
        control is not a control without effect."""
        made = {e.name for e in self.effects}
        rows = [e.as_json(self.runs, self.notes.get(e.name, "")) for e in self.effects]
        rows += [
            {"name": name, "heads": None, "accuracy": None, "change": None, "share_of_untouched": None,
             "context_label_accuracy": None, "reason": note}
            for name, note in self.notes.items() if name not in made
        ]  # fmt: skip
        circuits = circuits_json(self.runs, self.circuits, self.no_circuit, self.named) if self.circuits else {}
        if not circuits:
            rows = [{key: value for key, value in row.items() if key != "heads"} for row in rows]
        oracles = {name: round(value, 6) for name, value in self.oracles.items()}
        return {"runs": self.runs, "steps": self.steps, "split": self.split, **circuits, "oracles": oracles,
                "effects": rows}  # fmt: skip
