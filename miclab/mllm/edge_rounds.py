"""Two ways through the pairs of a task: one estimates every edge by gradients, the other patches some edges exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from miclab.circuits.attribution import Method
from miclab.circuits.edges import Edge, Receiver, Sender
from miclab.mllm.batches import in_order, lost_text
from miclab.mllm.edge_gradients import edge_scores
from miclab.mllm.edge_patching import edge_differences, lowest_layer
from miclab.mllm.episode_pairs import Pairs, corruption_named, left_out_notes, pairs
from miclab.mllm.errors import OutOfMemoryError, memory_guard
from miclab.mllm.options import PairOptions
from miclab.mllm.replay import Replay
from miclab.mllm.residual_graph import ResidualGraph
from miclab.mllm.sender_changes import changes_of
from miclab.mllm.task import Task

OnStep = Callable[[int], None]
"""Called with the number of steps done over all episodes."""


@dataclass(frozen=True)
class Scores:
    """Estimated effects of every edge.

    Arguments:
        senders: all of them, in order.
        receivers: all of them, in order.
        change: mean logit difference on clean prompts minus that on corrupted ones.
        direction: `restore` or `corrupt`.
        by_method: estimated changes of the logit difference, means over episodes [sender receiver]; NaN: no edge.
        problem: why episodes are missing; empty if none is.
    """

    senders: tuple[Sender, ...]
    receivers: tuple[Receiver, ...]
    change: float
    direction: str
    by_method: dict[Method, NDArray[np.floating]] = field(repr=False)
    problem: str = ""

    def shares(self, method: Method) -> NDArray[np.floating]:
        """Effects as shares of what the corruption changes [sender receiver]."""
        sign = 1 if self.direction == "restore" else -1
        return sign * self.by_method[method] / self.change

    @cached_property
    def _places(self) -> tuple[dict[Sender, int], dict[Receiver, int]]:
        # A production model has hundreds of thousands of edges, so places are not sought.
        return ({one: place for place, one in enumerate(self.senders)},
                {one: place for place, one in enumerate(self.receivers)})  # fmt: skip

    def change_by(self, edge: Edge, method: Method = "eap_ig") -> float:
        """The estimated change of the logit difference by one edge."""
        senders, receivers = self._places
        return float(self.by_method[method][senders[edge.sender], receivers[edge.receiver]])

    def share(self, edge: Edge, method: Method = "eap_ig") -> float:
        """The same as a share of what the corruption changes."""
        return (1 if self.direction == "restore" else -1) * self.change_by(edge, method) / self.change

    def edge(self, place: int) -> Edge:
        """The edge at a place of the flattened arrays."""
        sender, receiver = divmod(place, len(self.receivers))
        return Edge(self.senders[sender], self.receivers[receiver])

    def strongest(self, count: int, method: Method = "eap_ig") -> list[Edge]:
        """The edges with the largest effects, the largest first."""
        sizes = np.nan_to_num(np.abs(self.by_method[method]), nan=-1.0).ravel()
        there = int((sizes >= 0).sum())
        return [self.edge(place) for place in np.argsort(-sizes, kind="stable")[: min(count, there)].tolist()]


@dataclass(frozen=True)
class Exact:
    """Exact effects of some edges.

    Arguments:
        names: of the episodes, in the task's order.
        clean: logit difference on clean prompts [episode].
        corrupted: the same on corrupted ones.
        patched: the same with each edge patched alone.
        remarks: what was left out.
        problem: why episodes are missing; empty if none is.
    """

    names: tuple[str, ...]
    clean: NDArray[np.floating]
    corrupted: NDArray[np.floating]
    patched: dict[Edge, NDArray[np.floating]]
    remarks: tuple[str, ...]
    problem: str


@dataclass
class _Round:
    """One way through the pairs of a task.

    Arguments:
        graph: of the model.
        task: the episodes.
        options: corruption and direction.
        batch: episodes at a time.
        steps: number of steps of each episode.
        on_step: called after each step.
    """

    graph: ResidualGraph
    task: Task
    options: PairOptions
    batch: int
    steps: int
    on_step: OnStep | None
    names: list[str] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    problem: str = ""

    def lots(self) -> Iterator[tuple[Pairs, OnStep]]:
        """The pairs in batches, each with what is called with the number of steps of the batch that are done. Ends
        early where a batch is the first that does not fit."""
        corruption_named(self.options.corruption)
        for lot in pairs(self.graph.production, self.task, self.options.corruption, self.batch, self.lost,
                         self.left_out):  # fmt: skip
            if not self.names:
                self._check(lot)
            before = (len(self.names) + len(self.lost) + len(self.left_out)) * self.steps

            def on_step(done: int, before: int = before, rows: int = len(lot.names)) -> None:
                if self.on_step:
                    self.on_step(before + done * rows)

            yield lot, on_step
            if self.problem:
                break
            self.names += lot.names
        if self.on_step:
            self.on_step(len(self.task.episodes) * self.steps)

    @torch.no_grad()
    def _check(self, lot: Pairs) -> None:
        with memory_guard(self.doing(lot)):
            self.graph.check(lot.clean)

    def doing(self, lot: Pairs) -> str:
        """What is done, for messages."""
        return f"patching edges on {lot.clean.inputs['input_ids'].shape[1]} tokens"

    def failed(self, error: OutOfMemoryError) -> None:
        """Ends the round early.

        Raises:
            OutOfMemoryError: no batch was done before.
        """
        if not self.names:
            raise error
        self.problem = str(error)

    @property
    def remarks(self) -> tuple[str, ...]:
        return tuple(left_out_notes(self.left_out))

    @property
    def problems(self) -> str:
        return problems_of(self.problem, lost_text(self.lost, len(self.task.episodes)))


def problems_of(*texts: str) -> str:
    """The problems of several rounds as one text; each is said once."""
    return "; ".join(dict.fromkeys(text for text in texts if text))


def estimate(
    graph: ResidualGraph,
    task: Task,
    options: PairOptions,
    interpolations: int,
    *,
    batch: int = 0,
    on_step: OnStep | None = None,
) -> Scores:
    """Effects of every edge by EAP and EAP-IG, with 1 + `interpolations` steps for each episode.

    Raises:
        TaskError: no episode has a pair of prompts.
        ModelError: the model has no separate edges.
        OutOfMemoryError: before the first batch was done; later the scores are of the batches before, and have their
            `problem` set.
    """
    work = _Round(graph, task, options, batch, 1 + interpolations, on_step)
    replay = Replay(graph.production, ())
    shape = len(graph.senders), len(graph.receivers)
    sums: dict[Method, Tensor] = {name: torch.zeros(shape, dtype=torch.float64) for name in ("eap", "eap_ig")}
    change = 0.0
    for lot, on_done in work.lots():
        try:
            with memory_guard(work.doing(lot)):
                changes = changes_of(graph, lot, replay, options.direction)
                found: dict[Method, Tensor] = {}
                for step in range(1 + interpolations):
                    made = edge_scores(graph, changes, replay, step / interpolations)
                    name: Method = "eap_ig" if step else "eap"
                    found[name] = found.get(name, 0.0) + made / (interpolations if step else 1)
                    on_done(step + 1)
        except OutOfMemoryError as error:
            work.failed(error)
            continue
        for name, made in found.items():
            sums[name] += made
        change += float((changes.clean - changes.corrupted).double().sum())
    count = len(work.names)
    means: dict[Method, NDArray[np.floating]] = {name: (one / count).numpy() for name, one in sums.items()}
    return Scores(graph.senders, graph.receivers, change / count, options.direction, means, work.problems)


def patch_exactly(
    graph: ResidualGraph,
    task: Task,
    options: PairOptions,
    edges: Sequence[Edge],
    *,
    batch: int = 0,
    on_step: OnStep | None = None,
) -> Exact:
    """Exact path patching of some edges, with a step for each edge and episode.

    Raises:
        TaskError: no episode has a pair of prompts.
        ModelError: the model has no separate edges.
        OutOfMemoryError: before the first batch was done; later the result has its `problem` set.
    """
    work = _Round(graph, task, options, batch, len(edges), on_step)
    replay = Replay(graph.production, {lowest_layer(graph, edge) for edge in edges})
    clean, corrupted = list[Tensor](), list[Tensor]()
    patched: dict[Edge, list[Tensor]] = {edge: [] for edge in edges}
    for lot, on_done in work.lots():
        try:
            with memory_guard(work.doing(lot)):
                changes = changes_of(graph, lot, replay, options.direction)
                found = edge_differences(graph, changes, replay, edges, on_done)
        except OutOfMemoryError as error:
            work.failed(error)
            continue
        clean.append(changes.clean)
        corrupted.append(changes.corrupted)
        for edge, values in found.items():
            patched[edge].append(values)
    order = in_order(work.names, task)

    def joined(parts: Sequence[Tensor]) -> NDArray[np.floating]:
        return torch.cat(list(parts))[order].double().numpy()

    return Exact(
        tuple(work.names[row] for row in order), joined(clean), joined(corrupted),
        {edge: joined(values) for edge, values in patched.items()}, work.remarks, work.problems,
    )  # fmt: skip
