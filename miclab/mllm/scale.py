"""The same task over several sizes of one family (claim P3 of the study)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from miclab.errors import MiclabError
from miclab.mllm.batches import batches, in_order, lost_text
from miclab.mllm.errors import ModelError, TaskError
from miclab.mllm.judging import Judge
from miclab.mllm.loading import LoadOptions, Production, load_model
from miclab.mllm.passes import Passes
from miclab.mllm.scoring import Answers, OnProgress, answers, joined
from miclab.mllm.task import Task
from miclab.statistics.intervals import Interval, episode_interval


@dataclass(frozen=True)
class Size:
    """One model's answers to the task.

    Arguments:
        model: its name.
        parameters: number of them, as they are held (weights in 4 bits count as stored).
        layers: attention layers.
        heads: heads a layer.
        values: each measure by name, [episode].
        names: of the episodes that were answered.
        problem: the episodes that could not be read; empty if all could.
        written: the text for each, if requested.
        remarks: on the model's inputs.
    """

    model: str
    parameters: int
    layers: int
    heads: int
    values: dict[str, NDArray[np.floating]]
    names: tuple[str, ...]
    problem: str = ""
    written: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def interval(self, measure: str) -> Interval:
        """Mean of a measure over episodes."""
        return episode_interval(self.values[measure])

    def gain(self, smaller: Size, measure: str) -> Interval:
        """Difference from a smaller model on the episodes that both answered, by paired bootstrap.

        Raises:
            TaskError: there is no such episode.
        """
        place = {name: number for number, name in enumerate(smaller.names)}
        both = [(number, place[name]) for number, name in enumerate(self.names) if name in place]
        if not both:
            raise TaskError(f"{smaller.model} and {self.model} answered no episode that is the same.")
        mine, other = (list(numbers) for numbers in zip(*both, strict=True))
        return episode_interval(self.values[measure][mine] - smaller.values[measure][other])


def evaluate_model(
    production: Production, task: Task, batch: int = 0, on_progress: OnProgress | None = None, benchmark: bool = False
) -> Size:
    """One model's answers to every readable episode.

    Arguments:
        benchmark: also judge answers as VL-ICL Bench does, for which the model writes text.

    Raises:
        OutOfMemoryError, TaskError: it does not fit, or no episode can be read.
    """
    parts: list[Answers] = []
    names: list[str] = []
    prompter, lost = production.prompter(task), {}
    judge, passes = Judge(prompter) if benchmark else None, Passes(production)
    for episodes, encoded in batches(prompter, batch, lost):
        parts.append(answers(production, episodes, encoded, judge, passes))
        names += [episode.name for episode in episodes]
        if on_progress:
            on_progress(len(names) + len(lost), production.name)
    problem = lost_text(lost, len(task.episodes))
    if not parts:
        raise TaskError(problem)
    order = in_order(names, task)
    found, names = joined(parts).of(order), [names[row] for row in order]
    size = sum(parameter.numel() for parameter in production.model.parameters())
    first = production.layers[0]
    return Size(production.name, size, len(production.layers), first.heads, found.named(), tuple(names),
                problem, found.written, tuple(production.remarks))  # fmt: skip


def _after(on_progress: OnProgress | None, before: int) -> OnProgress | None:
    """`on_progress` for one model, with `before` episodes answered by those before it."""
    return None if on_progress is None else lambda done, text: on_progress(before + done, text)


def scale(
    models: Sequence[str],
    tasks: dict[str, Task],
    options: LoadOptions,
    batch: int = 0,
    on_progress: OnProgress | None = None,
    keep: Callable[[Size], None] | None = None,
    benchmark: bool = False,
) -> tuple[list[Size], str]:
    """Every model's answers, one model in memory at a time.

    Arguments:
        models: names, the smallest first.
        tasks: the same episodes by view; each model gets those that it can see.
        options: how they are loaded.
        batch: episodes at a time; 0: as many of similar length as fit (`miclab.mllm.batches`).
        on_progress: called with the number of episodes answered, over all models.
        keep: called with each model's answers as soon as there are any.
        benchmark: answers are also judged as VL-ICL Bench does.

    Returns:
        The sizes, and a text on an early stop or on episodes that were left out; else an empty text.

    Raises:
        MiclabError: the first model could not be evaluated.
    """
    found: list[Size] = []
    for number, name in enumerate(models):
        try:
            production = load_model(name, options)
            task = tasks.get(production.view)
            if task is None:
                raise ModelError(f"{name} reads {production.view} alone, and the task has none.")
            size = evaluate_model(production, task, batch, _after(on_progress, number * len(task.episodes)),
                                  benchmark)  # fmt: skip
        except MiclabError as error:
            if not found:
                raise
            return found, f"{name}: {error}"
        found.append(size)
        if keep:
            keep(size)
        del production
    return found, "; ".join(f"{size.model}: {size.problem}" for size in found if size.problem)
