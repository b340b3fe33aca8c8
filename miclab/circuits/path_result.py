"""The result of path patching over one or several runs: effects of edges, paths and routes, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from miclab.circuits.corrupted_pairs import Traced, pairs_of_split, traced
from miclab.circuits.edges import Edge, Receiver
from miclab.circuits.effect_shares import WORDS, Shares, trace_runs
from miclab.circuits.existence import OnProgress
from miclab.circuits.graph import Graph
from miclab.circuits.patching import METRICS
from miclab.circuits.patching_request import PatchingRequest
from miclab.circuits.paths import Path, patched_values
from miclab.config.run import RunConfig
from miclab.errors import ConfigError, RunError
from miclab.model.decoder import Decoder
from miclab.runs.run import Run
from miclab.tables import Table, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PARTS = ("edges", "paths")
Parts = Literal["edges", "paths"]
SHOWN = 24
"""Rows of a table on the terminal; `frame()` and JSON have all."""
SIDES = {
    "restore": "the sender's clean output put into the corrupted run",
    "corrupt": "the sender's corrupted output put into the clean run",
}
CHUNK = 128
"""Sequences that are patched together: as many as the caches of a processor hold."""
ONE_LAYER = (
    "This decoder has one layer, so no head feeds another and there are no paths to compare. `miclab patch` traces it"
    " by part and role."
)


@dataclass(frozen=True)
class PathPatching(Shares):
    """Effects of path patching; arguments: see `Shares`. What was patched is an `Edge` or a `Path`."""

    @property
    def edges(self) -> tuple[Edge, ...]:
        """The edges that were patched in every run; those with a role after the others."""
        return tuple(one for one in self._common() if isinstance(one, Edge))

    @property
    def paths(self) -> tuple[Path, ...]:
        """The paths that were patched in every run."""
        return tuple(one for one in self._common() if isinstance(one, Path))

    def _common(self) -> list[Any]:
        return [one for one in self.traced[0].patched if all(one in other.patched for other in self.traced)]

    def edge(self, name: str) -> Edge:
        """An edge by its name, such as `head 0.0 -> key of 1.0`.

        Raises:
            ConfigError: it was not patched.
        """
        found = {str(edge): edge for edge in self.edges}
        if name not in found:
            raise ConfigError("edge", name, f"one of {', '.join(found)}")
        return found[name]

    def routes(self) -> dict[str, tuple[Path, ...]]:
        """The paths from the embedding in groups: by the heads that they pass, and the input of the last of them.
        Earlier inputs, MLPs between, and roles differ within a group. Every such path is in one group."""
        found: dict[str, list[Path]] = {}
        for path in self.paths:
            if path.sender.kind == "embedding":
                found.setdefault(_route(path), []).append(path)
        return {name: tuple(paths) for name, paths in found.items()}

    def strongest(self, places: Sequence[Any]) -> list[Any]:
        """Edges or paths by the size of their effect, those with the largest first."""

        def size(place: Any) -> float:
            effect = self.effect(place)
            return 0.0 if effect is None else -abs(effect.mean)

        return sorted(places, key=size)

    # -- shown --------------------------------------------------------------------------------------------------
    def tables(self) -> tuple[Table, ...]:
        """The effect of the corruption; edges; keys and values by role; routes; the strongest paths."""
        found, words = [self.change_table()], f"effect on the {WORDS[self.metric]}"
        if not self.has_effect():
            return tuple(found)
        whole = [edge for edge in self.edges if not edge.receiver.role]
        if whole:
            shown = self.strongest(whole)[:SHOWN]
            rows = [[str(edge.sender), str(edge.receiver), self.effect(edge)] for edge in shown]
            title = f"edges: {words}, {SIDES[self.direction]} for one receiver; all after it is computed again"
            found.append(table(title, ["sender", "receiver", "effect"], rows, _more(len(whole))))
            found += self._by_role(shown)
        if self.paths:
            routes = self.routes()
            rows = [[name, len(some), self.effect(some)] for name, some in routes.items()]
            every = tuple(path for some in routes.values() for path in some)
            note = (
                f"All {len(every):,} paths from the embedding add up to {self.effect(every)} of the effect. Their sum"
            )
            note += " is 1 only if no two paths depend on each other."
            title = f"routes: {words}, summed over the paths through these heads (any MLPs between)"
            found.append(table(title, ["route", "paths", "effect"], rows, [note]))
            rows = [[str(path), self.effect(path)] for path in self.strongest(every)[:SHOWN]]
            title = f"paths from the embedding, the strongest: {words}"
            found.append(table(title, ["path", "effect"], rows, _more(len(every))))
        return tuple(found)

    def _by_role(self, shown: Sequence[Edge]) -> list[Table]:
        by_edge: dict[Edge, dict[str, Edge]] = {}
        for edge in self.edges:
            to = edge.receiver
            if to.role:
                by_edge.setdefault(Edge(edge.sender, Receiver(to.kind, to.layer, to.head)), {})[to.role] = edge
        roles = list(dict.fromkeys(role for edges in by_edge.values() for role in edges))
        rows = [[str(e), *(self.effect(by_edge[e][role]) for role in roles)] for e in shown if e in by_edge]
        return [table("keys and values, by role of position", ["edge", *roles], rows)] if rows else []

    def long_table(self) -> Table:
        """A row for each edge and path, with the effect on every metric."""
        columns = ["kind", "sender", "through", "role", *(WORDS[metric] for metric in METRICS)]
        rows = []
        for one in (*self.edges, *self.paths):
            through = (one.receiver,) if isinstance(one, Edge) else one.through
            role = "".join(step.role for step in through)
            plain = " -> ".join(str(Receiver(step.kind, step.layer, step.head)) for step in through)
            kind = "edge" if isinstance(one, Edge) else "path"
            rows.append([kind, str(one.sender), plain, role, *(self.effect(one, metric) for metric in METRICS)])
        return table(self.words, columns, rows, self.notes)

    def frame(self):
        """A row for each edge and path as a frame of polars; of each metric the effect and both ends of its
        interval. A metric that the corruption does not change has nulls alone, and a warning says so."""
        self.warn_of_nulls()
        return self.long_table().frame()

    def plot(self, axes: Axes | None = None) -> Axes:
        """The strongest edges and the routes with their intervals, from top to bottom.

        Arguments:
            axes: where to draw; None: new axes.
        """
        from miclab.statistics.style import draw_intervals, new_axes

        shown = {str(e): self.effect(e) for e in self.strongest([e for e in self.edges if not e.receiver.role])[:SHOWN]}
        shown |= {name: self.effect(some) for name, some in self.routes().items()}
        axes = axes or new_axes(height=max(2.6, 0.9 + 0.26 * len(shown)))
        title = f"{self.corruption}, {self.direction}: share of the {WORDS[self.metric]}"
        return draw_intervals(axes, title, list(shown), {"effect": list(shown.values())})

    def as_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return self.head_json() | {
            "edges": [_edge_json(edge) | self.effects_json(edge) for edge in self.edges],
            "paths": [
                {"sender": str(p.sender), "through": [*map(str, p.through)], **self.effects_json(p)} for p in self.paths
            ],
            "routes": [
                {"route": n, "paths": len(some), **self.effects_json(some)} for n, some in self.routes().items()
            ],
        }


def _more(count: int) -> list[str]:
    return [f"The {SHOWN} strongest of {count:,}; --json has all."] if count > SHOWN else []


def _edge_json(edge: Edge) -> dict[str, Any]:
    to = edge.receiver
    return {"sender": str(edge.sender), "receiver": str(Receiver(to.kind, to.layer, to.head)), "role": to.role or None}


def _route(path: Path) -> str:
    """The heads on a path, the last with its input: `head 0.0 -> key of 1.0 -> logits`."""
    heads = [step for step in path.through if step.is_attention]
    names = [f"head {step.layer}.{step.head}" for step in heads[:-1]]
    if heads:
        names.append(str(Receiver(heads[-1].kind, heads[-1].layer, heads[-1].head)))
    return " -> ".join([*names, "logits"]) if heads else "no head"


def check_layers(config: RunConfig) -> None:
    """Raises RunError if the decoder has one layer."""
    if config.decoder.layers < 2 and not config.is_classification:
        raise RunError(ONE_LAYER)


def patch_paths(
    runs: Sequence[Run],
    request: PatchingRequest,
    parts: Sequence[str] = PARTS,
    on_progress: OnProgress | None = None,
) -> PathPatching:
    """Path patching of runs: every edge, and every path to the logits, restored or corrupted alone.

    Arguments:
        parts: `edges`, `paths` or both.

    The other arguments and the errors are those of `miclab.circuits.patching_result.patch`.

    Raises:
        RunError: the decoder has one layer, too many paths, or other inputs than queries, keys and values.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise ConfigError("parts", unknown[0] if unknown else parts, f"some of {', '.join(PARTS)}")
    for run in runs:
        check_layers(run.config)

    def trace(config: RunConfig, world: Any, parameters: Any, found: Any, modality: str, on_set: Any) -> Traced:
        graph = Graph(Decoder(config), parameters)
        pairs = pairs_of_split(config, world, found, modality, request.split, request.sizes)
        chosen = None if "edges" in parts else lambda pair: ()
        return traced(
            pairs,
            lambda clean, made: patched_values(
                graph, clean, made, request.direction, paths="paths" in parts, edges=chosen
            ),
            {}, on_set, CHUNK,
        )  # fmt: skip

    return trace_runs(PathPatching, runs, request, trace, on_progress)
