"""Overlap of the circuits that are found in a run and in the run that it started from, or in another.

Both are searched in the same way (see `miclab.circuits.circuit_search`), each on its own sequences. An edge is a sender
with a receiver's input. Roles of positions are left out, so that stage 1 and stage 2 have the same edges.

    overlap        edges of both / edges of either
    chance         the same for random sets of edges of these sizes, on average
    any faithful   the same with a circuit of the later run that is as faithful, sought from a random order of edges
    matched        the same with heads renumbered within layers (see `miclab.circuits.circuit_match`)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from miclab.circuits.checkpoint_pair import CheckpointPair
from miclab.circuits.circuit_match import beyond, chance_overlap, matched_chance, matched_overlap, overlap
from miclab.circuits.circuit_search import Bench, bench_of, controls, halves, judge_of, search
from miclab.circuits.corrupted_pairs import Pairs, pairs_of_split
from miclab.circuits.corruption import find_corruption
from miclab.circuits.edges import Edge, plain_edges
from miclab.circuits.existence import OnProgress
from miclab.circuits.found_circuit import strongest_roles
from miclab.circuits.graph import Graph
from miclab.circuits.patching import answer_masks
from miclab.circuits.path_result import check_layers
from miclab.config.request import SplitSizes
from miclab.errors import RunError
from miclab.model.decoder import Decoder, Parameters
from miclab.runs.run import Run
from miclab.seeds import stream_seed
from miclab.tables import Number, Table, Tabled, table
from miclab.worlds.world import World, world_from_tensors

CORRUPTION = "items_swapped"
FAITHFUL = 0.9
INTERPOLATIONS = 5
"""Gradients that EAP-IG averages."""
SHARES = {"a third": 1 / 3, "two thirds": 2 / 3}
"""Shares of training after which circuits are sought too, at the nearest checkpoint."""
NEARBY = 1 / 12
"""How far a checkpoint may be from one of `SHARES`, as a share of training."""
STEPS = 4 + len(SHARES)
"""Searches with what follows them, which progress counts."""


@dataclass(frozen=True)
class Circuit:
    """A circuit found in one checkpoint.

    Arguments:
        edges: of the circuit.
        every: all edges of the decoder, in the order of `Graph.edges`.
        faithfulness: on the sequences of the search.
        roles: for its edges to keys and values, the role of positions whose clean output alone restores most of the
            logit difference; empty: of none. Unknown edges are left out.
        known: names of the roles.
    """

    edges: frozenset[Edge]
    every: tuple[Edge, ...]
    faithfulness: float = 1.0
    roles: Mapping[Edge, str] = field(default_factory=dict)
    known: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """Its edges by name."""
        return frozenset(map(str, self.edges))

    def by_role(self, among: frozenset[Edge] | None = None) -> dict[str, int]:
        """Number of edges to keys and values by role.

        Arguments:
            among: the edges that count; None: all.
        """
        counts = Counter(role for edge, role in self.roles.items() if among is None or edge in among)
        return {role: counts[role] for role in self.known}

    def stored(self, when: str) -> dict[str, Any]:
        """Numbers under the names of stored analyses; `circuit WHEN` has the number of each edge."""
        numbers = [float(place) for place, edge in enumerate(self.every) if edge in self.edges]
        found: dict[str, Any] = {f"edges {when}": len(self.edges), f"faithfulness {when}": self.faithfulness}
        found |= {f"{role} {when}": count for role, count in self.by_role().items()}
        return found | {f"circuit {when}": numbers}


@dataclass(frozen=True)
class Overlap(Tabled):
    """How far two found circuits are the same.

    Arguments:
        earlier: circuit of the run that was started from, or of another.
        later: of the run.
        faithful: edges of a circuit of the later run that was sought from a random order.
        between: circuits of the later run by their share of training.
        layers: of the decoders.
        heads: of each layer.
        runs: names of both.
        steps: the checkpoint of each.
    """

    earlier: Circuit
    later: Circuit
    faithful: frozenset[Edge]
    between: Mapping[str, Circuit] = field(default_factory=dict)
    layers: int = 1
    heads: int = 1
    runs: tuple[str, str] = ("", "")
    steps: tuple[int, int] = (0, 0)

    def chance(self, later: frozenset[Edge] | None = None) -> float:
        """Mean overlap of random circuits of equal sizes."""
        other = self.later.edges if later is None else later
        return chance_overlap(len(self.earlier.edges), len(other), len(self.earlier.every))

    def beyond_chance(self, later: frozenset[Edge] | None = None) -> float:
        """Overlap of the earlier circuit with the later one, or another: 0 by chance, 1 the same circuit."""
        other = self.later.edges if later is None else later
        return beyond(overlap(self.earlier.edges, other), self.chance(other))

    def matched(self) -> tuple[float, float] | None:
        """Overlap with heads renumbered within layers, and its chance; None if there are too many ways, or if heads
        share keys or values."""
        if self.earlier.every not in (plain_edges(self.layers, self.heads, mlp) for mlp in (True, False)):
            return None
        found = matched_overlap(self.earlier.edges, self.later.edges, self.layers, self.heads)
        sizes = len(self.earlier.edges), len(self.later.edges)
        chance = matched_chance(*sizes, self.earlier.every, self.layers, self.heads)
        return None if found is None or chance is None else (found, chance)

    def stored(self) -> dict[str, Any]:
        """Numbers under the names of stored analyses."""
        kept = self.later.by_role(self.earlier.edges)
        found = {
            "overlap": overlap(self.earlier.edges, self.later.edges),
            "chance": self.chance(),
            "beyond chance": self.beyond_chance(),
            "any faithful beyond chance": self.beyond_chance(self.faithful),
            **self.earlier.stored("earlier"),
            **self.later.stored("later"),
            **{f"{role} kept": count for role, count in kept.items()},
        }
        matched = self.matched()
        if matched is not None:
            found |= {"matched": matched[0], "matched chance": matched[1], "matched beyond chance": beyond(*matched)}
        for share, one in self.between.items():
            found[f"after {share}: edges"] = len(one.edges)
            found[f"after {share}: beyond chance"] = self.beyond_chance(one.edges)
        return found

    def tables(self) -> tuple[Table, ...]:
        """Every circuit beside the earlier one; then edges of the later one by role."""
        circuits = {f"later, after {share} of training": (one.edges, one) for share, one in self.between.items()}
        circuits |= {
            "later": (self.later.edges, self.later), "later, sought from a random order": (self.faithful, None)
        }  # fmt: skip
        rows: list[list[Any]] = [["earlier", len(self.earlier.edges), Number(self.earlier.faithfulness, 3), "", "", ""]]
        for name, (edges, one) in circuits.items():
            numbers = (overlap(self.earlier.edges, edges), self.chance(edges), self.beyond_chance(edges))
            faithfulness = "" if one is None else Number(one.faithfulness, 3)
            rows.append([name, len(edges), faithfulness, *(Number(number, 3) for number in numbers)])
        title = (
            f"circuits of {self.runs[0]} at step {self.steps[0]:,} (earlier) and of {self.runs[1]} at step"
            f" {self.steps[1]:,} (later), among {len(self.earlier.every):,} edges"
        )
        columns = ["circuit", "edges", "faithfulness", "overlap", "by chance", "beyond chance"]
        first = table(title, columns, rows, self.notes)
        kept, every = self.later.by_role(self.earlier.edges), self.later.by_role()
        shares = [[role, every[role], kept[role]] for role in every if every[role]]
        return first, table("later: edges to keys and values", ["strongest role", "edges", "of both circuits"], shares)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks: what the overlap is with heads renumbered, and what it has to be compared with."""
        matched, lines = self.matched(), ["Overlap: edges of both over edges of either. Beyond chance: 1 is the same."]
        if matched is None:
            lines.append("Heads were not renumbered: they share keys or values, or there are too many ways.")
        else:
            lines.append(
                f"With heads renumbered within layers: {matched[0]:.3f}, by chance {matched[1]:.3f}, beyond chance"
                f" {beyond(*matched):.3f}."
            )
        lines.append("Training longer changes circuits too: compare with the overlap of a sibling.")
        return tuple(lines)

    def as_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        numbers = {name: value for name, value in self.stored().items() if not isinstance(value, list)}
        return {
            "runs": {"earlier": self.runs[0], "later": self.runs[1]}, "steps": self.steps,
            "edge_count": len(self.earlier.every), "numbers": {n: round(float(v), 6) for n, v in numbers.items()},
            "earlier": sorted(self.earlier.names), "later": sorted(self.later.names), "notes": self.notes,
        }  # fmt: skip


