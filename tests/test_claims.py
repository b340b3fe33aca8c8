"""Verdicts of the ledger on rows whose answer is known: holds, fails, holds in part, undecided."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from claims_rows import make_rows, studies_directory

from miclab.claims.circuit import heads
from miclab.claims.entries.prediction import STUDIES
from miclab.claims.evidence import Evidence
from miclab.claims.ledger import RUN_ORDER, Line, chosen, judged
from miclab.claims.registry import CLAIMS, all_claims
from miclab.claims.verdict import Comparison, Condition, Findings
from miclab.cli import main
from miclab.config.axes import field_of
from miclab.errors import MiclabError
from miclab.statistics.grid import Cells, mean
from miclab.statistics.intervals import Interval
from miclab.statistics.regression import fit
from miclab.studies import sealed_table
from miclab.studies.study import presets_of


def at(config, axis):
    return field_of(config, axis)


def log2(config, axis):
    return math.log2(at(config, axis))


K1, K2, B = "modalities.m1.classes", "modalities.m2.classes", "sequence.burstiness"
EPS1, EPS2 = "modalities.m1.noise", "modalities.m2.noise"
ALPHA1, ALPHA2 = "modalities.m1.zipf_exponent", "modalities.m2.zipf_exponent"


def complexity(c):
    return at(c, K1) * math.sqrt(at(c, B))


def circuit(entropy, rows_entropy, right=0.2, induction=0.15, item=0.01):
    """Measures of a two-layer decoder with one head, the circuit in its places."""
    return {
        "measure.induction_total.1.1": 0.0, "measure.induction_total.2.1": 0.6,
        "measure.label_to_item.m1.1.1": 0.5, "measure.label_to_item.m1.2.1": 0.9,
        "measure.entropy.2.1": entropy, "measure.entropy.1.1": 0.99,
        "measure.label_row_entropy.1.1": rows_entropy, "measure.label_row_entropy.2.1": 0.01,
        "measure.target_label_attention.2.1": right, "measure.induction.2.1": induction,
        "measure.target_item_attention.m1.2.1": item,
    }  # fmt: skip


def by_code(c, **values):
    return values[at(c, "decoder.positions")]


def knocked(previous, induction, untouched=0.97):
    return lambda c, s: {
        "probe.knockout.untouched": untouched,
        "probe.knockout.previous-token head": previous,
        "probe.knockout.induction head": induction,
    }


def zeroed(second, first, stream=0.06, untouched=0.97):
    return lambda c, s: {
        "probe.ablation.untouched": untouched,
        "probe.ablation.items of m2 zeroed": second,
        "probe.ablation.items of m1 zeroed": first,
        "probe.ablation.items of m1 and labels zeroed": stream,
    }


def lengths(c, at8, at16, at32):
    return {"probe.context.8": at8, "probe.context.16": at16, "probe.context.32": at32}


UNIMODAL_RISE = {
    "complexity": lambda c, s: {
        "icl": 0.06 * log2(c, K1) + 0.1 * log2(c, B) - 0.3,
        "iwl": 1 - 0.05 * log2(c, K1) - 0.1 * log2(c, B),
    }
}
SAME_CIRCUITS = {name: lambda c, s: circuit(0.5, 0.5) for name in ("complexity", "complexity_onehot")}

HOLDS = {
    "U1": UNIMODAL_RISE,
    "U2": {"noise": lambda c, s: {"icl": 0.3 + 0.4 * at(c, EPS1)}},
    "U3": {
        "zipf": lambda c, s: {"icl": 0.95 - 0.2 * at(c, ALPHA1) ** 2 / 2, "iwl": 0.05 + 0.6 * min(at(c, ALPHA1), 1.5)}
    },
    "U4": {
        "decoder_size": lambda c, s: {
            "icl": 0.8 - 0.1 * log2(c, "decoder.layers") - 0.15 * log2(c, "decoder.heads"), "iwl": 0.1
        }
    },
    "U6": {
        "complexity": lambda c, s: circuit(0.7, 0.8, right=0.1, induction=0.05),
        "complexity_onehot": lambda c, s: circuit(0.4, 0.2),
    },
    "U7": {
        "context": lambda c, s: {
            "icl": by_code(c, onehot=0.99, rope=0.9, alibi=0.88) - 0.1 * math.log2(at(c, "sequence.context") / 8)
        }
    },
    "L1": {"longer_context": lambda c, s: lengths(c, 0.95, 0.93, 0.9)},
    "M1": {"multimodal": lambda c, s: {"icl": 0.96}},
    "M2": {"secondary_complexity": lambda c, s: {"icl": 0.6 + 0.1 * log2(c, B), "iwl": 0.4 - 0.1 * log2(c, B)}},
    "M3": {"secondary_noise": lambda c, s: {"icl": 0.4 + 0.5 * at(c, EPS2) + 0.1 * at(c, EPS1)}},
    "M4": {"secondary_zipf": lambda c, s: {"icl": 0.9 - 0.2 * abs(at(c, ALPHA2) - 1), "iwl": 0.95}},
    "M5": {"secondary_size": lambda c, s: {"icl": 0.3 + 0.1 * at(c, "decoder.layers")}},
    "M6": {
        "early_fusion": lambda c, s: {"icl": 0.05 * log2(c, K2) + 0.01 * log2(c, K1)},
        "diversity": lambda c, s: {"icl": 0.01 * log2(c, K2) + 0.05 * log2(c, K1)},
    },
    "M7": {"multimodal": knocked(0.199, 0.062)},
    "M8": {"multimodal": zeroed(0.336, 0.063)},
    "J1": {"joint_label": lambda c, s: {"icl": 0.97}},
}  # fmt: skip

FAILS = {
    "U1": {
        "complexity": lambda c, s: {
            "icl": 0.9 - 0.04 * log2(c, K1) - 0.1 * log2(c, B), "iwl": 0.05 * log2(c, K1) + 0.1 * log2(c, B)
        }
    },
    "U2": {"noise": lambda c, s: {"icl": 0.9 - 0.4 * at(c, EPS1)}},
    "U3": {"zipf": lambda c, s: {"icl": 0.5 + 0.1 * abs(at(c, ALPHA1) - 1), "iwl": 0.9}},
    "U4": {
        "decoder_size": lambda c, s: {
            "icl": 0.3 + 0.1 * log2(c, "decoder.layers") + 0.15 * log2(c, "decoder.heads"), "iwl": 0.1
        }
    },
    "U5": {
        "complexity": lambda c, s: {"icl": 0.1 + 0.1 * math.log2(complexity(c) / 512)},
        "complexity_onehot": lambda c, s: {"icl": 0.1 + 0.1 * math.log2(complexity(c) / 512)},
    },
    "U7": {
        "context": lambda c, s: {
            "icl": by_code(c, onehot=0.6, rope=0.7, alibi=0.7) + 0.1 * math.log2(at(c, "sequence.context") / 8)
        }
    },
    "L1": {"longer_context": lambda c, s: lengths(c, 0.95, 0.5, 0.2)},
    "M1": {"multimodal": lambda c, s: {"icl": 0.85}},
    "M2": {"secondary_complexity": lambda c, s: {"icl": 0.9 - 0.1 * log2(c, B), "iwl": 0.1 + 0.1 * log2(c, B)}},
    "M3": {"secondary_noise": lambda c, s: {"icl": 0.8 - 0.5 * at(c, EPS2) + 0.1 * at(c, EPS1)}},
    "M4": {"secondary_zipf": lambda c, s: {"icl": 0.9 - 0.2 * at(c, ALPHA2), "iwl": 0.95}},
    "M5": {"secondary_size": lambda c, s: {"icl": 0.8 - 0.1 * at(c, "decoder.layers")}},
    "M6": {
        "early_fusion": lambda c, s: {"icl": 0.01 * log2(c, K2) + 0.05 * log2(c, K1)},
        "diversity": lambda c, s: {"icl": 0.05 * log2(c, K2) + 0.01 * log2(c, K1)},
    },
    "M7": {"multimodal": knocked(0.9, 0.8)},
    "M8": {"multimodal": zeroed(0.8, 0.95)},
    "J1": {"joint_label": lambda c, s: {"icl": 0.5}},
}  # fmt: skip

ONLY_IF = {
    "U1": (
        {"complexity": lambda c, s: {**UNIMODAL_RISE["complexity"](c, s), "iwl": 0.05 * log2(c, K1) * at(c, B)}},
        ("ICL is judged along K", "ICL is judged along B"),
    ),
    "U2": (
        {"noise": lambda c, s: {"icl": 0.5 + (0.3 if at(c, K1) == 1024 else -0.3) * at(c, EPS1)}},
        ("K is 1024",),
    ),
    "U4": (
        {
            "decoder_size": lambda c, s: {
                "icl": 0.8 - 0.2 * log2(c, "decoder.layers") - 0.05 * log2(c, "decoder.heads"), "iwl": 0.1
            }
        },
        ("layers are added", "heads are added"),
    ),
    "U5": (
        {
            "complexity": lambda c, s: {"icl": 0.6 if complexity(c) < 8192 else 0.95},
            "complexity_onehot": lambda c, s: {"icl": 0.62 if complexity(c) < 4000 else 0.97},
        },
        ("K sqrt(B) is 4096", "K sqrt(B) is 5793", "one asks whether the gap closes at high complexity"),
    ),
    "U6": (
        SAME_CIRCUITS,
        ("the peak of rope's induction head is looked at", "the peak of APE's induction head is looked at"),
    ),
    "L1": (
        {"longer_context": lambda c, s: lengths(c, 0.95, *by_code(c, rope=(0.9, 0.3), alibi=(0.5, 0.2), none=(0.5, 0.2),
                                                                  rope_released=(0.2, 0.1), onehot=(0.94, 0.9)))},
        ("rope reads N = 16", "onehot reads N = 16", "onehot reads N = 32"),
    ),
    "M8": ({"multimodal": zeroed(0.5, 0.95)}, ("M2's items are zeroed",)),
    "M5": (
        {"secondary_size": lambda c, s: {"icl": 0.5 + (0.1 if at(c, K2) == 64 else -0.05) * at(c, "decoder.layers")}},
        ("K2 is 64",),
    ),
    "J1": ({"joint_label": lambda c, s: {"icl": 0.6 if at(c, K2) == 256 else 0.97}}, ("K2 is 2048",)),
}  # fmt: skip


def line_of(directory, claim, profile="quick") -> Line:
    return judged(Evidence(directory, profile), chosen([claim]))[0]


def verdict(tmp_path, claim, formulas, **options) -> Line:
    directory = studies_directory(tmp_path)
    for study, formula in formulas.items():
        make_rows(directory, study, formula, **options)
    return line_of(directory, claim)


@pytest.mark.parametrize("claim", HOLDS)
def test_claim_holds_on_rows_that_bear_it_out(tmp_path, claim):
    line = verdict(tmp_path, claim, HOLDS[claim])
    assert line.findings.verdict == "holds", line.as_json()
    assert line.missing == 0
    assert line.runs > 1


@pytest.mark.parametrize("claim", FAILS)
def test_claim_fails_on_rows_that_contradict_it(tmp_path, claim):
    line = verdict(tmp_path, claim, FAILS[claim])
    assert line.findings.verdict == "fails", line.as_json()


@pytest.mark.parametrize("claim", ONLY_IF)
def test_claim_holds_only_under_the_conditions_that_hold(tmp_path, claim):
    formulas, texts = ONLY_IF[claim]
    line = verdict(tmp_path, claim, formulas)
    assert line.findings.verdict == "holds in part", line.as_json()
    assert line.findings.holding == texts
    assert line.verdict.startswith("holds in part")
    assert f"{len(texts)} of {len(line.findings.conditions)} conditions" in line.verdict
    assert len(line.verdict.partition(", if ")[2].partition(" (")[0].split()) <= 15


@pytest.mark.parametrize("claim", [*HOLDS, "U5"])
def test_one_seed_decides_nothing(tmp_path, claim):
    formulas = HOLDS.get(claim) or ONLY_IF[claim][0]
    line = verdict(tmp_path, claim, formulas, keep=lambda config, seed: seed == 0)
    assert line.findings.verdict == "undecided"
    assert line.missing == 2 * line.runs > 0
    assert f"{line.missing} of {line.missing + line.runs} runs missing" in line.verdict


def test_no_rows_at_all_are_not_decided_and_every_run_is_missing(tmp_path):
    directory = studies_directory(tmp_path)
    line = line_of(directory, "U1")
    assert line.findings.verdict == "undecided"
    assert line.missing == len(Evidence(directory, "quick").plan("complexity"))


def test_a_missing_cell_leaves_the_claim_open_and_two_seeds_of_three_do_not(tmp_path):
    directory = studies_directory(tmp_path)
    formula = UNIMODAL_RISE["complexity"]
    make_rows(directory, "complexity", formula, keep=lambda c, seed: at(c, K1) != 8192 or at(c, B) != 4)
    line = line_of(directory, "U1")
    assert (line.findings.verdict, line.missing) == ("undecided", 3)
    make_rows(directory, "complexity", formula, keep=lambda c, seed: at(c, K1) != 8192 or at(c, B) != 4 or seed < 2)
    line = line_of(directory, "U1")
    assert (line.findings.verdict, line.missing) == ("holds", 1)


def test_an_interval_that_crosses_the_bound_is_not_decided(tmp_path):
    """Seeds disagree on the sign of the slope."""
    rise = {0: 0.4, 1: -0.4, 2: 0.2}
    line = verdict(tmp_path, "U2", {"noise": lambda c, s: {"icl": 0.5 + rise[at(c, "seed")] * at(c, EPS1)}})
    assert line.findings.verdict == "undecided"
    assert line.missing == 0
    condition = line.findings.conditions[0]
    assert condition.measured.low < 0 < condition.measured.high
    assert line.verdict == "undecided: 0 of 2 conditions hold"


def test_why_nothing_is_decided_is_said_in_words(tmp_path):
    level = {0: 0.85, 1: 0.95, 2: 0.9}
    line = verdict(tmp_path, "M1", {"multimodal": lambda c, s: {"icl": level[at(c, "seed")]}})
    assert line.verdict == "undecided: the interval crosses the bound"
    study = tmp_path / "studies" / "multimodal.yaml"
    study.write_text(study.read_text().replace("seeds: [0, 1, 2]", "seeds: [0]"))
    assert line_of(tmp_path / "studies", "M1").verdict == "undecided: too few seeds"


def test_failed_runs_are_no_evidence(tmp_path):
    directory = studies_directory(tmp_path)
    path = make_rows(directory, "multimodal", HOLDS["M1"]["multimodal"])
    frame = pl.read_parquet(path)
    failed = frame.with_columns(
        status=pl.when(pl.col("seed") > 0).then(pl.lit("failed")).otherwise(pl.col("status")),
        step=pl.when(pl.col("seed") > 0).then(None).otherwise(pl.col("step")),
    )
    sealed_table.write(failed, path)
    assert line_of(directory, "M1").findings.verdict == "undecided"


def test_codes_are_compared_at_the_largest_step_that_both_reached(tmp_path):
    """`rope` catches up at 3,000 steps, where one-hot has no row."""
    directory = studies_directory(tmp_path)
    make_rows(directory, "complexity", lambda c, step: {"icl": 0.5 if step < 3000 else 0.9}, steps=(750, 1500, 3000))
    make_rows(directory, "complexity_onehot", lambda c, step: {"icl": 0.9}, steps=(750, 1500))
    findings = line_of(directory, "U5").findings
    assert findings.notes == ("compared at step 1500",)
    assert findings.conditions[0].measured.mean == pytest.approx(0.4)


def test_the_paper_figure_decides_nothing_and_its_distance_is_given(tmp_path):
    line = verdict(tmp_path, "M7", {"multimodal": knocked(0.5, 0.3)}, spread=0.0)
    assert line.findings.verdict == "holds"
    compared = {a.quantity: a for a in line.findings.comparisons}["without the previous-token head"]
    assert compared.distance == pytest.approx(0.5 - 0.199)
    assert Comparison(quantity="q", measured=Interval(0.5, 0, 1, "seed", 3), paper=(0.4, 0.6)).distance == 0
    assert Comparison(
        quantity="q", measured=Interval(0.3, 0, 1, "seed", 3), paper=(0.4, 0.6)
    ).distance == pytest.approx(-0.1)


def test_bounds_are_open_and_nothing_measured_decides_nothing():
    def condition(start, end, **bounds):
        return Condition(text="", quantity="", measured=Interval(0, start, end, "seed", 3), **bounds).verdict

    assert condition(0.0, 0.0, low=0.0) == "fails"
    assert condition(0.1, 0.2, low=0.0) == "holds"
    assert condition(-0.1, 0.2, low=0.0) == "undecided"
    assert condition(-0.2, -0.1, high=0.0) == "holds"
    assert condition(math.nan, math.nan, low=0.0) == "undecided"
    assert Condition(text="", quantity="", measured=None).verdict == "undecided"


def test_a_claim_with_conditions_that_hold_and_others_open_is_not_decided():
    sure = Condition(text="a", quantity="", measured=Interval(1, 0.9, 1.1, "seed", 3), low=0.0)
    open_ = Condition(text="b", quantity="", measured=None, low=0.0)
    fails = Condition(text="c", quantity="", measured=Interval(-1, -2, -0.5, "seed", 3), low=0.0)
    assert Findings(conditions=(sure, open_)).verdict == "undecided"
    assert Findings(conditions=(fails, open_)).verdict == "undecided"
    assert Findings(conditions=(sure, fails, open_)).verdict == "holds in part"
    assert Findings(conditions=()).verdict == "undecided"


def test_slopes_are_those_of_least_squares():
    generator = np.random.default_rng(1)
    x, y = generator.normal(size=12), generator.normal(size=12)
    value = 0.3 * x - 0.7 * y + 0.1 + generator.normal(size=12)
    design = np.column_stack([np.ones(12), x, y])
    expected = np.linalg.lstsq(design, value, rcond=None)[0]
    axes = {"x": x, "y": y}
    assert value @ fit(axes, "x") == pytest.approx(expected[1])
    assert value @ fit(axes, "y") == pytest.approx(expected[2])


def test_cells_are_resampled_together_seed_by_seed_and_set_by_set():
    """What all cells share cancels in a difference; what seeds do not share widens the interval of a mean."""
    shared = {seed: np.array([0.1, 0.5]) + seed / 5 for seed in range(4)}
    cells = Cells(
        keys=(("a",), ("b",)),
        values={
            ("a",): {seed: {"icl": v} for seed, v in shared.items()},
            ("b",): {seed: {"icl": v + 0.25} for seed, v in shared.items()},
        },
        planned={key: dict.fromkeys(range(4), "run") for key in (("a",), ("b",))},
        axes=("name",),
    )
    gap = cells.interval(mean("icl", name="b") - mean("icl", name="a"))
    assert (gap.low, gap.high) == (pytest.approx(0.25), pytest.approx(0.25))
    level = cells.interval(mean("icl", name="a"))
    assert level.mean == pytest.approx(0.6)
    assert level.low < 0.45
    assert level.high > 0.75
    assert (level.unit, level.count) == ("seed", 4)


def test_the_circuit_of_a_row_is_that_of_its_strongest_heads():
    row = {
        "measure.induction_total.1.1": 0.0, "measure.induction_total.2.1": 0.1, "measure.induction_total.2.2": 0.5,
        "measure.label_to_item.m1.1.1": 0.2, "measure.label_to_item.m2.1.2": 0.4, "measure.label_to_item.m1.2.1": 0.9,
        "icl": 0.9, "measure.entropy.1.1": None,
    }  # fmt: skip
    assert heads(row) == ((1, 1), (0, 1))


@pytest.mark.parametrize("profile", ["quick", "paper"])
def test_every_entry_can_be_judged_on_the_studies_that_it_names(tmp_path, profile):
    """Both presets' grids give every claim its cells: fails if a study is renamed or an axis leaves a grid."""
    evidence = Evidence(studies_directory(tmp_path), profile)
    lines = judged(evidence, all_claims())
    assert [line.entry for line in lines] == all_claims()
    for line in lines:
        assert line.findings.conditions, line.entry.id
        assert line.missing > 0 or not line.planned
    assert [line.entry.id for line in lines if not line.planned] == (["X15"] if profile == "quick" else [])


