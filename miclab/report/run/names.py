"""Names on a report: of runs, and of the heads of an induction circuit, which are named so only where there is one."""

from __future__ import annotations

from collections.abc import Sequence

from miclab.circuits.find import CircuitHeads, Head, head_name
from miclab.report.run.collect import Formed
from miclab.runs.run import Run

_UNFORMED = {
    "previous-token head": "strongest head (previous token)",
    "induction head": "strongest head (induction)",
}
"""What the strongest heads of both kinds are called where they are no circuit."""


def short_names(runs: Sequence[Run]) -> list[str]:
    """A name for each run, different from all others: the run's own, or the directory's; with the directory, or its
    parent, where that is needed."""
    names = [run.title for run in runs]
    if len(set(names)) < len(names):
        names = [run.path.name if run.title == run.path.name else f"{run.title} ({run.path.name})" for run in runs]
    if len(set(names)) < len(names):
        names = [f"{run.path.parent.name}/{run.path.name}" for run in runs]
    return names


def part_name(name: str, no_circuit: str) -> str:
    """The name of a head of the circuit, or of an effect that names one, as it may be called.

    Arguments:
        no_circuit: why the heads are no circuit; empty where they are one.
    """
    if no_circuit:
        for formed, unformed in _UNFORMED.items():
            name = name.replace(formed, unformed)
    return name


def circuit_parts(heads: CircuitHeads | None, no_circuit: str) -> dict[Head, str]:
    """What the two strongest heads of a decoder are called; empty where it has a single head."""
    if heads is None:
        return {}
    found = {heads.previous_token: "previous-token head", heads.induction: "induction head"}
    return {head: part_name(name, no_circuit) for head, name in found.items()}


def formed_names(formed: Sequence[Formed]) -> list[dict[str, str]]:
    """`circuit_parts` by the head's name, for each of some checkpoints."""
    return [
        {head_name(head): name for head, name in circuit_parts(one.heads, one.no_circuit).items()} for one in formed
    ]
