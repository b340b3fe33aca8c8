"""Whether the strongest heads are an induction circuit at all, and the strengths of every head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from miclab.circuits.find import NO_PATTERN, CircuitHeads, Head, head_name, strongest_heads
from miclab.config.request import SplitSizes
from miclab.measures.evaluate import SplitScores, check_seeds, evaluate, head_intervals
from miclab.measures.evaluations import at_steps, heads_json, heads_table
from miclab.runs.run import Run
from miclab.statistics.intervals import Interval, clustered_interval
from miclab.tables import Table, Tabled

OnProgress = Callable[[int, str], None]
"""Called with the number of runs done and the name of the present step."""


def why_unformed(induction: Head, icl: SplitScores) -> str:
    """Why the strongest induction head does not answer from the context, in words; empty if it does.

    There is a circuit if two conditions hold with their whole 95 % intervals, on the same sequences. Accuracy on novel
    classes exceeds that of answering with any label of the context. Attention to the right labels exceeds that to the
    wrong ones.

    Arguments:
        induction: the strongest head.
        icl: scores on novel classes, with oracles and strengths.
    """
    if "induction_total" in icl.left_out:
        return NO_PATTERN
    any_label = icl.oracles["random_context_label"]
    if clustered_interval([icl.correct - any_label]).low <= 0:
        return (
            f"accuracy on novel classes is {icl.interval()}, not above that of answering with any label of the context,"
            f" {any_label.mean():.3f}"
        )
    strength = clustered_interval([icl.strengths["induction_total"][:, *induction]])
    # One set of novel classes gives no interval, so the estimate decides.
    if (strength.low if strength.known else strength.mean) <= 0:
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


@dataclass(frozen=True)
class Circuits(Tabled):
    """Strengths of every head over one or several runs, seeds of one experiment, and the circuit of each.

    Arguments:
        runs: names of the runs.
        steps: the checkpoint of each.
        split: whose sequences were evaluated.
        measures: each strength by name, layer and head; clustered by set of novel classes, then by seed.
        heads: the circuit's heads in each run; None where it has no circuit.
        no_circuit: why each run has none; empty where it has one.
    """

    runs: tuple[str, ...]
    steps: tuple[int, ...]
    split: str
    measures: dict[str, dict[Head, Interval]]
    heads: tuple[CircuitHeads | None, ...]
    no_circuit: tuple[str, ...]

    def tables(self) -> tuple[Table, ...]:
        """A row for each measure, and a line for each run's circuit."""
        title = f"{at_steps(self.runs, self.steps)}, split {self.split}; heads are LAYER.HEAD [95 % interval]"
        return (heads_table(title, self.measures, circuit_lines(self.runs, self.heads, self.no_circuit)),)

    def as_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        circuits = circuits_json(self.runs, self.heads, self.no_circuit)
        return {"steps": self.steps, "split": self.split, **circuits, "measures": heads_json(self.measures)}


def circuit_lines(
    runs: Sequence[str], circuits: Sequence[CircuitHeads | None], no_circuit: Sequence[str]
) -> tuple[str, ...]:
    """A line for each run: the heads of its circuit, or why it has none."""
    lines = []
    for run, circuit, reason in zip(runs, circuits, no_circuit, strict=True):
        named = circuit.named() if circuit else None
        found = f"previous-token head {named['previous_token']}, induction head {named['induction']}" if named else ""
        lines.append(f"{run}: {found or f'no circuit: {reason}'}")
    return tuple(lines)


def circuits_json(
    runs: Sequence[str], circuits: Sequence[CircuitHeads | None], no_circuit: Sequence[str]
) -> dict[str, Any]:
    """By run, the heads of its circuit (null if it has none), and why it has none."""
    return {
        "circuits": {run: circuit.named() if circuit else None for run, circuit in zip(runs, circuits, strict=True)},
        "no_circuit": {run: reason for run, reason in zip(runs, no_circuit, strict=True) if reason},
    }


def circuits(
    runs: Sequence[Run],
    *,
    step: int | None = None,
    sizes: SplitSizes | None = None,
    split: str = "icl",
    on_progress: OnProgress | None = None,
) -> Circuits:
    """Strengths of every head, and the heads of the induction circuit where there is one.

    Arguments:
        runs: seeds of one experiment.
        step: the checkpoint of each; None: its last good one.
        sizes: sequences looked at.

    Raises:
        RunError: the runs differ in more than the seed, or there is none.
        ConfigError: there is no such checkpoint or split.
    """
    check_seeds(runs)
    found = []
    for done, run in enumerate(runs, 1):
        found.append(evaluate(run, step=step, sizes=sizes, splits=tuple(dict.fromkeys((split, "icl")))))
        if on_progress:
            on_progress(done, run.path.name)
    scores = [one.scores[split] for one in found]
    table, measured = head_intervals(scores), [one.strengths for one in scores]
    means = [{name: values.mean(0) for name, values in m.items()} for m in measured]
    strongest = [strongest_heads(m) for m in means]
    reasons = [why_no_circuit(heads, one.scores["icl"]) for heads, one in zip(strongest, found, strict=True)]
    heads = tuple(None if reason else top for top, reason in zip(strongest, reasons, strict=True))
    names, steps = tuple(one.run for one in found), tuple(one.step for one in found)
    return Circuits(names, steps, split, table, heads, tuple(reasons))
