"""Claims on alignment and real data: known rows come to known verdicts."""

from __future__ import annotations

import math

import pytest
from claims_rows import make_rows, studies_directory

from miclab.claims.entries.aligned_prototypes import NOVEL
from miclab.claims.entries.real_data import CKA, DISTANCE, NULL
from miclab.claims.evidence import Evidence
from miclab.claims.registry import find_claim
from miclab.config.axes import field_of


def judged_on(folder, claim, formula):
    """Findings of a claim whose studies' rows are made by a formula."""
    directory = studies_directory(folder)
    for study in find_claim(claim).studies:
        make_rows(directory, study, formula)
    return find_claim(claim).judge(Evidence(directory, "quick"))


def alignment(sign):
    """Wide items are aligned worse by 0.2, and an encoder that was pretrained mends 0.1 of it, if `sign` is 1."""

    def formula(config, step):
        wide = field_of(config, "modalities.m2.dimension") == 512
        mended = field_of(config, "modalities.m2.encoder_step") > 0 and not config["frozen"]
        value = 0.5 - sign * (0.2 * wide - 0.1 * mended)
        return {CKA: value, DISTANCE: 2 - value, NULL: 0.01, "icl": value}

    return formula


def pairing(config, step):
    """ICL of 0.9, 0.05 less with 32 classes, 0.3 less from scratch, 0.2 less with encoders that were never trained."""
    m2 = config["modalities"]["m2"]
    value = 0.9 - 0.05 * (m2["classes"] == 32) - 0.3 * (config["parent"]["step"] == 0) - 0.2 * (m2["encoder_step"] == 0)
    return {"icl": value, CKA: value / 2, DISTANCE: 1.0, NULL: 0.01, "probe.oracles.nearest_exemplar": 0.95}


def test_alignment_by_dimension_and_encoder(tmp_path):
    """Fails if a cell stands for another shape, or a difference has the wrong sign."""
    for sign, verdict in ((1, "holds"), (-1, "fails")):
        folder = tmp_path / verdict
        folder.mkdir()
        found = judged_on(folder, "A1", alignment(sign))
        assert {c.verdict for c in found.conditions} == {verdict}
        assert found.verdict == "cannot be told by this measure", "a perfect projector reaches a CKA of 0.01"
        measured = [c.measured.mean for c in found.conditions if c.measured]
        assert measured == pytest.approx([0.2 * sign, 0.1 * sign, 0.1 * sign, -0.1 * sign], abs=1e-6)


def test_parts_trained(tmp_path):
    """Fails if the lead of training everything is not that over the best of the others, or its growth is not judged."""

    def formula(config, step):
        classes, frozen = field_of(config, "modalities.m2.classes"), config["frozen"]
        return {"icl": 0.7 + (0.04 * (math.log2(classes) - 7) if not frozen else -0.01 * len(frozen))}

    found = judged_on(tmp_path, "A2", formula)
    assert found.verdict == "holds"
    measured = [c.measured.mean for c in found.conditions if c.measured]
    assert measured == pytest.approx([0.12 + 0.01, 0.16], abs=1e-6)


def test_asymmetry_on_real_pictures(tmp_path):
    """Fails if the two data sets share cells, or K1 and K2 are mixed up."""

    def formula(config, step):
        one, two = (math.log2(field_of(config, f"modalities.{name}.classes")) for name in ("m1", "m2"))
        glyphs = field_of(config, "modalities.m2.source") == "glyphs"
        return {"icl": (0.05 * one + 0.01 * two) if glyphs else (0.01 * one + 0.05 * two)}

    found = judged_on(tmp_path, "R1", formula)
    assert found.verdict == "holds in part"
    assert found.holding == ("M2 is glyphs",)
    assert [c.measured.mean for c in found.conditions if c.measured] == pytest.approx([0.04, -0.04], abs=1e-6)


@pytest.mark.parametrize("claim", ["D1", "D4"])
def test_real_pairings(tmp_path, claim):
    """Fails if points from scratch, with untrained encoders or paired by concept are taken for the full recipe."""
    found = judged_on(tmp_path, claim, pairing)
    assert found.verdict == "holds"
    measured = [c.measured.mean for c in found.conditions if c.measured]
    assert measured == pytest.approx([0.9, 0.85 / 0.9, 0.3, 0.2], abs=0.02)
    ceiling = next(a for a in found.comparisons if "ceiling" in a.quantity)
    assert ceiling.measured is not None
    assert ceiling.measured.mean == pytest.approx(0.95, abs=0.02)


def test_mixtures_of_two_concepts(tmp_path):
    """Fails if a cell with mixtures is taken for one without, or few classes of pictures for all."""

    def formula(config, step):
        value = 0.6 + 0.25 * (config["modalities"]["m1"]["blends"] > 0)
        few = config["modalities"]["m2"]["classes"] == 32
        zeroed = {"probe.ablation.items of m1 zeroed": value, "probe.ablation.items of m2 zeroed": 0.5}
        ceilings = {"probe.oracles.nearest_exemplar": 0.95, "probe.oracles.nearest_exemplar_of_m2": 0.9}
        mended = 0.15 * (config["modalities"]["m2"]["blends"] > 0)
        return {"icl": value - 0.2 * few + mended, "iwl": 0.1, **ceilings, **zeroed}

    found = judged_on(tmp_path, "D6", formula)
    assert [c.verdict for c in found.conditions] == ["holds", "holds", "fails"]
    measured = [c.measured.mean for c in found.conditions if c.measured]
    assert measured == pytest.approx([0.85, 0.25, 0.65 / 0.85], abs=0.02)
    text = {a.quantity: a.measured.mean for a in found.comparisons if a.measured}
    assert text["nearest exemplar by pictures, blends, K2 = 951"] == pytest.approx(0.9, abs=0.02)
    few = find_claim("D7").judge(Evidence(tmp_path / "studies", "quick"))
    assert [c.measured.mean for c in few.conditions if c.measured] == pytest.approx([0.8 / 0.85, 1 / 0.85], abs=0.02)


