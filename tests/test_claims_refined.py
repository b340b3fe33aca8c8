"""W1 to W3 on rows made by a formula: refined, made anew, and a sibling that keeps nothing either."""

from __future__ import annotations

import pytest
from claims_rows import make_rows, studies_directory

from miclab.claims.entries import refined
from miclab.claims.evidence import Evidence
from miclab.claims.registry import find_claim
from miclab.config.axes import field_of


def exchanged(second, sibling):
    """Rows in which a transplant keeps so much of the 0.8 that fresh weights lose."""

    def of(config, step):
        share = second if field_of(config, "K2") else sibling
        columns = dict.fromkeys(map(refined.untouched_column, refined.INTO), 0.9)
        for name in refined.COLUMNS:
            kind = next((kind for kind in refined.KINDS if f" {kind} " in name), "")
            if kind:
                columns[name] = {"fresh": 0.1, "random": 0.3, "transplanted": 0.1 + 0.8 * share}[kind]
        overlaps = {name: share for name in refined.DRIFTS if name.endswith("overlap")}
        return {"icl": 0.9, **columns, **dict.fromkeys(refined.DRIFTS, 0.2), **overlaps}

    return of


@pytest.mark.parametrize(
    ("second", "sibling", "verdict"),
    [(0.9, 0.95, "holds"), (0.3, 0.9, "fails"), (0.3, 0.35, "holds")],
)
def test_what_stage_two_keeps_is_compared_with_what_the_sibling_keeps(tmp_path, second, sibling, verdict):
    """Fails if the sibling is passed over, or a share is not of what fresh weights lose."""
    directory = studies_directory(tmp_path)
    make_rows(directory, refined.STUDY, exchanged(second, sibling), spread=1e-4)
    for claim in ("W1", "W2"):
        found = find_claim(claim).judge(Evidence(directory, "quick"))
        assert (found.verdict, len(found.conditions), found.seeds) == (verdict, 4, 3)
        assert [c.measured.mean for c in found.conditions] == pytest.approx([second / sibling] * 4, rel=0.1)
    shown = {c.quantity: c.measured.mean for c in find_claim("W1").judge(Evidence(directory, "quick")).comparisons}
    lost = shown["stage 2, stage 1's weights put back into the later decoder: all heads: ICL lost"]
    assert lost == pytest.approx(0.8 * (1 - second), abs=0.05)


def test_the_parts_that_are_trained_are_those_of_the_study(tmp_path):
    """Fails if the claim names frozen parts that no run has, or takes another training for projector and MLPs."""
    directory = studies_directory(tmp_path)
    plan = Evidence(directory, "quick").plan(refined.PARTS)
    assert {tuple(config["frozen"]) for config, *_ in plan} == set(refined.TRAINED.values())

    def icl(config, step):
        name = next(n for n, frozen in refined.TRAINED.items() if frozen == tuple(config["frozen"]))
        few = field_of(config, "K2") == 32
        return {"icl": {"everything": 0.96, "projector and MLPs": 0.6 if few else 0.95}.get(name, 0.5)}

    make_rows(directory, refined.PARTS, icl, spread=1e-3)
    found = find_claim("W3").judge(Evidence(directory, "quick"))
    assert [c.verdict for c in found.conditions] == ["fails", "holds", "holds"]
    assert found.verdict == "holds in part"
    assert "At K2 = 32 a mean ICL of 0.9 is reached by training: everything." in found.notes
    assert "At K2 = 256 a mean ICL of 0.9 is reached by training: everything, projector and MLPs." in found.notes


def test_circuits_are_compared_beyond_chance(tmp_path):
    """Fails if W4 takes the plain overlap, or passes over the sibling."""
    for share, verdict in ((0.7, "holds"), (0.2, "fails")):
        folder = tmp_path / verdict
        folder.mkdir()
        directory = studies_directory(folder)

        def overlaps(config, step, share=share):
            if not field_of(config, "stage1_steps"):
                return {"probe.circuit_overlap.circuit later": 1.0, "icl": 0.9}
            beyond = {"probe.circuit_overlap.beyond chance": share if field_of(config, "K2") else 0.8}
            edges = {"probe.circuit_overlap.circuit earlier": 1.0}
            return {**edges, **dict.fromkeys(refined.OVERLAPS, 0.5), **beyond, "icl": 0.9}

        make_rows(directory, refined.CIRCUITS, overlaps, spread=1e-4)
        found = find_claim("W4").judge(Evidence(directory, "quick"))
        assert (found.verdict, len(found.conditions), found.seeds) == (verdict, 1, 3)
        shown = {c.quantity: c.measured.mean for c in found.comparisons if c.measured is not None}
        # One edge, the same as stage 1's: the numbers of all sets round to it.
        assert shown["from scratch, beside stage 1: beyond chance"] == 1
        assert shown["from scratch, beside stage 1: matched beyond chance"] == 1
        assert shown["from scratch, beside stage 1 of the next seed: beyond chance"] == 1


def test_a_single_seed_has_no_next_one(tmp_path):
    """Fails if a decoder from scratch is compared with stage 1 of its own seed under the name of another's."""
    directory = studies_directory(tmp_path)
    circuits = {"probe.circuit_overlap.circuit later": 1.0, "probe.circuit_overlap.circuit earlier": 1.0}
    made = circuits | dict.fromkeys(refined.OVERLAPS, 0.5) | {"icl": 0.9}
    make_rows(directory, refined.CIRCUITS, lambda config, step: made, keep=lambda config, seed: seed == 0)
    found = find_claim("W4").judge(Evidence(directory, "quick"))
    shown = {c.quantity for c in found.comparisons if c.measured is not None}
    assert "from scratch, beside stage 1: beyond chance" in shown
    assert not [quantity for quantity in shown if "next seed" in quantity]
