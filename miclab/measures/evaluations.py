"""Evaluations of one or several runs, seeds of one experiment, with intervals over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import nan
from typing import Any

from miclab.config.request import SplitSizes
from miclab.config.run import with_context
from miclab.measures.baselines import BASELINES, Baseline, baselines
from miclab.measures.evaluate import Evaluation, SplitScores, check_seeds, evaluate, head_intervals, oracle_means
from miclab.measures.registry import chosen
from miclab.runs.run import Run
from miclab.statistics.intervals import Interval, accuracy_interval
from miclab.tables import HeadName, Table, Tabled, table

ONE_SET = (
    "One set of novel classes gives no interval: other classes may be easier or harder. "
    "Evaluate several sets (--novel-sets), or several seeds of the run."
)
"""Why a number has no interval."""


@dataclass(frozen=True)
class Evaluations(Tabled):
    """Evaluations of runs that are seeds of one experiment.

    Arguments:
        found: of each run, every split.
        measured: of each run, the split `icl` with the measures that were requested; empty: none was.
        baselines: these measures without a circuit, by name.
    """

    found: tuple[Evaluation, ...]
    measured: tuple[SplitScores, ...] = ()
    baselines: dict[str, Baseline] = field(default_factory=dict)

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of the runs."""
        return tuple(one.run for one in self.found)

    @property
    def steps(self) -> tuple[int, ...]:
        """The checkpoint of each run."""
        return tuple(one.step for one in self.found)

    @cached_property
    def splits(self) -> dict[str, tuple[Interval, Interval, dict[str, float]]]:
        """By split: accuracy, share of answers that are labels of the context, and accuracy of each oracle. Intervals
        are over runs, or over the sets of novel classes of one run."""
        found = {}
        for split in self.found[0].scores:
            scores = [one.scores[split] for one in self.found]
            accuracy, copied = (
                accuracy_interval(v) for v in ([s.correct for s in scores], [s.in_context for s in scores])
            )
            if split == "icl" and accuracy.unit == "sequence":
                accuracy, copied = (replace(one, low=nan, high=nan, unit="set", count=1) for one in (accuracy, copied))
            found[split] = accuracy, copied, oracle_means(scores)
        return found

    @cached_property
    def measures(self) -> dict[str, dict[tuple[int, int], Interval]]:
        """Each measure on novel classes, by name, layer and head."""
        return head_intervals(self.measured) if self.measured else {}

    @property
    def left_out(self) -> dict[str, str]:
        """Why a requested measure is missing, by its name."""
        return self.measured[0].left_out if self.measured else {}

    def tables(self) -> tuple[Table, ...]:
        """A row for each split; and one for each measure."""
        oracles = next(iter(self.splits.values()))[2]
        columns = ["split", "accuracy", "answers in context", *(name.replace("_", " ") for name in oracles)]
        rows = [[split, accuracy, copied, *means.values()] for split, (accuracy, copied, means) in self.splits.items()]
        title = f"{at_steps(self.runs, self.steps)}, {self.found[0].context} context examples [95 % interval]"
        alone = any(not accuracy.known for accuracy, *_ in self.splits.values())
        main = table(title, columns, rows, [ONE_SET] if alone else [])
        if not self.measured:
            return (main,)
        notes = [f"{name}: left out, since {reason}" for name, reason in self.left_out.items()]
        return main, heads_table(
            "measures on icl; heads are LAYER.HEAD [95 % interval]", self.measures, notes, self.baselines
        )

    def as_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        content: dict[str, Any] = {
            "runs": self.runs,
            "steps": self.steps,
            "context": self.found[0].context,
            "splits": {
                split: {
                    "accuracy": accuracy.as_json(),
                    "context_label_accuracy": copied.as_json(),
                    "oracles": {name: round(value, 6) for name, value in oracles.items()},
                }
                for split, (accuracy, copied, oracles) in self.splits.items()
            },
        }
        if not self.measured:
            return content
        measures = {"measures": heads_json(self.measures), "baselines": baselines_json(self.baselines)}
        return content | measures | {"left_out": self.left_out}


def at_steps(runs: Iterable[str], steps: Iterable[int]) -> str:
    """Runs and their checkpoints, in words."""
    return ", ".join(f"{run} at step {step}" for run, step in zip(runs, steps, strict=True))


def heads_table(
    title: str,
    measures: dict[str, dict[tuple[int, int], Interval]],
    notes: Sequence[str] = (),
    baselines: Mapping[str, Baseline] | None = None,
) -> Table:
    """A row for each measure, a column for each head; before them the measure without a circuit, where it is given."""
    if not measures:
        return table("", [], [], notes)
    known = baselines or {}
    shown = [part for part in BASELINES if any(one.shown(part) is not None for one in known.values())]
    heads = sorted({head for row in measures.values() for head in row})
    rows = [
        [name, *(known.get(name, Baseline()).shown(part) for part in shown), *(row.get(head) for head in heads)]
        for name, row in measures.items()
    ]
    columns = ["measure", *(BASELINES[part] for part in shown), *(f"head {HeadName(*head)}" for head in heads)]
    return table(title, columns, rows, notes)


def baselines_json(baselines: Mapping[str, Baseline]) -> dict[str, dict[str, float | list[float] | None]]:
    """Each measure without a circuit as plain data, by name. Where layers differ, `uniform` is null, and
    `uniform_by_layer` has a number for each."""
    return {
        name: {part: None if (value := getattr(one, part)) is None else round(value, 6) for part in BASELINES}
        | ({"uniform_by_layer": list(one.by_layer)} if one.by_layer else {})
        for name, one in baselines.items()
    }


def heads_json(measures: dict[str, dict[tuple[int, int], Interval]]) -> dict[str, dict[str, Any]]:
    """Intervals by measure and head as plain data."""
    return {name: {str(HeadName(*head)): one.as_json() for head, one in row.items()} for name, row in measures.items()}


def evaluate_runs(
    runs: Sequence[Run],
    *,
    step: int | None = None,
    context: int | None = None,
    sizes: SplitSizes | None = None,
    measures: Iterable[str] = (),
    on_progress: Callable[[int, str], None] | None = None,
) -> Evaluations:
    """Evaluates a checkpoint of each run on every split.

    Arguments:
        runs: seeds of one experiment.
        step: the checkpoint of each; None: its last good one.
        context: another number of context examples than in training.
        sizes: sequences of a split.
        measures: measures of every head to take on novel classes as well, by name.
        on_progress: called with the number of runs done and the name of the last.

    Raises:
        RunError: the runs differ in more than the seed, or there is none.
        ConfigError: there is no such checkpoint or measure, or the position code cannot place so long a context.
    """
    check_seeds(runs)
    names = tuple(one.name for one in chosen(measures))
    found, measured = [], []
    for done, run in enumerate(runs, 1):
        found.append(evaluate(run, step=step, context=context, sizes=sizes, measures=False))
        if names:
            one = evaluate(run, step=step, context=context, sizes=sizes, splits=("icl",), measures=names)
            measured.append(one.scores["icl"])
        if on_progress:
            on_progress(done, run.path.name)
    config = runs[0].config if context is None else with_context(runs[0].config, context)
    known = measured[0].strengths if measured else ()
    return Evaluations(tuple(found), tuple(measured), baselines(config, known))
