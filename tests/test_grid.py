"""Cells and expressions: against NumPy and SciPy, on cells drawn at random."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from miclab.errors import MiclabError
from miclab.statistics.grid import (
    Cells,
    Expression,
    accuracy,
    average,
    column,
    highest,
    lowest,
    mean,
    slope,
    smaller,
)

SEEDS, SETS = 4, 3


def random_cells(generator):
    """Two codes at three K and two B, their values drawn at random."""
    keys = tuple(itertools.product(("rope", "onehot"), (512, 1024, 4096), (1, 4)))
    values = {
        key: {
            seed: {name: generator.uniform(0.1, 0.9, SETS) for name in ("icl", "iwl")} for seed in range(SEEDS)
        }
        for key in keys
    }  # fmt: skip
    planned = {key: {seed: f"{key} {seed}" for seed in range(SEEDS)} for key in keys}
    return Cells(keys, values, planned, axes=("code", "K", "B"))


def table(cells, name):
    """Means over sets [seed, cell]."""
    return np.array([[cells.values[key][seed][name].mean() for key in cells.keys] for seed in range(SEEDS)])


@pytest.mark.parametrize("draw", range(5))
def test_expressions_are_what_numpy_makes_of_each_seed(draw):
    """Fails if an expression mixes up cells or quantities, or the interval is not that of the seeds' own values."""
    cells = random_cells(np.random.default_rng(draw))
    icl, iwl = table(cells, "icl"), table(cells, "iwl")
    code, k, b = (np.array(cells.axis(name)) for name in cells.axes)
    rope, large = code == "rope", k == 4096

    def coefficient(values, mine):
        design = np.column_stack([np.ones(mine.sum()), np.log2(k[mine]), np.log2(b[mine])])
        return np.array([np.linalg.lstsq(design, row, rcond=None)[0][1] for row in values[:, mine]])

    every = np.ones(len(k), dtype=bool)
    cases: list[tuple[Expression, np.ndarray]] = [
        (mean("icl"), icl.mean(1)),
        (mean("icl", code="rope", K=4096), icl[:, rope & large].mean(1)),
        (mean("icl", lambda cell: cell.B > 1) - mean("iwl", B=1), icl[:, b > 1].mean(1) - iwl[:, b == 1].mean(1)),
        (highest("icl", K=512) / lowest("iwl"), icl[:, k == 512].max(1) / iwl.min(1)),
        (mean(column("icl") - column("iwl"), code="rope"), (icl - iwl)[:, rope].mean(1)),
        (highest(smaller("icl", "iwl")), np.minimum(icl, iwl).max(1)),
        (slope("icl", "log2 K", beside="log2 B"), coefficient(icl, every)),
        (slope("icl", "log2 K", beside="log2 B", code="rope"), coefficient(icl, rope)),
        (-average([mean("icl"), mean("iwl") * 3.0]), -(icl.mean(1) + 3 * iwl.mean(1)) / 2),
    ]
    for expression, expected in cases:
        found = cells.interval(expression)
        low, high = stats.t.interval(0.95, SEEDS - 1, loc=expected.mean(), scale=stats.sem(expected))
        assert found is not None
        assert (found.mean, found.low, found.high) == pytest.approx((expected.mean(), low, high))


def test_a_ratio_on_the_log_scale_is_a_geometric_mean():
    cells = random_cells(np.random.default_rng(7))
    ratios = table(cells, "icl").mean(1) / table(cells, "iwl").mean(1)
    found = cells.interval((mean("icl") / mean("iwl")).on_log_scale())
    assert found is not None
    assert found.mean == pytest.approx(stats.gmean(ratios))
    assert found.low * found.high == pytest.approx(found.mean**2)


def test_the_bound_of_a_condition_is_in_the_expression():
    one = mean("icl")
    assert ((one > 0.5).low, (one > 0.5).high) == (0.5, np.inf)
    assert ((one < 0.5).low, (one < 0.5).high) == (-np.inf, 0.5)
    assert (one.between(0.25, 0.75).low, one.between(0.25, 0.75).high) == (0.25, 0.75)


