"""The result of edge attribution over one or several runs, beside exact path patching of the same edges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from miclab.circuits.attribution import (
    ENOUGH,
    INTERPOLATIONS,
    METHODS,
    Agreement,
    Estimate,
    Method,
    agreement,
    attributed,
    check_metric,
    chosen_edges,
)
from miclab.circuits.corrupted_pairs import Traced, pairs_of_split, traced
from miclab.circuits.edges import Edge
from miclab.circuits.effect_shares import WORDS, Shares, trace_runs
from miclab.circuits.existence import OnProgress
from miclab.circuits.graph import Graph
from miclab.circuits.patching_request import PatchingRequest
from miclab.circuits.path_result import CHUNK, SHOWN, check_layers
from miclab.circuits.paths import pair_of, patched_values
from miclab.config.run import RunConfig
from miclab.errors import ConfigError
from miclab.model.decoder import Decoder
from miclab.runs.run import Run
from miclab.tables import Table, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COMPARED = 200
"""Edges that exact path patching is done for."""


@dataclass(frozen=True)
class Attribution(Shares):
    """Estimated effects of edges; arguments: see `Shares`. What was patched is an `Estimate`, or an `Edge` exactly."""

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Every edge of the decoder."""
        return tuple(one.edge for one in self.traced[0].patched if isinstance(one, Estimate) and one.method == "eap")

    @property
    def compared(self) -> tuple[Edge, ...]:
        """The edges that were also patched exactly."""
        return tuple(one for one in self.traced[0].patched if isinstance(one, Edge))

    def estimate(self, edge: Edge, method: Method = "eap_ig") -> float:
        """The estimated effect of an edge, as a share; 0 where the corruption has no effect."""
        found = self.effect(Estimate(edge, method))
        return 0.0 if found is None else found.mean

    def agreements(self) -> dict[Method, Agreement]:
        """Agreement of each method with exact path patching."""
        exact = [self.effect(edge) for edge in self.compared]
        sizes = [0.0 if one is None else one.mean for one in exact]
        return {m: agreement([self.estimate(edge, m) for edge in self.compared], sizes) for m in METHODS}

    @property
    def warnings(self) -> tuple[str, ...]:
        """A line for each method that does not agree with exact path patching. None where there is no effect."""
        if not self.has_effect():
            return ()
        return tuple(
            f"warning: {METHODS[method]} agrees too little with exact path patching here (below {ENOUGH}). Use the"
            " exact effects (`miclab paths`)."
            for method, found in self.agreements().items()
            if not found.is_enough
        )

    # -- shown --------------------------------------------------------------------------------------------------
    def tables(self) -> tuple[Table, ...]:
        """The effect of the corruption; the strongest edges; agreement with exact path patching."""
        order = sorted(self.edges, key=lambda edge: -abs(self.estimate(edge)))
        exact = set(self.compared)
        rows = [
            [str(e.sender), str(e.receiver), *(self.effect(Estimate(e, m)) for m in METHODS),
             self.effect(e) if e in exact else None]
            for e in order[:SHOWN]
        ]  # fmt: skip
        more = [f"The {SHOWN} strongest of {len(order):,}; --json has all."] if len(order) > SHOWN else []
        title = f"edges: estimated effect on the {WORDS[self.metric]}, beside the exact one"
        columns = ["sender", "receiver", *METHODS.values(), "exact"]
        agreed = [[METHODS[m], *_shown(a), a.edges] for m, a in self.agreements().items()]
        heads = ["method", "rank correlation", "overlap of the largest", "edges compared"]
        if not self.has_effect():
            return (self.change_table(),)
        return (
            self.change_table(),
            table(title, columns, rows, more),
            table("agreement with exact path patching", heads, agreed, self.warnings),
        )

    def long_table(self) -> Table:
        """A row for each edge, with the estimate of each method and the exact effect where it was computed."""
        exact = set(self.compared)
        rows = [
            [str(e.sender), str(e.receiver), *(self.effect(Estimate(e, m)) for m in METHODS),
             self.effect(e) if e in exact else None]
            for e in self.edges
        ]  # fmt: skip
        return table(self.words, ["sender", "receiver", *METHODS.values(), "exact"], rows, self.notes)

    def frame(self):
        """A row for each edge as a frame of polars, with both ends of every interval."""
        return self.long_table().frame()

    def plot(self, axes: Axes | None = None) -> Axes:
        """Exact effects of edges from left to right, estimates from bottom to top, a marker for each method.

        Arguments:
            axes: where to draw; None: new axes.
        """
        from miclab.statistics.palette import series
        from miclab.statistics.style import marker, new_axes

        axes = axes or new_axes()
        exact = [0.0 if (found := self.effect(edge)) is None else found.mean for edge in self.compared]
        for number, (method, words) in enumerate(METHODS.items()):
            shown = [self.estimate(edge, method) for edge in self.compared]
            axes.plot(exact, shown, marker(number), color=series(number), label=words, alpha=0.7)
        axes.axline((0, 0), slope=1, color="grey", lw=0.8)
        axes.set(xlabel="exact effect", ylabel="estimated effect")
        axes.legend(fontsize="small")
        return axes

    def as_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        exact = set(self.compared)

        def shown(place: Any) -> Any:
            found = self.effect(place)
            return None if found is None else found.as_json()

        return self.head_json() | {
            "metric": self.metric,
            "edges": [
                {"sender": str(e.sender), "receiver": str(e.receiver), **{m: shown(Estimate(e, m)) for m in METHODS},
                 "exact": shown(e) if e in exact else None}
                for e in self.edges
            ],
            "agreement": {
                m: {"rank_correlation": _number(a.correlation), "overlap": _number(a.overlap), "top": a.top,
                    "edges": a.edges, "enough": a.is_enough}
                for m, a in self.agreements().items()
            },
            "warnings": self.warnings,
        }  # fmt: skip


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def _shown(found: Agreement) -> tuple[str, str]:
    """Correlation and overlap for a table; empty where there are none."""
    if math.isnan(found.correlation):
        return "", ""
    return f"{found.correlation:.3f}", f"{found.overlap:.2f} of {found.top}"


