"""Controls of the paper's claims, on rows made by formulas: each verdict is known beforehand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from claims_rows import make_rows, studies_directory

from miclab.claims.entries.controls_complexity import LOGISTIC, best_exponent, held_out_errors
from miclab.claims.entries.controls_multimodal import CONTROLS, MEAN_UNTOUCHED, MEAN_WITHOUT
from miclab.claims.entries.multimodal import INTACT, UNTOUCHED, WITHOUT, ZEROED
from miclab.claims.evidence import Evidence
from miclab.claims.ledger import Line, chosen, judged
from miclab.config.axes import field_of

K1, K2, B = "modalities.m1.classes", "modalities.m2.classes", "sequence.burstiness"
PREVIOUS, INDUCTION = WITHOUT.values()
SECOND, PRIMARY, BOTH = ZEROED.values()


def line(tmp_path, claim, *rows, steps=(1500,)) -> Line:
    directory = studies_directory(tmp_path)
    for study, formula in rows:
        make_rows(directory, study, formula, steps=steps)
    return judged(Evidence(directory, "quick"), chosen([claim]))[0]


def held(found: Line) -> set[str]:
    assert all(c.verdict != "undecided" for c in found.findings.conditions)
    return {c.text for c in found.findings.conditions if c.verdict == "holds"}


def test_the_difference_that_matters_is_named(tmp_path):
    """Width alone is worth something here: fails if another pair of decoders is compared."""
    found = line(tmp_path, "X1", ("position_width", lambda c, s: {"icl": field_of(c, "decoder.width") / 256}))
    assert held(found) == {"the gap is put down to the width of 128 instead of 64 under rope"}


def test_a_slow_code_is_distinguished_from_a_narrow_one(tmp_path):
    def formula(config, step):
        return {"icl": 0.5 + 0.2 * (field_of(config, "decoder.positions") == "onehot")}

    found = line(tmp_path, "X1", ("position_width", formula))
    assert held(found) == {
        "the gap is put down to rotation, at equal width and parameters",
        "the gap is put down to leaving rope out of hybrid",
    }


def test_optimisers_are_compared_at_equal_loss(tmp_path):
    """AdamW ends memorising at a loss that SGD has not reached; at SGD's loss it reads its context."""

    def formula(config, step):
        slow = field_of(config, "optimiser.name") == "sgd"
        icl = 0.9 if slow or step < 1500 else 0.1
        return {"icl": icl, "iwl": 1 - icl, "loss": 0.5 if slow or step < 1500 else 0.01}

    found = line(tmp_path, "X2", ("optimiser", formula), steps=(750, 1500))
    assert found.verdict == "holds"


@pytest.mark.parametrize(("exponent", "verdict"), [(0.5, "holds"), (1.5, "fails")])
def test_the_exponent_of_b_is_found(tmp_path, exponent, verdict):
    def formula(config, step):
        x = math.log2(field_of(config, K1)) + exponent * math.log2(field_of(config, B))
        return {"icl": 1 / (1 + math.exp(11.5 - x))}

    found = line(tmp_path, "X3", ("complexity", formula), ("complexity_onehot", formula))
    exponents = [c for c in found.findings.conditions if c.quantity.startswith("exponent")]
    assert [c.verdict for c in exponents] == [verdict] * 2
    assert all(c.measured is not None and abs(c.measured.mean - exponent) <= 0.1 + 1e-9 for c in exponents)


def test_held_out_errors_agree_with_a_plain_loop():
    generator = np.random.default_rng(0)
    classes, bursts = np.array([512.0, 1024, 2048, 4096, 2048, 4096, 8192]), np.array([1.0, 1, 1, 1, 4, 4, 4])
    icl = generator.random((3, 7))
    found = held_out_errors(classes, bursts, icl, 0.5)
    x = np.log2(classes * np.sqrt(bursts)) - 11.0
    for draw in range(3):
        for cell in range(7):
            rest = np.delete(np.arange(7), cell)
            guess = np.polyval(np.polyfit(x[rest], icl[draw, rest], 3), x[cell])
            assert found[draw, cell] == pytest.approx(guess - icl[draw, cell], abs=1e-9)
    assert best_exponent(classes, bursts, icl).shape == (3,)


def test_a_logistic_curve_reaches_cells_beyond_those_it_knows():
    classes, bursts = (v.ravel() for v in np.meshgrid(2.0 ** np.arange(9, 14), [1.0, 2.0, 4.0]))
    icl = 1 / (1 + np.exp((13 - np.log2(classes) - 2 * np.log2(bursts)) / 2))
    assert best_exponent(classes, bursts, icl, LOGISTIC) == 2.0
    assert np.abs(held_out_errors(classes, bursts, icl, None, LOGISTIC)).max() < 1e-6
    assert np.abs(held_out_errors(classes, bursts, icl, 0.5, LOGISTIC)).max() > 0.1


