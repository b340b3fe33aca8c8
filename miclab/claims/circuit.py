"""The heads of the circuit in a row of a study, and how sharply they attend."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from miclab.circuits.find import circuit_heads

MEASURE = re.compile(r"measure\.(?P<name>.+)\.(?P<layer>\d+)\.(?P<head>\d+)")
"""Column of a measure of one head; layer and head are counted from 1 in tables."""


def heads(row: Mapping[str, Any]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Induction head and previous-token head by the measures of a row, as (layer, head) from 1; see `circuit_heads`."""
    values: dict[str, dict[tuple[int, int], float]] = {}
    for column, value in row.items():
        found = MEASURE.fullmatch(column)
        if found and value is not None:
            values.setdefault(found["name"], {})[int(found["layer"]) - 1, int(found["head"]) - 1] = value
    shape = tuple(max(place[i] for place in values["induction_total"]) + 1 for i in (0, 1))
    tables = {name: np.full(shape, -np.inf) for name in values}
    for name, table in tables.items():
        for place, value in values[name].items():
            table[place] = value
    circuit = circuit_heads({n: t for n, t in tables.items() if n.startswith(("induction_total", "label_to_item."))})
    (layer, head), (before, other) = circuit.induction, circuit.previous_token
    return (layer + 1, head + 1), (before + 1, other + 1)


def sharpness(row: Mapping[str, Any]) -> dict[str, float]:
    """Entropies of the circuit's two heads and the peak of the induction head, from one row's measures."""
    induction, previous = heads(row)

    def of(name: str, place: tuple[int, int]) -> float:
        return row[f"measure.{name}.{place[0]}.{place[1]}"]

    right = of("target_label_attention", induction)
    wrong = right - of("induction", induction)
    return {
        "query": of("entropy", induction),
        "labels": of("label_row_entropy", previous),
        "peak": right - max(wrong, of("target_item_attention.m1", induction)),
    }


def strongest(row: Mapping[str, Any], name: str, layer: int) -> float | None:
    """A measure's highest value over the heads of a layer, counted from 1; None where the row lacks it."""
    found = [
        value for column, value in row.items()
        if value is not None and (m := MEASURE.fullmatch(column)) and m["name"] == name and int(m["layer"]) == layer
    ]  # fmt: skip
    return max(found) if found else None
