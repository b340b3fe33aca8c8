"""Effects of patching as shares of what a corruption changes, with intervals: what every such result has in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miclab.circuits.pairs import Traced
from miclab.circuits.patching import METRICS, Direction, Metric
from miclab.measures.evaluations import at_steps
from miclab.statistics.intervals import Interval, clustered_interval, ratio_interval
from miclab.tables import Table, Tabled, table

WORDS: dict[str, str] = {
    "logit_difference": "logit difference",
    "probability": "probability",
    "accuracy": "accuracy",
}
DIRECTIONS: dict[str, str] = {
    "restore": "clean activations put into the corrupted run (denoising)",
    "corrupt": "corrupted activations put into the clean run (noising)",
}
NO_EFFECT = "the corruption does not change it, so no effect can be a share of the change"


def _by_set(values: Sequence[NDArray[np.floating]]) -> NDArray[np.floating]:
    """Sequences of one set, or means of several sets: sets may have kept different numbers of sequences."""
    return values[0][None] if len(values) == 1 else np.array([one.mean() for one in values])


@dataclass(frozen=True)
class Shares(Tabled):
    """Effects of patching on one or several runs, seeds of one experiment.

    Arguments:
        runs: names of the runs.
        steps: the checkpoint of each.
        split: whose sequences were corrupted.
        corruption: name of the corruption.
        words: its effect.
        direction: `restore` or `corrupt`.
        traced: of each run.
        metric: shown in the tables and the drawing.
    """

    runs: tuple[str, ...]
    steps: tuple[int, ...]
    split: str
    corruption: str
    words: str
    direction: Direction
    traced: tuple[Traced, ...]
    metric: Metric = "logit_difference"
    _kept: dict[tuple[Any, str], Interval | None] = field(default_factory=dict, repr=False, compare=False)

    def untouched(self, metric: Metric) -> tuple[Interval, Interval]:
        """A metric on clean sequences and on corrupted ones."""
        ends = (
            [_by_set(one.clean[metric]) for one in self.traced],
            [_by_set(one.corrupted[metric]) for one in self.traced],
        )
        return clustered_interval(ends[0]), clustered_interval(ends[1])

    def change(self, metric: Metric) -> Interval:
        """The metric on clean sequences minus that on corrupted ones."""
        return clustered_interval([_by_set(one.clean[metric]) - _by_set(one.corrupted[metric]) for one in self.traced])

    def effect(self, place: Any, metric: Metric | None = None) -> Interval | None:
        """The normalised effect of a patch: the change from the run that is patched, over the whole change
        between corrupted and clean. 0 is none, 1 is all of it.

        Returns:
            The interval, with the same resamples in numerator and denominator. None where the corruption does not
            change the metric: its own interval contains 0.
        """
        chosen = metric or self.metric
        key = (place, chosen)
        if key not in self._kept:
            self._kept[key] = self._effect(place, chosen)
        return self._kept[key]

    def _effect(self, place: Any, metric: Metric) -> Interval | None:
        whole = self.change(metric)
        if whole.low <= 0 <= whole.high:
            return None
        above, below = [], []
        for one in self.traced:
            clean, corrupted, patched = (
                _by_set(values[metric]) for values in (one.clean, one.corrupted, one.patched[place])
            )
            above.append(patched - corrupted if self.direction == "restore" else clean - patched)
            below.append(clean - corrupted)
        return ratio_interval(above, below)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks: how many sequences were used, parts that are left out, metrics without an effect."""
        kept, every = (sum(one.kept[i] for one in self.traced) for i in (0, 1))
        lines = [f"{kept:,} of {every:,} sequences are used: those that the corruption changes and that can be judged."]
        for part, reason in self.traced[0].left_out.items():
            lines.append(f"{part} is left out: {reason}.")
        for metric in METRICS:
            change = self.change(metric)
            if change.low <= 0 <= change.high:
                lines.append(f"{WORDS[metric]} has no normalised effect: {NO_EFFECT} ({change}).")
        return tuple(lines)

    def change_table(self) -> Table:
        """The effect of the corruption on every metric."""
        rows = [(WORDS[metric], *self.untouched(metric), self.change(metric)) for metric in METRICS]
        title = f"{at_steps(self.runs, self.steps)}, split {self.split}, {self.corruption}: {self.words}"
        return table(title, ["of the clean answer", "clean", "corrupted", "change"], rows, self.notes)

    def head_json(self) -> dict[str, Any]:
        """What was corrupted, as plain data."""
        return {
            "runs": self.runs, "steps": self.steps, "split": self.split, "corruption": self.corruption,
            "changes": self.words, "direction": self.direction, "notes": self.notes,
            "untouched": {metric: self._untouched_json(metric) for metric in METRICS},
        }  # fmt: skip

    def effects_json(self, place: Any) -> dict[str, Any]:
        """The effect of a patch on every metric, as plain data."""
        found = {metric: self.effect(place, metric) for metric in METRICS}
        return {metric: None if one is None else one.as_json() for metric, one in found.items()}

    def _untouched_json(self, metric: Metric) -> dict[str, Any]:
        clean, corrupted = self.untouched(metric)
        shown = {"clean": clean, "corrupted": corrupted, "change": self.change(metric)}
        return {name: interval.as_json() for name, interval in shown.items()}
