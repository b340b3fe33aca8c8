"""Studies of kind `threshold`: ordinary runs, of which only those are made that decide where the threshold lies.

The plan of such a study grows with its results. It is a function of how runs ended, so a study that was stopped goes on
where it was, on whatever machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from miclab.config.run import RunConfig
from miclab.statistics.threshold import Outcomes, State, state_of, steps_to
from miclab.studies import state
from miclab.studies.given_rows import NO_ROWS, GivenRows
from miclab.studies.ladder import Ended, climbed
from miclab.studies.plan import Plan, PlannedRun, axis_value
from miclab.studies.rows import StudyTable
from miclab.studies.study import Block, Study

Mode = str | Callable[[], str]


def copying(config: RunConfig) -> float:
    """Accuracy of copying any label of the context: B of N examples have the right one."""
    return config.sequence.burstiness / config.sequence.context


def curves(study: Study) -> list[Block]:
    """The grid without its ladder: one block for each decoder whose threshold is sought."""
    if study.ladder is None:
        return list(study.grid)
    found = []
    for block in study.grid:
        zipped, *_ = block.shape
        others = {axis: values for axis, values in block.product.items() if axis != study.ladder.axis}
        for along in range(zipped):
            together = {axis: (values[along],) for axis, values in block.zip.items()}
            for chosen in product(*others.values()):
                own = {axis: (value,) for axis, value in zip(others, chosen, strict=True)}
                rungs = {study.ladder.axis: study.ladder.values}
                found.append(Block(product=together | own | rungs, config=block.config, stage=block.stage))
    return found


@dataclass
class Curve:
    """One decoder on its ladder.

    Arguments:
        axes: values of the other axes.
        states: by rung and seed, of runs that ended in one.
        times: first step at which ICL is at least 0.9, by rung and seed, and whether there is one.
        cap: last step of its runs.
        rungs: those that have to be run, as far as is known.
        complete: whether these are all, and have ended.
        runs: names of the runs at these rungs.
    """

    axes: dict[str, Any]
    states: Outcomes = field(default_factory=dict)
    times: dict[float, dict[int, tuple[int, bool]]] = field(default_factory=dict)
    cap: int = 0
    rungs: tuple[int, ...] = ()
    complete: bool = False
    runs: tuple[str, ...] = ()


Rows = Callable[[PlannedRun], Sequence[Mapping[str, Any]] | None]
"""The rows of a run, in the order of steps; None: it has not ended."""


def curve_of(study: Study, block: Block, plan: Plan, rows: Rows) -> Curve:
    """What is known of one decoder.

    Arguments:
        study: the study.
        block: the decoder's, with the whole ladder.
        plan: a plan of that block alone.
        rows: of its runs.
    """
    assert study.ladder is not None
    found: dict[int, dict[int, Ended | None]] = {}
    curve = Curve({axis: values[0] for axis, values in block.product.items() if axis != study.ladder.axis})
    names: dict[int, list[str]] = {}
    for identity in plan.members[study.name]:
        run = plan.runs[identity]
        rung = axis_value(run, None, study.ladder.axis)
        names.setdefault(rung, []).append(run.name)
        curve.cap = max(curve.cap, plan.requested[study.name][identity].steps)
        of = rows(run)
        ended: Ended | None = None
        if of is not None:
            ended = run_state(run.point, of)
            if ended != "failed":
                curve.states = {**curve.states, rung: {**curve.states.get(rung, {}), run.seed: ended}}  # type: ignore[dict-item]
                time = steps_to([row["step"] for row in of], [row.get("icl") for row in of])
                curve.times.setdefault(rung, {})[run.seed] = time
        found.setdefault(rung, {})[run.seed] = ended
    curve.rungs, curve.complete = climbed(study.ladder, study.seeds, lambda rung, seed: found[rung][seed])
    curve.runs = tuple(name for rung in curve.rungs for name in names[rung])
    return curve


def run_state(config: RunConfig, rows: Sequence[Mapping[str, Any]]) -> State | str:
    """The state in which a run ended, from its rows; `failed` where it has none."""
    last = rows[-1] if rows else {}
    scores = [last.get(name) for name in ("icl", "swapped", "iwl")]
    if last.get("status") == "failed" or any(score is None for score in scores):
        return "failed"
    icl, swapped, iwl = map(float, scores)  # type: ignore[arg-type]
    return state_of(icl, swapped, iwl, copying(config))


def curves_of(study: Study, mode: Mode, rows: Rows) -> list[Curve]:
    """What is known of every decoder of a study of kind `threshold`."""
    found = []
    for block in curves(study):
        plan = Plan([replace(study, grid=(block,))], mode)
        found.append(curve_of(study, block, plan, rows))
    return found


def rows_under(study: Study, mode: Mode, root: Path, given: GivenRows = NO_ROWS) -> Rows:
    """The rows of runs that are given, that ended under a directory of runs, or that stand in the table beside the
    study."""
    plan = Plan([study], mode)
    table, states = StudyTable(study, plan, root, given.of(study)), state.survey(plan, root)
    kept = table.kept()

    def rows(run: PlannedRun) -> Sequence[Mapping[str, Any]] | None:
        if run.hash in table.given or states[run.hash].status in ("done", "failed"):
            return table.run_rows(run.hash, states[run.hash])
        return kept.get(run.hash)

    return rows


def narrowed(study: Study, mode: Mode, root: Path, given: GivenRows = NO_ROWS) -> Study:
    """A study of kind `threshold` with the rungs that have to be run, as far as is known; another study as it is."""
    if study.ladder is None:
        return study
    known = curves_of(study, mode, rows_under(study, mode, root, given))
    rungs = [
        {**block.product, study.ladder.axis: curve.rungs} for block, curve in zip(curves(study), known, strict=True)
    ]
    blocks = zip(curves(study), rungs, strict=True)
    return replace(study, grid=tuple(replace(block, product=own) for block, own in blocks))


def planned(studies: Iterable[Study], mode: Mode, root: Path, given: GivenRows = NO_ROWS) -> tuple[list[Study], Plan]:
    """Studies with what has to be run of them, and the plan of it. Runs whose rows are given are in it."""
    found = [narrowed(study, mode, root, given) for study in studies]
    return found, Plan(found, mode)


def rounds(
    studies: Sequence[Study], mode: Mode, root: Path, given: GivenRows = NO_ROWS
) -> Iterator[tuple[list[Study], Plan]]:
    """What is to be run, one plan after another: the next one is requested when the runs of the last have ended. There
    is one plan alone where no study is of kind `threshold`; none follows a plan that was stopped."""
    seen: set[str] = set()
    while True:
        found, plan = planned(studies, mode, root, given)
        if seen and plan.runs.keys() <= seen:
            return
        yield found, plan
        seen |= plan.runs.keys()
        is_open = any(one.status in ("new", "begun") for one in given.survey(plan, root).values())
        if all(study.ladder is None for study in studies) or is_open:
            return
