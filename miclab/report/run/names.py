"""Names on a report: of runs, and of the heads of an induction circuit, if there is one."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from miclab.circuits.find import CircuitHeads, Head, head_name
from miclab.circuits.head_names import shown_name
from miclab.report.run.collect import Formed
from miclab.runs.run import Run


def short_names(runs: Sequence[Run]) -> list[str]:
    """A unique name for each run: the run's own, or the directory's, with the directory or its parent if needed."""
    names = [run.title for run in runs]
    if len(set(names)) < len(names):
        names = [run.path.name if run.title == run.path.name else f"{run.title} ({run.path.name})" for run in runs]
    if len(set(names)) < len(names):
        names = [f"{run.path.parent.name}/{run.path.name}" for run in runs]
    return names


def circuit_parts(heads: CircuitHeads | None, true: Collection[str]) -> dict[Head, str]:
    """What the two strongest heads of a decoder are called; empty where it has a single head.

    Arguments:
        true: what they may be called by their patterns (see `miclab.circuits.head_names.true_words`).
    """
    if heads is None:
        return {}
    found = {heads.previous_token: "previous-token head", heads.induction: "induction head"}
    return {head: shown_name(name, true) for head, name in found.items()}


def formed_names(formed: Sequence[Formed]) -> list[dict[str, str]]:
    """`circuit_parts` by the head's name, for each of some checkpoints."""
    return [
        {head_name(head): name for head, name in circuit_parts(one.heads, one.true_words).items()} for one in formed
    ]
