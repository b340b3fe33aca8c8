"""Edge attribution of a production model: every edge estimated by EAP and EAP-IG, some beside exact path patching.

See Syed et al., arXiv 2310.10348, and Hanna et al., arXiv 2403.17806. Estimates of all edges are arrays; only the
strongest have names in tables.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from miclab.circuits.attribution import ENOUGH, METHODS, Agreement, Method, agreement, chosen_edges
from miclab.circuits.edges import Edge
from miclab.circuits.path_result import SHOWN
from miclab.mllm.edge_rounds import Scores, estimate, patch_exactly, problems_of
from miclab.mllm.episode_pairs import corruption_named
from miclab.mllm.loading import Production
from miclab.mllm.options import AttributeOptions
from miclab.mllm.pair_effects import PairEffects
from miclab.mllm.residual_graph import ResidualGraph
from miclab.mllm.scoring import OnProgress
from miclab.mllm.task import Task
from miclab.statistics.intervals import Interval
from miclab.tables import Number, Table, table


@dataclass(frozen=True)
class EdgeAttribution(PairEffects[Edge]):
    """Estimated effects of edges; arguments: see `PairEffects`. The edges that were patched exactly are its places.

    Arguments:
        scores: estimates of every edge.
    """

    scores: Scores | None = None

    @property
    def estimates(self) -> Scores:
        """Estimates of every edge."""
        assert self.scores is not None
        return self.scores

    @property
    def has_effect(self) -> bool:
        """Whether the corruption changes the logit difference, so that effects can be shares of the change."""
        return not self.change.low <= 0 <= self.change.high

    def estimate(self, edge: Edge, method: Method) -> float | None:
        """The estimated effect of an edge; None where the corruption has no effect."""
        return self.estimates.share(edge, method) if self.has_effect else None

    def agreements(self) -> dict[Method, Agreement]:
        """Agreement of each method with exact path patching, over the edges that were patched."""
        base = self.corrupted if self.direction == "restore" else self.clean
        exact = [float((values - base).mean()) for values in self.patched.values()]
        return {m: agreement([self.estimates.change_by(edge, m) for edge in self.places], exact) for m in METHODS}

    @property
    def warnings(self) -> tuple[str, ...]:
        """A line for each method that does not agree with exact path patching."""
        return tuple(
            f"warning: {METHODS[method]} agrees too little with exact path patching here (below {ENOUGH}). Use the"
            " exact effects (`miclab mllm paths`)."
            for method, found in self.agreements().items()
            if not found.is_enough
        )

    def _row(self, edge: Edge) -> list[Any]:
        shares = [Number(self.estimate(edge, m), 3) for m in METHODS]
        return [str(edge.sender), str(edge.receiver), *shares, self.effect(edge) if edge in self.patched else None]

    def tables(self) -> tuple[Table, ...]:
        """The effect of the corruption; the strongest edges; agreement with exact path patching."""
        return self.listed(SHOWN)

    def listed(self, top: int) -> tuple[Table, ...]:
        """The same tables, with so many edges."""
        count = int(np.isfinite(self.estimates.by_method["eap"]).sum())
        strongest = self.estimates.strongest(top)
        more = [f"The {len(strongest)} strongest of {count:,}; edges.parquet has all."] * (len(strongest) < count)
        title = f"edges: estimated {self.heading}, beside the exact one"
        agreed = [[METHODS[m], *_shown(a), a.edges] for m, a in self.agreements().items()]
        columns = ["method", "rank correlation", "overlap of the largest", "edges compared"]
        return (
            self.change_table(),
            table(title, ["sender", "receiver", *METHODS.values(), "exact"], map(self._row, strongest), more),
            table("agreement with exact path patching", columns, agreed, self.warnings),
        )

    def frame(self) -> pl.DataFrame:
        """A row for each edge: estimates as shares, and the exact effect where the edge was patched. Shares are null
        where the corruption has no effect."""
        scores = self.estimates
        there = np.isfinite(scores.by_method["eap"])
        sender, receiver = np.nonzero(there)
        found: dict[str, Any] = {
            "sender": np.array(list(map(str, scores.senders)))[sender],
            "receiver": np.array(list(map(str, scores.receivers)))[receiver],
        }
        for method in METHODS:
            found[method] = scores.shares(method)[there] if self.has_effect else [None] * len(sender)
        frame = pl.DataFrame(found, schema_overrides=dict.fromkeys(METHODS, pl.Float64))
        exact: list[tuple[str, str, Interval | None]] = [
            (str(edge.sender), str(edge.receiver), self.effect(edge)) for edge in self.places
        ]
        rows = [(*names, *((None,) * 3 if one is None else (one.mean, one.low, one.high))) for *names, one in exact]
        columns = {"sender": pl.String, "receiver": pl.String,
                   **dict.fromkeys(("exact", "exact.low", "exact.high"), pl.Float64)}  # fmt: skip
        return frame.join(pl.DataFrame(rows, columns, orient="row"), on=["sender", "receiver"], how="left",
                          maintain_order="left")  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """The strongest and the compared edges, and the agreement, as plain data."""
        return self.json_of(SHOWN)

    def json_of(self, top: int) -> dict[str, Any]:
        """The same, with so many of the strongest edges."""
        shown = dict.fromkeys([*self.estimates.strongest(top), *self.places])
        return self.head_json() | {
            "edges": [
                {"sender": str(e.sender), "receiver": str(e.receiver)}
                | {m: None if (share := self.estimate(e, m)) is None else round(share, 6) for m in METHODS}
                | {"exact": one.as_json() if e in self.patched and (one := self.effect(e)) else None}
                for e in shown
            ],
            "agreement": {
                m: {"rank_correlation": _number(a.correlation), "overlap": _number(a.overlap), "top": a.top,
                    "edges": a.edges, "enough": a.is_enough}
                for m, a in self.agreements().items()
            },
            "warnings": list(self.warnings),
        }  # fmt: skip


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def _shown(found: Agreement) -> tuple[str, str]:
    """Correlation and overlap for a table; empty where there are none."""
    if math.isnan(found.correlation):
        return "", ""
    return f"{found.correlation:.3f}", f"{found.overlap:.2f} of {found.top}"


def exact_rows(found: PairEffects[Edge]) -> list[dict[str, Any]]:
    """A row for each edge that was patched exactly, and episode."""
    return found.rows(lambda edge: {"sender": str(edge.sender), "receiver": str(edge.receiver)})


def steps_of(graph: ResidualGraph, options: AttributeOptions) -> int:
    """Number of steps of each episode: gradients, and edges that are patched exactly."""
    every = sum(len(graph.before(receiver)) for receiver in graph.receivers)
    return 1 + options.interpolations + min(options.check, every)


def attribute(
    production: Production,
    task: Task,
    options: AttributeOptions | None = None,
    *,
    batch: int = 0,
    on_progress: OnProgress | None = None,
) -> EdgeAttribution:
    """Effects of every edge of a model on a task by EAP and EAP-IG, some compared with exact path patching.

    Arguments:
        production: the model.
        task: the episodes.
        options: corruption, direction, interpolations and edges to compare.
        batch: episodes at a time; 0: as many of similar length as fit (`miclab.mllm.batches`).
        on_progress: called with the number of steps done, over all episodes (`steps_of` each).

    Raises:
        ConfigError: there is no such corruption.
        ModelError: the model has no separate edges.
        TaskError: no episode has a pair of prompts.
        OutOfMemoryError: before the first batch was done; later the result has its `problem` set.
    """
    options = options or AttributeOptions()
    corruption_named(options.corruption)
    graph, steps = ResidualGraph(production), 1 + options.interpolations

    def on_step(done: int) -> None:
        if on_progress:
            on_progress(done, "")

    scores = estimate(graph, task, options, options.interpolations, batch=batch, on_step=on_step)
    sizes = np.abs(scores.by_method["eap_ig"]).ravel()
    places = np.flatnonzero(np.isfinite(sizes))
    compared = [scores.edge(place) for place in chosen_edges(places.tolist(), sizes[places], options.check)]
    before = len(task.episodes) * steps
    exact = patch_exactly(graph, task, options, compared, batch=batch, on_step=lambda done: on_step(before + done))
    return EdgeAttribution(
        production.name, task.name, options.corruption, options.direction, exact.names, exact.clean, exact.corrupted,
        exact.patched, exact.remarks, problems_of(scores.problem, exact.problem), scores=scores,
    )  # fmt: skip
