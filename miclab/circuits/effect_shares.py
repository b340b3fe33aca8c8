"""Effects of patching as shares of what a corruption changes, with intervals: what every such result has in common."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from miclab.circuits.corrupted_pairs import Traced
from miclab.circuits.corruption import Corruption, find_corruption
from miclab.circuits.existence import OnProgress
from miclab.circuits.patching import METRICS, Direction, Metric
from miclab.circuits.patching_request import PatchingRequest
from miclab.config.run import RunConfig
from miclab.measures.evaluate import check_seeds
from miclab.measures.evaluations import at_steps
from miclab.runs.run import Run
from miclab.statistics.intervals import (
    Interval,
    accuracy_interval,
    clustered_interval,
    exact_mean,
    ratio_interval,
    student_interval,
)
from miclab.tables import Table, Tabled, table
from miclab.worlds.world import World, world_from_tensors

WORDS: dict[str, str] = {
    "logit_difference": "logit difference",
    "probability": "probability",
    "accuracy": "accuracy",
}
NO_EFFECT = "has no normalised effect"


def set_means(values: Sequence[NDArray[np.floating]]) -> NDArray[np.floating]:
    """Sequences of one set, or means of several sets: sets may have kept different numbers of sequences."""
    return values[0][None] if len(values) == 1 else np.array([one.mean() for one in values])


BySets = Sequence[NDArray[np.floating]]
"""A metric of each sequence, by set of novel classes: sets may have kept different numbers of sequences."""


def _level(runs: Sequence[BySets]) -> Interval:
    """A metric of runs, seeds of one experiment."""
    return clustered_interval([set_means(sets) for sets in runs])


def _accuracy_level(runs: Sequence[BySets]) -> Interval:
    """An accuracy of runs, its interval between 0 and 1. Sets count as the one that kept the fewest sequences."""
    if len(runs) == 1 and len(runs[0]) == 1:
        return accuracy_interval([runs[0][0][None]])
    if len(runs) == 1:
        return student_interval(set_means(runs[0]), scale="logit", trials=min(map(len, runs[0])), unit="set")
    means = [exact_mean([one.mean() for one in sets]) for sets in runs]
    return student_interval(means, scale="logit", trials=min(sum(map(len, sets)) for sets in runs))


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
        clean, corrupted = ([getattr(one, end)[metric] for one in self.traced] for end in ("clean", "corrupted"))
        level = _accuracy_level if metric == "accuracy" else _level
        ends = (-math.inf, math.inf) if metric == "logit_difference" else (0.0, 1.0)
        return level(clean).within(*ends), level(corrupted).within(*ends)

    def change(self, metric: Metric) -> Interval:
        """The metric on clean sequences minus that on corrupted ones."""
        ends = (-math.inf, math.inf) if metric == "logit_difference" else (-1.0, 1.0)
        return clustered_interval(
            [set_means(one.clean[metric]) - set_means(one.corrupted[metric]) for one in self.traced]
        ).within(*ends)

    def has_effect(self, metric: Metric | None = None) -> bool:
        """Whether the corruption changes a metric: the interval of the change does not contain 0.

        Arguments:
            metric: None: the one that is shown.
        """
        change = self.change(metric or self.metric)
        return not change.low <= 0 <= change.high

    def effect(self, place: Any, metric: Metric | None = None) -> Interval | None:
        """The normalised effect of a patch: the change from the run that is patched, over the whole change between
        corrupted and clean. 0 is none, 1 is all of it.

        Arguments:
            place: what was patched, or a tuple of patches whose effects are added.
            metric: None: the one that is shown.

        Returns:
            The interval, with the same resamples in numerator and denominator. None where the corruption does not
            change the metric: its own interval contains 0.
        """
        chosen = metric or self.metric
        key = (place, chosen)
        if key not in self._kept:
            self._kept[key] = self._effect(place if isinstance(place, tuple) else (place,), chosen)
        return self._kept[key]

    def _effect(self, places: tuple[Any, ...], metric: Metric) -> Interval | None:
        if not self.has_effect(metric):
            return None
        above, below = [], []
        for one in self.traced:
            clean, corrupted = set_means(one.clean[metric]), set_means(one.corrupted[metric])
            patched = sum(set_means(one.patched[place][metric]) for place in places)
            many = len(places)
            above.append(patched - many * corrupted if self.direction == "restore" else many * clean - patched)
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
            if not self.has_effect(metric):
                change = self.change(metric)
                more = " More --novel-sets, --sequences or runs make it narrower." if change.low < change.high else ""
                lines.append(f"{WORDS[metric]} {NO_EFFECT}: the interval of its change contains 0 ({change}).{more}")
        return tuple(lines)

    def warn_of_nulls(self) -> None:
        """Warns of each metric of which there is no effect: a frame has nulls there."""
        for line in self.notes:
            if NO_EFFECT in line:
                warnings.warn(line, stacklevel=3)

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


Result = TypeVar("Result", bound=Shares)
Trace = Callable[[RunConfig, World, dict[str, Tensor], Corruption, str, Callable[[int], None]], Traced]
"""From a run's configuration, world and parameters, the corruption, its modality and a function to call with the number
of sets done, to answers."""


def trace_runs(
    result: type[Result],
    runs: Sequence[Run],
    request: PatchingRequest,
    trace: Trace,
    on_progress: OnProgress | None,
    *,
    rounds: int = 1,
) -> Result:
    """Answers of every run, as a result.

    Arguments:
        result: the class of the result.
        runs: seeds of one experiment.
        request: checkpoints, corruption and sequences.
        trace: gives the answers of one run.
        on_progress: called with the number of sets of novel classes done over all runs, and the name of the run.
        rounds: times that `trace` goes through the sets.

    Raises:
        RunError: the runs differ in more than the seed.
        ConfigError: there is no such corruption, modality or checkpoint.
    """
    check_seeds(runs)
    found, steps, words = [], [], ""
    for done, run in enumerate(runs):
        made, modality = find_corruption(request.corruption, run.config)
        at, parameters = run.parameters(request.step)

        def on_set(count: int, before: int = done * rounds * request.sets, name: str = run.path.name) -> None:
            if on_progress:
                on_progress(before + count, name)

        world = world_from_tensors(run.config, run.world_tensors())
        found.append(trace(run.config, world, parameters, made, modality, on_set))
        steps.append(at)
        words = made.words
    names = tuple(run.path.name for run in runs)
    return result(
        names, tuple(steps), request.split, request.corruption, words, request.direction, tuple(found), request.metric
    )
