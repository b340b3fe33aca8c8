"""Intervals that hold what they promise, for the ledger, evaluations, interventions and Hugging Face models.

The unit is what was drawn independently. Several seeds: a statistic is computed for each seed, and its interval is
Student's t over seeds. One seed: Student's t over its sets of novel classes. One set: over its sequences, which says
nothing of other classes. A single number has no interval. Coverage by simulation: `python -m benchmarks.coverage`.

Sums are exact (`math.fsum`) and functions are taken one number at a time, so that no digit depends on the processor.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from miclab.statistics.distributions import (
    beta_quantile,
    normal_probability,
    normal_quantile,
    student_probability,
    student_quantile,
)

RESAMPLES = 2000
DECIMALS = 12
"""Of an interval's numbers: what lies beyond is what rounding leaves of a sum."""
Scale = Literal["linear", "log", "logit"]
"""On which an interval is symmetric: `log` for ratios, `logit` for accuracies."""


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its interval.

    Arguments:
        mean: the estimate.
        low: lower end, at `level`; NaN where there is no interval.
        high: upper end.
        unit: what was drawn independently: `seed`, `set`, `sequence`, `configuration`, or `draw` of pairs.
        count: number of these units.
        level: how often such an interval covers the truth.
    """

    mean: float
    low: float
    high: float
    unit: str
    count: int
    level: float = 0.95

    def __post_init__(self):
        # 0.0875 and 0.08749999999999998 are one number, and must be printed, and compared with a bound, as one.
        for name in ("mean", "low", "high"):
            # Adding 0 makes -0 a 0.
            object.__setattr__(self, name, round(float(getattr(self, name)), DECIMALS) + 0.0)

    @property
    def known(self) -> bool:
        """Whether there is an interval: one set of novel classes, or one seed of one set, gives none."""
        return not math.isnan(self.low + self.high)

    def within(self, lowest: float, highest: float) -> Interval:
        """The same with ends inside the range of what is estimated. Nothing that it could cover is lost."""
        low, high = (min(max(end, lowest), highest) if self.known else end for end in (self.low, self.high))
        return replace(self, low=low, high=high)

    def decides(self, upper: bool = False) -> float:
        """The end that decides a comparison, the lower or the upper one; the estimate where there is no interval."""
        return self.mean if not self.known else self.high if upper else self.low

    def __str__(self) -> str:
        if not self.known:
            return f"{self.mean:.3f} (one {self.unit}: no interval)" if self.count == 1 else f"{self.mean:.3f}"
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def as_json(self, decimals: int = 6) -> dict[str, Any]:
        """The interval as plain data; ends that are not there, or are infinite, are null."""
        found = {k: round(v, decimals) if isinstance(v, float) else v for k, v in asdict(self).items()}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in found.items()}

    @classmethod
    def from_json(cls, found: Mapping[str, Any], unit: str, count: int) -> Interval:
        """The interval of plain data: `mean`, `low` and `high`, of which null ones are not there."""
        mean, low, high = (math.nan if found[name] is None else found[name] for name in ("mean", "low", "high"))
        return cls(mean, low, high, unit, count)


def exact_mean(values: Iterable[float]) -> float:
    """Mean of numbers, the same in any order and on any processor; NaN of none."""
    numbers = [float(value) for value in values]
    return math.fsum(numbers) / len(numbers) if numbers else math.nan


def _spread(values: Sequence[float]) -> float:
    """Standard deviation with n - 1."""
    centre = exact_mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def to_scale(value: float, scale: Scale, trials: int = 0) -> float:
    """A number on a scale. An accuracy's logit is that of (successes + 1/2) / (trials + 1): finite at 0 and at 1."""
    if scale == "linear":
        return float(value)
    if scale == "log":
        return math.log(value)
    share = (min(max(value, 0.0), 1.0) * trials + 0.5) / (trials + 1) if trials else value
    return math.log(share / (1 - share))


def from_scale(value: float, scale: Scale) -> float:
    """The way back from `to_scale`."""
    if scale == "linear":
        return value
    return math.exp(value) if scale == "log" else 1 / (1 + math.exp(-value))


def _student(values: Sequence[float], scale: Scale, trials: int) -> tuple[float, float, float]:
    """Centre of values on a scale, its standard error by their spread, and that by binomial chance alone.

    Seeds that agree by luck, or are all right, give no narrower interval than their sequences do.
    """
    shown = [to_scale(value, scale, trials) for value in values]
    centre, chance = exact_mean(shown), 0.0
    if scale == "logit" and trials:
        share = from_scale(centre, "logit")
        chance = 1 / math.sqrt(trials * len(values) * share * (1 - share))
    return centre, _spread(shown) / math.sqrt(len(values)), chance