def attribute(
    runs: Sequence[Run],
    request: PatchingRequest,
    *,
    interpolations: int = INTERPOLATIONS,
    compared: int = COMPARED,
    on_progress: OnProgress | None = None,
) -> Attribution:
    """Effects of every edge by EAP and EAP-IG, compared with exact path patching.

    Arguments:
        interpolations: gradients that EAP-IG averages.
        compared: edges that are also patched exactly: half those with the largest estimates, half others at random.

    The other arguments and the errors are those of `miclab.circuits.patching_result.patch`. The metric is not
    `accuracy`, which has no gradient.

    Raises:
        RunError: the decoder has one layer, or other inputs than queries, keys and values.
    """
    check_metric(request.metric)
    for name, value in (("interpolations", interpolations), ("compared", compared)):
        if value < 1:
            raise ConfigError(name, value, "at least 1")
    for run in runs:
        check_layers(run.config)
    direction, metric = request.direction, request.metric
    chosen: list[Edge] = []

    def trace(config: RunConfig, world: Any, parameters: Any, found: Any, modality: str, on_set: Any) -> Traced:
        graph = Graph(Decoder(config), parameters)
        pairs = pairs_of_split(config, world, found, modality, request.split, request.sizes)

        def estimated(clean: Any, made: Any) -> Any:
            pair = pair_of(graph, clean, made, direction)
            return *pair.ends, attributed(graph, pair, metric, interpolations)

        first = traced(pairs, estimated, {}, on_set, CHUNK)
        one = Attribution(("",), (0,), request.split, request.corruption, "", direction, (first,), metric)
        if not chosen:
            chosen.extend(chosen_edges(one.edges, [one.estimate(edge) for edge in one.edges], compared))
        exact = traced(
            pairs,
            lambda clean, made: patched_values(graph, clean, made, direction, paths=False, edges=lambda pair: chosen),
            {}, lambda done: on_set(request.sets + done), CHUNK,
        )  # fmt: skip
        return replace(exact, patched={**first.patched, **exact.patched})

    return trace_runs(Attribution, runs, request, trace, on_progress, rounds=2)
