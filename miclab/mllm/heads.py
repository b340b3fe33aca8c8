"""Strengths of every head of a production model over a task."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from miclab import tables
from miclab.circuits.find import Head
from miclab.circuits.head_names import Place
from miclab.errors import nearest
from miclab.mllm.attention import measuring
from miclab.mllm.batches import batches, in_order, lost_text
from miclab.mllm.errors import ModelError, OutOfMemoryError, TaskError, memory_guard
from miclab.mllm.head_names import Named, named, uniform_strengths
from miclab.mllm.layers import all_heads, attention_layers
from miclab.mllm.loading import Production
from miclab.mllm.passes import forward
from miclab.mllm.prompt import Prompter
from miclab.mllm.reading import Encoded, Reading
from miclab.mllm.scoring import OnProgress
from miclab.mllm.task import Episode, Task
from miclab.statistics.intervals import Interval, episode_interval
from miclab.tables import Number, Table, Tabled

RANDOM = "strongest with random weights"
"""The column of a model with random weights."""


@dataclass(frozen=True)
class Map:
    """Attention of one head on one episode.

    Arguments:
        head: which.
        attention: [query, key].
        names: of the positions.
        reading: the roles of the positions.
    """

    head: Head
    attention: NDArray[np.floating]
    names: tuple[str, ...]
    reading: Reading


@dataclass(frozen=True)
class HeadTable(Tabled):
    """Strengths of every head over episodes.

    Arguments:
        model: its name.
        task: its name.
        heads: all heads, in order.
        values: each measure by name, [episode, head].
        left_out: episodes whose answer is not in the context, for which induction is undefined.
        problem: why it stopped before all episodes were measured; empty if it did not.
        measured: the episodes that were measured, if known.
        lost: why an episode could not be read and was left out, by its name.
        uniform: the measures under uniform causal attention over the same positions; empty if not known.
        random: the same of the same architecture with random weights, on the same episodes; None: not measured.
        kept: intervals of each measure and head, where `values` are means over episodes that are not here; else empty.
    """

    model: str
    task: str
    heads: tuple[Head, ...]
    values: dict[str, NDArray[np.floating]]
    left_out: int = 0
    problem: str = ""
    maps: tuple[Map, ...] = field(default=(), repr=False)
    measured: tuple[Episode, ...] = field(default=(), repr=False)
    lost: dict[str, str] = field(default_factory=dict)
    uniform: Mapping[str, float] = field(default_factory=dict)
    random: HeadTable | None = field(default=None, repr=False)
    kept: Mapping[str, list[Interval]] = field(default_factory=dict, repr=False)

    @property
    def why_partial(self) -> str:
        """Why usable episodes are missing from the table; empty if none is."""
        texts = [self.problem, lost_text(self.lost, self.episodes + len(self.lost))]
        return "; ".join(text for text in texts if text)

    @property
    def episodes(self) -> int:
        """Number of episodes that were measured."""
        return len(next(iter(self.values.values())))

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures."""
        return tuple(self.values)

    def whole(self) -> HeadTable:
        """The table itself.

        Raises:
            TaskError: it stopped before all episodes were measured. Those that cannot be read are left out.
        """
        if self.problem:
            raise TaskError(f"Only {self.episodes} episodes of {self.task} were measured: {self.problem}")
        return self

    def mean(self, measure: str) -> NDArray[np.floating]:
        """Mean of a measure over episodes [head].

        Raises:
            ModelError: there is no such measure.
        """
        if measure not in self.values:
            raise ModelError(f"{measure!r} is no measure: {nearest(measure, self.values)}.")
        return self.values[measure].mean(0)

    @cached_property
    def intervals(self) -> dict[str, list[Interval]]:
        """Interval of every measure and head, episodes resampled."""
        if self.kept:
            return dict(self.kept)
        return {name: [episode_interval(of[:, i]) for i in range(len(self.heads))] for name, of in self.values.items()}

    def ranked(self, measure: str) -> list[Head]:
        """The heads, the strongest first; of equals the earlier."""
        order = np.argsort(-self.mean(measure), kind="stable")
        return [self.heads[i] for i in order.tolist()]

    def tables(self) -> tuple[Table, ...]:
        """A row for each head, with every measure."""
        columns = ["head", *(name.replace("_", " ") for name in self.measures)]
        rows = [
            [tables.HeadName(*head), *(self.intervals[name][i] for name in self.measures)]
            for i, head in enumerate(self.heads)
        ]
        return (tables.table(f"{self.model} on {self.episodes} episodes of {self.task}", columns, rows, self._notes()),)

    def strongest(self, top: int) -> Table:
        """A row for each measure, with its strongest heads and their means."""
        rows = []
        for name in self.measures:
            means = dict(zip(self.heads, self.mean(name), strict=True))
            heads = ", ".join(f"{tables.HeadName(*head)} {means[head]:.3f}" for head in self.ranked(name)[:top])
            uniform = Number(self.uniform[name], 3) if name in self.uniform else None
            rows.append([name.replace("_", " "), heads, uniform, *([self.random.most(name)] if self.random else [])])
        title = f"{self.model} on {self.episodes} episodes of {self.task}: strongest heads (LAYER.HEAD from 0)"
        return tables.table(title, ["measure", "heads", "uniform attention", *([RANDOM] if self.random else [])], rows,
                            self._notes())  # fmt: skip

    def most(self, measure: str) -> Interval:
        """The strength of the strongest head. Of random weights it is what the best of as many heads has by chance."""
        return self.intervals[measure][self.heads.index(self.ranked(measure)[0])]

    def called(self, measures: Mapping[str, Place], top: int) -> tuple[Named, ...]:
        """What the strongest heads are called by their patterns; nothing if uniform attention is not known.

        Arguments:
            measures: that rank the heads, each with the place in the circuit that it is of.
            top: number of heads of each.
        """
        if not self.uniform:
            return ()
        found: list[Named] = []
        for measure, place in measures.items():
            columns = {head: self.heads.index(head) for head in self.ranked(measure)[:top]}
            found += named(self.values, self.uniform, place, columns, self.kept or None)
        return tuple(found)

    def _notes(self) -> list[str]:
        lines = [f"{self.left_out} episodes whose answer is not in the context were left out."]
        return lines if self.left_out else []


