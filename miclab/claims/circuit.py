"""The heads of the circuit in a row of a study, and how sharply they attend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from miclab.circuits.find import Head, circuit_heads, measure_column, measure_of


def heads(row: Mapping[str, Any]) -> tuple[Head, Head]:
    """Induction head and previous-token head by the measures of a row; see `circuit_heads`."""
    values: dict[str, dict[tuple[int, int], float]] = {}
    for column, value in row.items():
        found = measure_of(column)
        if found and value is not None:
            values.setdefault(found[0], {})[found[1]] = value
    shape = tuple(max(place[i] for place in values["induction_total"]) + 1 for i in (0, 1))
    tables = {name: np.full(shape, -np.inf) for name in values}
    for name, table in tables.items():
        for place, value in values[name].items():
            table[place] = value
    circuit = circuit_heads({n: t for n, t in tables.items() if n.startswith(("induction_total", "label_to_item."))})
    return circuit.induction, circuit.previous_token


def sharpness(row: Mapping[str, Any]) -> dict[str, float]:
    """Entropies of the circuit's two heads and the peak of the induction head, from one row's measures."""
    induction, previous = heads(row)

    def of(name: str, head: Head) -> float:
        return row[measure_column(name, head)]

    right = of("target_label_attention", induction)
    wrong = right - of("induction", induction)
    return {
        "query": of("entropy", induction),
        "labels": of("label_row_entropy", previous),
        "peak": right - max(wrong, of("target_item_attention.m1", induction)),
    }


def strongest(row: Mapping[str, Any], name: str, layer: int) -> float | None:
    """A measure's highest value over the heads of a layer, from 0; None where the row lacks it."""
    found = [
        value
        for column, value in row.items()
        if value is not None and (place := measure_of(column)) and place[0] == name and place[1][0] == layer
    ]
    return max(found) if found else None
