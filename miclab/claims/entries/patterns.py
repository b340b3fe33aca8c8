"""M9: M7 judged by attention patterns. Its criterion was committed on 2026-11-26, before any of its figures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from miclab.circuits.find import HALFWAY, NEEDED_DROP, measure_column, measure_of
from miclab.claims.circuit import heads
from miclab.claims.evidence import Evidence, Quantity, grid
from miclab.claims.registry import claim
from miclab.claims.verdict import Finding
from miclab.config.run import RunConfig
from miclab.config.schema import from_mapping
from miclab.statistics.grid import mean

STUDY = "multimodal_patterns"
UNTOUCHED = "probe.uniform_knockout.untouched"
UNIFORM = {name: f"probe.uniform_knockout.{name}" for name in ("previous-token head", "induction head")}
CONTROLS = {name: f"probe.uniform_knockout.control of {name}" for name in UNIFORM}


def _levels(row: Mapping[str, Any]) -> Mapping[str, float]:
    """Each measure under uniform attention, for the row's configuration."""
    # What judges needs no torch, unless there are rows.
    from miclab.measures.baselines import uniform_levels

    return uniform_levels(from_mapping(RunConfig, json.loads(row["config"])))


def own_items(row: Mapping[str, Any]) -> float | None:
    """How far the previous-token head's labels look at their own items: 0 as uniform attention, 1 nowhere else. Items
    of several modalities are added."""
    names = {place[0] for column in row if (place := measure_of(column))}
    mine = sorted(name for name in names if name.startswith("label_to_item."))
    if not mine:
        return None
    uniform, (_, head) = _levels(row), heads(row)
    level = sum(uniform[name] for name in mine)
    return (sum(row[measure_column(name, head)] for name in mine) - level) / (1 - level)


def right_labels(row: Mapping[str, Any]) -> float | None:
    """How far the induction head's query looks at right labels more than at wrong ones: 0 as uniform attention, 1
    nowhere else."""
    if not any((place := measure_of(column)) and place[0] == "induction_total" for column in row):
        return None
    level, (head, _) = _levels(row)["induction_total"], heads(row)
    return (row[measure_column("induction_total", head)] - level) / (1 - level)


@claim(
    "M9",
    "Multimodal in-context learning needs a previous-token pattern and an induction pattern.",
    paper="none: it cuts outputs of heads (M7)",
    criterion=(
        "Criterion of 2026-11-26, beside that of M7, which stays; K1 = 8192, K2 = 256, B = 4, rope, step 1,500, the "
        "two heads found as in M7. Pattern, one head a layer: the attention of labels on their own items (of both "
        "modalities, added), and that of the query on right labels minus wrong ones, is above half of the way from "
        "its value under uniform attention to 1. Need, one head a layer: ICL minus ICL with the head's pattern set "
        "to uniform is above 0.1. Control, four heads a layer: ICL with the patterns of random other heads of the "
        "layer set to uniform minus ICL with the head's is above 0. Whole 95 % intervals, for each of the two heads."
    ),
    studies=STUDY,
)
def m9(rows: Evidence) -> Iterator[Finding]:
    """Where the two heads look, and what ICL loses without that."""
    patterns: dict[str, tuple[str, Quantity]] = {
        "previous-token head": ("attention of labels on their own items", own_items),
        "induction head": ("attention of the query on right minus wrong labels", right_labels),
    }
    for name, (words, quantity) in patterns.items():
        for count in (1, 4):
            cells = grid(rows, STUDY, "heads", {"pattern": quantity}).where(heads=count)
            text = f"{words}, from uniform (0) to all (1)"
            if count == 1:
                yield cells.condition(mean("pattern") > HALFWAY, text, f"the {name} has its pattern")
            else:
                yield cells.comparison(mean("pattern"), f"{name} of four: {text}")
    lost = "ICL minus ICL with the head's pattern set to uniform"
    for name, column in UNIFORM.items():
        cells = grid(rows, STUDY, "heads", [UNTOUCHED, column]).where(heads=1)
        yield cells.condition(
            mean(UNTOUCHED) - mean(column) > NEEDED_DROP, lost, f"the pattern of the {name} is set to uniform"
        )
    for name, column in UNIFORM.items():
        cells = grid(rows, STUDY, "heads", [UNTOUCHED, column, CONTROLS[name]]).where(heads=4)
        yield cells.condition(
            mean(CONTROLS[name]) - mean(column) > 0,
            "ICL with random other patterns uniform minus ICL with the head's uniform",
            f"the {name} is one of four in its layer",
        )
        yield cells.comparison(mean(UNTOUCHED) - mean(column), f"{name} of four: {lost}")
