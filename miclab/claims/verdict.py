"""The result of a claim: conditions with their intervals, numbers shown for comparison, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from miclab.statistics.intervals import Interval
from miclab.statistics.palette import Kind

if TYPE_CHECKING:
    from miclab.claims.plateau import CellEscape

Outcome = Literal["holds", "fails", "undecided"]
Verdict = Literal["holds", "holds in part", "fails", "undecided", "cannot be told by this measure"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
"""Every verdict, in the order in which they are counted."""
HOLDS, IN_PART, FAILS, UNDECIDED, _ = VERDICTS


def kind_of(verdict: str) -> Kind:
    """How a verdict is marked: one that holds is good, one that fails is bad, others are plain."""
    return "good" if verdict == HOLDS else "bad" if verdict == FAILS else "plain"


def outcome(measured: Interval | None, low: float, high: float) -> Outcome:
    """The one rule for an interval and its bounds, of the ledger and of the demonstration alike. Bounds are open.

    The condition holds if the whole interval lies between the bounds. It fails if the interval lies outside, touching
    allowed. Otherwise, or without a measurement, it is undecided.
    """
    if measured is None or math.isnan(measured.low + measured.high):
        return "undecided"
    if low < measured.low and measured.high < high:
        return "holds"
    return "fails" if measured.high <= low or measured.low >= high else "undecided"


def bound_text(low: float, high: float) -> str:
    """The bounds in words."""
    if low == -math.inf:
        return f"below {high:g}"
    return f"above {low:g}" if high == math.inf else f"between {low:g} and {high:g}"


def measured_text(measured: Interval | None) -> str:
    """An estimate as text, marked where it is of one seed."""
    if measured is None:
        return "no rows"
    if not measured.known and measured.count < 2:
        return f"{measured.mean:.3f} (one seed, one set: no interval)"
    return f"{measured} (one seed)" if measured.unit == "set" else str(measured)


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A number that must lie within open bounds.

    Arguments:
        text: completes the sentence "the claim holds only if ...".
        quantity: what is measured, in words.
        measured: its interval; None where the rows do not suffice.
        low: the whole interval has to lie above it.
        high: and below it.
        used: names of the planned runs that were used.
        absent: names of needed runs without a finished row.
        values: the statistic of each seed.
        p: two-sided p of the nearer bound; None where it is not known.
        plateau: of its cells near the plateau of copying any label, how many seeds have left it.
        open: whether it would come out otherwise if seeds of these cells had left, or had not.
        short: `text` in fewer words, for a cell of the ledger; empty: the text itself.
        fewest_seeds: the fewest seeds whose interval decides; 1: of one run, whose sets of novel classes are resampled.
    """

    text: str
    quantity: str
    measured: Interval | None
    low: float = -math.inf
    high: float = math.inf
    used: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()
    values: tuple[float, ...] = ()
    p: float | None = None
    plateau: tuple[CellEscape, ...] = ()
    open: bool = False
    short: str = ""
    fewest_seeds: int = 2

    @property
    def decidable(self) -> bool:
        """Whether there are rows, and of enough seeds."""
        return self.measured is not None and (self.fewest_seeds == 1 or self.measured.unit != "set")

    @property
    def verdict(self) -> Outcome:
        """By `outcome`. Undecided with a single seed, or if it depends on how many seeds have left the plateau."""
        return outcome(self.measured, self.low, self.high) if self.decidable and not self.open else "undecided"

    @property
    def seed_count(self) -> int:
        """Seeds that it rests on; 0 where it is over configurations."""
        return len(self.values) if self.decidable else 0

    @property
    def measured_text(self) -> str:
        """What was measured, as text."""
        return measured_text(self.measured)

    @property
    def bound(self) -> str:
        """The bounds in words."""
        return bound_text(self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A number shown for comparison; it does not affect the verdict.

    Arguments:
        quantity: what is measured, in words.
        measured: its interval; None where the rows do not suffice.
        paper: the paper's value, or its lowest and highest; None: it gives none.
        values: the quantity of each seed.
    """

    quantity: str
    measured: Interval | None
    paper: float | tuple[float, float] | None = None
    values: tuple[float, ...] = ()

    @property
    def measured_text(self) -> str:
        """What was measured, as text."""
        return measured_text(self.measured)

    @property
    def distance(self) -> float | None:
        """Ours minus the nearest value of the paper's; 0 within its range; None if either is missing."""
        if self.measured is None or self.paper is None or not math.isfinite(self.measured.mean):
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


Finding = Condition | Comparison | str
"""What a claim yields: a condition, a number for comparison, or a note."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the rows say about a claim.

    Arguments:
        conditions: the basis of the verdict.
        comparisons: numbers shown for comparison.
        notes: remarks.
        beyond: why the measure of the criterion cannot answer the question; empty: it can.
    """

    conditions: tuple[Condition, ...]
    comparisons: tuple[Comparison, ...] = ()
    notes: tuple[str, ...] = ()
    beyond: str = ""

    @property
    def verdict(self) -> Verdict:
        """All conditions hold: holds. All fail: fails. Some hold and some fail: holds in part. Otherwise undecided."""
        found = [condition.verdict for condition in self.conditions]
        if self.beyond:
            return "cannot be told by this measure"
        if found and all(v == "holds" for v in found):
            return "holds"
        if found and all(v == "fails" for v in found):
            return "fails"
        return "holds in part" if "holds" in found and "fails" in found else "undecided"

    @property
    def p(self) -> float | None:
        """The largest p of its conditions; None unless it holds or fails, and each condition has one."""
        found = [condition.p for condition in self.conditions]
        known = [p for p in found if p is not None]
        return max(known) if self.verdict in ("holds", "fails") and len(known) == len(found) else None

    @property
    def seeds(self) -> int:
        """The fewest seeds of a condition that has several; 0: none has."""
        return min((c.seed_count for c in self.conditions if c.seed_count), default=0)

    @property
    def plateau(self) -> tuple[CellEscape, ...]:
        """Cells of its conditions near the plateau, each once."""
        return tuple({cell.cell: cell for c in self.conditions for cell in c.plateau}.values())

    @property
    def holding(self) -> tuple[str, ...]:
        """Under which conditions it holds."""
        return tuple(c.text for c in self.conditions if c.verdict == "holds")

    @property
    def holding_in_short(self) -> tuple[str, ...]:
        """The same in fewer words."""
        return tuple(c.short or c.text for c in self.conditions if c.verdict == "holds")


def findings_of(found: Iterable[Finding]) -> Findings:
    """What a claim yields, sorted by kind.

    Raises:
        TypeError: it yields something else.
    """
    items = list(found)
    if wrong := [item for item in items if not isinstance(item, (Condition, Comparison, str))]:
        raise TypeError(f"a claim yields conditions, comparisons and notes, not {type(wrong[0]).__name__}")
    return Findings(
        conditions=tuple(item for item in items if isinstance(item, Condition)),
        comparisons=tuple(item for item in items if isinstance(item, Comparison)),
        notes=tuple(item for item in items if isinstance(item, str)),
    )
