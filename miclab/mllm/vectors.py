"""Function vectors (arXiv 2310.15213): what the top induction heads write on average, added without any example.

The vector is the sum over heads of their mean output at the last position of prompts with examples. It is added to the
stream at the last position of prompts without examples. The control is the vector of as many random heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from miclab.circuits.find import Head, head_name
from miclab.mllm.ablation import Means, heads_by_layer
from miclab.mllm.edge_knockout import PROBABILITY, with_probability
from miclab.mllm.effects import Effect, answer_under
from miclab.mllm.errors import ModelError, TaskError
from miclab.mllm.heads import HeadTable
from miclab.mllm.knockout import matched_draws, mean_outputs
from miclab.mllm.loading import Production
from miclab.mllm.options import VectorOptions
from miclab.mllm.passes import UNTOUCHED, Intervention
from miclab.mllm.reading import Encoded
from miclab.mllm.readout import by_head, readout_of
from miclab.mllm.scoring import Answers, OnProgress
from miclab.mllm.task import Task
from miclab.tables import Number, Table, Tabled, table

SHOWN = {"correct": "accuracy", "choice": "forced choice", PROBABILITY: "probability"}
LAYERS = 8
"""Most layers at which a vector is added unless some are named."""
WITH, WITHOUT = "with examples", "no examples"


@dataclass(frozen=True)
class Added:
    """A vector added at a layer.

    Arguments:
        layer: index of the layer after which it is added; -1: nothing is added.
        draw: number of the draw of random heads; -1: the top heads.
    """

    layer: int = -1
    draw: int = -1


@dataclass(frozen=True)
class Vectors(Tabled):
    """Function vectors of one model on one task.

    Arguments:
        heads: whose outputs make the vector.
        few_shot: the answers with examples.
        effects: by layer, the answers without examples and with the vector; the control has random heads.
        norm: of the vector.
        note: on the random heads; may be empty.
        rows: one for each vector and episode, for the table on disk.
        episodes: how many were answered.
        unpaired: how many others were answered with examples or without, not both.
        problem: why some were not; empty if all were.
    """

    heads: tuple[Head, ...]
    few_shot: Effect
    effects: Mapping[int, Effect]
    norm: float
    note: str
    rows: list[dict[str, Any]] = field(repr=False)
    episodes: int
    unpaired: int = 0
    problem: str = ""

    @property
    def zero_shot(self) -> Effect:
        """The answers without examples and without a vector."""
        before = next(iter(self.effects.values())).before
        return Effect(WITHOUT, before, before)

    def tables(self) -> tuple[Table, ...]:
        """A row with examples, one without, and one for each layer at which the vector is added."""
        columns = ["prompt", *SHOWN.values(), "random heads", "change", "beyond random heads"]
        rows = [[one.name, *(one.interval(measure) for measure in SHOWN), None, None, None]
                for one in (self.few_shot, self.zero_shot)]  # fmt: skip
        for effect in self.effects.values():
            control = effect.control
            rows.append([
                effect.name, *(effect.interval(measure) for measure in SHOWN),
                None if control is None else Number(float(control["correct"].mean()), 3), effect.change("correct"),
                effect.beyond_control("correct"),
            ])  # fmt: skip
        title = f"function vector of {' '.join(map(head_name, self.heads))}; {self.episodes} episodes [95 % interval]"
        notes = [f"random heads: {self.note}"] if self.note else []
        if self.unpaired:
            notes.append(f"Left out: {self.unpaired} episodes answered only with examples, or only without.")
        return (table(title, columns, rows, notes),)


def without_examples(task: Task) -> Task:
    """The same queries without examples. The answers of the context stay candidates, so that forced choice has the same
    chance."""
    episodes = tuple(replace(one, support=(), choices=one.candidates) for one in task.episodes)
    return replace(task, shots=0, episodes=episodes)


def function_vector(production: Production, means: Means, heads: Sequence[Head]) -> Float[Tensor, " dimension"]:
    """The sum of what heads write into the stream.

    Arguments:
        means: mean output of every head at the last position.
        heads: as (layer, head) from 0.

    Raises:
        ModelError: there is no such head.
    """
    parts = []
    with torch.no_grad():
        for layer, chosen in heads_by_layer(production.layers, heads).items():
            outputs = means[layer.index].flatten()[None].to(production.model.device, production.model.dtype)
            parts.append(by_head(layer, outputs)[0, chosen].sum(0))
    return torch.stack(parts).sum(0)


@contextmanager
def vector_added(block: Any, vector: Float[Tensor, " dimension"], encoded: Encoded) -> Iterator[None]:
    """A context in which a vector is added to the stream after a block, at the last position before the answer."""
    last = [reading.last for reading in encoded.readings]

    def add(module: Any, arguments: Any, output: Any) -> Any:
        stream = (output[0] if isinstance(output, tuple) else output).clone()
        stream[torch.arange(len(last)), last] += vector.to(stream)
        return (stream, *output[1:]) if isinstance(output, tuple) else stream

    handle = block.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def _places(layers: Sequence[int], named: Sequence[int]) -> tuple[int, ...]:
    """Layers at which the vector is added: those that are named, else evenly spaced ones."""
    unknown = [layer for layer in named if layer not in layers]
    if unknown:
        raise ModelError(f"There is no layer {unknown[0]} of attention: the model has {', '.join(map(str, layers))}.")
    if named:
        return tuple(dict.fromkeys(named))
    places = np.unique(np.linspace(0, len(layers) - 1, min(LAYERS, len(layers))).round().astype(int))
    return tuple(layers[place] for place in places.tolist())


def add_vectors(
    production: Production,
    table: HeadTable,
    task: Task,
    ranked_on: Task,
    options: VectorOptions | None = None,
    *,
    batch: int = 0,
    on_progress: OnProgress | None = None,
) -> Vectors:
    """Adds the function vector of the top heads of a table, and those of random heads; the model answers every episode
    without examples under each.

    Arguments:
        production: the model.
        table: strengths that rank its heads.
        task: the episodes to answer, which should differ from those of `ranked_on`.
        ranked_on: episodes over which the mean outputs are taken.
        options: which heads and layers.
        batch: episodes at a time; 0: as many of similar length as fit (`miclab.mllm.batches`).
        on_progress: called with the number of episodes answered, with examples and without.

    Raises:
        ModelError: there is no such measure or layer.
        TaskError: no episode can be read.
        OutOfMemoryError: it does not fit.
    """
    options = options or VectorOptions()
    top = tuple(table.ranked(options.induction)[: options.top])
    readout = readout_of(production)
    indices = tuple(layer.index for layer in production.layers)
    places = _places(indices, options.layers)
    draws, note = matched_draws(top, top, table.heads, options.draws, options.seed)
    means = mean_outputs(production, ranked_on, batch, lambda reading: [reading.last])
    vectors = {-1: function_vector(production, means, top)}
    vectors |= {number: function_vector(production, means, drawn) for number, drawn in enumerate(draws)}
    conditions = [Added(), *(Added(layer, draw) for layer in places for draw in range(-1, len(draws)))]

    def adding(added: Added) -> Intervention:
        if added.layer < 0:
            return UNTOUCHED
        block, vector = readout.blocks[added.layer], options.scale * vectors[added.draw]
        return Intervention(lambda encoded: vector_added(block, vector, encoded), added.layer)

    few = answer_under(production, task, {Added(): UNTOUCHED}, batch=batch, on_progress=on_progress)
    done = len(task.episodes)
    zero = answer_under(
        production, without_examples(task), {one: adding(one) for one in conditions}, batch=batch,
        on_progress=on_progress and (lambda number, text: on_progress(done + number, text)),
    )  # fmt: skip
    # Every row is over the same episodes: those that were answered with examples and without.
    names = tuple(name for name in zero.episodes if name in set(few.episodes))
    if not names:
        raise TaskError(f"{task.name}: no episode was answered both with examples and without: {zero.problem}")
    of_few = with_probability(few.found[Added()].of([few.episodes.index(name) for name in names]))
    rows = [zero.episodes.index(name) for name in names]
    found = {one: of.of(rows) for one, of in zero.found.items()}
    unpaired = len(set(few.episodes) ^ set(zero.episodes))
    return Vectors(
        top, Effect(WITH, of_few, of_few), _effects(found, places, len(draws)), float(vectors[-1].norm()), note,
        _rows(found, conditions, names), len(names), unpaired,
        "; ".join(dict.fromkeys(text for text in (few.problem, zero.problem) if text)),
    )  # fmt: skip


def _effects(found: Mapping[Added, Answers], places: Sequence[int], draws: int) -> dict[int, Effect]:
    before, effects = with_probability(found[Added()]), {}
    for layer in places:
        drawn = [with_probability(found[Added(layer, draw)]) for draw in range(draws)]
        control = {name: np.mean([one[name] for one in drawn], axis=0) for name in before} if drawn else None
        effects[layer] = Effect(
            f"{WITHOUT}, vector after layer {layer}", with_probability(found[Added(layer)]), before, control,
            tuple(float(one["correct"].mean()) for one in drawn),
        )  # fmt: skip
    return effects


def _rows(found: Mapping[Added, Answers], conditions: Sequence[Added], names: Sequence[str]) -> list[dict[str, Any]]:
    values = {one: with_probability(found[one]) for one in conditions}
    return [
        {"layer": one.layer, "draw": one.draw, "episode": name}
        | {measure: float(of[number]) for measure, of in values[one].items()}
        for one in conditions
        for number, name in enumerate(names)
    ]
