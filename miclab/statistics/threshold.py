"""Runs as states, and the threshold in the number of classes above which they read their context.

A run ends in one of three states. Over a ladder of K, the threshold K* is where half of the runs that left the plateau
read. It comes from a logistic regression of `reads` on log2 K. Firth's penalised likelihood (1993, Biometrika 80) keeps
it finite where the states are separated. Seeds are the unit of the interval, an exact bootstrap in which every resample
counts with its probability. The interval is at least as wide as the bracket. The bracket is the last rung at which
fewer than half read and the first at which half do. Between two rungs nothing was observed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from miclab.statistics.intervals import Interval

State = Literal["reads", "memorises", "plateau"]
ORDER: tuple[State, ...] = ("memorises", "plateau", "reads")
"""The states in their order as K grows."""
HIGH, ABOVE = 0.9, 0.05
"""Accuracy at which a run reads or memorises; what ICL may be above copying any label in one that memorises."""
LONG = 3
"""The cap must be at least this many times the median time of the runs that read."""
MOST_SEEDS = 6
"""Of more seeds resamples are drawn, since there are too many to count them all."""
Outcomes = Mapping[float, Mapping[int, State]]
"""State by K and seed."""


def state_of(icl: float, swapped: float, iwl: float, any_label: float) -> State:
    """The state in which a run ends.

    Arguments:
        icl: accuracy on novel classes.
        swapped: accuracy with every label shifted.
        iwl: accuracy without help from the context.
        any_label: accuracy of copying any label of the context.
    """
    if icl >= HIGH and swapped >= HIGH:
        return "reads"
    return "memorises" if iwl >= HIGH and icl < any_label + ABOVE else "plateau"


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """The threshold of one decoder.

    Arguments:
        kind: `found`, `below`, `above`, `unordered` or `none`. Below or above, it lies beyond the rungs that left the
            plateau. Unordered: states are not ordered in K. None: no run has left the plateau.
        log2: log2 K*, with its interval, where it is found.
        bound: the rung beyond which it lies.
        bracket: the rungs between which it lies, where it is found.
        seeds: how many there are.
    """

    kind: Literal["found", "below", "above", "unordered", "none"]
    log2: Interval | None = None
    bound: float = math.nan
    bracket: tuple[float, float] = (math.nan, math.nan)
    seeds: int = 0

    @property
    def ends(self) -> tuple[float, float] | None:
        """Lowest and highest log2 K*; infinite beyond the ladder. None where there is no threshold."""
        if self.log2 is not None:
            return self.log2.low, self.log2.high
        if self.kind == "below":
            return -math.inf, math.log2(self.bound)
        return (math.log2(self.bound), math.inf) if self.kind == "above" else None

    def __str__(self) -> str:
        if self.log2 is not None:
            if not self.log2.known:
                return f"{2**self.log2.mean:,.0f} (no interval)"
            return f"{2**self.log2.mean:,.0f} [{2**self.log2.low:,.0f}, {2**self.log2.high:,.0f}]"
        if self.kind in ("below", "above"):
            return f"{self.kind} {self.bound:,.0f}"
        return {"unordered": "none: states are not ordered in K", "none": "none: no run left the plateau"}[self.kind]


def majority(states: Mapping[int, State]) -> State:
    """The most frequent state of a rung; of equals the one that comes first as K grows."""
    counts = {state: sum(one == state for one in states.values()) for state in ORDER}
    return max(ORDER, key=lambda state: counts[state])


def are_ordered(outcomes: Outcomes) -> bool:
    """Whether the majority's state is monotone as K grows: from memorising over the plateau to reading."""
    places = [ORDER.index(majority(outcomes[rung])) for rung in sorted(outcomes) if outcomes[rung]]
    return places == sorted(places)


