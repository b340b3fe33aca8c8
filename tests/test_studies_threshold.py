"""Studies of kind `threshold`: which rungs are run, in which order, and that a stopped one goes on where it was."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_cli import called, in_json
from tiny_study import carry_out, study_mapping, tiny_study, write_study

from miclab.errors import ConfigError, MiclabError
from miclab.runs.find import glance
from miclab.statistics.threshold import find_threshold
from miclab.studies import threshold
from miclab.studies.ladder import Ladder, climbed, read_ladder
from miclab.studies.plan import Plan
from miclab.studies.rows import StudyTable
from miclab.studies.state import survey
from miclab.studies.study import load_study
from miclab.studies.threshold import curves_of, narrowed, rounds, rows_under

LADDER = {"axis": "modalities.m1.classes", "values": [8, 16, 24, 48, 64], "brackets": [8, 64]}
TINY = {"kind": "threshold", "ladder": LADDER, "grid": [{"product": {"decoder.layers": [1, 2]}}]}
TINY |= {"profiles": {"quick": {"seeds": [0]}}}


# -- which rungs --------------------------------------------------------------------------------------------------
@given(st.lists(st.integers(0, 12), min_size=1, max_size=4), st.sets(st.integers(0, 11), min_size=1))
def test_the_rungs_beside_a_threshold_are_run_and_few_others(own, brackets):
    """Fails if the rungs around a seed's threshold are left out, or if the search ends before it is certain: seeds read
    from a rung of their own on."""
    values = tuple(2**i for i in range(12))
    ladder = Ladder(axis="x", values=values, brackets=tuple(values[i] for i in sorted(brackets | {0, 11})))
    whole = {2.0**i: {s: "reads" if i >= first else "memorises" for s, first in enumerate(own)} for i in range(12)}
    requested = set()

    def ended(rung, seed):
        requested.add(rung)
        return whole[rung][seed]

    rungs, complete = climbed(ladder, tuple(range(len(own))), ended)
    assert complete
    assert requested == set(rungs) >= set(ladder.brackets)
    found, every = (find_threshold({rung: whole[rung] for rung in part}) for part in (rungs, values))
    assert (found.kind, found.bracket) == (every.kind, every.bracket) or found.kind == every.kind != "found"
    if len(own) == 1:
        assert len(rungs) <= len(ladder.brackets) + 5


def test_the_search_waits_for_every_seed():
    """Fails if a rung is decided before its runs have ended, or if a failed run stops the search."""
    ladder = Ladder(axis="x", values=(1, 2, 4, 8, 16), brackets=(1, 16))
    known = {(1, 0): "memorises", (1, 1): "memorises", (16, 0): "reads"}
    assert climbed(ladder, (0, 1), lambda *at: known.get(at)) == ((1, 16), False)
    known[16, 1] = "failed"
    assert climbed(ladder, (0, 1), lambda *at: known.get(at)) == ((1, 4, 16), False)


# -- studies ------------------------------------------------------------------------------------------------------
def by_rule(run, rows):
    """Plays the state of a run: layers 1 read from 24 classes on, layers 2 from 64."""
    return "reads" if run.modalities["m1"].classes >= {1: 24, 2: 64}[run.decoder.layers] else "memorises"


@pytest.fixture
def played(monkeypatch):
    monkeypatch.setattr(threshold, "run_state", by_rule)


def classes(plan: Plan) -> set:
    return {(run.point.decoder.layers, run.point.modalities["m1"].classes) for run in plan.runs.values()}


def test_rounds_narrow_each_decoders_bracket(tmp_path: Path, played):
    """Fails if a decoder's rungs depend on another's, if runs are not the ordinary ones, if a study that was stopped
    between rounds does not go on where it was, or if one whose table alone is left begins anew."""
    study, root = tiny_study(tmp_path, **TINY), tmp_path / "runs"
    plans = []
    for _, plan in rounds([study], "eager", root):
        plans.append(plan)
        carry_out(plan, root)
    planned, plan = [classes(one) for one in plans], plans[-1]
    ends = {(layers, K) for layers in (1, 2) for K in (8, 64)}
    assert planned[0] == ends
    assert planned[-1] == ends | {(1, 16), (1, 24), (2, 24), (2, 48)}
    assert all(before < after for before, after in pairwise(planned))
    # Nothing is left, for whoever calls again.
    assert list(rounds([study], "eager", root))[-1][1].runs.keys() == plan.runs.keys()
    whole = Plan([study], "eager")
    assert set(plan.runs) < set(whole.runs)
    assert all(glance(root, run.name, run.point) is not None for run in plan.runs.values())
    found = curves_of(study, "eager", rows_under(study, "eager", root))
    assert [curve.axes for curve in found] == [{"decoder.layers": 1}, {"decoder.layers": 2}]
    assert [find_threshold(curve.states).bracket for curve in found] == [(16, 24), (48, 64)]
    assert all(curve.complete for curve in found)
    # Its runs are gone and its table is there.
    StudyTable(study, plan, root).write(survey(plan, root), now=True)
    elsewhere = tmp_path / "empty"
    elsewhere.mkdir()
    assert narrowed(study, "eager", elsewhere) == narrowed(study, "eager", root)


def test_commands_know_the_rungs(tmp_path: Path):
    """Fails if a command trains or lists the whole ladder: tiny runs stay on the plateau, so only brackets are run."""
    file, root = write_study(tmp_path, **TINY), tmp_path / "runs"
    where = ("--runs", root)
    assert len(in_json("study", "plan", file, *where)) == 4
    done = in_json("study", "run", file, *where, "--workers", "1")
    assert done["studies"]["tiny"]["done"] == 4
    assert {row["status"] for row in in_json("study", "plan", file, *where)} == {"done"}
    status, _, errors = called("report", "--study", file, *where, "--output", tmp_path / "report.html")
    assert status == 0, errors
    page = (tmp_path / "report.html").read_text()
    assert "none: no run left the plateau" in page
    assert "1 plateau" in page


REFUSED = {
    "a ladder without its kind": ({"ladder": LADDER}, "ladder", "kind: threshold"),
    "a kind without its ladder": ({"kind": "threshold"}, "ladder", "axis"),
    "no such kind": ({"kind": "treshold"}, "kind", "'threshold'"),
    "the ladder's axis in the grid": (
        {**TINY, "grid": [{"product": {"modalities.m1.classes": [8]}}]}, "grid[0]", "other than the ladder's"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_study_that_cannot_be_is_named(name, tmp_path: Path):
    changes, field, words = REFUSED[name]
    file = tmp_path / "bad.yaml"
    file.write_text(json.dumps({**study_mapping(), **changes}))
    with pytest.raises(MiclabError, match=words.replace("[", r"\[")) as raised:
        load_study(file, "quick")
    assert field in str(raised.value)


@pytest.mark.parametrize(("change", "field", "words"), [
    ({"brackets": [8, 9]}, "brackets", "rungs of the ladder"), ({"values": [8]}, "values", "at least two"),
    ({"values": [16, 8]}, "values", "rise"), ({"axis": 3}, "axis", "dotted"), ({"steps": 3}, "steps", "known key"),
    ({"values": [0, 8]}, "values", "above 0"), ({"brackets": []}, "brackets", "list of rungs"),
])  # fmt: skip
def test_a_ladder_that_cannot_be_is_named(change, field, words):
    with pytest.raises(ConfigError, match=words) as raised:
        read_ladder({**LADDER, **change}, "ladder")
    assert raised.value.field == f"ladder.{field}"