def student_interval(
    values: Iterable[float], level: float = 0.95, scale: Scale = "linear", *, trials: int = 0, unit: str = "seed"
) -> Interval:
    """Student's t interval of the mean of a statistic over seeds, or over other independent units.

    Arguments:
        values: the statistic of each seed [seed]; an infinite one makes estimate and ends infinite.
        level: coverage.
        scale: `log`: of the geometric mean; values have to be above 0. `logit`: of an accuracy; ends are those of the
            mean logit, moved to the estimate where it lies beyond. The estimate is the mean.
        trials: sequences of which each accuracy is, on the scale `logit`.
        unit: what the values are of.

    Returns:
        The interval; without ends where there is one value.
    """
    numbers = [float(value) for value in values]
    count = len(numbers)
    if any(map(math.isinf, numbers)):
        return Interval(math.inf, math.inf, math.inf, unit, count, level)
    plain = exact_mean(numbers)
    if count < 2 or math.isnan(plain):
        return Interval(plain, math.nan, math.nan, unit, count, level)
    centre, error, chance = _student(numbers, scale, trials)
    half = max(student_quantile(count - 1, (1 + level) / 2) * error, normal_quantile((1 + level) / 2) * chance)
    low, high = (from_scale(end, scale) for end in (centre - half, centre + half))
    if scale == "logit":
        # Few trials that are all right have a mean of 1, and a mean logit that is finite.
        low, high = min(low, plain), max(high, plain)
    return Interval(from_scale(centre, "log") if scale == "log" else plain, low, high, unit, count, level)


def student_p(
    values: Iterable[float], low: float, high: float, scale: Scale = "linear", *, trials: int = 0
) -> float | None:
    """Two-sided p of the nearer bound: below 0.05 exactly where the 95 % interval touches neither bound.

    Arguments:
        values: the statistic of each seed [seed].
        low: lower bound; minus infinity: none.
        high: upper bound.
        scale: see `student_interval`.
        trials: see `student_interval`.

    Returns:
        None with fewer than two values, or with one that is no finite number.
    """
    numbers = [float(value) for value in values]
    if len(numbers) < 2 or not all(map(math.isfinite, numbers)):
        return None
    centre, error, chance = _student(numbers, scale, trials)
    plain, found = exact_mean(numbers), []
    for bound in (low, high):
        if math.isfinite(bound):
            away = abs(centre - to_scale(bound, scale))
            if scale == "logit" and (plain - bound) * (from_scale(centre, scale) - bound) <= 0:
                # The mean and the mean logit do not agree on which side of the bound they are.
                found.append(1.0)
            found.append(2 * student_probability(len(numbers) - 1, -away / error) if error else float(away == 0))
            found.append(2 * normal_probability(-away / chance) if chance else 0.0)
    return max(found, default=None)


def _means(seed: NDArray[np.floating]) -> list[float]:
    """Mean of each set of a seed's array [set, sequence] or [set]."""
    return [exact_mean(row) for row in np.asarray(seed, dtype=float).reshape(len(seed), -1)]


def clustered_interval(seeds: Sequence[NDArray[np.floating]], level: float = 0.95) -> Interval:
    """Mean with Student's t over seeds; of one seed over its sets of novel classes; of one set over its sequences.

    Arguments:
        seeds: for each seed an array [set, sequence] (or [set] of means).
        level: coverage.
    """
    by_set = [_means(seed) for seed in seeds]
    if len(by_set) > 1:
        return student_interval(map(exact_mean, by_set), level)
    if len(by_set[0]) == 1 and np.size(seeds[0]) > 1:
        return episode_interval(seeds[0], level)
    return student_interval(by_set[0], level, unit="set")


