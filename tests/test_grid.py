"""Cells and expressions: against NumPy and SciPy, on cells drawn at random."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from miclab.errors import MiclabError
from miclab.statistics.grid import Cells, Expression, average, column, highest, lowest, mean, slope, smaller

SEEDS, SETS = 4, 3


def random_cells(generator, rule="student"):
    """Two codes at three K and two B, their values drawn at random."""
    keys = tuple(itertools.product(("rope", "onehot"), (512, 1024, 4096), (1, 4)))
    values = {
        key: {
            seed: {name: generator.uniform(0.1, 0.9, SETS) for name in ("icl", "iwl")} for seed in range(SEEDS)
        }
        for key in keys
    }  # fmt: skip
    planned = {key: {seed: f"{key} {seed}" for seed in range(SEEDS)} for key in keys}
    return Cells(keys, values, planned, axes=("code", "K", "B"), rule=rule)


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


def test_both_rules_agree_on_the_estimate_and_only_shared_seeds_count():
    """Fails if a seed that one cell lacks is used in the others."""
    cells = random_cells(np.random.default_rng(3))
    first = cells.keys[0]
    values = {**cells.values, first: {seed: v for seed, v in cells.values[first].items() if seed != 2}}
    student = Cells(cells.keys, values, cells.planned, axes=cells.axes, rule="student")
    bootstrap = Cells(cells.keys, values, cells.planned, axes=cells.axes)
    one, other = student.interval(mean("icl")), bootstrap.interval(mean("icl"))
    assert one is not None
    assert other is not None
    assert (one.count, other.count) == (3, 3)
    assert one.mean == pytest.approx(other.mean)
    assert one.mean == pytest.approx(np.delete(table(cells, "icl"), 2, axis=0).mean())
    assert student.absent == {f"{first} 2"}
    assert len(student.used) == 3 * len(cells.keys)


def test_cells_by_an_axis():
    cells = random_cells(np.random.default_rng(0))
    assert [value for value, _ in cells.by("K")] == [512, 1024, 4096]
    assert [value for value, _ in cells.by("code B")] == [("rope", 1), ("rope", 4), ("onehot", 1), ("onehot", 4)]
    for value, part in cells.by("code B"):
        assert set(zip(part.axis("code"), part.axis("B"), strict=True)) == {value}
    with pytest.raises(MiclabError, match="no axis 'codes': did you mean 'code'"):
        mean("icl", codes="rope").on(cells)
