"""Knocking out attention between kinds of position (arXiv 2304.14767), by windows of layers, against random edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miclab.mllm.attention import watchable
from miclab.mllm.batches import batches
from miclab.mllm.edges import Kind, cut_of, edges, kinds_named, random_edges
from miclab.mllm.edits import edges_cut
from miclab.mllm.effects import Effect, answer_under
from miclab.mllm.errors import TaskError
from miclab.mllm.loading import Production
from miclab.mllm.options import EdgeOptions
from miclab.mllm.passes import UNTOUCHED, Intervention
from miclab.mllm.reading import Encoded
from miclab.mllm.scoring import Answers, OnProgress
from miclab.mllm.task import Task
from miclab.tables import Number, Table, Tabled, table

PROBABILITY = "probability"
"""Of the right answer with its end."""
SHOWN = {"correct": "accuracy", PROBABILITY: "probability of the right answer"}
WINDOWS = 8
"""Most windows of layers unless a size is given."""


@dataclass(frozen=True)
class Window:
    """Layers in which edges are cut together.

    Arguments:
        layers: their indices, in order.
        every: whether they are all of the model's.
    """

    layers: tuple[int, ...]
    every: bool = False

    @property
    def name(self) -> str:
        """It in words."""
        if self.every:
            return "all layers"
        first, last = self.layers[0], self.layers[-1]
        return f"layer {first}" if first == last else f"layers {first} to {last}"


def windows(layers: Sequence[int], size: int = 0) -> tuple[Window, ...]:
    """Windows of adjacent layers, then all layers if there are several windows.

    Arguments:
        layers: indices of the model's layers.
        size: layers of a window; the last may have fewer. 0: as few as give at most 8 windows.
    """
    size = size or -(-len(layers) // WINDOWS)
    found = [Window(tuple(layers[start : start + size]), size >= len(layers)) for start in range(0, len(layers), size)]
    return (*found, Window(tuple(layers), True)) if len(found) > 1 else tuple(found)


@dataclass(frozen=True)
class Cut:
    """Edges of a kind cut in a window.

    Arguments:
        kind: None: nothing is cut.
        window: where.
        draw: number of the draw of random edges in their place; -1: the edges themselves.
    """

    kind: Kind | None = None
    window: Window | None = None
    draw: int = -1


@dataclass(frozen=True)
class EdgeEffect:
    """The effect of cutting edges of a kind.

    Arguments:
        kind: of edge.
        window: of layers.
        edges: mean number of edges of an episode, with its right answer.
        effect: on the answers; its control has random edges.
    """

    kind: Kind
    window: Window
    edges: float
    effect: Effect


@dataclass(frozen=True)
class EdgeKnockouts(Tabled):
    """Edges cut in one model on one task.

    Arguments:
        untouched: the model's own answers.
        effects: for each kind and window, by kind.
        absent: kinds of which the task's prompts have no edge.
        draws: draws of random edges for each effect.
        rows: one for each cut and episode, for the table on disk.
        episodes: how many were answered.
        problem: why some were not; empty if all were.
    """

    untouched: Effect
    effects: tuple[EdgeEffect, ...]
    absent: tuple[Kind, ...]
    draws: int
    rows: list[dict[str, Any]] = field(repr=False)
    episodes: int
    problem: str = ""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Kinds that were cut."""
        return tuple(dict.fromkeys(one.kind for one in self.effects))

    @property
    def windows(self) -> tuple[Window, ...]:
        """Windows in which they were cut."""
        return tuple(dict.fromkeys(one.window for one in self.effects))

    def of(self, kind: Kind, window: Window) -> EdgeEffect:
        """The effect of a kind in a window."""
        return next(one for one in self.effects if (one.kind, one.window) == (kind, window))

    def tables(self) -> tuple[Table, ...]:
        """For accuracy and for probability, a row for each kind: each window, and random edges in all layers."""
        every = self.windows[-1]
        columns = ["edges cut", "an episode", *(window.name for window in self.windows[:-1]), every.name,
                   "random edges", "beyond random"]  # fmt: skip
        found = []
        for measure, words in SHOWN.items():
            rows = []
            for kind in self.kinds:
                last = self.of(kind, every)
                control = None if last.effect.control is None else float(last.effect.control[measure].mean())
                rows.append([
                    kind.name, Number(last.edges, 1),
                    *(Number(float(self.of(kind, w).effect.values[measure].mean()), 3) for w in self.windows[:-1]),
                    last.effect.interval(measure), None if control is None else Number(control, 3),
                    last.effect.beyond_control(measure),
                ])  # fmt: skip
            title = f"{words}, untouched {self.untouched.interval(measure)}; {self.episodes} episodes [95 % interval]"
            found.append(table(title, columns, rows, self._notes() if measure == "correct" else ()))
        return tuple(found)

    def _notes(self) -> list[str]:
        draws = "1 draw" if self.draws == 1 else f"{self.draws} draws"
        lines = [f"Random edges: as many other edges, mean of {draws}."] if self.draws else []
        if self.absent:
            lines.append(f"No prompt has such edges: {', '.join(kind.name for kind in self.absent)}.")
        return lines


