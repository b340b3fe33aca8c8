"""Thresholds of a study of kind `threshold`: the states of its runs, their times, and the threshold of each decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from miclab.config.axes import axis_name
from miclab.statistics.intervals import Interval
from miclab.statistics.threshold import HIGH, LONG, ORDER, find_threshold, is_long_enough, log2_ratio
from miclab.studies.plan import Plan, PlannedRun
from miclab.studies.points import mode_of
from miclab.studies.study import Study
from miclab.studies.threshold import Curve, curves_of
from miclab.tables import Table, table


def thresholds_view(study: Study, plan: Plan, frame: pl.DataFrame) -> dict[str, Any] | None:
    """Tables of thresholds, states and times; None for another kind of study.

    Arguments:
        study: the study.
        plan: a plan that has it.
        frame: its table.
    """
    if study.ladder is None:
        return None
    known = {str(part["run"][0]): part.sort("step").rows(named=True) for part in frame.partition_by("run")}

    def rows(run: PlannedRun) -> Sequence[Mapping[str, Any]] | None:
        return known.get(run.hash)

    mode = mode_of(next(iter(plan.runs.values())).point.numerics)
    curves = curves_of(study, mode, rows)
    names = [_name(study, curve) for curve in curves]
    rungs = sorted({rung for curve in curves for rung in curve.states})
    return {
        "thresholds": _thresholds(names, curves),
        "states": table("", ["decoder", *(f"{rung:,}" for rung in rungs)],
                        [[name, *(_states(curve.states.get(rung, {})) for rung in rungs)]
                         for name, curve in zip(names, curves, strict=True)]),
        "times": table("", ["decoder", *(f"{rung:,}" for rung in rungs)],
                       [[name, *(_times(curve.times.get(rung, {})) for rung in rungs)]
                        for name, curve in zip(names, curves, strict=True)]),
        "axis": axis_name(study.ladder.axis, alone=study.stage == "unimodal"),
        "words": _words(curves),
    }  # fmt: skip


def _name(study: Study, curve: Curve) -> str:
    """The fields that distinguish a decoder from the others."""
    return ", ".join(f"{axis.rpartition('.')[2]} {_value(value)}" for axis, value in curve.axes.items()) or study.name


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        rest = ", ".join(f"{name}={_value(one)}" for name, one in value.items() if name != "name")
        return f"{value.get('name', '')} {rest}".strip()
    return str(value)


def _thresholds(names: Sequence[str], curves: Sequence[Curve]) -> Table:
    rows = []
    for name, curve in zip(names, curves, strict=True):
        found = find_threshold(curve.states)
        ratio = log2_ratio(curves[0].states, curve.states)
        times = [step for of in curve.times.values() for step, there in of.values() if there]
        notes = [] if curve.complete else ["not all rungs have ended"]
        if not is_long_enough(times, curve.cap):
            notes.append(f"the cap of {curve.cap:,} steps is below {LONG} times the median time")
        rows.append([name, str(found), _ratio(ratio), found.seeds, "; ".join(notes)])
    return table("", ["decoder", "K*", "times lower than the first", "seeds", "remarks"], rows)


def _ratio(found: Interval | None) -> str:
    if found is None:
        return ""
    if np.isinf(found.low) or np.isinf(found.high):
        if np.isinf(found.low) and np.isinf(found.high):
            return "unknown"
        return f"at least {2**found.low:.3g}" if np.isfinite(found.low) else f"at most {2**found.high:.3g}"
    if not found.known:
        return f"{2**found.mean:.3g} (no interval)"
    return f"{2**found.mean:.3g} [{2**found.low:.3g}, {2**found.high:.3g}]"


def _states(states: Mapping[int, str]) -> str:
    counts = {state: sum(one == state for one in states.values()) for state in ORDER}
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count)


def _times(times: Mapping[int, tuple[int, bool]]) -> str:
    """The median over seeds. Runs that never reach the level count as later than all others."""
    if not times:
        return ""
    there = sum(known for _, known in times.values())
    values = sorted(step if known else np.inf for step, known in times.values())
    middle = values[(len(values) - 1) // 2]
    cap = max(step for step, _ in times.values())
    return f"{middle:,.0f} ({there} of {len(times)})" if np.isfinite(middle) else f"> {cap:,} ({there} of {len(times)})"


def _words(curves: Sequence[Curve]) -> str:
    caps = sorted({curve.cap for curve in curves})
    cap = " or ".join(f"{one:,}" for one in caps)
    return (
        f"A run reads if accuracy on novel classes, labels swapped or not, is at least {HIGH:g} after {cap} steps; it"
        f" memorises if iwl is at least {HIGH:g} and icl is no more than 0.05 above copying any label; else it is on"
        " the plateau. K* is where half of the runs that left the plateau read. Its interval has the bootstrap over"
        " seeds and the rungs between which nothing was observed."
    )