def find_threshold(outcomes: Outcomes) -> Threshold:
    """The threshold of one decoder from the states of its runs."""
    seeds = sorted({seed for states in outcomes.values() for seed in states})
    left = {rung: states for rung in sorted(outcomes) if (states := _left(outcomes[rung]))}
    if not left:
        return Threshold(kind="none", seeds=len(seeds))
    if not are_ordered(outcomes):
        return Threshold(kind="unordered", seeds=len(seeds))
    shares = {rung: _share(states) for rung, states in left.items()}
    if min(shares.values()) >= 0.5:
        return Threshold(kind="below", bound=min(left), seeds=len(seeds))
    if max(shares.values()) < 0.5:
        return Threshold(kind="above", bound=max(left), seeds=len(seeds))
    bracket = _bracket(shares)
    draws, weights = resampled(left, seeds)
    low, high = _quantiles(draws, weights)
    estimate = float(_fitted(left, seeds, np.ones((1, len(seeds))))[0])
    ends = [math.log2(rung) for rung in bracket]
    # The estimate itself lies in the bracket unless rungs are mixed.
    interval = Interval(estimate, min(low, estimate, *ends), max(high, estimate, *ends), "seed", len(seeds))
    return Threshold(kind="found", log2=interval, bracket=bracket, seeds=len(seeds))


def log2_ratio(one: Outcomes, other: Outcomes) -> Interval | None:
    """log2 of one threshold over another, seeds paired. An end is infinite where a threshold lies beyond its ladder;
    None where one of them is none. The interval is the exact bootstrap over the seeds of both, widened by half of each
    bracket."""
    first, second = find_threshold(one), find_threshold(other)
    if first.ends is None or second.ends is None:
        return None
    if first.log2 is None or second.log2 is None:
        low, high = first.ends[0] - second.ends[1], first.ends[1] - second.ends[0]
        known = [end for end in (low, high) if math.isfinite(end)]
        return Interval(known[0] if len(known) == 1 else math.nan, low, high, "seed", min(first.seeds, second.seeds))
    seeds = sorted(_seeds(one) & _seeds(other)) or sorted(_seeds(one))
    left = [{rung: found for rung in part if (found := _left(part[rung]))} for part in (one, other)]
    (above, weights), (below, _) = (resampled(part, seeds) for part in left)
    low, high = _quantiles(above - below, weights)
    widths = sum(math.log2(found.bracket[1] / found.bracket[0]) for found in (first, second)) / 2
    mean = first.log2.mean - second.log2.mean
    # Two thresholds in one bracket of one ladder may be the same.
    return Interval(mean, min(low, mean) - widths, max(high, mean) + widths, "seed", len(seeds))


