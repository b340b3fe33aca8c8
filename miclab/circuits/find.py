"""Names of heads, and the strongest heads of the two kinds that an induction circuit is made of.

Heads are LAYER.HEAD, both counted from 0. Rows of studies and stored analyses count from 1, as all of miclab did before
version 0.2. Only `measure_column`, `measure_of`, `stored_name` and `read_name` make and read their columns. The module
needs no torch, since the ledger reads rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from miclab import tables
from miclab.errors import ConfigError

Head = tuple[int, int]
"""Layer and head, both from 0."""

PATTERNS = ("uniform", "previous_token", "own_item", "shuffled", "other_sequence")
"""What can take the place of a head's attention pattern (see `miclab.circuits.patterns`)."""
CUTS = ("zero", "mean", *PATTERNS)
"""What can take the place of a head's output, or of its pattern."""
Cut = Literal["zero", "mean", "uniform", "previous_token", "own_item", "shuffled", "other_sequence"]
DIFFUSE = 0.5
"""Attention whose entropy, as a share of a uniform row's, is above this is called diffuse."""
HALFWAY = 0.5
"""Of the way from uniform attention to all attention: from here on a head has its pattern."""
NEEDED_DROP = 0.1
"""Of accuracy: what setting a needed pattern to uniform costs at least."""

_COLUMN = re.compile(r"measure\.(?P<name>.+)\.(?P<layer>\d+)\.(?P<head>\d+)")
_NAMED = re.compile(r"head (?P<layer>\d+)\.(?P<head>\d+)(?P<rest>.*)")


def head_name(head: Head) -> str:
    """LAYER.HEAD, both from 0: `1.0` is the first head of the second layer."""
    return str(tables.HeadName(*head))


def head_named(name: str, known: Iterable[Head], field: str = "heads") -> Head:
    """Layer and head of a name LAYER.HEAD, both from 0.

    Arguments:
        known: the heads that there are.
        field: the option that holds the name, for messages.

    Raises:
        ConfigError: there is no such head; the message lists those that are known.
    """
    names = {head_name(head): head for head in known}
    if name not in names:
        raise ConfigError(field, name, f"LAYER.HEAD, both from 0: {', '.join(names)}")
    return names[name]


def old_head_name(head: Head) -> str:
    """The head in columns and stored analyses, both from 1."""
    return head_name((head[0] + 1, head[1] + 1))


def measure_column(name: str, head: Head) -> str:
    """The column of a study's rows that holds a measure of a head."""
    return f"measure.{name}.{old_head_name(head)}"


def measure_of(column: str) -> tuple[str, Head] | None:
    """The measure and the head of a column of a study's rows; None for another column."""
    found = _COLUMN.fullmatch(column)
    return (found["name"], (int(found["layer"]) - 1, int(found["head"]) - 1)) if found else None


def stored_name(effect: str) -> str:
    """The name of an intervention in columns and stored analyses: `head 1.0` is `head 2.1` there."""
    return _renamed(effect, 1)


def read_name(stored: str) -> str:
    """The name of an intervention from its `stored_name`."""
    return _renamed(stored, -1)


def _renamed(name: str, by: int) -> str:
    found = _NAMED.fullmatch(name)
    if found is None:
        return name
    return f"head {head_name((int(found['layer']) + by, int(found['head']) + by))}{found['rest']}"


def stored_part(part: str, what: str) -> str:
    """The name of a quantity of a decoder's part in stored analyses and columns: `head 1.0 query` is `head 2.1 query`
    there, and `mlp 0` is `mlp 1`."""
    kind, _, rest = part.partition(" ")
    if kind != "mlp":
        return f"{stored_name(part)} {what}"
    layer, _, matrix = rest.partition(" ")
    return " ".join(filter(None, (kind, str(int(layer) + 1), matrix, what)))


NO_PATTERN = "the decoder's attention gives no pattern, by which the heads of a circuit are found"


@dataclass(frozen=True)
class CircuitHeads:
    """The strongest heads of the two kinds that an induction circuit is made of. Every decoder of several heads has
    them, also one that has learnt nothing: `why_no_circuit` says whether they are a circuit.

    Arguments:
        induction: the head with the highest summed induction strength.
        previous_token: the head, in a layer before it if there is one, whose labels attend most to their own items.
        rest: all other heads.
    """

    induction: Head
    previous_token: Head
    rest: tuple[Head, ...]

    def named(self) -> dict[str, str]:
        """The two heads as LAYER.HEAD, by kind."""
        return {"previous_token": head_name(self.previous_token), "induction": head_name(self.induction)}

    def members(self) -> dict[str, tuple[Head, ...]]:
        """The sets of the circuit's heads that are knocked out, by name."""
        return {
            "previous-token head": (self.previous_token,),
            "induction head": (self.induction,),
            "both": (self.previous_token, self.induction),
        }


def strongest_heads(measures: Mapping[str, NDArray]) -> CircuitHeads | None:
    """`circuit_heads`, or None: for a decoder with a single head, and where its attention gives no pattern."""
    induction = measures.get("induction_total")
    return circuit_heads(measures) if induction is not None and np.size(induction) > 1 else None


def circuit_heads(measures: Mapping[str, NDArray]) -> CircuitHeads:
    """Finds the circuit's heads in strengths by name [layer, head].

    A plain previous-token strength would also count heads of the last layer, which feed no later head. So the
    previous-token head is sought by `label_to_item` in the layers before the induction head.
    """
    induction = np.asarray(measures["induction_total"])
    top = np.unravel_index(int(induction.argmax()), induction.shape)
    found = (int(top[0]), int(top[1]))
    looking = np.max([np.asarray(v) for k, v in measures.items() if k.startswith("label_to_item.")], axis=0).copy()
    looking[found] = -np.inf
    if found[0] > 0:
        looking[found[0] :] = -np.inf
    place = np.unravel_index(int(looking.argmax()), looking.shape)
    previous = (int(place[0]), int(place[1]))
    rest = [(i, j) for i in range(induction.shape[0]) for j in range(induction.shape[1])]
    return CircuitHeads(found, previous, tuple(h for h in rest if h not in (found, previous)))
