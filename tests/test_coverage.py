"""Intervals cover the truth as often as they say: the quick version of `python -m benchmarks.coverage`."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.coverage import STATISTICS, accuracy_coverage, correlation_coverage, coverage, old_coverage, plateau

REPEATS = 500
"""Three standard errors of a share of 0.95 are 0.03."""


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("seeds", [2, 5])
def test_students_t_covers_of_seeds_that_are_normal(statistic, seeds):
    """Fails if the unit is not the seed: of two seeds a percentile bootstrap covers half of the time."""
    assert coverage(statistic, "normal", seeds, REPEATS, np.random.default_rng(0)) > 0.92


def test_the_rule_before_covered_half_of_the_time():
    """The simulation can fail: fails if it lets an interval pass that is much too narrow."""
    assert old_coverage("normal", 2, 200, np.random.default_rng(0)) < 0.6


@pytest.mark.parametrize("shape", ["normal", "skewed"])
def test_accuracies_near_their_bound_are_covered(shape):
    assert accuracy_coverage(shape, 0.985, 3, REPEATS, np.random.default_rng(0)) > 0.92


def test_correlations_over_few_configurations_are_covered():
    """Fails if nothing corrects for few configurations: percentiles of 12 cover about 0.88."""
    assert correlation_coverage("normal", 12, 100, np.random.default_rng(0)) > 0.88


def test_a_plateau_gives_no_false_verdict():
    """Fails if seeds that agree by luck decide a condition on a cell that most, not all, seeds leave in time."""
    found = plateau(3, REPEATS, np.random.default_rng(0))
    assert found["student"] > 0.4, "Student's t alone is wrong half of the time"
    assert found["ledger"] < 0.02
    assert found["stated"] <= 0.05
    assert min(found["chance"], found["level"]) > 0.92
