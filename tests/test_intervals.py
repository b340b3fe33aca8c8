"""Intervals: coverage, and what is resampled."""

from __future__ import annotations

import numpy as np
import pytest

from miclab.statistics.intervals import clustered_interval, ratio_interval


def test_interval_of_sequences_is_the_usual_one():
    """Fails if one seed and one set are not resampled by sequence: the ends are mean +- 1.96 standard errors."""
    values = np.random.default_rng(0).random((1, 2000)) < 0.7
    found = clustered_interval([values])
    error = values.std() / np.sqrt(2000)
    assert (found.unit, found.count) == ("sequence", 2000)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(found.mean - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(found.mean + 1.96 * error, abs=0.15 * error)
    assert str(found) == f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def test_sets_that_differ_widen_the_interval():
    """Fails if sequences of one set are taken for independent: with 12 sets of spread 0.1 the clustered interval is
    the one of 12 means, several times as wide as the naive one of all sequences."""
    generator = np.random.default_rng(1)
    chances = np.clip(0.6 + 0.1 * generator.standard_normal((12, 1)), 0, 1)
    values = (generator.random((12, 1000)) < chances).astype(float)
    clustered, naive = clustered_interval([values]), clustered_interval([values.reshape(1, -1)])
    assert (clustered.unit, clustered.count) == ("set", 12)
    assert clustered.mean == pytest.approx(naive.mean)
    assert clustered.high - clustered.low > 4 * (naive.high - naive.low)
    error = values.mean(1).std() / np.sqrt(12)
    assert clustered.high - clustered.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_seeds_are_resampled_first():
    """Fails if the spread between seeds is lost, or sets of several seeds are pooled: 4 seeds whose sets agree."""
    values = [np.full((8, 50), mean) for mean in (0.2, 0.4, 0.6, 0.8)]
    found = clustered_interval(values)
    assert (found.unit, found.count) == ("seed", 4)
    assert found.mean == pytest.approx(0.5)
    # The bootstrap of four values: standard deviation sqrt(0.05) / 2; its ends are multiples of 0.05.
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(0.05) / 2, abs=0.051)
    # One mean for each set is as good as its sequences.
    assert str(clustered_interval([v.mean(1) for v in values])) == str(found)


def test_interval_covers_as_often_as_it_says():
    """Fails if the interval is much too narrow or too wide: 95 % of 300 experiments of 30 sets, in which sets differ
    (a percentile bootstrap of 30 clusters covers about 93 %)."""
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(300):
        values = 0.5 + 0.1 * generator.standard_normal((30, 1)) + 0.3 * generator.standard_normal((30, 5))
        found = clustered_interval([values])
        covered += found.low <= 0.5 <= found.high
    assert 0.89 <= covered / 300 <= 0.98


def test_seeds_may_have_different_numbers_of_sets():
    """Fails if a seed with more sets weighs more."""
    found = clustered_interval([np.zeros((2, 10)), np.ones((9, 10))])
    assert found.mean == 0.5
    assert (found.low, found.high) == (0, 1)


def test_ratio_of_means_that_move_together_is_sure():
    """Fails if numerator and denominator are resampled separately: sets (sequences, seeds) differ much, yet in every
    one 30 % is left; separately, the interval would reach from about 0.2 to 0.45."""
    below = np.linspace(0.2, 1.0, 8)[:, None] * np.ones((8, 20))
    for seeds in ([below], [below.reshape(1, -1)], [below, 0.5 * below, 0.1 * below]):
        found = ratio_interval([0.3 * seed for seed in seeds], seeds)
        assert found is not None
        assert (found.low, found.mean, found.high) == pytest.approx((0.3, 0.3, 0.3))
        other = clustered_interval(seeds)
        assert (found.unit, found.count) == (other.unit, other.count)
        assert other.high - other.low > 0.05


def test_ratio_has_the_width_of_the_delta_method():
    """Fails if the ratio's spread is lost or doubled: for means a and b over n units the variance of a/b is that of
    (a_i - r b_i) / (n mean(b)^2), with r = a/b."""
    generator = np.random.default_rng(3)
    below = 1 + 0.1 * generator.standard_normal((200, 1))
    above = 0.5 * below + 0.05 * generator.standard_normal((200, 1))
    found = ratio_interval([above], [below])
    assert found is not None
    ratio = above.mean() / below.mean()
    error = (above - ratio * below).std() / np.sqrt(200) / below.mean()
    assert found.mean == pytest.approx(ratio)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_a_share_of_nothing_is_none():
    """Fails if dividing by 0 raises, or gives a number that JSON cannot hold; a set without any right answer is left
    out only where it is all that was drawn."""
    assert ratio_interval([np.zeros((4, 5))], [np.zeros((4, 5))]) is None
    found = ratio_interval([np.array([[1.0], [0.0]])], [np.array([[1.0], [0.0]])])
    assert found is not None
    assert (found.low, found.mean, found.high) == (1, 1, 1)


def test_an_interval_as_plain_data():
    """Fails if a field is lost or is not rounded."""
    found = clustered_interval([np.array([[0.0, 1.0, 1.0]])]).as_json()
    assert found["mean"] == 0.666667
    assert (found["unit"], found["count"], found["level"]) == ("sequence", 3, 0.95)
