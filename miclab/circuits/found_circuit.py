"""A found circuit: its edges, how faithful it is under every ablation, and what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from miclab.circuits.attribution import INTERPOLATIONS
from miclab.circuits.circuit_search import ABLATIONS, Ablation, Bench, bench_of, controls, halves, judge_of, search
from miclab.circuits.corrupted_pairs import pairs_of_split, traced
from miclab.circuits.corruption import find_corruption
from miclab.circuits.edges import Edge
from miclab.circuits.effect_shares import WORDS, set_means
from miclab.circuits.existence import OnProgress
from miclab.circuits.graph import Graph
from miclab.circuits.patching import METRICS, Metric
from miclab.circuits.patching_request import CorruptionRequest
from miclab.circuits.path_result import CHUNK, PathPatching, check_layers
from miclab.circuits.paths import patched_values, with_roles
from miclab.errors import ConfigError, RunError
from miclab.model.decoder import Decoder
from miclab.runs.run import Run
from miclab.statistics.intervals import Interval, clustered_interval, ratio_interval
from miclab.tables import Table, Tabled, table
from miclab.worlds.world import world_from_tensors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST = 0.05
"""Effect of a role, as a share, from which it is named."""
DRAWS = 20
"""Random circuits of the same size."""
BySet = Sequence[NDArray[np.floating]]
"""A metric by set of novel classes [circuit sequence]."""


@dataclass(frozen=True)
class FoundEdge:
    """An edge of a circuit.

    Arguments:
        edge: the edge.
        loss: faithfulness lost without it, on sequences that the search did not see.
        attribution: effect of ablating it on the mean logit difference, as EAP-IG estimates it.
        role: for a key or value, the role of positions whose patch alone has the largest effect; else empty.
    """

    edge: Edge
    loss: Interval | None
    attribution: float
    role: str

    def as_json(self) -> dict[str, Any]:
        """It as plain data."""
        to = self.edge.receiver
        return {
            "sender": str(self.edge.sender), "receiver": str(to), "input": to.kind, "role": self.role or None,
            "loss": None if self.loss is None else self.loss.as_json(), "attribution": round(self.attribution, 6),
        }  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """A circuit under one kind of ablation, on sequences that the search did not see. Shares are of what all edges have
    beyond none; None where they have nothing beyond it.

    Arguments:
        whole: the metric with every edge, and with none.
        faithfulness: share that the circuit keeps.
        all_but: share that is left without the circuit's edges. The circuit is complete if this is near 0.
        random: share that random circuits of the same size keep, a number for each; of the search's ablation alone.
    """

    whole: tuple[Interval, Interval]
    faithfulness: Interval | None
    all_but: Interval | None
    random: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        """It as plain data."""
        found = {"every_edge": self.whole[0], "no_edge": self.whole[1]}
        found |= {"faithfulness": self.faithfulness, "all_but": self.all_but}
        shown = {name: None if one is None else one.as_json() for name, one in found.items()}
        return shown | {"random": [None if np.isnan(one) else round(one, 6) for one in self.random]}


@dataclass(frozen=True)
class FoundCircuit(Tabled):
    """A found circuit of one run.

    Arguments:
        run: its name.
        step: the checkpoint.
        split: whose sequences were used.
        corruption: what the corrupted sequences differ in.
        ablation: the kind of ablation that the search used.
        metric: what is kept.
        wanted: the requested faithfulness.
        searched: faithfulness on the sequences of the search.
        edges: of the circuit, the one that is missed most first.
        count: edges of the decoder.
        judged: by ablation and metric.
        sequences: number of sequences searched on, and checked on.
        layers: of the decoder.
        heads: in each layer.
        has_mlp: whether layers have an MLP.
    """

    run: str
    step: int
    split: str
    corruption: str
    ablation: Ablation
    metric: Metric
    wanted: float
    searched: float
    edges: tuple[FoundEdge, ...]
    count: int
    judged: Mapping[tuple[Ablation, Metric], Judged]
    sequences: tuple[int, int]
    layers: int
    heads: int
    has_mlp: bool

    @property
    def found(self) -> Judged:
        """How the circuit does on the ablation and the metric of the search."""
        return self.judged[self.ablation, self.metric]

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks: sequences, and whether the checks agree with the search."""
        lines = [
            f"Searched on {self.sequences[0]:,} sequences, checked on {self.sequences[1]:,} others"
            f" (faithfulness in the search: {self.searched:.3f})."
        ]
        kept = self.found.faithfulness
        if kept is None or kept.mean < self.wanted:
            lines.append(f"warning: on sequences that the search did not see, less than {self.wanted:g} is kept.")
        return tuple(lines)

    def tables(self) -> tuple[Table, ...]:
        """The circuit's edges; then its faithfulness under every ablation."""
        title = (
            f"{self.run} at step {self.step}, split {self.split}: {len(self.edges)} of {self.count} edges keep"
            f" {self.wanted:g} of {WORDS[self.metric]} ({self.ablation} ablation: {ABLATIONS[self.ablation]})"
        )
        rows = [
            [str(one.edge.sender), str(one.edge.receiver), one.role, one.loss, one.attribution] for one in self.edges
        ]
        columns = ["sender", "receiver", "strongest role", "faithfulness lost without it", "attribution"]
        shown = [
            [ablation, WORDS[metric], *one.whole, one.faithfulness, one.all_but, _random(one.random)]
            for (ablation, metric), one in self.judged.items()
        ]
        heads = ["ablation", "of", "every edge", "no edge", "faithfulness", "all but the circuit", "random circuits"]
        note = (
            "Shares of what every edge has beyond none. All but the circuit: near 0 if it is complete. Random circuits:"
            f" {DRAWS} of {len(self.edges)} edges, mean and largest."
        )
        return table(title, columns, rows, self.notes), table("checks on other sequences", heads, shown, [note])

    def plot(self, axes: Axes | None = None) -> Axes:
        """The circuit as a graph, from the embedding at the bottom to the logits at the top. The width of an edge is
        the faithfulness lost without it.

        Arguments:
            axes: where to draw; None: new axes.
        """
        from miclab.circuits.circuit_drawing import draw_circuit

        return draw_circuit(self, axes)

    def as_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "run": self.run, "step": self.step, "split": self.split, "corruption": self.corruption,
            "ablation": self.ablation, "metric": self.metric, "wanted": self.wanted, "notes": self.notes,
            "searched": round(self.searched, 6), "edge_count": self.count,
            "edges": [one.as_json() for one in self.edges],
            "judged": [{"ablation": a, "metric": m, **one.as_json()} for (a, m), one in self.judged.items()],
        }  # fmt: skip

    def file(self, kind: str) -> bytes:
        """The content of a file.

        Arguments:
            kind: `json`, `graphml`, `svg`, `pdf` or `png`.

        Raises:
            ConfigError: another kind.
        """
        from miclab.circuits.circuit_drawing import circuit_bytes

        return circuit_bytes(self, kind)


