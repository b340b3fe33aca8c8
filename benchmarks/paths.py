"""Time of exact path patching of a run, beside a plain loop with one forward pass for each step of each path.

python -m benchmarks.paths RUN                  1,000 sequences on one thread, in seconds of CPU time
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor

from benchmarks import program
from benchmarks.program import Line, Lines
from miclab.circuits.corrupted_pairs import Patched, Values, pairs_of_split, traced
from miclab.circuits.corruption import find_corruption
from miclab.circuits.edges import INPUTS, Edge, Sender
from miclab.circuits.graph import Graph
from miclab.circuits.path_result import CHUNK
from miclab.circuits.paths import Pair, Path, pair_of, patched_values
from miclab.config.request import SplitSizes
from miclab.model.decoder import Decoder
from miclab.runs.find import find
from miclab.worlds.sequences import Batch
from miclab.worlds.world import world_from_tensors


@dataclass(frozen=True, kw_only=True)
class Options(program.Options):
    """Sizes of the benchmark."""

    run: tyro.conf.Positional[str]
    """Path, name or start of a hash of a run."""
    runs: str = "runs"
    """Directory of runs."""
    sequences: int = 1000
    """Sequences that are patched."""
    every: int = 20
    """The plain loop takes one edge or path in so many, and its time is scaled up."""


def plain(graph: Graph, pair: Pair, base: Batch, one: Edge | Path) -> Tensor:
    """Logits of one edge or path by edits of whole forward passes, one for each step."""
    through = (one.receiver,) if isinstance(one, Edge) else one.through
    change, decoder, p = pair.changes[one.sender], graph.decoder, graph.parameters
    for to in through:
        moved = change * pair.masks[to.role][..., None] if to.role else change
        x = pair.kept.before(graph.before(to)) + moved
        name = f"blocks.{to.layer}"
        if to.kind == "logits":
            edits: dict[str, Callable[[Tensor], Tensor]] = {f"blocks.{graph.layers - 1}.residual": lambda _, x=x: x}
        elif to.kind == "mlp":
            edits = {f"{name}.mlp.output": lambda _, x=x, layer=to.layer: decoder.feed(p, layer, x)}
        else:
            new, head = graph.project(to.layer, x)[to.kind], to.head
            edits = {f"{name}.attention.{INPUTS[to.kind]}": lambda old, new=new, head=head: _with(old, new, head)}
        part = f"{name}.mlp.output" if to.kind == "mlp" else f"{name}.attention.heads"
        made = decoder.trace(p, base, edits=edits, capture=() if to.kind == "logits" else (part,))
        if to is through[-1]:
            return made.logits
        if to.kind == "mlp":
            change = made.activations[part] - pair.kept.sent[Sender("mlp", to.layer)]
        else:
            sent = graph.contributions(to.layer, made.activations[part])[:, to.head]
            change = sent - pair.kept.sent[Sender("head", to.layer, to.head)]
    raise AssertionError(one)


def _with(old: Tensor, new: Tensor, head: int | None) -> Tensor:
    made = old.clone()
    made[:, head] = new[:, head]
    return made


def measure(options: Options) -> Lines:
    """Both times and their ratio, and the largest difference of an effect."""
    torch.set_num_threads(1)
    run = find(options.run, options.runs)
    world = world_from_tensors(run.config, run.world_tensors())
    corruption, modality = find_corruption("items_swapped", run.config)
    sizes = SplitSizes(sequences=options.sequences, novel_sets=1)
    pairs = pairs_of_split(run.config, world, corruption, modality, "icl", sizes)
    graph = Graph(Decoder(run.config), run.parameters()[1])
    patched_values(graph, *next(pairs.chunks(0, CHUNK)))  # the first pass of a process is slow
    start = time.process_time()
    batched = traced(pairs, lambda *both: patched_values(graph, *both), {}, lambda done: None, CHUNK)
    seconds = time.process_time() - start
    some = list(batched.patched)[:: options.every]

    def looped(clean: Batch, corrupted: Batch) -> tuple[Values, Values, Patched]:
        pair = pair_of(graph, clean, corrupted, "restore")
        return *pair.ends, {one: pair.values(plain(graph, pair, corrupted, one)) for one in some}

    start = time.process_time()
    loop = traced(pairs, looped, {}, lambda done: None)
    slow = (time.process_time() - start) * len(batched.patched) / len(some)
    error = max(
        float(abs(batched.patched[one]["logit_difference"][0] - loop.patched[one]["logit_difference"][0]).max())
        for one in some
    )
    edges = sum(isinstance(one, Edge) for one in batched.patched)
    paths = len(batched.patched) - edges
    yield Line(
        f"{pairs.kept[0]:,} sequences, {edges} edges (by role too), {paths} paths\n"
        f"batched {seconds:.1f} s, plain loop {slow:.1f} s, ratio {slow / seconds:.1f}, largest difference {error:.1e}",
        {"sequences": pairs.kept[0], "edges": edges, "paths": paths, "batched, s": seconds, "plain loop, s": slow,
         "largest difference": error},
    )  # fmt: skip


main = program.program("paths", Options, measure, __doc__)

if __name__ == "__main__":
    sys.exit(main(None))
