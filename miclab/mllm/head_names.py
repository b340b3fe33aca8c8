"""What heads of a production model are called, by the definitions of `miclab.circuits.head_names`.

A pattern has its name from halfway on between uniform causal attention over the same positions and all attention. Need
is said of groups of heads, whose patterns `knockout --baseline uniform` replaces.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miclab import tables
from miclab.circuits.find import DIFFUSE, Head, head_name
from miclab.circuits.head_names import LOOKS, ROWS, Place, looking, pattern_word, uniform_level
from miclab.measures.attention import strengths
from miclab.measures.baselines import uniform_pattern
from miclab.mllm.options import INDUCTION, PREVIOUS_TOKEN
from miclab.mllm.reading import Reading
from miclab.statistics.intervals import Interval, episode_interval
from miclab.tables import Number, Table, table

PLACES: Mapping[str, Place] = {PREVIOUS_TOKEN: "previous token", INDUCTION: "induction"}
"""The place in a circuit that each ranking measure is of."""
UNDECIDED = "undecided"
"""What a head is called of whose strength there is no interval over episodes."""


def uniform_strengths(readings: Iterable[Reading]) -> dict[str, NDArray[np.floating]]:
    """Measures under uniform causal attention over the positions of prompts, by name [episode, 1]."""
    found: dict[str, list[float]] = {}
    for reading in readings:
        pattern = uniform_pattern(reading.length)[None, None]
        values = strengths(pattern, reading.roles, reading.labels[None], _target(reading))
        for name, value in values.items():
            found.setdefault(name, []).append(float(value[0, 0]))
    return {name: np.array(values)[:, None] for name, values in found.items()}


def _target(reading: Reading) -> Any:
    return reading.labels.new_tensor([reading.target])


@dataclass(frozen=True)
class Named:
    """What a head is called by where it looks.

    Arguments:
        place: in the circuit, for which it is among the strongest.
        head: as (layer, head) from 0.
        pattern: the word.
        looks: how far it looks at the place.
        uniform: the same under uniform attention.
    """

    place: Place
    head: Head
    pattern: str
    looks: Interval
    uniform: float

    def as_json(self) -> dict[str, Any]:
        """It as plain data."""
        return {"head": head_name(self.head), "place": self.place, "pattern": self.pattern,
                "looks": self.looks.as_json(), "uniform": round(self.uniform, 6)}  # fmt: skip


def _kept(known: Mapping[str, Sequence[Interval]], place: Place, column: int) -> Interval:
    """How far a head looks at the place, by kept intervals. Of several kinds of item the sum has none."""
    names = ["induction_total"] if place == "induction" else [n for n in known if n.startswith("label_to_item.")]
    parts = [known[name][column] for name in names]
    if len(parts) == 1:
        return parts[0]
    return replace(parts[0], mean=sum(part.mean for part in parts), low=math.nan, high=math.nan)


def named(
    values: Mapping[str, NDArray[np.floating]],
    levels: Mapping[str, float],
    place: Place,
    heads: Mapping[Head, int],
    known: Mapping[str, Sequence[Interval]] | None = None,
) -> tuple[Named, ...]:
    """What heads are called. Without an interval over episodes a head is `undecided`.

    Arguments:
        values: measures by name [episode, head].
        levels: the same under uniform attention.
        place: in the circuit.
        heads: each head's column.
        known: intervals of each measure and head over the episodes that `values` are the means of; None: `values` has
            the episodes.
    """
    looks, uniform = looking(values, place), uniform_level(levels, place)
    found = []
    for head, column in heads.items():
        rows = values[ROWS[place]][:, column]
        if known:
            interval, of_rows = _kept(known, place, column), known[ROWS[place]][column]
        else:
            interval, of_rows = episode_interval(looks[:, column]), episode_interval(rows)
        word = pattern_word(place, interval, uniform, None if np.isnan(rows).any() else of_rows)
        found.append(Named(place, head, word if interval.known else UNDECIDED, interval, uniform))
    return tuple(found)


def names_table(found: Sequence[Named]) -> Table:
    """A row for each head."""
    rows = [[tables.HeadName(*one.head), one.place, one.pattern, LOOKS[one.place], one.looks, Number(one.uniform, 3)]
            for one in found]  # fmt: skip
    note = (
        "A previous-token or induction head looks there at least halfway from uniform attention to 1 (whole interval)."
        f" An averaging head does not, and its rows have above {DIFFUSE} of a uniform row's entropy."
    )
    columns = ["head", "among the strongest for", "called", "looks at", "attention", "uniform attention"]
    return table("what the strongest heads are called, by pattern", columns, rows, [note])
