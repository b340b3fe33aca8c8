"""Claims on measures over runs: correlations with known values, and a forest that may not see a configuration twice."""

from __future__ import annotations

import json

import numpy as np
import pytest
from claims_rows import make_rows, studies_directory

from miclab.claims.entries import prediction
from miclab.claims.entries.prediction import STUDIES, Table, held_out, r_squared
from miclab.claims.evidence import Evidence
from miclab.claims.ledger import chosen, judged
from miclab.statistics.correlation import pearson

MEASURES = ("previous_token_1", "induction", "total_label_attention")


def tied(**strength):
    """Rows whose ICL is drawn for each configuration, whatever its seed; each measure is tied to it by its strength."""

    def formula(config, step):
        kept = {k: v for k, v in config.items() if k in ("modalities", "decoder", "sequence")}
        generator = np.random.default_rng(list(json.dumps(kept, sort_keys=True).encode()))
        icl = generator.uniform(0.1, 0.9)

        def measure(name):
            return strength.get(name, 0.9) * icl + 0.02 * generator.normal()

        columns = {f"measure.{name}.{layer}.1": measure(name) for name in MEASURES for layer in (1, 2)}
        return {"icl": icl, "cla.icl": measure("cla"), **columns}

    return formula


def lines(tmp_path, claims, formula, **options):
    directory = studies_directory(tmp_path)
    evidence = Evidence(directory, "quick")
    for study in (name for names in STUDIES.values() for name in names):
        make_rows(directory, study, formula, **options)
    return {line.entry.id: line for line in judged(evidence, chosen(claims))}


def test_measures_that_rise_with_icl_bear_the_claims_out(tmp_path):
    found = lines(tmp_path, ["C1", "C2", "C3"], tied(cla=0.0))
    assert found["C2"].findings.verdict == "holds"
    assert found["C1"].findings.holding == (
        "the measure is PH(1) layer 1",
        "the measure is Ind layer 2",
        "the measure is TLA layer 1",
    )
    evidence_runs = {c.measured.unit for c in found["C1"].findings.conditions}
    assert evidence_runs == {"configuration"}
    assert found["C3"].findings.verdict == "holds"
    assert found["C1"].missing == 0


def test_measures_that_fall_with_icl_contradict_them(tmp_path):
    falling = dict.fromkeys((*MEASURES, "cla"), -0.9)
    found = lines(tmp_path, ["C1", "C2"], tied(**falling))
    assert found["C1"].findings.verdict == "fails"
    assert [c.verdict for c in found["C2"].findings.conditions][:3] == ["fails"] * 3


def test_measures_without_a_tie_predict_nothing_on_held_out_configurations(tmp_path):
    nothing = dict.fromkeys((*MEASURES, "cla"), 0.0)
    (line,) = lines(tmp_path, ["C3"], tied(**nothing)).values()
    assert line.findings.verdict == "fails"
    fitted = [a.measured.mean for a in line.findings.comparisons if "fitted" in a.quantity]
    held = [c.measured.mean for c in line.findings.conditions]
    assert min(fitted) > 0.7, "the forest knows the runs that it was fitted to"
    assert max(held) < 0.2, "and nothing of others"


def test_one_seed_of_each_configuration_decides_nothing(tmp_path):
    found = lines(tmp_path, ["C1", "C3"], tied(), keep=lambda config, seed: seed == 0)
    assert {line.findings.verdict for line in found.values()} == {"undecided"}
    assert found["C1"].missing == 2 * found["C1"].runs


def test_seeds_of_a_configuration_are_held_out_together():
    """Each configuration has its own ICL and a feature that names it: whoever saw one seed would know the others."""
    groups = np.repeat(np.arange(40), 3)
    icl = np.random.default_rng(0).permutation(40)[groups] / 40
    guess = held_out(groups[:, None].astype(float), icl, groups)
    assert r_squared(icl, guess) < 0.3
    alone = held_out(groups[:, None].astype(float), icl, np.arange(len(groups)))
    assert r_squared(icl, alone) > 0.9


def test_intervals_resample_configurations_not_runs():
    """Ten seeds of each configuration are ten times the same number: they must not narrow the interval."""

    def width(copies):
        generator = np.random.default_rng(3)
        x = generator.normal(size=15)
        y = x + generator.normal(size=15)
        groups = np.repeat(np.arange(15), copies)
        data = Table({"m": x[groups]}, y[groups], groups, frozenset(), frozenset(), 0, ("study",) * len(groups))
        interval = data.interval(prediction.correlation(data, "m"))
        return interval.high - interval.low

    assert width(10) == pytest.approx(width(2), rel=0.05)


def test_pearson_is_that_of_numpy_and_undefined_without_variation():
    generator = np.random.default_rng(2)
    x, y = generator.normal(size=30), generator.normal(size=30)
    assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert np.isnan(pearson(np.ones(5), np.arange(5.0)))
    assert r_squared(y, y) == 1
    assert r_squared(y, np.full(30, y.mean())) == pytest.approx(0)
