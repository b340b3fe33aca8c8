"""Intervals against SciPy's, and what they are over; their coverage: test_coverage.py."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from miclab.circuits.effects import Effect
from miclab.circuits.weights import Weights
from miclab.claims.plots.panels import point
from miclab.claims.verdict import measured_text, outcome
from miclab.cli.mllm_heads import interval_of
from miclab.report.html import embedded_json
from miclab.report.plots import band_of, error_bars
from miclab.report.run.bars import ablation_figure
from miclab.report.study.analyses import AnalysisOfStudy, bars_figure
from miclab.report.study.threshold import _ratio
from miclab.statistics.correlation import resampled
from miclab.statistics.distributions import holm
from miclab.statistics.intervals import (
    Interval,
    accuracy_interval,
    clustered_interval,
    episode_interval,
    ratio_interval,
    share_interval,
    student_interval,
    student_p,
)
from miclab.statistics.threshold import Threshold
from miclab.tables import table


def ends(found):
    return found.low, found.high


def test_interval_of_episodes_is_the_usual_one():
    """Fails if episodes are not resampled one by one: the ends are mean +- 1.96 standard errors."""
    values = np.random.default_rng(0).random(2000) < 0.7
    found = episode_interval(values)
    error = values.std() / np.sqrt(2000)
    assert (found.unit, found.count) == ("sequence", 2000)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(found.mean - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(found.mean + 1.96 * error, abs=0.15 * error)
    assert str(found) == f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def test_the_unit_is_the_seed_then_the_set_then_the_sequence():
    """Fails if sequences of one set, or sets of one seed, are taken for independent where there are seeds."""
    generator = np.random.default_rng(1)
    seeds = [0.6 + 0.1 * generator.standard_normal((12, 1)) + 0.3 * generator.standard_normal((12, 40)) for _ in "abcd"]
    means = [seed.mean() for seed in seeds]
    found = clustered_interval(seeds)
    assert (found.unit, found.count) == ("seed", 4)
    assert ends(found) == pytest.approx(stats.t.interval(0.95, 3, loc=np.mean(means), scale=stats.sem(means)))
    # One mean for each set is as good as its sequences.
    assert clustered_interval([seed.mean(1) for seed in seeds]) == found
    sets = seeds[0].mean(1)
    one = clustered_interval(seeds[:1])
    assert (one.unit, one.count) == ("set", 12)
    assert ends(one) == pytest.approx(stats.t.interval(0.95, 11, loc=sets.mean(), scale=stats.sem(sets)))
    assert clustered_interval([seeds[0][:1]]).unit == "sequence"


def test_a_single_number_has_no_interval():
    """Fails if what was measured in one set, without its sequences, gets an interval of no width."""
    for found in (clustered_interval([np.array([0.7])]), student_interval([0.7]), episode_interval(np.array([0.7]))):
        assert found.mean == 0.7
        assert not found.known
        assert "no interval" in str(found)
        assert json.loads(json.dumps(found.as_json(), allow_nan=False))["low"] is None
        assert str(table("", ["a"], [[found]]).rows[0][0]) == "0.700 (no interval)"


def test_an_accuracy_stays_between_0_and_1():
    """Fails if ends are not those of logits, or if all right has no width."""
    right = [np.ones((8, 50)), np.ones((8, 50))]
    right[1][0, :3] = 0
    for seeds in (right, right[:1], right[1:], [np.ones((1, 50))]):
        found = accuracy_interval(seeds)
        assert found.mean == pytest.approx(np.mean([seed.mean() for seed in seeds]))
        assert 0 < found.low < found.mean <= found.high <= 1
    # Few trials: the mean logit of two sets that are all right is below 1.
    few = accuracy_interval([np.ones((2, 4))])
    assert (few.mean, few.high) == (1, 1)
    assert few.low < 0.95


@given(st.lists(st.integers(0, 6), min_size=2, max_size=6), st.integers(1, 5))
def test_p_of_an_accuracy_is_below_005_exactly_where_its_interval_leaves_the_bound(right, bound):
    """Fails if p and the interval disagree, also where few trials pull the mean logit to the other side of a bound."""
    values, at = [one / 6 for one in right], bound / 6
    found = student_interval(values, scale="logit", trials=6)
    p = student_p(values, at, math.inf, "logit", trials=6)
    assert p is not None
    outside = not found.low <= round(at, 12) <= found.high
    assert (p < 0.05) == outside or abs(p - 0.05) < 1e-6


def test_ends_stay_within_what_is_possible():
    """Fails if an end leaves the range, or an interval that is not there gets ends."""
    found = Interval(0.97, 0.9, 1.04, "seed", 3).within(0, 1)
    assert (found.mean, found.low, found.high) == (0.97, 0.9, 1)
    assert not Interval(0.97, math.nan, math.nan, "seed", 1).within(0, 1).known


def test_seeds_may_have_different_numbers_of_sets():
    """Fails if a seed with more sets weighs more."""
    assert clustered_interval([np.zeros((2, 10)), np.ones((9, 10))]).mean == 0.5


@pytest.mark.parametrize(("left", "count", "low", "high"), [(3, 3, 0.2924, 1), (5, 5, 0.4782, 1), (0, 3, 0, 0.7076)])
def test_a_share_of_seeds_is_that_of_clopper_and_pearson(left, count, low, high):
    assert ends(share_interval(left, count)) == pytest.approx((low, high), abs=1e-4)
    exact = stats.binomtest(left, count).proportion_ci(method="exact")
    assert ends(share_interval(left, count)) == pytest.approx((exact.low, exact.high))


def test_p_is_that_of_scipy_and_agrees_with_the_interval():
    values = np.random.default_rng(2).normal(0.4, 0.3, 5)
    assert student_p(values, 0.1, np.inf) == pytest.approx(stats.ttest_1samp(values, 0.1).pvalue)
    nearer = max(stats.ttest_1samp(values, bound).pvalue for bound in (-0.5, 0.6))
    assert student_p(values, -0.5, 0.6) == pytest.approx(nearer)
    assert student_p([0.1], 0, 1) is None


def test_holm_is_that_of_hand():
    """Fails if ranks are turned round, or an adjusted p falls behind that of a smaller one."""
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


def test_an_interval_over_configurations_is_wider_than_percentiles_and_agrees_with_its_p():
    """Fails if few configurations are not corrected for, or if p is not where the interval ends: against SciPy's BCa,
    which has no such correction."""
    generator = np.random.default_rng(3)
    x = generator.normal(size=12)
    y = 0.6 * x + 0.8 * generator.normal(size=12)
    one = resampled(x, y, np.arange(12))
    found = one.interval("configuration", 12)
    library = stats.bootstrap(
        (x, y), lambda a, b: np.corrcoef(a, b)[0, 1], paired=True, vectorized=False, n_resamples=2000,
        rng=np.random.default_rng(0), method="BCa",
    ).confidence_interval  # fmt: skip
    assert found.low < library.low
    assert found.high >= library.high - 0.01
    # With quantiles of the normal distribution in place of t's it is SciPy's.
    level = 1 - 2 * stats.t.cdf(-1.96 * np.sqrt(11 / 12), 11)
    assert ends(one.interval("configuration", 12, level)) == pytest.approx(tuple(library), abs=0.05)
    assert one.p(found.low, np.inf) == pytest.approx(0.05, abs=0.01)
    assert one.p(-np.inf, found.high) == pytest.approx(0.05, abs=0.01)


def test_ratio_of_means_that_move_together_is_sure():
    """Fails if numerator and denominator are resampled separately: sets (sequences, seeds) differ much, yet in every
    one 30 % is left; separately, the interval would reach from about 0.2 to 0.45."""
    below = np.linspace(0.2, 1.0, 8)[:, None] * np.ones((8, 20))
    for seeds in ([below], [below.reshape(1, -1)], [below, 0.5 * below, 0.1 * below]):
        found = ratio_interval([0.3 * seed for seed in seeds], seeds)
        assert found is not None
        assert (found.low, found.mean, found.high) == pytest.approx((0.3, 0.3, 0.3))
        other: Interval = clustered_interval(seeds)
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
    """Fails if dividing by 0 raises, or gives a number that JSON cannot hold; a set without any right answer counts."""
    assert ratio_interval([np.zeros((4, 5))], [np.zeros((4, 5))]) is None
    assert ratio_interval([np.ones((4, 5)), np.zeros((4, 5))], [np.ones((4, 5)), np.zeros((4, 5))]) is None
    found = ratio_interval([np.array([[1.0], [0.0]])], [np.array([[1.0], [0.0]])])
    assert found is not None
    assert (found.low, found.mean, found.high) == (1, 1, 1)


def test_an_interval_as_plain_data():
    """Fails if a field is lost or is not rounded."""
    found = clustered_interval([np.array([[0.0, 1.0, 1.0]])]).as_json()
    assert found["mean"] == 0.666667
    assert (found["unit"], found["count"], found["level"]) == ("sequence", 3, 0.95)


SHAPES = st.lists(st.tuples(st.integers(1, 2), st.integers(1, 2)), min_size=1, max_size=2)
"""Sets and sequences of each seed."""


def as_text(*values):
    """Everything as text or strict JSON, in which no number is missing."""
    text = " ".join(value if isinstance(value, str) else embedded_json(value) for value in values)
    assert not {"nan", "None", "NaN", "inf"} & set(re.findall(r"[A-Za-z]+", text)), text
    return text


@given(st.lists(SHAPES, min_size=1, max_size=3), st.integers(0, 99))
@example([[(1, 1)]], 0)
@example([[(1, 1), (1, 1)], [(1, 1)]], 0)
def test_whatever_shows_or_compares_an_interval_takes_one_without_ends(cells, seed):
    """Fails if a reader raises, writes None or NaN, or draws an end where one set gives no interval."""
    generator = np.random.default_rng(seed)
    drawn = [[generator.integers(0, 2, shape).astype(float) for shape in shapes] for shapes in cells]
    found = [clustered_interval(seeds) for seeds in drawn]
    estimates = [(one.mean, one) for one in found]
    as_text(*map(str, found), *map(measured_text, found), [one.as_json()["mean"] for one in found])
    as_text(*(str(cell) for row in table("", ["a"], [[one] for one in found]).rows for cell in row))
    for one in found:
        row = {"mean": one.mean, "low": one.as_json(12)["low"], "high": one.as_json(12)["high"], "episodes": one.count}
        assert interval_of(row).known == one.known
        assert str(interval_of(row)).split(" (")[0] == str(one).split(" (")[0]
        assert (one.decides(), one.decides(upper=True)) == ((one.low, one.high) if one.known else (one.mean,) * 2)
        assert one.known or outcome(one, -9, 9) == "undecided"
        shown = point((), one, one.mean)
        assert (shown.low, shown.high) == (one.decides(), one.decides(upper=True))
        as_text(str(Threshold(kind="found", log2=one)), _ratio(one))
    arms = error_bars(estimates, "#000000")
    as_text(arms)
    for one, above, below in zip(found, arms["array"], arms["arrayminus"], strict=True):
        assert one.known or above == below == 0
    band = band_of(range(len(found)), found, "#000000")
    as_text(band)
    assert [len(line["x"]) for line in band] == [sum(one.known for one in found)] * 2 * any(one.known for one in found)
    quantities = ("untouched", *map(str, range(1, len(found))))
    named = dict(zip(quantities, estimates, strict=True))
    as_text(bars_figure(AnalysisOfStudy(name="ablation", quantities=quantities, cells={0: named}), 0))
    effects = [Effect(f"cut {place}", (), seeds[0], seeds[0], seeds[0]) for place, seeds in enumerate(drawn)]
    as_text(ablation_figure(effects, effects[0].accuracy, None))
    shown = Weights("a", 0, {}, {}, {}, {}, {str(place): one for place, one in enumerate(found)}).as_json()
    embedded_json(shown)
    assert [one["low"] is None for one in shown["direct"].values()] == [not one.known for one in found]
