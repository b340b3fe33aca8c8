"""`miclab transplant`, `miclab drift` and `miclab circuit-overlap`: a run beside the run that it started from."""

from __future__ import annotations

from dataclasses import dataclass

from miclab.cli.circuit import PASSES
from miclab.cli.options import CheckpointOptions, RunName, SizedOptions
from miclab.cli.progress import announce, forward
from miclab.cli.terminal import bar, parse, print_result
from miclab.runs.find import find


@dataclass(frozen=True, kw_only=True)
class TransplantOptions(SizedOptions):
    """Transplants of weights between a run and the run that it started from. Each part of the decoder is put into the
    other checkpoint: query, key, value and output of each head, heads, MLPs, norms, readout. Shown is the in-context
    learning (ICL) lost, beside as many random weights, fresh weights in the part, and the same of a sibling."""

    run: RunName
    """A run of stage 2: path, name, or start of a name or hash."""
    sibling: str = ""
    """A run that went on with stage 1 from the same checkpoint (`miclab train unimodal --stage-one RUN`), looked at at
    the same step."""
    sequences: int = 100
    """Sequences of novel classes, for each set of them."""


@dataclass(frozen=True, kw_only=True)
class DriftOptions(CheckpointOptions):
    """How far training moved each matrix of a decoder since the run that it started from. Shown are the relative
    change, the principal angles of leading directions, and their overlap beyond chance. QK and OV are the products of a
    head's matrices, which do not depend on its inner basis."""

    run: RunName
    """A run of stage 2: path, name, or start of a name or hash."""
    sibling: str = ""
    """A run that went on with stage 1 from the same checkpoint (`miclab train unimodal --stage-one RUN`), looked at at
    the same step."""


@dataclass(frozen=True, kw_only=True)
class OverlapOptions(SizedOptions):
    """Is the circuit of stage 2 that of stage 1? Circuits that keep 0.9 of in-context learning are sought in a run and
    in the run that it started from. The search is that of `miclab circuit` (items_swapped, resample ablation). Shown
    are the edges of both over those of either, from chance (0) to the same circuit (1). Circuits are sought over
    training too, and from a random order of edges. The second table counts edges to keys and values by the position
    that carries most."""

    run: RunName
    """A run of stage 2 or a sibling: path, name, or start of a name or hash; with --other, any run."""
    other: str = ""
    """A run to compare with instead of the one that RUN started from, at its last good checkpoint."""
    sequences: int = 100
    """Sequences of novel classes, for each set of them. Half of the sets are searched on."""


def run_transplant(arguments: list[str]) -> int:
    """`miclab transplant RUN [--sibling RUN]`."""
    options = parse(TransplantOptions, "transplant", arguments)
    run = find(options.run, options.runs)
    sibling = find(options.sibling, options.runs) if options.sibling else None
    from miclab.circuits.transplant import DRAWS, part_count, transplant

    parts = part_count(run) * (2 if sibling else 1)
    work = parts * (DRAWS + 2) * options.sizes.sequences * options.sizes.novel_sets * forward(run.config)
    announce("transplant", work, options.runs)
    with bar("transplant", parts) as on_progress:
        found = transplant(
            run, sibling, step=options.checkpoint, sizes=options.sizes, on_progress=on_progress,
        )  # fmt: skip
    return print_result(found, [run] if sibling is None else [run, sibling], options.json)


def run_drift(arguments: list[str]) -> int:
    """`miclab drift RUN [--sibling RUN]`."""
    options = parse(DriftOptions, "drift", arguments)
    run = find(options.run, options.runs)
    sibling = find(options.sibling, options.runs) if options.sibling else None
    from miclab.circuits.drift import drift

    found = drift(run, sibling, step=options.checkpoint)
    return print_result(found, [run] if sibling is None else [run, sibling], options.json)


def run_circuit_overlap(arguments: list[str]) -> int:
    """`miclab circuit-overlap RUN [--other RUN]`."""
    options = parse(OverlapOptions, "circuit-overlap", arguments)
    run = find(options.run, options.runs)
    other = find(options.other, options.runs) if options.other else None
    from miclab.circuits.circuit_overlap import STEPS, circuit_overlap

    decoder = run.config.decoder
    size = (decoder.layers * decoder.heads / 2) ** 1.5
    sequences = options.sizes.sequences * options.sizes.novel_sets
    announce("circuit-overlap", STEPS * PASSES * size * sequences * forward(run.config), options.runs)
    with bar("circuit-overlap", STEPS) as on_progress:
        found = circuit_overlap(run, other, step=options.checkpoint, sizes=options.sizes, on_progress=on_progress)
    return print_result(found, [run] if other is None else [run, other], options.json)
