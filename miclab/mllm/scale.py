"""The same task over several sizes of one family (claim P3 of the study)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from miclab.errors import MiclabError
from miclab.mllm.errors import ModelError
from miclab.mllm.loading import LoadOptions, Production, load_model
from miclab.mllm.scoring import OnProgress, answers, batches, joined
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
    """

    model: str
    parameters: int
    layers: int
    heads: int
    values: dict[str, NDArray[np.floating]]

    def interval(self, measure: str) -> Interval:
        """Mean of a measure over episodes."""
        return episode_interval(self.values[measure])

    def gain(self, smaller: Size, measure: str) -> Interval:
        """Difference from a smaller model on the same episodes, by paired bootstrap."""
        return episode_interval(self.values[measure] - smaller.values[measure])


def evaluate_model(production: Production, task: Task, batch: int = 1, on_progress: OnProgress | None = None) -> Size:
    """One model's answers to every episode.

    Raises:
        OutOfMemoryError, TaskError: it does not fit, or an episode cannot be read.
    """
    parts = []
    done = 0
    for episodes, encoded in batches(production.prompter(task), batch):
        parts.append(answers(production, episodes, encoded))
        done += len(episodes)
        if on_progress:
            on_progress(done, production.name)
    size = sum(parameter.numel() for parameter in production.model.parameters())
    first = production.layers[0]
    return Size(production.name, size, len(production.layers), first.heads, joined(parts).named())


def _after(on_progress: OnProgress | None, before: int) -> OnProgress | None:
    """`on_progress` for one model, with `before` episodes answered by those before it."""
    return None if on_progress is None else lambda done, text: on_progress(before + done, text)


def scale(
    models: Sequence[str],
    tasks: dict[str, Task],
    options: LoadOptions,
    batch: int = 1,
    on_progress: OnProgress | None = None,
    keep: Callable[[Size], None] | None = None,
) -> tuple[list[Size], str]:
    """Every model's answers, one model in memory at a time.

    Arguments:
        models: names, the smallest first.
        tasks: the same episodes by view; each model gets those that it can see.
        options: how they are loaded.
        batch: episodes at a time.
        on_progress: called with the number of episodes answered, over all models.
        keep: called with each model's answers as soon as there are any.

    Returns:
        The sizes, and why it stopped early, or an empty text.

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
            size = evaluate_model(production, task, batch, _after(on_progress, number * len(task.episodes)))
        except MiclabError as error:
            if not found:
                raise
            return found, f"{name}: {error}"
        found.append(size)
        if keep:
            keep(size)
        del production
    return found, ""
