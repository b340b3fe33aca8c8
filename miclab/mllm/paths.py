"""Path patching of a production model: what one sender adds to one receiver, alone, exact.

Senders and receivers are those of `miclab.mllm.residual_graph`. Where they have more edges than are to be patched,
EAP-IG picks those with the largest estimated effects. See Wang et al., arXiv 2211.00593, section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miclab.circuits.attribution import INTERPOLATIONS
from miclab.circuits.edges import Edge, Receiver, Sender
from miclab.circuits.path_result import SHOWN, SIDES
from miclab.mllm.edge_rounds import Scores, estimate, patch_exactly, problems_of
from miclab.mllm.episode_pairs import corruption_named
from miclab.mllm.errors import ModelError
from miclab.mllm.loading import Production
from miclab.mllm.options import PathOptions
from miclab.mllm.pair_effects import PairEffects
from miclab.mllm.residual_graph import ResidualGraph
from miclab.mllm.scoring import OnProgress
from miclab.mllm.task import Task
from miclab.tables import Number, Table, table


@dataclass(frozen=True)
class EdgePatching(PairEffects[Edge]):
    """Exact effects of edges; arguments: see `PairEffects`.

    Arguments:
        candidates: number of edges from the senders to the receivers.
    """

    candidates: int = 0

    @property
    def is_picked(self) -> bool:
        """Whether EAP-IG picked the edges that were patched."""
        return len(self.places) < self.candidates

    def ranked(self) -> list[Edge]:
        """The edges by the size of their effect, the largest first."""
        base = self.corrupted if self.direction == "restore" else self.clean
        return sorted(self.places, key=lambda edge: -abs(float((self.patched[edge] - base).mean())))

    def tables(self) -> tuple[Table, ...]:
        """What the corruption changes. Then the strongest edges with their exact effects."""
        return self.listed(SHOWN)

    def listed(self, top: int) -> tuple[Table, ...]:
        """The same tables, with so many edges; 0: all."""
        shown = self.ranked()[: top or None]
        rows = [[str(edge.sender), str(edge.receiver), self.effect(edge), self._moved(edge)] for edge in shown]
        title = (
            f"edges: effect on the logit difference, {SIDES[self.direction]} for one receiver; all after it is computed"
            " again [95 % interval]"
        )
        notes = [f"The {len(shown)} strongest of {len(self.places):,}; edges.parquet has all."]
        picked = [f"EAP-IG picked {len(self.places):,} of {self.candidates:,} edges. Others may have an effect."]
        notes = notes * (len(shown) < len(self.places)) + picked * self.is_picked
        return self.change_table(), table(title, ["sender", "receiver", "effect", "in logits"], rows, notes)

    def _moved(self, edge: Edge) -> Number:
        base = self.corrupted if self.direction == "restore" else self.clean
        return Number(float((self.patched[edge] - base).mean()), 3, "+f")

    def grid(self) -> tuple[list[str], list[str], NDArray[np.floating]]:
        """Senders, receivers and effects [sender, receiver] of a heat map; NaN where no edge was patched."""
        senders = list(dict.fromkeys(edge.sender for edge in sorted(self.places, key=lambda e: _order(e.sender))))
        to = list(dict.fromkeys(edge.receiver for edge in sorted(self.places, key=lambda e: e.receiver.layer)))
        values = np.full((len(senders), len(to)), np.nan)
        for edge in self.places:
            found = self.effect(edge)
            if found is not None:
                values[senders.index(edge.sender), to.index(edge.receiver)] = found.mean
        return list(map(str, senders)), list(map(str, to)), values

    def as_json(self) -> dict[str, Any]:
        """Everything but the episodes as plain data."""
        return self.head_json() | {
            "candidates": self.candidates,
            "picked_by": "eap_ig" if self.is_picked else None,
            "edges": [
                {"sender": str(e.sender), "receiver": str(e.receiver)} | self.place_json(e) for e in self.ranked()
            ],
        }


def _order(sender: Sender) -> tuple[int, bool, int]:
    """The order of senders in the forward pass."""
    return sender.layer, sender.kind == "mlp", -1 if sender.head is None else sender.head


def candidates(graph: ResidualGraph, options: PathOptions) -> list[Edge]:
    """The edges from the senders to the receivers of the options.

    Raises:
        ModelError: there is no such head, layer or part, or no sender comes before a receiver.
    """
    missing = [str(index) for index in options.layers if not 0 <= index < len(graph.blocks)]
    if missing:
        raise ModelError(f"There is no layer {missing[0]}: layers are 0 to {len(graph.blocks) - 1}.")
    senders: tuple[Sender, ...] = tuple(map(graph.sender, options.sender)) or tuple(
        one for one in graph.senders if one.kind == "head" and (not options.layers or one.layer in options.layers)
    )
    receivers: tuple[Receiver, ...] = tuple(dict.fromkeys(map(graph.receiver, options.receiver))) or graph.receivers
    found = graph.edges(senders, receivers)
    if not found:
        names = [", ".join(map(str, some[:3])) for some in (senders, receivers)]
        raise ModelError(
            f"None of the senders ({names[0]}) comes before one of the receivers ({names[1]}). A head sends to later "
            "layers, to logits, and to the feed-forward part of its own unless they read side by side (GPT-NeoX)."
        )
    return found


def _picked(scores: Scores, edges: Sequence[Edge], top: int) -> list[Edge]:
    """The edges with the largest estimated effects, in the order in which they were given."""
    sizes = np.abs([scores.change_by(edge) for edge in edges])
    chosen = np.argsort(-sizes, kind="stable")[:top]
    return [edges[place] for place in sorted(chosen.tolist())]


def steps_of(graph: ResidualGraph, options: PathOptions) -> int:
    """Number of steps of each episode: gradients, if edges have to be picked, and edges."""
    count = len(candidates(graph, options))
    return 1 + INTERPOLATIONS + options.top if 0 < options.top < count else count


def patch_paths(
    production: Production,
    task: Task,
    options: PathOptions | None = None,
    *,
    batch: int = 0,
    on_progress: OnProgress | None = None,
) -> EdgePatching:
    """Exact path patching of a model on a task: each edge from a sender to a receiver, alone.

    Arguments:
        production: the model.
        task: the episodes.
        options: corruption, direction, senders and receivers.
        batch: episodes at a time; 0: as many of similar length as fit (`miclab.mllm.batches`).
        on_progress: called with the number of steps done, over all episodes (`steps_of` each).

    Raises:
        ConfigError: there is no such corruption.
        ModelError: the model has no separate edges, or there is no such sender or receiver.
        TaskError: no episode has a pair of prompts.
        OutOfMemoryError: before the first batch was done; later the result has its `problem` set.
    """
    options = options or PathOptions()
    corruption_named(options.corruption)
    graph = ResidualGraph(production)
    every = edges = candidates(graph, options)
    before, problem = 0, ""

    def on_step(done: int) -> None:
        if on_progress:
            on_progress(before + done, "")

    if 0 < options.top < len(every):
        scores = estimate(graph, task, options, INTERPOLATIONS, batch=batch, on_step=on_step)
        edges, problem = _picked(scores, every, options.top), scores.problem
        before = len(task.episodes) * (1 + INTERPOLATIONS)
    found = patch_exactly(graph, task, options, edges, batch=batch, on_step=on_step)
    return EdgePatching(
        production.name, task.name, options.corruption, options.direction, found.names, found.clean, found.corrupted,
        found.patched, found.remarks, problems_of(problem, found.problem), candidates=len(every),
    )  # fmt: skip