@pytest.mark.parametrize("study", RUN_ORDER)
def test_a_study_answers_the_claims_that_need_it(tmp_path, study):
    directory = studies_directory(tmp_path)
    evidence = Evidence(directory, presets_of(directory / f"{study}.yaml")[0])
    answers = evidence.study(study).answers
    assert sorted(answers) == sorted(e.id for e in all_claims() if study in e.studies and e.id[0] != "C")
    stage = evidence.study(study).stage
    # C1 to C3 rest on all studies of a theme or on none. M9's study has the runs of `multimodal` and
    # `circuit_controls`.
    themes = {evidence.study(one).answers[0][0] for some in STUDIES.values() for one in some}
    is_correlated = answers[0][0] in themes and study != "multimodal_patterns"
    assert (study in STUDIES["unimodal"]) == (stage == "unimodal" and is_correlated)
    assert (study in STUDIES["multimodal"]) == (stage == "multimodal" and is_correlated)


def test_unknown_claims_are_named_with_the_nearest(capsys):
    assert main(["claims", "M77"]) == 2
    assert "M7" in capsys.readouterr().err
    with pytest.raises(MiclabError, match="no claim"):
        chosen(["nothing"])


def test_the_ledger_is_printed_without_torch(tmp_path):
    directory = studies_directory(tmp_path)
    make_rows(directory, "multimodal", HOLDS["M1"]["multimodal"])
    code = (
        "import sys; from miclab.cli import main; "
        f"status = main(['claims', '--studies', {str(directory)!r}, '--json']); "
        "assert 'torch' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr
    found = {line["id"]: line for line in json.loads(done.stdout)}
    assert list(found) == [one.id for one in all_claims()]
    assert found["M1"]["verdict"] == "holds"
    assert found["M1"]["conditions"][0]["measured"]["mean"] == pytest.approx(0.96, abs=0.02)
    assert found["U1"]["missing"] == 45


def test_explain_shows_what_a_verdict_rests_on(tmp_path, capsys):
    directory = studies_directory(tmp_path)
    make_rows(directory, "multimodal", zeroed(0.5, 0.95))
    assert main(["claims", "M8", "--explain", "--studies", str(directory)]) == 0
    message = capsys.readouterr().out
    for text in (
        "criterion",
        CLAIMS["M8"].paper,
        "holds in part, if M2's items are zeroed",
        "0.336",
        "multimodal.yaml",
    ):
        assert text in message
    assert main(["claims", "--explain", "--studies", str(directory)]) == 2
    assert main(["claims", "--studies", str(tmp_path / "nowhere")]) == 2


def test_rows_that_are_older_than_a_field_are_rows_of_the_same_configuration(tmp_path):
    """Fails if a field that came later parts the rows that lack it from the runs that are planned now."""
    evidence = Evidence(studies_directory(tmp_path), "quick")
    planned, _, _ = evidence.plan("complexity")[0]
    older = {name: part for name, part in planned.items() if name not in ("frozen", "bridge")}
    older["decoder"] = {name: value for name, value in older["decoder"].items() if name != "norm"}
    assert evidence.config(json.dumps(older)) == planned


def test_rows_of_another_configuration_are_no_evidence(tmp_path):
    """Of two runs of one cell and seed the planned one counts; one of another numeric mode does where it is alone."""
    directory = studies_directory(tmp_path)
    path = make_rows(directory, "noise", lambda config, step: {"icl": 0.7})
    rows = pl.read_parquet(path)

    def changed(part, **values):
        texts = [json.loads(text) for text in rows["config"]]
        message = [json.dumps({**c, part: {**c[part], **values}}, sort_keys=True) for c in texts]
        names = [f"other{name}" for name in rows["run"]]
        sets = [[0.1] * len(found) for found in rows["icl_sets"]]
        columns = [pl.Series("config", message), pl.Series("run", names), pl.Series("icl_sets", sets)]
        return rows.with_columns(columns)

    def mean():
        cells = Evidence(directory, "quick").cells(
            ("noise",), ("modalities.m1.noise", "modalities.m1.classes"), ["icl"]
        )
        return cells.means["icl"].mean() if cells.decidable else None

    assert mean() == pytest.approx(0.7, abs=0.02)
    for more, alone in ((changed("optimiser", learning_rate=0.5), None), (changed("numerics", mode="eager"), 0.1)):
        for both in (pl.concat([more, rows]), pl.concat([rows, more])):
            sealed_table.write(both, path)
            assert mean() == pytest.approx(0.7, abs=0.02)
        sealed_table.write(more, path)
        assert mean() == (alone if alone is None else pytest.approx(alone))
