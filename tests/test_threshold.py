"""States of runs, and thresholds of decoders: known ladders, a penalised likelihood maximised by another method, and
coverage on generated runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from miclab.statistics.threshold import (
    are_ordered,
    find_threshold,
    firth,
    is_long_enough,
    log2_ratio,
    resampled,
    state_of,
    steps_to,
)

READS, LEARNS, WAITS = "reads", "memorises", "plateau"


def ladder(*rows: str) -> dict:
    """Outcomes from one text a rung, the lowest first, from K = 256 on by octaves; a letter a seed: r, m or p."""
    names = {"r": READS, "m": LEARNS, "p": WAITS}
    return {256 * 2**i: {seed: names[letter] for seed, letter in enumerate(row)} for i, row in enumerate(rows)}


def test_states_by_the_rules_fixed_beforehand():
    """Fails if a bound is another one, open where it is closed, or a rule is dropped."""
    assert state_of(0.9, 0.9, 0.0, 0.25) == READS
    assert state_of(0.9, 0.89, 0.95, 0.25) == WAITS
    assert state_of(0.29, 0.0, 0.9, 0.25) == LEARNS
    assert state_of(0.3, 0.0, 0.9, 0.25) == WAITS
    assert state_of(0.1, 0.0, 0.89, 0.25) == WAITS


def test_a_threshold_between_two_rungs():
    """Fails if the estimate is not where reading begins, or the interval is narrower than what was not observed."""
    found = find_threshold(ladder("mmmm", "mmmm", "rrrr", "rrrr"))
    assert found.kind == "found"
    assert found.bracket == (512, 1024)
    assert found.log2.mean == pytest.approx(9.5, abs=1e-6)
    assert (found.log2.low, found.log2.high) == (9, 10)
    assert found.log2.count == 4
    assert "724 [512, 1,024]" in str(found)


def test_runs_on_the_plateau_do_not_count():
    """Fails if a run that has not left the plateau counts as one that does not read."""
    with_plateau = find_threshold(ladder("mmpm", "mpmm", "prrr", "rrrr"))
    assert with_plateau.kind == "found"
    assert with_plateau.bracket == (512, 1024)


@pytest.mark.parametrize(
    ("rows", "kind", "bound", "ends"),
    [
        (("rrr", "rrr"), "below", 256, (-math.inf, 8)),
        (("mmm", "mmm", "ppp"), "above", 512, (9, math.inf)),
        (("ppp", "rrr"), "below", 512, (-math.inf, 9)),
        (("ppp", "ppp"), "none", None, None),
        (("rrr", "rrr", "ppp"), "unordered", None, None),
        (("rrr", "mmm"), "unordered", None, None),
    ],
)
def test_what_has_no_threshold_says_so(rows, kind, bound, ends):
    """Fails if a number is invented beyond the ladder, or where states are not ordered in K."""
    found = find_threshold(ladder(*rows))
    assert (found.kind, found.ends) == (kind, ends)
    assert found.log2 is None
    assert bound is None or found.bound == bound
    assert (kind == "unordered") == (not are_ordered(ladder(*rows)))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=6).filter(
    lambda rows: sum(a + b > 0 for a, b in rows) > 1))  # fmt: skip
@settings(max_examples=30)
def test_the_regression_maximises_the_penalised_likelihood(rows):
    """Fails if the fit is not the maximum of log likelihood + log determinant / 2: beside a search without slopes."""
    reads, others = np.array(rows, dtype=float).T
    x, total = np.arange(len(rows)) - 1.0, reads + others

    def loss(coefficients):
        score = np.clip(coefficients[0] + coefficients[1] * x, -500, 500)
        p = 1 / (1 + np.exp(-score))
        likelihood = (reads * -np.logaddexp(0, -score) - others * np.logaddexp(0, score)).sum()
        spread = total * p * (1 - p)
        information = np.array([[spread.sum(), (spread * x).sum()], [(spread * x).sum(), (spread * x * x).sum()]])
        sign, size = np.linalg.slogdet(information)
        return -(likelihood + size / 2) if sign > 0 else np.inf

    best = min(
        (minimize(loss, start, method="Nelder-Mead") for start in ((0, 0.5), (0, -0.5))), key=lambda one: one.fun
    )
    found = np.array([part[0] for part in firth(x, reads[None], total[None])])
    assert loss(found) <= best.fun + 1e-6


def test_every_resample_counts_with_its_probability():
    """Fails if the exact bootstrap is not that of drawing seeds: beside many draws."""
    outcomes = ladder("mmm", "mrm", "rrm", "rrr")
    values, weights = resampled(outcomes, [0, 1, 2])
    assert len(values) == 10
    generator, drawn = np.random.default_rng(1), []
    for _ in range(4000):
        chosen = generator.integers(3, size=3).tolist()
        again = {rung: {i: states[seed] for i, seed in enumerate(chosen)} for rung, states in outcomes.items()}
        drawn.append(tuple(tuple(states.values()) for states in again.values()))
    # The mean of what is drawn, fitted once for each resample that occurs.
    fits = {one: find_threshold({256 * 2**i: dict(enumerate(row)) for i, row in enumerate(one)}) for one in set(drawn)}
    means = [fits[one].log2.mean for one in drawn if fits[one].log2 is not None]
    assert float((values * weights).sum()) == pytest.approx(np.mean(means), abs=0.05)


def test_ratios_pair_seeds_and_are_bounds_beyond_the_ladder():
    """Fails if a ratio has another sign, forgets what lies between rungs, or a bound passes for a number."""
    late, early = ladder("mmm", "mmm", "mmm", "mmm", "rrr"), ladder("mmm", "rrr", "rrr", "rrr", "rrr")
    found = log2_ratio(late, early)
    assert found.mean == pytest.approx(3, abs=0.05)
    assert (found.low, found.high) == (pytest.approx(2, abs=0.05), pytest.approx(4, abs=0.05))
    assert log2_ratio(early, late).mean == pytest.approx(-3, abs=0.05)
    beyond = ladder("mmm", "mmm", "mmm", "mmm", "mmm")
    bound = log2_ratio(beyond, early)
    assert (bound.low, bound.high) == (12 - 9, math.inf)
    assert log2_ratio(ladder("rrr", "ppp"), early) is None
    # The same seed is early in both: paired, its thresholds move together.
    shifted = ladder("mmmm", "mmrr", "rrrr", "rrrr"), ladder("mmmm", "mmmm", "mmrr", "rrrr")
    paired = log2_ratio(*reversed(shifted))
    assert (paired.high - paired.low) < sum(find_threshold(one).log2.high - find_threshold(one).log2.low
                                            for one in shifted)  # fmt: skip


def test_intervals_cover_the_threshold_of_generated_runs():
    """Fails if intervals are too narrow: seeds have thresholds of their own, Normal(9.3, 0.7) in log2 K; of 120 ladders
    at least nine in ten cover the mean."""
    generator, covered = np.random.default_rng(0), 0
    for _ in range(120):
        own = 9.3 + 0.7 * generator.standard_normal(5)
        outcomes = {
            2.0**rung: {seed: READS if rung > own[seed] else LEARNS for seed in range(5)}
            for rung in range(6, 14)
        }  # fmt: skip
        interval = find_threshold(outcomes).log2
        covered += interval.low <= 9.3 <= interval.high
    assert covered >= 108


def test_times_are_censored_at_the_cap():
    """Fails if a run that never gets there has a time."""
    assert steps_to([0, 50, 100], [0.1, 0.9, 0.2]) == (50, True)
    assert steps_to([0, 50, 100], [0.1, None, 0.2]) == (100, False)
    assert is_long_enough([400, 500, 900], 1500)
    assert not is_long_enough([400, 501, 900], 1500)
    assert is_long_enough([], 10)
