"""Names on a report: of runs, and of the heads of an induction circuit, if there is one."""

from __future__ import annotations

from collections.abc import Sequence

from miclab.circuits.find import CircuitHeads, Head, head_name
from miclab.report.run.collect import Formed
from miclab.runs.run import Run

_UNFORMED = {
    "previous-token head": "strongest head (previous token)",
    "induction head": "strongest head (induction)",
}
"""Names of the strongest heads of both kinds if they form no circuit."""


def short_names(runs: Sequence[Run]) -> list[str]:
    """A unique name for each run: the run's own, or the directory's, with the directory or its parent if needed."""
    names = [run.title for run in runs]
    if len(set(names)) < len(names):
        names = [run.path.name if run.title == run.path.name else f"{run.title} ({run.path.name})" for run in runs]
    if len(set(names)) < len(names):
        names = [f"{run.path.parent.name}/{run.path.name}" for run in runs]
    return names


def part_name(name: str, no_circuit: str) -> str:
    """The name to show for a head of the circuit, or for an effect that names one.

    Arguments:
        no_circuit: why the heads form no circuit; empty if they do.
    """
    if no_circuit:
        for formed, unformed in _UNFORMED.items():
            name = name.replace(formed, unformed)
    return name


def circuit_parts(heads: CircuitHeads | None, no_circuit: str) -> dict[Head, str]:
    """Names of the two strongest heads of a decoder; empty if it has a single head."""
    if heads is None:
        return {}
    found = {heads.previous_token: "previous-token head", heads.induction: "induction head"}
    return {head: part_name(name, no_circuit) for head, name in found.items()}


def formed_names(formed: Sequence[Formed]) -> list[dict[str, str]]:
    """`circuit_parts` by the head's name, for each of some checkpoints."""
    return [
        {head_name(head): name for head, name in circuit_parts(one.heads, one.no_circuit).items()} for one in formed
    ]
