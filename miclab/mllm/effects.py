"""Answers of a model under interventions, and the effects of these on the same episodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from miclab.circuits.find import Head
from miclab.circuits.head_names import need_word
from miclab.mllm.batches import batches, in_order, lost_text
from miclab.mllm.errors import OutOfMemoryError, TaskError
from miclab.mllm.judging import Judge
from miclab.mllm.loading import Production
from miclab.mllm.passes import Intervention, Passes
from miclab.mllm.scoring import Answers, OnProgress, answers, joined
from miclab.mllm.task import Task
from miclab.statistics.intervals import Interval, episode_interval

Condition = TypeVar("Condition")


@dataclass(frozen=True)
class Effect:
    """The effect of an intervention, on the same episodes as the untouched model. Intervals are by paired bootstrap
    over episodes.

    Arguments:
        name: the intervention.
        values: each measure by name, [episode]; of a control the mean over its draws.
        before: of the untouched model.
        control: of this intervention's control; None for a control and for whole layers.
        draws: a control's mean of `correct` for each draw; empty for others.
        heads: those knocked out; for a control, those of its draws.
    """

    name: str
    values: Mapping[str, NDArray[np.floating]]
    before: Mapping[str, NDArray[np.floating]]
    control: Mapping[str, NDArray[np.floating]] | None = None
    draws: tuple[float, ...] = ()
    heads: tuple[tuple[Head, ...], ...] = ()

    def interval(self, measure: str) -> Interval:
        """Mean of a measure."""
        return episode_interval(self.values[measure])

    def change(self, measure: str) -> Interval:
        """Difference from the untouched model."""
        return episode_interval(self.values[measure] - self.before[measure])

    def beyond_control(self, measure: str) -> Interval | None:
        """Difference from the mean of the control's draws; None without a control."""
        return None if self.control is None else episode_interval(self.values[measure] - self.control[measure])

    @property
    def need(self) -> str:
        """Whether the patterns are needed, if they were set to uniform (see `miclab.circuits.head_names`)."""
        lost = episode_interval(self.before["correct"] - self.values["correct"])
        beyond = None if self.control is None else episode_interval(self.control["correct"] - self.values["correct"])
        return need_word(lost, beyond)


@dataclass(frozen=True)
class Answered(Generic[Condition]):
    """Answers of a model to the same episodes under several interventions.

    Arguments:
        episodes: names of those that were answered.
        found: answers by condition.
        problem: why some were not answered; empty if all were.
    """

    episodes: tuple[str, ...]
    found: Mapping[Condition, Answers]
    problem: str


def answer_under(
    production: Production,
    task: Task,
    interventions: Mapping[Condition, Intervention],
    *,
    batch: int = 0,
    benchmark: bool = False,
    on_progress: OnProgress | None = None,
) -> Answered[Condition]:
    """Lets a model answer every episode under each intervention.

    Arguments:
        production: the model.
        task: the episodes.
        interventions: by condition; one that changes nothing stands before the others.
        batch: episodes at a time; 0: as many of similar length as fit (`miclab.mllm.batches`).
        benchmark: also judge answers as VL-ICL Bench does, for which the model writes text.
        on_progress: called with the number of episodes answered under all interventions.

    An episode that cannot be read is left out, and named in `problem`.

    Raises:
        OutOfMemoryError: before the first batch was answered; later `problem` says so.
        TaskError: no episode can be read.
    """
    parts: dict[Condition, list[Answers]] = {condition: [] for condition in interventions}
    prompter = production.prompter(task)
    judge = Judge(prompter) if benchmark else None
    passes = Passes(production, interventions.values())
    answered: list[str] = []
    lost: dict[str, str] = {}
    problem = ""
    try:
        for episodes, encoded in batches(prompter, batch, lost):
            lot = {
                condition: answers(production, episodes, encoded, judge, passes, intervention)
                for condition, intervention in interventions.items()
            }
            for condition, found in lot.items():
                parts[condition].append(found)
            answered += [episode.name for episode in episodes]
            if on_progress:
                on_progress(len(answered) + len(lost), "")
    except OutOfMemoryError as error:
        if not answered:
            raise
        problem = str(error)
    if not answered:
        raise TaskError(lost_text(lost, len(task.episodes)))
    problem = "; ".join(text for text in (problem, lost_text(lost, len(task.episodes))) if text)
    order = in_order(answered, task)
    found = {condition: joined(lots).of(order) for condition, lots in parts.items()}
    return Answered(tuple(answered[row] for row in order), found, problem)