def _random(values: Sequence[float]) -> str:
    known = [value for value in values if not np.isnan(value)]
    return f"{np.mean(known):.3f} (at most {max(known):.3f})" if known else ""


def _shares(values: BySet, ends: BySet) -> list[Interval | None]:
    """Faithfulness of each circuit, from its values and those of no edge and of every edge."""
    found = []
    for place in range(len(values[0])):
        above = [one[place] - end[0] for one, end in zip(values, ends, strict=True)]
        found.append(ratio_interval([set_means(above)], [set_means([end[1] - end[0] for end in ends])]))
    return found


def _judged(
    bench: Bench, circuit: Sequence[int], ablation: Ablation, metric: Metric
) -> tuple[dict[tuple[Ablation, Metric], Judged], list[Interval | None]]:
    """The circuit under every ablation, and what is lost without each of its edges. Random circuits are judged under
    the ablation of the search alone."""
    masks = controls(circuit, len(bench.graph.edges()), DRAWS)
    found: dict[tuple[Ablation, Metric], Judged] = {}
    lost: list[Interval | None] = []
    for kind in sorted(ABLATIONS, key=lambda one: one != ablation):
        ends = bench.values(kind, bench.ends())
        names = ("circuit", "all but", *(("random", "without") if kind == ablation else ()))
        values = {name: bench.values(kind, masks[name]) for name in names}
        for one in METRICS:
            none, whole = (clustered_interval([set_means([by_set[row] for by_set in ends[one]])]) for row in (0, 1))
            shares = {name: _shares(by_set[one], ends[one]) for name, by_set in values.items()}
            random = tuple(np.nan if share is None else share.mean for share in shares.get("random", ()))
            found[kind, one] = Judged((whole, none), shares["circuit"][0], shares["all but"][0], random)
        if kind == ablation:
            kept = [c - w for c, w in zip(values["circuit"][metric], values["without"][metric], strict=True)]
            # A difference of two circuits has no zero of its own: only the unit is taken from the ends.
            lost = _shares(kept, [np.stack([0 * none, whole - none]) for none, whole in ends[metric]])
    return found, lost


