"""Time of EAP-IG and of the search for a circuit, beside plain loops: an edge or a circuit at a time.

    python -m benchmarks.circuits                   12 layers of 4 heads with random weights, in seconds of CPU time

Weights do not matter for the time of EAP-IG. A search takes as long as its circuit is large: with random weights no few
edges carry the answer, so the time is that of a large circuit.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks import program
from benchmarks.program import Line, Lines
from miclab.circuits.attribution import INTERPOLATIONS, attributed
from miclab.circuits.circuit_search import Bench, bench_of, halves, judge_of, search
from miclab.circuits.corrupted_pairs import pairs_of_split
from miclab.circuits.corruption import find_corruption
from miclab.circuits.edges import Edge
from miclab.circuits.graph import Graph
from miclab.circuits.path_result import CHUNK
from miclab.circuits.paths import edge_logits, pair_of
from miclab.circuits.receiver_inputs import circuit_logits
from miclab.config.presets import run_config
from miclab.config.request import SplitSizes
from miclab.model.decoder import Decoder
from miclab.worlds.world import draw_world


@dataclass(frozen=True, kw_only=True)
class Options(program.Options):
    """Sizes of the benchmark."""

    layers: int = 12
    """Layers of the decoder."""
    heads: int = 4
    """Heads of each layer."""
    sequences: int = 1000
    """Sequences, half of which the search uses."""
    every: int = 200
    """The plain loop takes one edge in so many, and its time is scaled up."""


def measure(options: Options) -> Lines:
    """The times and their ratios."""
    torch.set_num_threads(1)
    config = run_config("unimodal", "quick")
    config = replace(
        config, decoder=replace(config.decoder, layers=options.layers, heads=options.heads, positions="rope")
    )
    world, decoder = draw_world(config), Decoder(config)
    parameters = {name: 3 * value for name, value in decoder.initial_parameters(0).items()}
    corruption, modality = find_corruption("items_swapped", config)
    sizes = SplitSizes(sequences=options.sequences, novel_sets=1)
    pairs = pairs_of_split(config, world, corruption, modality, "icl", sizes)
    graph = Graph(decoder, parameters)
    edges = graph.edges()
    yield Line(
        f"{options.layers} layers of {options.heads} heads: {len(edges):,} edges, {pairs.kept[0]:,} sequences",
        {"layers": options.layers, "heads": options.heads, "edges": len(edges), "sequences": pairs.kept[0]},
    )

    start = time.process_time()
    with torch.no_grad():
        for clean, corrupted in pairs.chunks(0, CHUNK):
            attributed(graph, pair_of(graph, clean, corrupted, "restore"), "logit_difference", INTERPOLATIONS)
    quick = time.process_time() - start
    start = time.process_time()
    with torch.no_grad():
        for clean, corrupted in pairs.chunks(0, CHUNK):
            pair = pair_of(graph, clean, corrupted, "restore")
            for edge in edges[:: options.every]:
                for _, logits in edge_logits(graph, pair, [edge]):
                    pair.values(logits)
    slow = (time.process_time() - start) * len(edges) / len(edges[:: options.every])
    yield Line(
        f"EAP-IG {quick:.1f} s, an exact pass for each edge {slow:.0f} s, ratio {slow / quick:.0f}",
        {"EAP-IG, s": quick, "a pass for each edge, s": slow},
    )

    bench = bench_of(graph, halves(pairs)[0])
    start = time.process_time()
    scores = list(bench.attributions("resample", INTERPOLATIONS).values())
    judge, counts = judge_of(bench, "resample", "logit_difference"), list[int]()

    def counted(kept: Tensor) -> Tensor:
        counts.append(len(kept))
        return judge(kept)

    circuit = search(counted, scores, 0.9)
    quick = time.process_time() - start
    slow = _each(bench, edges) * sum(counts)
    yield Line(
        f"search {quick:.1f} s for a circuit of {len(circuit)} edges ({sum(counts)} circuits judged), a pass for each"
        f" circuit of all its edges {slow:.0f} s, ratio {slow / quick:.1f}",
        {"search, s": quick, "edges": len(circuit), "judged": sum(counts), "a pass for each circuit, s": slow},
    )


def _each(bench: Bench, edges: Sequence[Edge]) -> float:
    """Seconds of judging one circuit alone, eight sequences at a time, over all sequences."""
    kept = torch.ones(1, len(edges), dtype=torch.bool)
    (clean, corrupted), *_ = bench.pairs.chunks(0, 1)
    start = time.process_time()
    with torch.no_grad():
        embedding = bench.graph.outputs(clean).sent[bench.graph.senders[0]]
        circuit_logits(bench.graph, embedding, bench.instead("resample", corrupted), kept)
    return (time.process_time() - start) * bench.pairs.kept[0] / 2


main = program.program("circuits", Options, measure, __doc__)

if __name__ == "__main__":
    sys.exit(main(None))
