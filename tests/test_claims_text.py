"""The ledger says the same on every processor; what is committed of it is compared in test_docs.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from claims_rows import STUDIES

from miclab.claims.evidence import Evidence
from miclab.claims.ledger import chosen, judged
from miclab.statistics import intervals
from miclab.statistics.intervals import Interval
from miclab.statistics.regression import least_squares, weighted

ROOT = STUDIES.parent
OTHER_PROCESSOR = {
    "OPENBLAS_CORETYPE": "Nehalem",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL",
    "ATEN_CPU_CAPABILITY": "default",
}
"""Has libraries compute as on a processor of 2008; read when they are loaded."""


def whole_numbers() -> str:
    """The ledger as JSON with every bit of its numbers. Without C1 to C3, which sum no products of matrices and take
    longest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "DECIMALS", 30)
        lines = judged(Evidence(STUDIES, "quick"), [entry for entry in chosen(()) if entry.id[0] != "C"])
    return json.dumps([line.as_json() for line in lines])


def test_the_ledger_is_the_same_on_another_processor():
    """Fails if a number of the ledger is a product of matrices, whose last bits are the processor's."""
    code = "from test_claims_text import whole_numbers; print(whole_numbers())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, **OTHER_PROCESSOR, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(whole_numbers())


def test_numbers_halfway_between_two_printed_ones_are_printed_alike():
    """Fails if what rounding leaves of a sum decides a digit, a sign, or on which side of a bound a number lies."""
    for exact in (0.0875, 0.0125, -0.0005, 0.05, 0.0):
        near = [exact + error for error in (-3e-17, 0.0, 3e-17, 1e-15, -1e-15)]
        found = [Interval(value, value, value, "seed", 3) for value in near]
        assert len({str(one) for one in found}) == 1
        assert {one.low for one in found} == {exact}
    assert str(Interval(-1e-17, -1e-17, 1e-17, "seed", 3)) == "0.000 [0.000, 0.000]"


def test_sums_of_products_are_those_of_matrices():
    """Fails if sums are taken along another axis: against NumPy's products."""
    generator = np.random.default_rng(4)
    values, one, several = generator.normal(size=(6, 3, 5)), generator.normal(size=5), generator.normal(size=(5, 2))
    np.testing.assert_allclose(weighted(values, one), values @ one)
    np.testing.assert_allclose(weighted(values, several), values @ several)
    np.testing.assert_allclose(weighted(values[0, 0], several), values[0, 0] @ several)
    assert weighted(values[..., :0], one[:0]).tolist() == np.zeros((6, 3)).tolist()


@pytest.mark.parametrize("terms", [1, 2, 4, 6])
def test_least_squares_is_the_pseudo_inverse(terms):
    """Fails if a column is not cleared of the others: against NumPy's, on powers of 20 numbers far from 0."""
    design = np.vander(np.random.default_rng(terms).uniform(2, 4, size=20), terms)
    np.testing.assert_allclose(least_squares(design) @ design, np.eye(terms), atol=1e-6)
    np.testing.assert_allclose(least_squares(design), np.linalg.pinv(design), rtol=1e-6, atol=1e-6)


def test_columns_that_depend_on_each_other_have_no_fit():
    """Fails if what rounding leaves of a column is taken for one."""
    x = np.random.default_rng(5).normal(size=12)
    assert np.isnan(least_squares(np.column_stack([np.ones(12), x, 3 * x - 0.1]))).any()
    assert np.isnan(least_squares(np.column_stack([np.ones(12), np.full(12, 0.1)]))).any()
