"""What a claim comes to: conditions with their intervals, figures reported apart, and the verdict on all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from miclab.statistics.intervals import Interval

Verdict = Literal["holds", "holds only if", "does not hold", "not decided"]


def told(measured: Interval | None) -> str:
    """An estimate as text, marked where it is of one seed."""
    if measured is None:
        return "no rows"
    return f"{measured} (one seed)" if measured.unit == "set" else str(measured)


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One number that has to lie within open bounds.

    Arguments:
        clause: completes the sentence "the claim holds only if ...".
        quantity: what is measured, in words.
        measured: its interval; None where the rows do not suffice.
        low: the whole interval has to lie above it.
        high: and below it.
        used: names of the planned runs that went in.
        absent: names of those that it needs and that have no finished row.
    """

    clause: str
    quantity: str
    measured: Interval | None
    low: float = -math.inf
    high: float = math.inf
    used: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()

    @property
    def decidable(self) -> bool:
        """Whether there are rows, and of more than one seed."""
        return self.measured is not None and self.measured.unit != "set"

    @property
    def verdict(self) -> Verdict:
        """Holds if the interval lies within the bounds, fails if it lies outside, else, and with one seed alone, is not
        decided."""
        if self.measured is None or not self.decidable or math.isnan(self.measured.low + self.measured.high):
            return "not decided"
        if self.low < self.measured.low and self.measured.high < self.high:
            return "holds"
        outside = self.measured.high <= self.low or self.measured.low >= self.high
        return "does not hold" if outside else "not decided"

    @property
    def told(self) -> str:
        """What was measured, as text."""
        return told(self.measured)

    @property
    def bound(self) -> str:
        """The bounds in words."""
        if self.low == -math.inf:
            return f"below {self.high:g}"
        return f"above {self.low:g}" if self.high == math.inf else f"between {self.low:g} and {self.high:g}"


@dataclass(frozen=True, kw_only=True)
class Apart:
    """A figure that decides nothing: ours beside the paper's.

    Arguments:
        quantity: what is measured, in words.
        measured: its interval; None where the rows do not suffice.
        paper: the paper's value, or its lowest and highest; None: it gives none.
    """

    quantity: str
    measured: Interval | None
    paper: float | tuple[float, float] | None = None

    @property
    def told(self) -> str:
        """What was measured, as text."""
        return told(self.measured)

    @property
    def distance(self) -> float | None:
        """Ours minus the nearest value of the paper's; 0 within its range; None where one of the two is lacking."""
        if self.measured is None or self.paper is None:
            return None
        return distance(self.measured.mean, self.paper)

    @property
    def paper_text(self) -> str:
        """The paper's figure as text."""
        if isinstance(self.paper, tuple):
            return f"{self.paper[0]:g} to {self.paper[1]:g}"
        return "none" if self.paper is None else f"{self.paper:g}"


def distance(value: float, target: float | tuple[float, float]) -> float:
    """`value` minus `target`, or minus the nearest point of a range."""
    low, high = target if isinstance(target, tuple) else (target, target)
    return value - min(max(value, low), high)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the rows say about a claim."""

    conditions: tuple[Condition, ...]
    apart: tuple[Apart, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """All conditions hold: holds. None does, and all are decided: does not hold. Some do and some do not: holds
        only if. Otherwise not decided."""
        found = [condition.verdict for condition in self.conditions]
        if found and all(v == "holds" for v in found):
            return "holds"
        if found and all(v == "does not hold" for v in found):
            return "does not hold"
        return "holds only if" if "holds" in found and "does not hold" in found else "not decided"

    @property
    def clauses(self) -> tuple[str, ...]:
        """Under which conditions it holds."""
        return tuple(c.clause for c in self.conditions if c.verdict == "holds")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A claim of the ledger.

    Arguments:
        id: identifier in the paper's list of claims.
        statement: what is claimed, in words.
        paper: the paper's figure, as it stands there.
        criterion: when it holds; written down before its studies run.
        studies: names of the study files that it needs.
        judge: from the studies' rows to findings.
    """

    id: str
    statement: str
    paper: str
    criterion: str
    studies: tuple[str, ...]
    judge: Callable[[Any], Findings]
