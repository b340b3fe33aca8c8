"""Cells of a claim's evidence: conditions and comparisons record their runs, their seeds and the plateau."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from miclab.claims.plateau import CellEscape, Escape, extremes, near
from miclab.claims.verdict import Comparison, Condition, outcome
from miclab.statistics.grid import Bound, Cells, Expression, Key, Predicate
from miclab.statistics.intervals import Interval, exact_mean, share_interval


@dataclass(frozen=True)
class EvidenceCells(Cells):
    """Cells with the names of their runs, so that conditions list used and missing runs.

    Arguments:
        leaving: when each run left the plateau of copying any label, by cell and seed (`miclab.claims.plateau`).
    """

    leaving: Mapping[Key, Mapping[int, Escape]] = field(default_factory=dict)

    @cached_property
    def _found(self) -> dict[Expression, tuple[float, ...]]:
        return {}

    def each_seed(self, expression: Expression) -> tuple[float, ...]:
        """As `Cells.each_seed`, computed once: a condition needs it for its interval, its values and its p."""
        if expression not in self._found:
            self._found[expression] = super().each_seed(expression)
        return self._found[expression]

    def condition(self, bound: Bound, quantity: str, text: str, short: str = "") -> Condition:
        """A condition on a statistic of the cells, by Student's t over seeds. If only some seeds of a cell have left
        the plateau, the condition is undecided, unless both extremes agree: all seeds leave, and none does.

        Arguments:
            bound: the statistic with its bounds, such as `slope("icl", "eps") > 0`.
            quantity: what is measured, in words.
            text: completes the sentence "the claim holds only if ...".
            short: the same in fewer words, for a cell of the ledger; empty: the text itself.
        """
        expression = bound.expression
        cells = near(self, self.leaving, self.used_by(expression)) if self.decidable else ()
        found = Condition(
            text=text, quantity=quantity, measured=self.interval(expression), low=bound.low, high=bound.high,
            used=self.used, absent=self.absent, values=self.each_seed(expression), p=self.p_value(bound), plateau=cells,
            short=short,
        )  # fmt: skip
        return replace(found, open=self._turns(expression, found))

    def _turns(self, expression: Expression, found: Condition) -> bool:
        """Whether a condition's result would differ if all seeds of its mixed cells had left, or none."""
        mixed: list[CellEscape] = [cell for cell in found.plateau if cell.mixed]
        if not mixed:
            return False
        ends = [replace(self, values=v).interval(expression) for v in extremes(self, expression, self.leaving, mixed)]
        return any(outcome(end, found.low, found.high) != found.verdict for end in ends)

    def judged(
        self, measured: Interval | None, quantity: str, text: str, *, low: float = -np.inf, high: float = np.inf,
        p: float | None = None,
    ) -> Condition:  # fmt: skip
        """A condition on a number with a given interval."""
        return Condition(
            text=text, quantity=quantity, measured=measured, low=low, high=high, used=self.used, absent=self.absent, p=p
        )

    def comparison(
        self, expression: Expression, quantity: str, paper: float | tuple[float, float] | None = None
    ) -> Comparison:
        """A number shown for comparison."""
        return Comparison(
            quantity=quantity, measured=self.interval(expression), paper=paper, values=self.each_seed(expression)
        )

    def leaves_first(self, one: Predicate, other: Predicate, quantity: str) -> Comparison:
        """Share of seeds in which the cells of one decoder leave the plateau before those of another, for comparison.
        Steps are paired by seed, and their logarithms averaged over cells. A run that has not left counts as its last
        step. Seeds with ties are left out."""
        sooner = [
            difference
            for seed in self.seeds
            if (difference := self._log_step(other, seed) - self._log_step(one, seed)) and not math.isnan(difference)
        ]
        first = sum(difference > 0 for difference in sooner)
        return Comparison(quantity=quantity, measured=share_interval(first, len(sooner)) if sooner else None)

    def _log_step(self, predicate: Predicate, seed: int) -> float:
        runs = [self.leaving.get(cell.key, {}).get(seed) for cell in self.where(predicate).cells]
        return exact_mean(math.log2(max(run.step, 1)) if run else math.nan for run in runs)

    def peak(self, score: Expression, axis: str, name: str) -> tuple[str, ...]:
        """A note on where a score's mean is highest; none if cells are missing."""
        if not self.decidable:
            return ()
        means = self.estimate(score)
        top = int(means.argmax())
        return (f"{name} is highest, {means[top]:.3f}, at {axis} = {self.numbers(axis)[top]:g}",)
