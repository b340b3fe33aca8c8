"""Whether the strongest heads are an induction circuit at all, and what is said of the circuit of each run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from miclab.circuits.find import NO_PATTERN, CircuitHeads, Head, head_name
from miclab.circuits.head_names import Named
from miclab.measures.evaluate import SplitScores
from miclab.statistics.intervals import clustered_interval

OnProgress = Callable[[int, str], None]
"""Called with the number of runs done and the name of the present step."""


def why_unformed(induction: Head, icl: SplitScores) -> str:
    """Why the strongest induction head does not answer from the context, in words; empty if it does.

    There is a circuit if two conditions hold with their whole 95 % intervals, on the same sequences. Accuracy on novel
    classes exceeds that of answering with any label of the context. Attention to the right labels exceeds that to the
    wrong ones. Where there is no interval, as with one sequence, the estimate decides.

    Arguments:
        induction: the strongest head.
        icl: scores on novel classes, with oracles and strengths.
    """
    if "induction_total" in icl.left_out:
        return NO_PATTERN
    any_label = icl.oracles["random_context_label"]
    if clustered_interval([icl.correct - any_label]).decides() <= 0:
        return (
            f"accuracy on novel classes is {icl.interval()}, not above that of answering with any label of the context,"
            f" {any_label.mean():.3f}"
        )
    strength = clustered_interval([icl.strengths["induction_total"][:, *induction]])
    if strength.decides() <= 0:
        return (
            f"the strongest induction head, {head_name(induction)}, looks no more at the right labels than at the wrong"
            f" ones (right minus wrong {strength})"
        )
    return ""


def why_no_circuit(heads: CircuitHeads | None, icl: SplitScores) -> str:
    """Why a decoder has no induction circuit, in words; empty if it has one.

    Arguments:
        heads: its strongest heads; None for a decoder with a single head, or whose attention gives no pattern.
        icl: scores on novel classes, with oracles and strengths.
    """
    if "induction_total" in icl.left_out:
        return NO_PATTERN
    if heads is None:
        return "the decoder has a single head, and a circuit has two"
    unformed = why_unformed(heads.induction, icl)
    if not unformed and heads.previous_token[0] >= heads.induction[0]:
        return (
            f"the strongest induction head, {head_name(heads.induction)}, is in the first layer, and the previous-token"
            " head of a circuit lies in a layer before it"
        )
    return f"{unformed}: there is nothing to explain" if unformed else ""


def circuit_lines(runs: Sequence[str], named: Sequence[Sequence[Named]], no_circuit: Sequence[str]) -> tuple[str, ...]:
    """A line for each run: what the heads of its circuit are called, or why it has none."""
    return tuple(
        f"{run}: {f'no circuit: {reason}' if reason else ', '.join(one.line for one in names)}"
        for run, names, reason in zip(runs, named, no_circuit, strict=True)
    )


def circuits_json(
    runs: Sequence[str],
    circuits: Sequence[CircuitHeads | None],
    no_circuit: Sequence[str],
    named: Sequence[Sequence[Named]],
) -> dict[str, Any]:
    """By run the heads of its circuit, null where it has none, why it has none, and what the heads are called."""
    return {
        "circuits": {run: circuit.named() if circuit else None for run, circuit in zip(runs, circuits, strict=True)},
        "no_circuit": {run: reason for run, reason in zip(runs, no_circuit, strict=True) if reason},
        "called": {run: [one.as_json() for one in names] for run, names in zip(runs, named, strict=True)},
    }
