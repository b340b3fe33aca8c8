"""`miclab transplant` and `miclab drift`: a run beside the run that it started from."""

from __future__ import annotations

from dataclasses import dataclass

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