def test_only_seeds_that_every_cell_has_count():
    """Fails if a seed that one cell lacks is used in the others."""
    cells = random_cells(np.random.default_rng(3))
    first = cells.keys[0]
    values = {**cells.values, first: {seed: v for seed, v in cells.values[first].items() if seed != 2}}
    fewer = Cells(cells.keys, values, cells.planned, axes=cells.axes)
    found = fewer.interval(mean("icl"))
    assert found is not None
    assert (found.unit, found.count) == ("seed", 3)
    assert found.mean == pytest.approx(np.delete(table(cells, "icl"), 2, axis=0).mean())
    assert fewer.absent == {f"{first} 2"}
    assert len(fewer.used) == 3 * len(cells.keys)


def test_one_seed_has_an_interval_over_its_sets():
    """Fails if sets of one seed are taken for seeds, or if quantities are not paired by set."""
    cells = random_cells(np.random.default_rng(4))
    values = {key: {1: seeds[1]} for key, seeds in cells.values.items()}
    one = Cells(cells.keys, values, cells.planned, axes=cells.axes)
    found = one.interval(mean("icl") - mean("iwl"))
    sets = np.mean([v[1]["icl"] - v[1]["iwl"] for v in values.values()], axis=0)
    low, high = stats.t.interval(0.95, SETS - 1, loc=sets.mean(), scale=stats.sem(sets))
    assert found is not None
    assert (found.unit, found.count) == ("set", SETS)
    assert (found.mean, found.low, found.high) == pytest.approx((sets.mean(), low, high))
    assert one.over_seeds(mean("icl")) is None


def test_an_expression_knows_its_cells():
    """Fails if a cell that a statistic is made of is forgotten: then its plateau would not count."""
    cells = random_cells(np.random.default_rng(5))
    both = mean("icl", code="rope", K=512) - slope("iwl", "log2 K", B=4)
    expected = {key for key in cells.keys if key[:2] == ("rope", 512) or key[2] == 4}
    assert set(cells.used_by(both)) == expected
    moved = {**cells.values, cells.keys[0]: cells.values[cells.keys[1]]}
    other = Cells(cells.keys, moved, cells.planned, axes=cells.axes)
    assert (cells.keys[0] in expected) == (cells.each_seed(both) != other.each_seed(both))


def test_an_accuracy_is_judged_on_the_scale_of_logits():
    """Fails if the ends leave 0 and 1, if the interval does not hold its estimate, or if an accuracy of 1 in every seed
    has no width."""
    values = np.array([0.98, 0.995, 1.0])
    shares = (values * 800 + 0.5) / 801
    logits = np.log(shares / (1 - shares))
    keys = (("a",),)
    made = {keys[0]: {seed: {"icl": np.full(8, v)} for seed, v in enumerate(values)}}
    cells = Cells(keys, made, {keys[0]: {s: f"{s}" for s in range(3)}}, axes=("name",), sequences=100)
    found = cells.interval(accuracy("icl"))
    ends = stats.t.interval(0.95, 2, loc=logits.mean(), scale=stats.sem(logits))
    assert found is not None
    assert (found.low, found.high) == pytest.approx(tuple(1 / (1 + np.exp(-np.array(ends)))))
    assert found.mean == pytest.approx(values.mean())
    sure = Cells(keys, {keys[0]: {s: {"icl": np.ones(8)} for s in range(3)}}, cells.planned, axes=("name",))
    certain = sure.interval(accuracy("icl"))
    assert certain is not None
    assert 0.9 < certain.low < 0.999 < certain.high == certain.mean == 1


@pytest.mark.parametrize("bound", [mean("icl") > 0.45, accuracy("icl") > 0.45, mean("icl").between(0.2, 0.7)])
def test_p_is_where_the_interval_touches_the_bound(bound):
    """Fails if p and interval disagree: at a level of 1 - p the interval ends at the nearer bound."""
    cells = random_cells(np.random.default_rng(6))
    p = cells.p_value(bound)
    assert p is not None
    found = cells.interval(bound.expression, 1 - p)
    assert found is not None
    away = [abs(found.low - bound.low), abs(found.high - bound.high)]
    assert min(away) < 1e-6


def test_cells_by_an_axis():
    cells = random_cells(np.random.default_rng(0))
    assert [value for value, _ in cells.by("K")] == [512, 1024, 4096]
    assert [value for value, _ in cells.by("code B")] == [("rope", 1), ("rope", 4), ("onehot", 1), ("onehot", 4)]
    for value, part in cells.by("code B"):
        assert set(zip(part.axis("code"), part.axis("B"), strict=True)) == {value}
    with pytest.raises(MiclabError, match="no axis 'codes': did you mean 'code'"):
        mean("icl", codes="rope").on(cells)