def count_edges(production: Production, task: Task, kinds: Sequence[Kind], batch: int) -> dict[Kind, float]:
    """Mean number of edges of each kind over the episodes of a task that can be read, with their right answers.

    Raises:
        TaskError: none can be read.
    """
    counts: dict[Kind, list[int]] = {kind: [] for kind in kinds}
    lost: dict[str, str] = {}
    for _, encoded in batches(production.prompter(task), batch, lost, every=False):
        length = encoded.inputs["input_ids"].shape[1]
        for reading in encoded.readings:
            for kind, found in edges(reading, length, kinds).items():
                counts[kind].append(int(found.sum()))
    if not next(iter(counts.values())):
        raise TaskError(next(iter(lost.values())))
    return {kind: float(np.mean(of)) for kind, of in counts.items()}


def with_probability(found: Answers) -> dict[str, NDArray[np.floating]]:
    """Values of answers [episode] by name, with the probability of the right one."""
    return found.named() | {PROBABILITY: np.exp(found.log_probability)}


def cut_edges(
    production: Production,
    task: Task,
    options: EdgeOptions | None = None,
    *,
    batch: int = 0,
    on_progress: OnProgress | None = None,
) -> EdgeKnockouts:
    """Cuts edges of each kind in each window of layers, and random edges in their place; the model answers every
    episode.

    Arguments:
        production: the model.
        task: the episodes.
        options: which edges and layers.
        batch: episodes at a time; 0: as many of similar length as fit (`miclab.mllm.batches`).
        on_progress: called with the number of episodes answered under all cuts.

    Raises:
        ModelError: there is no such kind of edge, or attention cannot be replaced.
        TaskError: no episode can be read, or no prompt has one of these edges.
        OutOfMemoryError: before the first batch was answered; later the result has its `problem` set.
    """
    options = options or EdgeOptions()
    wanted = kinds_named(options.edges)
    counts = count_edges(production, task, wanted, batch)
    kinds = [kind for kind in wanted if counts[kind]]
    absent = tuple(kind for kind in wanted if not counts[kind])
    if not kinds:
        raise TaskError(f"No prompt of {task.name} has such edges: {', '.join(kind.name for kind in absent)}.")
    layers = {layer.index: layer for layer in production.layers}
    places = windows(tuple(layers), options.window)
    cuts = [Cut(), *(Cut(kind, window, draw) for kind in kinds for window in places
                     for draw in range(-1, options.draws))]  # fmt: skip

    def cutting(cut: Cut) -> Intervention:
        kind, window = cut.kind, cut.window
        if kind is None or window is None:
            return UNTOUCHED

        def intervene(encoded: Encoded) -> AbstractContextManager[None]:
            mask = cut_of(encoded, [kind])
            if cut.draw >= 0:
                mask = random_edges(encoded, mask, (options.seed, kind.short, cut.draw))
            return edges_cut(production.model, [layers[index] for index in window.layers], mask)

        return Intervention(intervene, window.layers[0])

    with watchable(production.model):
        answered = answer_under(
            production, task, {cut: cutting(cut) for cut in cuts}, batch=batch, on_progress=on_progress
        )
    values = {cut: with_probability(found) for cut, found in answered.found.items()}
    before = values[cuts[0]]
    effects = tuple(
        EdgeEffect(kind, window, counts[kind], _effect(kind, window, values, before, options.draws))
        for kind in kinds
        for window in places
    )
    rows = [
        {"edges": cut.kind.short if cut.kind else "", "layers": cut.window.name if cut.window else "",
         "draw": cut.draw, "episode": name} | {measure: float(values[cut][measure][number]) for measure in before}
        for cut in cuts
        for number, name in enumerate(answered.episodes)
    ]  # fmt: skip
    untouched = Effect("untouched", before, before)
    return EdgeKnockouts(untouched, effects, absent, options.draws, rows, len(answered.episodes), answered.problem)


def _effect(
    kind: Kind,
    window: Window,
    values: Mapping[Cut, Mapping[str, NDArray[np.floating]]],
    before: Mapping[str, NDArray[np.floating]],
    draws: int,
) -> Effect:
    drawn = [values[Cut(kind, window, draw)] for draw in range(draws)]
    control = {measure: np.mean([one[measure] for one in drawn], axis=0) for measure in before} if drawn else None
    name = f"{kind.name}, {window.name}"
    return Effect(name, values[Cut(kind, window)], before, control,
                  tuple(float(one["correct"].mean()) for one in drawn))  # fmt: skip
