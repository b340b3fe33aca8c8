"""The found circuit of a run in its report: drawn, with its faithfulness and its edges."""

from __future__ import annotations

import base64
from typing import Any

from miclab.circuits.circuit_search import ABLATIONS
from miclab.circuits.found_circuit import FoundCircuit, find_circuit
from miclab.circuits.patching_request import CorruptionRequest
from miclab.config.request import SplitSizes
from miclab.errors import RunError
from miclab.runs.run import Run

SIZES = SplitSizes(sequences=25, novel_sets=8)
MOST_LAYERS, MOST_HEADS = 4, 4
"""Of a decoder whose circuit is sought for a report. The search takes seconds there, and minutes in larger ones."""


def report_circuit(run: Run, step: int) -> FoundCircuit | None:
    """The circuit of a checkpoint; None for a large decoder, and for one whose edges cannot be separated."""
    options = run.config.decoder
    if options.layers > MOST_LAYERS or options.heads > MOST_HEADS:
        return None
    try:
        return find_circuit(run, CorruptionRequest(step=step, sizes=SIZES))
    except RunError:
        return None


def circuit_view(found: FoundCircuit | None) -> dict[str, Any] | None:
    """The page's part on the found circuit; None if there is none."""
    if found is None:
        return None
    kept = found.found.faithfulness
    picture = base64.b64encode(found.file("svg")).decode()
    return {
        "picture": f"data:image/svg+xml;base64,{picture}",
        "words": f"{len(found.edges)} of {found.count} edges keep {found.wanted:g} of the accuracy; all others carry"
        f" {ABLATIONS[found.ablation]}. Faithfulness on sequences that the search did not see: {kept or 'unknown'}. The"
        " width of an edge is the faithfulness that is lost without it.",
        "tables": found.tables(),
    }
