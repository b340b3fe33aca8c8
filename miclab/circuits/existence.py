"""Whether the strongest heads are an induction circuit at all, and what is said of the circuit of each run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from miclab.circuits.find import NO_PATTERN, CircuitHeads, Head, head_name
from miclab.circuits.head_names import Named
from miclab.measures.evaluate import SplitScores
from miclab.statistics.intervals import Interval, clustered_interval

ENOUGH_SETS = 8
"""Sets of novel classes by default; with fewer, intervals by set are wide."""
UNDECIDED = " with its whole interval;"
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
    above = clustered_interval([icl.correct - any_label])
    if above.decides() <= 0:
        words = (
            f"accuracy on novel classes is {icl.interval()}, not above that of answering with any label of the context,"
            f" {any_label.mean():.3f}"
        )
        return words + _undecided(above)
    strength = clustered_interval([icl.strengths["induction_total"][:, *induction]])
    if strength.decides() <= 0:
        words = (
            f"the strongest induction head, {head_name(induction)}, looks no more at the right labels than at the wrong"
            f" ones (right minus wrong {strength})"
        )
        return words + _undecided(strength)
    return ""


def _undecided(difference: Interval) -> str:
    """What to do if a difference is above 0 and its interval reaches 0 because of few sets of novel classes."""
    few = difference.unit == "set" and difference.count < ENOUGH_SETS
    if not few or difference.mean <= 0 or not difference.known:
        return ""
    return f"{UNDECIDED} {difference.count} sets of novel classes cannot decide it: give --novel-sets {ENOUGH_SETS}"


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
    return unformed if not unformed or UNDECIDED in unformed else f"{unformed}: there is nothing to explain"


def circuit_lines(runs: Sequence[str], named: Sequence[Sequence[Named]], no_circuit: Sequence[str]) -> tuple[str, ...]:
    """A line for each run: what the heads of its circuit are called, or why it has none."""
    return tuple(
        f"{run}: {f'{_verdict(reason)}: {reason}' if reason else ', '.join(one.line for one in names)}"
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


def _verdict(reason: str) -> str:
    return "circuit undecided" if UNDECIDED in reason else "no circuit"