def test_correlation_of_alignment_and_learning(tmp_path):
    """Fails if cells of different studies fall together, or the correlation is not Pearson's: 1 on a line, and -1."""

    def formula(config, step):
        synthetic = not field_of(config, "modalities.m2.source")
        value = math.log2(field_of(config, "modalities.m2.classes")) / 10 + 0.1 * len(config["frozen"])
        return {"icl": value, CKA: value / 2 if synthetic else -value / 2}

    found = judged_on(tmp_path, "D5", formula)
    assert found.verdict == "cannot be told by this measure"
    assert [c.verdict for c in found.conditions] == ["holds", "fails"]
    measured = [c.measured.mean for c in found.conditions if c.measured]
    assert measured == pytest.approx([1, -1], abs=0.05)


def real_constant(mean_helps):
    """Rope reads 0.3 better with a constant part of its keys, learnt positions 0.05; in D1 it gains 0.02, or 0.2."""

    def formula(config, step):
        m1, decoder = config["modalities"]["m1"], config["decoder"]
        has_mean = m1["source"].startswith("uncentred:") and m1["centre"] == "off"
        constant = decoder["token_constant"] > 0 or (has_mean and decoder["centre_keys"] == "off")
        if len(config["modalities"]) > 1:
            gain = 0.02 if mean_helps else 0.2
        else:
            gain = (0.3 if decoder["positions"] == "rope" else 0.05) if mean_helps else 0.0
        return {"icl": 0.5 + gain * constant, "iwl": 0.2, "measure.label_to_item.m1.1.1": 0.2,
                "measure.label_to_item.m1.2.1": 0.9, "probe.oracles.nearest_exemplar": 0.9}  # fmt: skip

    return formula


def test_real_items_with_and_without_their_mean(tmp_path):
    """Fails if a decoder is taken for another, a difference has the wrong sign, or PH is that of the other layer."""
    wanted = {"X21": [0.3, 0.3, 0.3], "X22": [0.05, 0.25], "X23": [0.02]}
    for number, (claim, gains) in enumerate(wanted.items()):
        for helps, verdict in ((True, "holds"), (False, "fails")):
            folder = tmp_path / f"{number}{verdict}"
            folder.mkdir()
            found = judged_on(folder, claim, real_constant(helps))
            if helps:
                measured = [c.measured.mean for c in found.conditions if c.measured]
                assert measured == pytest.approx(gains, abs=1e-6)
                assert found.verdict == verdict
            elif claim == "X23":
                assert found.verdict == verdict
            else:
                assert found.verdict != "holds"
            heads = [c.measured.mean for c in found.comparisons if "label on its own" in c.quantity and c.measured]
            assert heads == pytest.approx([0.2] * len(heads), abs=0.02)


def test_alignment_within_equal_correlation_of_prototypes(tmp_path):
    """Fails if runs of different rho are compared (CKA and ICL both rise with it here), a part of training or a kind of
    run is left out, or rho = 0 is judged."""
    steps = (0, 250, 500, 750, 1000, 1250, 1500)

    def formula(sign):
        def of(config, step):
            rho = field_of(config, "rho")
            kind = 0.02 * bool(config["frozen"]) - 0.03 * (field_of(config, "encoder2") != "none")
            value = 0.5 + 0.04 * (step / 1500) ** 0.5 + kind
            if step == 0:
                value = 0.1
            aligned = 0.5 * rho + sign * (value - 0.5)
            return {"icl": value + 0.3 * rho, NOVEL: aligned, CKA: -aligned}

        return of

    for sign, verdict in ((1, "holds"), (-1, "fails")):
        folder = tmp_path / verdict
        folder.mkdir()
        directory = studies_directory(folder)
        make_rows(directory, "aligned_prototypes", formula(sign), steps=steps, spread=1e-4)
        found = find_claim("A3").judge(Evidence(directory, "quick"))
        assert (found.verdict, len(found.conditions), found.seeds) == (verdict, 3, 3)
        assert [c.text for c in found.conditions] == [f"K2 is 256 and rho is {rho:g}" for rho in (0.3, 0.6, 0.9)]
        assert [c.measured.mean for c in found.conditions if c.measured] == pytest.approx([sign] * 3, abs=0.01)
        shown = {c.quantity: c.measured.mean for c in found.comparisons if c.measured}
        assert shown["the same of training classes, rho = 0.9, K2 = 256"] == pytest.approx(-sign, abs=0.01)
        assert shown["the same over steps within runs, rho = 0, K2 = 256"] == pytest.approx(sign, abs=0.01)
        assert shown["the same over last rows, rho = 0.3, K2 = 256"] == pytest.approx(sign, abs=0.01)
        assert shown["correlation of CKA with ICL over the last rows of all rho and K2"] > 0.9
