"""Analyses of a study's last checkpoint, after training: knockouts, ablations, other context lengths, the entropy of
the circuit's heads. Those of `miclab.studies.equal_icl` look at the first checkpoint with enough ICL.

An analysis is stored beside the run, under its name and its number of sequences, and is computed once.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from miclab.circuits.find import stored_name
from miclab.config.content import Content
from miclab.config.request import SplitSizes
from miclab.errors import ConfigError, ContentError, RunError
from miclab.runs.run import Run
from miclab.studies.plan import PlannedAnalysis, PlannedRun
from miclab.studies.state import AT_EQUAL_ICL, analysis_step, missing_analyses

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from miclab.circuits.effects import Effect
    from miclab.circuits.knockout import Interventions

KNOCKOUTS = {"knockout": "zero", "mean_knockout": "mean", "uniform_knockout": "uniform"}
"""Analyses that cut heads, and what takes the place of a head's output or pattern."""
REFUSED = "refused"
"""Key of a stored analysis that is impossible for its run; the value is the reason."""


class _Analyser:
    """Computes the analyses of one checkpoint. Shared parts are computed once."""

    def __init__(self, disk: Run, step: int, sizes: SplitSizes):
        self.disk, self.step, self.sizes = disk, step, sizes

    @cached_property
    def interventions(self) -> Interventions:
        from miclab.circuits.knockout import Interventions

        return Interventions(self.disk, self.step, self.sizes)

    def values(self, analysis: str) -> dict[str, Any]:
        """For each quantity of an analysis its mean on `icl`, and that of each set of novel classes. All are accuracies
        but the entropies and drift."""
        if analysis in KNOCKOUTS:
            return _accuracies(self.interventions.knockouts(KNOCKOUTS[analysis]))
        if analysis == "uniform_pattern":
            return _accuracies(self.interventions.uniform_patterns())
        if analysis == "ablation":
            return _accuracies(self.interventions.ablations())
        if analysis == "entropy":
            return self._entropies()
        if analysis in ("transplant", "drift", "circuit_overlap"):
            return self._descent(analysis)
        if analysis == "running_mean":
            from miclab.circuits.running_mean import running_mean

            averaged = running_mean(self.disk, step=self.step, sizes=self.sizes).stored()
            return {name: _stored(sets) for name, sets in averaged.items()}
        if analysis in AT_EQUAL_ICL:
            from miclab.studies.equal_icl import values

            found = values(analysis, self.disk, self.step, self.sizes, lambda: self.interventions)
            return {name: _stored(sets) for name, sets in found.items()}
        from miclab.measures.evaluate import evaluate

        if analysis == "oracles":
            found = evaluate(self.disk, step=self.step, splits=("icl",), sizes=self.sizes, measures=False)
            return {name: _accuracy(score) for name, score in found.scores["icl"].oracles.items()}
        context = int(analysis.removeprefix("context."))
        found = evaluate(self.disk, step=self.step, context=context, splits=("icl",), sizes=self.sizes, measures=False)
        return {"": _accuracy(found.scores["icl"].correct)}

    def _descent(self, analysis: str) -> dict[str, Any]:
        """What the run's parts are worth in the run that it started from and the other way round, how far its matrices
        moved, or how far its circuit is that run's.

        Raises:
            RunError: it started from random weights, or its attention is no plain softmax.
        """
        if analysis == "drift":
            from miclab.circuits.drift import drift

            return {
                name: _stored(np.array([value])) for name, value in drift(self.disk, step=self.step).stored().items()
            }
        if analysis == "circuit_overlap":
            from miclab.circuits.circuit_overlap import stored_overlap

            shared = stored_overlap(self.disk, self.step, self.sizes)
            return {name: _stored(np.array(value, ndmin=1)) for name, value in shared.items()}
        from miclab.circuits.transplant import transplant

        found = transplant(self.disk, step=self.step, sizes=self.sizes)
        return {name: _stored(sets) for name, sets in found.stored().items()}

    def _entropies(self) -> dict[str, Any]:
        """Entropy of the circuit's two heads at the query, as a share of that of uniform attention.

        Raises:
            RunError: there is no circuit of two heads.
        """
        heads, work = self.interventions.strongest, self.interventions
        if heads is None:
            raise RunError(f"There is no circuit of two heads: {work.no_circuit}.")
        found = work.untouched.strengths.get("entropy")
        if found is None or not all(found[:, *head].min() >= 0 for head in (heads.induction, heads.previous_token)):
            raise RunError("The attention of one of the circuit's heads is no softmax, so it has no entropy.")
        members = {"induction head": heads.induction, "previous-token head": heads.previous_token}
        return {name: _stored(found[:, layer, head]) for name, (layer, head) in members.items()}


def _accuracies(effects: Iterable[Effect]) -> dict[str, Any]:
    return {stored_name(effect.name): _accuracy(effect.correct) for effect in effects}


def _accuracy(correct: NDArray) -> dict[str, Any]:
    return _stored(correct.mean(1))


def _stored(sets: NDArray) -> dict[str, Any]:
    """A quantity by set of novel classes [set]. Files always call its mean `accuracy`."""
    return {"accuracy": round(float(sets.mean()), 6), "sets": [round(float(v), 6) for v in sets]}


def store_missing(run: PlannedRun, disk: Run) -> None:
    """Computes and stores the missing analyses of a trained run. An analysis that is impossible for the run is stored
    with the reason, such as a context that the position code cannot place.

    Raises:
        RunError: a file of the run is damaged, or it cannot be written.
    """
    analysers: dict[tuple[int, int, int], _Analyser] = {}
    for analysis in missing_analyses(run, disk):
        step, sizes = (
            analysis_step(analysis, disk),
            SplitSizes(sequences=analysis.sequences, novel_sets=analysis.novel_sets),
        )
        analyser = analysers.setdefault((step, analysis.sequences, analysis.novel_sets), _Analyser(disk, step, sizes))
        content: dict[str, Any] = {"probe": analysis.name, "step": step, "split": "icl", **vars(sizes)}
        try:
            content["values"] = analyser.values(analysis.name)
        except ContentError:
            raise
        except (ConfigError, RunError) as error:
            content[REFUSED] = str(error)
        disk.save_analysis(step, analysis.file, content)


def analysis_columns(analyses: Iterable[PlannedAnalysis], disk: Run) -> dict[str, Any]:
    """Stored analyses as columns of a table: `probe.NAME` and, by set of novel classes, `probe.NAME.sets`.

    Raises:
        RunContentError: the file of an analysis holds something else.
    """
    columns: dict[str, Any] = {}
    for analysis in analyses:
        stored = disk.analysis(analysis_step(analysis, disk), analysis.file) or {}
        for name, value in Content(analysis.file, stored.get("values", {}), "values").fields():
            column = f"probe.{analysis.name}.{name}".rstrip(".")
            columns[column] = value["accuracy"].number()
            columns[f"{column}.sets"] = [one.number() for one in value["sets"].entries()]
    return columns