def _benches(run: Run, parameters: Parameters, world: World, split: str, sizes: SplitSizes) -> tuple[Bench, Pairs]:
    """Where circuits of a checkpoint are sought, and sequences that the search does not see."""
    made, modality = find_corruption(CORRUPTION, run.config)
    searching, checking = halves(pairs_of_split(run.config, world, made, modality, split, sizes))
    return bench_of(Graph(Decoder(run.config), parameters), searching), checking


def _has_circuit(bench: Bench) -> bool:
    """Whether the checkpoint answers better with all edges than without."""
    none, whole = np.mean([one.mean(1) for one in bench.values("resample", bench.ends())["accuracy"]], axis=0)
    return bool(whole > none)


def _check_circuit(bench: Bench, run: Run, step: int) -> None:
    """Raises RunError if there is no circuit to find."""
    if not _has_circuit(bench):
        at = f"{run.path} at step {step:,}"
        raise RunError(f"{at} answers no better with every edge than with none: there is no circuit to find.")


def _sought(bench: Bench, checking: Pairs | None = None) -> Circuit:
    """The circuit that attribution and search find; with further sequences also the roles of its edges."""
    every, judge = bench.graph.edges(), judge_of(bench, "resample", "accuracy")
    found = search(judge, list(bench.attributions("resample", INTERPOLATIONS).values()), FAITHFUL)
    kept = float(judge(controls(found, len(every), 0)["circuit"])[0])
    edges = [every[place] for place in found]
    if checking is None or not checking.sets:
        return Circuit(frozenset(edges), every, kept)
    some = [edge for edge in edges if edge.receiver.kind in ("key", "value")]
    roles = strongest_roles(bench.graph, Bench(bench.graph, checking, bench.mean), some) if some else {}
    known = tuple(answer_masks(*checking.sets[0]))
    return Circuit(frozenset(edges), every, kept, {edge: roles.get(edge, "") for edge in some}, known)


