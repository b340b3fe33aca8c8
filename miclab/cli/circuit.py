"""`miclab circuit`: a small circuit that keeps an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from miclab.cli.corruption_options import CorruptionOptions
from miclab.cli.options import File, RunName, find_runs, output_file
from miclab.cli.progress import announce, forward
from miclab.cli.terminal import bar, parse, print_result
from miclab.errors import MiclabError

PASSES = 250
"""Forward passes of a search with its checks, roughly, in a decoder of some twenty edges."""


@dataclass(frozen=True, kw_only=True)
class CircuitOptions(CorruptionOptions):
    """A small set of edges between heads and MLPs that keeps a share of in-context learning. Edges are ranked by
    EAP-IG, added until the circuit is faithful, and removed while it stays so; every step is checked by ablation. Half
    the sets of novel classes are searched on. On the others the circuit is judged under resample, mean and zero
    ablation. There it is compared with all edges but it, with itself without each edge, and with random circuits."""

    run: RunName
    """Path, name, or start of a name or hash."""
    faithful: float = 0.9
    """Share of the metric to keep, above 0 and at most 1: (circuit - no edge) / (every edge - no edge)."""
    ablation: Literal["resample", "mean", "zero"] = "resample"
    """What stands for the outputs of ablated edges: those on the corrupted sequence, their mean, or zeros."""
    metric: Literal["accuracy", "logit_difference", "probability"] = "accuracy"
    """What the circuit keeps."""
    interpolations: int = 5
    """Gradients that EAP-IG averages."""
    output: tuple[File, ...] = ()
    """Files to write: NAME.json, NAME.graphml, NAME.svg, NAME.pdf or NAME.png."""
    overwrite: bool = False
    """Replace files that are there."""


def run_circuit(arguments: list[str]) -> int:
    """`miclab circuit RUN`."""
    options = parse(CircuitOptions, "circuit", arguments)
    (run,) = find_runs([options.run], options.runs)
    files = [output_file(name) for name in options.output]
    from miclab.circuits.circuit_drawing import check_kind
    from miclab.circuits.found_circuit import find_circuit
    from miclab.circuits.patching_request import CorruptionRequest
    from miclab.storage import explained, replace_bytes

    for file in files:
        check_kind(file.suffix[1:])
        if file.exists() and not options.overwrite:
            raise MiclabError(f"--output {file}: this file exists. Name another, or add --overwrite.")
    decoder = run.config.decoder
    size = (decoder.layers * decoder.heads / 2) ** 1.5
    announce("circuit", PASSES * size * options.sizes.sequences_of(options.split) * forward(run.config), options.runs)
    with bar("circuit", 4) as on_progress:
        found = find_circuit(
            run, CorruptionRequest(**options.given, metric=options.metric), faithful=options.faithful,
            ablation=options.ablation, interpolations=options.interpolations, on_progress=on_progress,
        )  # fmt: skip
    for file in files:
        with explained(file):
            replace_bytes(file, found.file(file.suffix[1:]))
    return print_result(found, [run], options.json)