def accuracy_interval(seeds: Sequence[NDArray[np.floating]], level: float = 0.95) -> Interval:
    """An accuracy, as `clustered_interval`, its ends on the scale of logits: they stay between 0 and 1. Of one set by
    Clopper and Pearson over its sequences.

    Arguments:
        seeds: for each seed an array [set, sequence], 1 where the answer is right.
        level: coverage.
    """
    by_set = [_means(seed) for seed in seeds]
    if len(by_set) > 1:
        return student_interval(map(exact_mean, by_set), level, "logit", trials=min(np.size(seed) for seed in seeds))
    if len(by_set[0]) == 1 and np.size(seeds[0]) > 1:
        right = round(by_set[0][0] * np.size(seeds[0]))
        return share_interval(right, np.size(seeds[0]), level, unit="sequence")
    return student_interval(by_set[0], level, "logit", trials=np.size(seeds[0]) // len(by_set[0]), unit="set")


def ratio_interval(
    numerators: Sequence[NDArray[np.floating]], denominators: Sequence[NDArray[np.floating]], level: float = 0.95
) -> Interval | None:
    """A ratio of means, by Student's t of each seed's ratio. For one seed, the delta method is used over its sets, or
    over the sequences of its only set.

    An influence on both (a hard set of classes) changes the ratio little.

    Arguments:
        numerators: for each seed an array [set, sequence].
        denominators: the same sequences, measured otherwise.
        level: coverage.

    Returns:
        The interval; None where the denominator's mean is 0 in a seed, so that there is nothing to take a share of.
    """
    pairs = [(_means(above), _means(below)) for above, below in zip(numerators, denominators, strict=True)]
    if any(exact_mean(below) == 0 for _, below in pairs):
        return None
    ratios = [exact_mean(above) / exact_mean(below) for above, below in pairs]
    if len(pairs) > 1:
        return student_interval(ratios, level)
    (above, below), ratio, unit = pairs[0], ratios[0], "set"
    size = exact_mean(below)
    if len(above) == 1 and np.size(numerators[0]) > 1:
        above, below, unit = np.ravel(numerators[0]), np.ravel(denominators[0]), "sequence"
    # The ratio of sums, and what each set adds to its error (Cochran, Sampling Techniques, 6.4).
    return student_interval(
        [ratio + (float(a) - ratio * float(b)) / size for a, b in zip(above, below, strict=True)], level, unit=unit
    )


def episode_interval(values: NDArray[np.floating], level: float = 0.95) -> Interval:
    """Percentile bootstrap of a mean over independent episodes, of which there should be hundreds.

    Arguments:
        values: a number of each episode [episode].
        level: coverage.

    Returns:
        The interval; without ends where there is one episode.
    """
    numbers = np.asarray(values, dtype=float).ravel()
    if len(numbers) < 2:
        return Interval(exact_mean(numbers), math.nan, math.nan, "sequence", len(numbers), level)
    chosen = np.random.default_rng(0).integers(len(numbers), size=(RESAMPLES, len(numbers)))
    low, high = np.quantile(numbers[chosen].mean(1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(exact_mean(numbers), float(low), float(high), "sequence", len(numbers), level)


def share_interval(successes: int, count: int, level: float = 0.95, unit: str = "seed") -> Interval:
    """Share of independent units with a property, by Clopper and Pearson: 3 of 3 means at least 0.29.

    Arguments:
        successes: units with the property.
        count: units in all, at least one.
        level: coverage, or more.
    """
    tail = (1 - level) / 2
    low = beta_quantile(successes, count - successes + 1, tail) if successes else 0.0
    high = beta_quantile(successes + 1, count - successes, 1 - tail) if successes < count else 1.0
    return Interval(successes / count, low, high, unit, count, level)


@dataclass(frozen=True)
class Resampled:
    """A statistic with its values under resampling. Intervals are corrected for bias and skewness (BCa: Efron, Better
    bootstrap confidence intervals, 1987). For few units they use quantiles of t, expanded as in Hesterberg, What
    teachers should know about the bootstrap, 2015, section 4.3.

    Arguments:
        estimate: of all units.
        draws: of resampled units [resample]; those without a value are NaN.
        without: of all units but one [unit].
    """

    estimate: float
    draws: NDArray[np.floating]
    without: NDArray[np.floating]

    def _shape(self) -> tuple[list[float], float, float]:
        """Draws in order, bias, and acceleration."""
        known = sorted(float(draw) for draw in self.draws if math.isfinite(draw))
        below = sum((draw < self.estimate) + (draw == self.estimate) / 2 for draw in known)
        bias = normal_quantile((below + 0.5) / (len(known) + 1))
        left = [float(value) for value in self.without if math.isfinite(value)]
        away = [exact_mean(left) - value for value in left]
        squares = math.fsum(a * a for a in away)
        return known, bias, math.fsum(a**3 for a in away) / (6 * squares**1.5) if squares > 0 else 0.0

    def interval(self, unit: str, count: int, level: float = 0.95) -> Interval:
        """The interval; without ends where the statistic has no value.

        Arguments:
            unit: what was resampled.
            count: how many there are of it.
            level: coverage that is aimed at.
        """
        if not math.isfinite(self.estimate) or not np.isfinite(self.draws).any():
            return Interval(self.estimate, math.nan, math.nan, unit, count, level)
        known, bias, acceleration = self._shape()
        ends, units = [], len(self.without)
        for tail in ((1 - level) / 2, (1 + level) / 2):
            z = bias + math.sqrt(units / (units - 1)) * student_quantile(units - 1, tail)
            ends.append(float(np.quantile(known, normal_probability(bias + z / max(1 - acceleration * z, 1e-9)))))
        return Interval(self.estimate, ends[0], ends[1], unit, count, level)

    def p(self, low: float, high: float) -> float | None:
        """Two-sided p of the nearer bound: where the interval at 1 - p would end at it. None without a value."""
        if not math.isfinite(self.estimate) or not np.isfinite(self.draws).any():
            return None
        known, bias, acceleration = self._shape()
        found, units = [], len(self.without)
        for bound in (low, high):
            if math.isfinite(bound):
                below = sum((draw < bound) + (draw == bound) / 2 for draw in known)
                z = normal_quantile((below + 0.5) / (len(known) + 1)) - bias
                t = (z / (1 + acceleration * z) - bias) * math.sqrt((units - 1) / units)
                tail = student_probability(units - 1, t)
                found.append(2 * min(tail, 1 - tail))
        return max(found, default=None)