def test_in_context_learning_that_fades_is_noticed(tmp_path):
    def formula(config, step):
        return {"icl": 0.9 if step == 3000 or field_of(config, K1) > 2048 else 0.5}

    found = line(tmp_path, "X4", ("transience", formula), steps=(3000, 15000))
    assert held(found) == {"K is 4096", "K is 8192"}


def test_what_stands_next_to_the_label_and_what_came_first_separate(tmp_path):
    found = line(
        tmp_path, "X5",
        ("early_fusion_swapped", lambda c, s: {"icl": 0.05 * math.log2(field_of(c, K2))}),
        ("diversity_swapped", lambda c, s: {"icl": 0.05 * math.log2(field_of(c, K1))}),
    )  # fmt: skip
    assert held(found) == {"M1 is trained first"}


def analyses(config, step):
    """The circuit matters; at B = 4 a mean output does a head's work, and any head of four does."""
    easy = field_of(config, B) == 4
    return {
        UNTOUCHED: 0.95, PREVIOUS: 0.3, INDUCTION: 0.1, MEAN_UNTOUCHED: 0.95,
        **dict.fromkeys(MEAN_WITHOUT.values(), 0.9 if easy else 0.2),
        **dict.fromkeys(CONTROLS.values(), 0.1 if easy else 0.9),
        INTACT: 0.95, SECOND: 0.3, PRIMARY: 0.9, BOTH: 0.06,
    }  # fmt: skip


def test_the_circuit_is_judged_at_each_burstiness_against_other_heads(tmp_path):
    texts = held(line(tmp_path, "X6", ("circuit_controls", analyses)))
    assert sum("zero stands in" in c for c in texts) == 6
    assert sum("mean output stands in" in c for c in texts) == 4
    assert {c[5] for c in texts if "one of four" in c} == {"1", "2"}


def test_zeroed_modalities_are_judged_in_both_orders(tmp_path):
    texts = held(line(tmp_path, "X7", ("circuit_controls", analyses)))
    assert len(texts) == 6
    assert all("M2's items zeroed" in c for c in texts)


def test_the_configuration_nearest_to_the_papers_figures_is_named(tmp_path):
    def formula(config, step):
        near = field_of(config, B) == 2 and field_of(config, "sequence.order") == ("m2", "m1")
        values = (0.199, 0.062, 0.336) if near else (0.5, 0.5, 0.9)
        return analyses(config, step) | dict(zip((PREVIOUS, INDUCTION, SECOND), values, strict=True))

    found = line(tmp_path, "X8", ("circuit_controls", formula))
    assert found.verdict == "holds"
    assert "all four: nearest is B = 2, M1 next to the label" in found.findings.notes


def test_rotary_codes_are_distinguished(tmp_path):
    def formula(config, step):
        return {"icl": 0.85 if field_of(config, "decoder.positions") == "rope_released" else 0.97}

    assert held(line(tmp_path, "X9", ("anchors", formula))) == {"the rotary code is rope_released"}


def test_what_makes_attention_diffuse_is_named(tmp_path):
    """Every rotation, its slip too, blurs the previous-token head here, and no code as much as a rotation."""

    def formula(config, step):
        sharp = field_of(config, "decoder.positions") in ("onehot", "learned")
        measures = {"induction": 0.9, "induction_total": 0.9, "label_to_item.m1": 0.9, "target_label_attention": 0.9}
        measures |= {"target_item_attention.m1": 0.0, "entropy": 0.2, "label_row_entropy": 0.3 if sharp else 0.7}
        return {f"measure.{name}.{layer}.1": value for name, value in measures.items() for layer in (1, 2)}

    assert held(line(tmp_path, "X10", ("position_width", formula))) == {
        "it is put down to rotation instead of one-hot positions, in a width of 128",
        "it is put down to rotation instead of a learnt code, in 64",
        "it is put down to no code instead of a learnt one, in 64",
    }


def test_what_a_longer_context_costs_is_named(tmp_path):
    """Rope in 64 reads less than rope in 128, and its slip makes that worse."""

    def formula(config, step):
        code, width = (field_of(config, f"decoder.{name}") for name in ("positions", "width"))
        return {"icl": {("rope", 64): 0.5, ("rope_released", 64): 0.3}.get((code, width), 0.6)}

    assert held(line(tmp_path, "X11", ("context_codes", formula))) == {
        "it is put down to rotation instead of a learnt code, in 64",
        "it is put down to rotation instead of no code, in 64",
        "it is put down to a width of 64 instead of 128 under rope",
        "it is put down to the slip of the released rotary code, in 64",
    }