def with_random_weights(production: Production, seed: int = 0) -> Production:
    """The same architecture and processor with weights as its class draws them before training.

    Arguments:
        seed: of the weights.

    Raises:
        ModelError: it is an adapter, or its weights are in 4 or 8 bits.
    """
    model = production.model
    if hasattr(model, "get_base_model") or production.options.four_bit or production.options.eight_bit:
        raise ModelError("--baseline random needs a whole model in full precision: no adapter, and not 4 or 8 bits.")
    with memory_guard("making the model with random weights"), torch.random.fork_rng():
        torch.manual_seed(seed)
        made = type(model)(model.config).to(model.device, model.dtype).eval()
    return replace(production, model=made, layers=attention_layers(made), remarks={})


@torch.no_grad()
def measure_encoded(
    production: Production, prompter: Prompter, encoded: Encoded, keep: Collection[Head] = ()
) -> tuple[dict[str, NDArray[np.floating]], list[Map]]:
    """Strengths of every head on a batch, by measure [episode, head], and the maps of the heads to keep on its first
    episode.

    Raises:
        OutOfMemoryError: it does not fit.
        ModelError: its attention cannot be measured.
    """
    with (
        memory_guard(f"measuring heads on {encoded.inputs['input_ids'].shape[1]} tokens"),
        measuring(production.model, production.layers, encoded.readings, keep) as recorder,
    ):
        forward(production.model, encoded.to(production.model))
    by_layer = [recorder.values(layer.index) for layer in production.layers]
    values = {name: torch.cat([of[name] for of in by_layer], 1).double().numpy() for name in by_layer[0]}
    names = tuple(prompter.names(encoded, 0)) if keep else ()
    maps = [Map(head, recorder.maps[0, head].numpy(), names, encoded.readings[0]) for head in keep]
    return values, maps


def measure_batch(
    production: Production, episodes: Sequence[Episode], task: Task, keep: Collection[Head] = ()
) -> tuple[dict[str, NDArray[np.floating]], list[Map]]:
    """`measure_encoded` of some episodes of a task.

    Raises:
        TaskError: one of them cannot be read.
    """
    prompter = production.prompter(task)
    encoded = prompter.encode([(episode, episode.answer) for episode in episodes])
    return measure_encoded(production, prompter, encoded, keep)


def measure_heads(
    production: Production, task: Task, batch: int = 0, on_progress: OnProgress | None = None
) -> HeadTable:
    """Strengths of every head over the episodes of a task whose answer is in the context.

    Memory does not grow with layers or episodes; `batch` is that of `miclab.mllm.batches`. An episode that cannot be
    read is left out and recorded in `lost`. If memory runs out, the table of the measured episodes is returned with
    `problem` set.

    Raises:
        TaskError: no episode has its answer in the context, or none can be read.
        ModelError: attention cannot be measured.
    """
    usable = tuple(episode for episode in task.episodes if episode.in_context)
    if not usable:
        raise TaskError(f"{task.name}: no episode has its answer in the context, so there is nothing to induce from.")
    parts: list[dict[str, NDArray[np.floating]]] = []
    measured: list[Episode] = []
    levels: list[dict[str, NDArray[np.floating]]] = []
    lost: dict[str, str] = {}
    problem, prompter = "", production.prompter(replace(task, episodes=usable))
    try:
        for some, encoded in batches(prompter, batch, lost, every=False):
            parts.append(measure_encoded(production, prompter, encoded)[0])
            levels.append(uniform_strengths(encoded.readings))
            measured += some
            if on_progress:
                on_progress(len(measured) + len(lost), "")
    except OutOfMemoryError as error:
        if not parts:
            raise
        problem = str(error)
    if not parts:
        raise TaskError(lost_text(lost, len(usable)))
    order = in_order([episode.name for episode in measured], task)
    values = {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}
    left_out = len(task.episodes) - len(usable)
    return HeadTable(
        production.name, task.name, all_heads(production.layers), values, left_out, problem, lost=lost,
        measured=tuple(measured[row] for row in order),
        uniform={name: float(np.concatenate([of[name] for of in levels]).mean()) for name in values},
    )  # fmt: skip