def _from_random_order(bench: Bench, seed: int) -> frozenset[Edge]:
    """Edges of a circuit as faithful, sought from a random order."""
    every = bench.graph.edges()
    drawn = np.random.default_rng(stream_seed(seed, "order of edges")).random(len(every))
    return frozenset(every[one] for one in search(judge_of(bench, "resample", "accuracy"), drawn.tolist(), FAITHFUL))


def _between(run: Run, last: int) -> dict[str, int]:
    """Kept checkpoints nearest to shares of training; a share without one nearby is left out."""
    kept = [step for step in run.checkpoints if 0 < step < last]
    found: dict[str, int] = {}
    for name, share in SHARES.items():
        step = min(kept, key=lambda step: abs(step - share * last), default=0)
        if abs(step - share * last) < NEARBY * last:
            found[name] = step
    return found


def circuit_overlap(
    run: Run,
    other: Run | None = None,
    *,
    step: int | None = None,
    sizes: SplitSizes | None = None,
    on_progress: OnProgress | None = None,
) -> Overlap:
    """The circuits of a run and of the run that it started from, or of another, and how far they are the same.

    Arguments:
        run: a run of stage 2, or any that started from another run's weights; with `other`, any run.
        other: a run to compare with instead, at its last good checkpoint.
        step: the run's checkpoint; None: the last good one.
        sizes: sequences of novel classes; half of the sets are searched on.
        on_progress: called with the number of steps done of `STEPS`, and a text.

    Raises:
        RunError: the run started from random weights and no other is given, or the other has other edges. Or a decoder
            has one layer, answers no better with all edges than without, or its attention has other inputs than
            queries, keys and values.
        ConfigError: there is no such checkpoint.
    """
    if other is None:
        checkpoints = CheckpointPair.of(run, step)
    else:
        (before, old), (at, weights) = other.parameters(None), run.parameters(step)
        checkpoints = CheckpointPair(other, run, (before, at), (old, weights))
    check_layers(run.config)
    return overlap_of(checkpoints, sizes or SplitSizes(), on_progress=on_progress)


def overlap_of(
    checkpoints: CheckpointPair, sizes: SplitSizes, split: str = "icl", on_progress: OnProgress | None = None
) -> Overlap:
    """The circuits of two checkpoints on a split; errors are those of `circuit_overlap`."""
    report = on_progress or (lambda done, text: None)
    earlier, later, decoder = checkpoints.earlier, checkpoints.later, checkpoints.later.config.decoder
    shape = (decoder.layers, decoder.heads)
    if (earlier.config.decoder.layers, earlier.config.decoder.heads) != shape:
        raise RunError(f"{earlier.path} has other edges than {later.path}: layers and heads have to be as many.")
    bench, _ = _benches(earlier, checkpoints.weights[0], checkpoints.world(False), split, sizes)
    _check_circuit(bench, earlier, checkpoints.steps[0])
    first = _sought(bench)
    report(1, "circuit of the earlier run")
    world = checkpoints.world(True)
    bench, checking = _benches(later, checkpoints.weights[1], world, split, sizes)
    _check_circuit(bench, later, checkpoints.steps[1])
    second = _sought(bench, checking)
    report(3, "circuit of the later run")
    if first.every != second.every:
        raise RunError(f"{earlier.path} has other edges than {later.path}: their attention or MLPs differ.")
    faithful = _from_random_order(bench, later.config.seed)
    report(4, "circuit from a random order")
    between = {}
    for done, (share, step) in enumerate(_between(later, checkpoints.steps[1]).items(), start=5):
        bench, _ = _benches(later, later.parameters(step)[1], world, split, sizes)
        # Early in training a decoder may have no circuit yet.
        if _has_circuit(bench):
            between[share] = _sought(bench)
        report(done, f"circuit after {share} of training")
    names = (earlier.path.name, later.path.name)
    return Overlap(first, second, faithful, between, *shape, names, checkpoints.steps)


def stored_overlap(run: Run, step: int, sizes: SplitSizes) -> dict[str, Any]:
    """Numbers of `circuit_overlap` under the names of stored analyses. A run from random weights has its own circuit
    alone, so that it can be compared by the rows."""
    check_layers(run.config)
    if run.config.parent.run:
        return circuit_overlap(run, step=step, sizes=sizes).stored()
    world = world_from_tensors(run.config, run.world_tensors())
    bench, checking = _benches(run, run.parameters(step)[1], world, "icl", sizes)
    _check_circuit(bench, run, step)
    return _sought(bench, checking).stored("later")
