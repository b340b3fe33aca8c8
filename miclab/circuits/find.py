"""The strongest heads of the two kinds that an induction circuit is made of. Needs no torch: the ledger reads rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Head = tuple[int, int]
"""Layer and head, both from 0."""


def head_name(head: Head) -> str:
    """Layer and head, counted from 1: `2.1` is the first head of the second layer."""
    return f"{head[0] + 1}.{head[1] + 1}"


@dataclass(frozen=True)
class CircuitHeads:
    """The strongest heads of the two kinds that an induction circuit is made of. Every decoder of several heads has
    them, also one that has learnt nothing: `why_no_circuit` says whether they are a circuit.

    Arguments:
        induction: the head with the highest summed induction strength.
        previous_token: the head, in a layer before it if there is one, whose labels look most at their own items.
        rest: all other heads.
    """

    induction: Head
    previous_token: Head
    rest: tuple[Head, ...]

    def members(self) -> dict[str, tuple[Head, ...]]:
        """What is knocked out of the circuit, by name."""
        return {
            "previous-token head": (self.previous_token,),
            "induction head": (self.induction,),
            "both": (self.previous_token, self.induction),
        }


def circuit_heads(measures: Mapping[str, NDArray]) -> CircuitHeads:
    """Finds the circuit's heads in strengths by name [layer, head].

    A plain previous-token strength would also count heads of the last layer, which feed no later head; so the
    previous-token head is sought in the layers before the induction head, by `label_to_item`.
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