def strongest_roles(graph: Graph, bench: Bench, edges: Sequence[Edge]) -> dict[Edge, str]:
    """For keys and values, the role of positions whose clean output alone restores most of the logit difference; none
    where that is less than `LEAST`."""
    found = traced(
        bench.pairs,
        lambda clean, made: patched_values(
            graph, clean, made, "restore", paths=False, edges=lambda pair: with_roles(edges, list(pair.masks))
        ),
        {}, lambda done: None, CHUNK,
    )  # fmt: skip
    shown = PathPatching(("",), (0,), "", "", "", "restore", (found,))
    best: dict[Edge, tuple[float, str]] = {}
    for one in shown.edges:
        effect, to = shown.effect(one), one.receiver
        plain = Edge(one.sender, type(to)(to.kind, to.layer, to.head))
        size = 0.0 if effect is None else abs(effect.mean)
        best[plain] = max(best.get(plain, (0.0, "")), (size, to.role))
    return {edge: role for edge, (size, role) in best.items() if size >= LEAST}


def find_circuit(
    run: Run,
    request: CorruptionRequest,
    *,
    faithful: float = 0.9,
    ablation: Ablation = "resample",
    interpolations: int = INTERPOLATIONS,
    on_progress: OnProgress | None = None,
) -> FoundCircuit:
    """The smallest circuit that the search finds. Half the sets of novel classes are searched on, half checked on.

    Arguments:
        run: the run.
        request: the checkpoint, the corruption, the sequences, and the metric that is kept.
        faithful: share of the metric to keep, above 0 and at most 1.
        ablation: what stands for the outputs that other edges would carry.
        interpolations: gradients that EAP-IG averages.
        on_progress: called with the number of steps done of 4, and a text.

    Raises:
        RunError: the decoder has one layer or other inputs than queries, keys and values. Or no sequence can be judged,
            or all edges are no better than none.
        ConfigError: a value is not one of those named above.
    """
    if not 0 < faithful <= 1:
        raise ConfigError("faithful", faithful, "above 0 and at most 1")
    if ablation not in ABLATIONS:
        raise ConfigError("ablation", ablation, f"one of {', '.join(ABLATIONS)}")
    if interpolations < 1:
        raise ConfigError("interpolations", interpolations, "at least 1")
    check_layers(run.config)
    report = on_progress or (lambda done, text: None)
    metric = request.metric
    made, modality = find_corruption(request.corruption, run.config)
    at, parameters = run.parameters(request.step)
    graph = Graph(Decoder(run.config), parameters)
    world = world_from_tensors(run.config, run.world_tensors())
    pairs = pairs_of_split(run.config, world, made, modality, request.split, request.sizes)
    if sum(len(clean) for clean, _ in pairs.sets) < 2:
        raise RunError(
            "Two sequences are needed at least, one to search on and one to check on. Give more --sequences."
        )
    searching, checking = (bench_of(graph, half) for half in halves(pairs))
    none, whole = (np.mean([one.mean() for one in by_row]) for by_row in _rows_of(searching, ablation, metric))
    if whole <= none:
        raise RunError(
            f"With every edge, {WORDS[metric]} is {whole:.3f}, and without any {none:.3f} ({ablation} ablation): there"
            " is nothing for a circuit to keep. Choose a checkpoint that answers from the context, or another"
            " --corruption, --metric or --ablation."
        )
    report(1, "gradients")
    scores = searching.attributions(ablation, interpolations)
    edges = graph.edges()
    report(2, "search")
    judge = judge_of(searching, ablation, metric)
    circuit = search(judge, list(scores.values()), faithful, lambda left: report(2, f"{left} edges"))
    report(3, "checks")
    judged, lost = _judged(checking, circuit, ablation, metric)
    chosen = [edges[place] for place in circuit]
    roles = strongest_roles(graph, checking, chosen)
    found = [FoundEdge(edge, loss, scores[edge], roles.get(edge, "")) for edge, loss in zip(chosen, lost, strict=True)]
    found.sort(key=lambda one: -(0 if one.loss is None else one.loss.mean))
    searched = float(judge(controls(circuit, len(edges), 0)["circuit"])[0])
    report(4, "done")
    first, second = (sum(len(clean) for clean, _ in bench.pairs.sets) for bench in (searching, checking))
    return FoundCircuit(
        run.path.name, at, request.split, request.corruption, ablation, metric, faithful, searched, tuple(found),
        len(edges), judged, (first, second), graph.layers, graph.heads, graph.has_mlp,
    )  # fmt: skip


def _rows_of(bench: Bench, ablation: Ablation, metric: Metric) -> tuple[list[NDArray], list[NDArray]]:
    """The metric without any edge, and with every edge, by set."""
    found = bench.values(ablation, bench.ends())[metric]
    return [one[0] for one in found], [one[1] for one in found]
