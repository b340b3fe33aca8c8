"""Whether the strongest heads are an induction circuit at all, and the strengths of every head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from miclab.circuits.find import CircuitHeads, Head, circuit_heads, head_name
from miclab.config.request import SplitSizes
from miclab.measures.evaluate import SplitScores, check_seeds, evaluate
from miclab.runs.run import Run
from miclab.statistics.intervals import Interval, clustered_interval

Tell = Callable[[int, str], None]
"""Called with the number of runs done and what is or was done."""


def why_unformed(induction: Head, icl: SplitScores) -> str:
    """Why the strongest induction head is none that answers from the context, in words; empty where it is one.

    It is one where accuracy on novel classes is above that of answering with any label of the context, on the same
    sequences, and where it looks more at the right labels than at the wrong ones, each with its whole 95 % interval.

    Arguments:
        induction: the strongest head.
        icl: scores on novel classes, with oracles and strengths.
    """
    any_label = icl.oracles["random_context_label"]
    if clustered_interval([icl.correct - any_label]).low <= 0:
        return (
            f"accuracy on novel classes is {icl.interval()}, not above that of answering with any label of the context,"
            f" {any_label.mean():.3f}"
        )
    strength = clustered_interval([icl.strengths["induction_total"][:, *induction]])
    if strength.low <= 0:
        return (
            f"the strongest induction head, {head_name(induction)}, looks no more at the right labels than at the wrong"
            f" ones (right minus wrong {strength})"
        )
    return ""


def why_no_circuit(heads: CircuitHeads | None, icl: SplitScores) -> str:
    """Why a decoder has no induction circuit that could be named or cut, in words; empty where it has one.

    Arguments:
        heads: its strongest heads; None for a decoder with a single head.
        icl: scores on novel classes, with oracles and strengths.
    """
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
class Circuits:
    """Strengths of every head over one or several runs, seeds of one experiment, and the circuit of each.

    Arguments:
        runs: names of the runs.
        steps: the checkpoint of each.
        split: whose sequences were looked at.
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


def circuits(
    runs: Sequence[Run],
    *,
    step: int | None = None,
    sizes: SplitSizes | None = None,
    split: str = "icl",
    tell: Tell | None = None,
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
        if tell:
            tell(done, run.path.name)
    measured = [one.scores[split].strengths for one in found]
    options = runs[0].config.decoder
    places = [(i, j) for i in range(options.layers) for j in range(options.heads)]
    table = {
        name: {(i, j): clustered_interval([m[name][:, i, j] for m in measured]) for i, j in places}
        for name in measured[0]
    }
    means = [{name: values.mean(0) for name, values in m.items()} for m in measured]
    strongest = [circuit_heads(m) if len(places) > 1 else None for m in means]
    reasons = [why_no_circuit(heads, one.scores["icl"]) for heads, one in zip(strongest, found, strict=True)]
    heads = tuple(None if reason else top for top, reason in zip(strongest, reasons, strict=True))
    names, steps = tuple(one.run for one in found), tuple(one.step for one in found)
    return Circuits(names, steps, split, table, heads, tuple(reasons))