def resampled(left: Outcomes, seeds: Sequence[int]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """log2 K* of every resample of the seeds, and the probability of each.

    Arguments:
        left: states of the runs that left the plateau.
        seeds: those that are resampled.
    """
    count = len(seeds)
    if count <= MOST_SEEDS:
        chosen = [[part.count(i) for i in range(count)] for part in combinations_with_replacement(range(count), count)]
        ways = [math.factorial(count) / math.prod(map(math.factorial, times)) for times in chosen]
    else:
        drawn = np.random.default_rng(0).integers(count, size=(500, count))
        chosen, ways = [np.bincount(row, minlength=count).tolist() for row in drawn], [1.0] * len(drawn)
    weights = np.array(ways)
    return _fitted(left, seeds, np.array(chosen, dtype=float)), weights / weights.sum()


def steps_to(steps: Sequence[int], icl: Sequence[float | None], level: float = HIGH) -> tuple[int, bool]:
    """The first step at which ICL is at least a level, and whether there is one; else the last step (censored)."""
    for step, value in zip(steps, icl, strict=True):
        if value is not None and value >= level:
            return step, True
    return (steps[-1] if steps else 0), False


def is_long_enough(times: Sequence[int], cap: int) -> bool:
    """Whether the cap is at least `LONG` times the median time of the runs that read; True where none does."""
    return not times or cap >= LONG * float(np.median(times))


def _seeds(outcomes: Outcomes) -> set[int]:
    return {seed for states in outcomes.values() for seed in states}


def _left(states: Mapping[int, State]) -> dict[int, State]:
    return {seed: state for seed, state in states.items() if state != "plateau"}


def _share(states: Mapping[int, State]) -> float:
    return sum(state == "reads" for state in states.values()) / len(states)


def _bracket(shares: Mapping[float, float]) -> tuple[float, float]:
    """The last rung at which fewer than half read, and the first one above it."""
    rungs = sorted(shares)
    last = max(i for i, rung in enumerate(rungs) if shares[rung] < 0.5)
    return rungs[last], rungs[min(last + 1, len(rungs) - 1)]


def _quantiles(values: NDArray[np.floating], weights: NDArray[np.floating]) -> tuple[float, float]:
    """The ends of the middle 95 % of a weighted distribution."""
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    low, high = (int(np.searchsorted(total, share - 1e-12)) for share in (0.025, 0.975))
    last = len(values) - 1
    return float(values[order[min(low, last)]]), float(values[order[min(high, last)]])


def _fitted(
    left: Outcomes, seeds: Sequence[int], times: Float[np.ndarray, "resample seed"]
) -> Float[np.ndarray, " resample"]:
    """log2 K at which the fitted chance of reading is one half, kept within one octave of the ladder.

    Arguments:
        left: states of the runs that left the plateau.
        seeds: the seeds.
        times: how often each of them counts, by resample.
    """
    rungs = sorted(left)
    x = np.array([math.log2(rung) for rung in rungs])
    ran = np.array([[float(seed in left[rung]) for rung in rungs] for seed in seeds])
    read = np.array([[float(left[rung].get(seed) == "reads") for rung in rungs] for seed in seeds])
    total, reads = (times[:, :, None] * ran).sum(1), (times[:, :, None] * read).sum(1)
    lowest, highest = x[0] - 1, x[-1] + 1
    intercept, slope = firth(x - x.mean(), reads, total)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(slope > 0, x.mean() - intercept / slope, np.where(intercept < 0, highest, lowest))
    # Where a resample has one state alone, its threshold lies beyond it.
    whole = reads.sum(1)
    found = np.where(whole == 0, highest, np.where(whole == total.sum(1), lowest, found))
    return np.clip(found, lowest, highest)


def firth(
    x: Float[np.ndarray, " rung"], reads: Float[np.ndarray, "resample rung"], total: Float[np.ndarray, "resample rung"]
) -> tuple[Float[np.ndarray, " resample"], Float[np.ndarray, " resample"]]:
    """Intercepts and slopes of logistic regressions with Firth's penalty, by Newton's method. A step is halved until it
    does not lower the penalised likelihood; where all that ran is on one rung, the slope is NaN.

    Arguments:
        x: the regressor, by rung.
        reads: how many runs read, by regression and rung.
        total: how many there are.
    """
    count = len(total)
    coefficients, size = np.zeros((count, 2)), np.ones(count)
    best = _penalised(coefficients, x, reads, total)[0]
    for _ in range(200):
        _, p, (a, b, c), determinant = _penalised(coefficients, x, reads, total)
        spread = total * p * (1 - p)
        leverage = spread * (c[:, None] - 2 * b[:, None] * x + a[:, None] * x * x) / determinant[:, None]
        score = reads - total * p + leverage * (0.5 - p)
        first, second = score.sum(1), (score * x).sum(1)
        step = np.stack([c * first - b * second, a * second - b * first], 1) / determinant[:, None]
        step *= np.minimum(size, 4 / np.abs(step).max(1).clip(min=1e-300))[:, None]
        tried = coefficients + step
        value = _penalised(tried, x, reads, total)[0]
        better = value >= best - 1e-12
        coefficients, best = np.where(better[:, None], tried, coefficients), np.where(better, value, best)
        size = np.where(better, 1.0, size / 2)
        if not (np.abs(step).max(1) > 1e-9).any():
            break
    lone = ((total > 0).sum(1)) < 2
    return coefficients[:, 0], np.where(lone, np.nan, coefficients[:, 1])


def _penalised(
    coefficients: Float[np.ndarray, "resample 2"],
    x: Float[np.ndarray, " rung"],
    reads: Float[np.ndarray, "resample rung"],
    total: Float[np.ndarray, "resample rung"],
) -> tuple[Any, Any, tuple[Any, Any, Any], Any]:
    """The penalised log likelihood, chances of reading, the information's entries, and its determinant."""
    linear = np.clip(coefficients[:, :1] + coefficients[:, 1:] * x, -300, 300)
    p = 1 / (1 + np.exp(-linear))
    spread = total * p * (1 - p)
    a, b, c = spread.sum(1), (spread * x).sum(1), (spread * x * x).sum(1)
    determinant = np.maximum(a * c - b * b, 1e-300)
    likelihood = (reads * linear - total * np.logaddexp(0, linear)).sum(1) + np.log(determinant) / 2
    return likelihood, p, (a, b, c), determinant
