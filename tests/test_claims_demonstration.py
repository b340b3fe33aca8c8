"""The demonstration's claims: the direction decides, the paper's figure stands beside."""

from __future__ import annotations

import pytest

from miclab.claims.demonstration import EXPECTATIONS, Judgement
from miclab.statistics.intervals import Interval


def judged(claim, mean, low, high):
    return Judgement(EXPECTATIONS[claim], Interval(mean, low, high, "set", 8))


@pytest.mark.parametrize(
    ("claim", "interval", "verdict", "beside"),
    [
        ("U5b", (0.15, 0.12, 0.18), "holds", "ours: there"),
        ("U5b", (0.08, 0.06, 0.09), "holds", "ours: 0.020 below"),
        ("U5b", (0.05, 0.02, 0.08), "undecided", "ours: 0.050 below"),
        ("U5b", (0.03, 0.02, 0.04), "fails", "ours: 0.070 below"),
        ("U5b", (-0.03, -0.04, -0.02), "fails", "ours: 0.130 below"),
        ("M8a", (0.56, 0.55, 0.57), "holds", "ours: 0.224 above"),
        ("M8a", (0.95, 0.94, 0.96), "fails", "ours: 0.614 above"),
        ("M1", (0.89, 0.88, 0.91), "undecided", "ours: 0.060 below"),
    ],
)
def test_direction_decides_and_the_distance_stands_beside(claim, interval, verdict, beside):
    found = judged(claim, *interval)
    assert found.verdict == verdict
    assert beside in found.row()["paper"]


def test_every_row_has_texts_for_a_report():
    for claim in EXPECTATIONS.values():
        row = judged(claim.id, 0.5, 0.4, 0.6).row()
        assert set(row) == {"result", "measured", "paper", "verdict", "criterion", "conclusion"}
        assert all(isinstance(text, str) and text for text in row.values())
        assert row["result"].startswith(claim.id)
