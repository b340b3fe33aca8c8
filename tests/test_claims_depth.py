"""Z1 to Z3 on rows made by formulas: what holds, what fails, and that runs that never get there are counted."""

from __future__ import annotations

import pytest
from claims_rows import make_rows, studies_directory

from miclab.claims.entries.depth import FAITHFUL, LAYER, LEVEL, RANDOM, SHARES, STUDY, TOP, TWO, TWO_STAGES, UNTOUCHED
from miclab.claims.evidence import Evidence
from miclab.claims.registry import find_claim
from miclab.config.axes import field_of


def findings(tmp_path, claim, formula, keep=lambda config, seed: True):
    study = TWO_STAGES if claim == "Z3" else STUDY
    directory = studies_directory(tmp_path)
    make_rows(directory, study, formula, steps=(50, 500), keep=keep, spread=0.0005)
    return find_claim(claim).judge(Evidence(directory, "quick"))


@pytest.mark.parametrize(
    ("share", "drop", "layer", "verdicts"),
    [
        # The share of two heads at every depth, what the top head costs over depth, and where M2 joins over depth.
        (lambda depth: 0.97, lambda depth: 1.4 / depth, lambda depth: 0.4, ("holds", "holds", "holds")),
        (lambda depth: 0.7, lambda depth: 0.7, lambda depth: depth / 2, ("fails", "fails", "fails")),
        (lambda depth: 0.97 if depth < 8 else 0.5, lambda depth: 0.7 if depth < 12 else 0.1,
         lambda depth: 0.4 if depth < 8 else 3, ("holds in part",) * 3),
    ],
)  # fmt: skip
def test_each_claim_follows_its_criterion(tmp_path, share, drop, layer, verdicts):
    """Fails if a claim holds or fails against its criterion, or leaves a depth out."""
    for claim, verdict, depths in zip(("Z1", "Z2", "Z3"), verdicts, ((4, 8, 12), (8, 12), (4, 8)), strict=True):

        def formula(config, step):
            depth = field_of(config, "decoder.layers")
            return {
                "icl": 0.5 if step < 500 else LEVEL + 0.02, **dict.fromkeys(SHARES, 0.0), TWO: share(depth),
                FAITHFUL: 0.93, UNTOUCHED: 0.96, TOP: 0.96 - drop(depth), RANDOM: 0.9,
                **dict.fromkeys(LAYER.values(), layer(depth)),
            }  # fmt: skip

        folder = tmp_path / claim
        folder.mkdir()
        found = findings(folder, claim, formula)
        assert found.verdict == verdict
        assert [f"{depth} layers" in one.text for depth, one in zip(depths, found.conditions, strict=True)]
        assert not found.notes


def test_runs_that_never_get_there_are_counted_and_left_out(tmp_path):
    """Fails if such a run is called missing, counts in a condition, or is not named."""

    def formula(config, step):
        slow = field_of(config, "decoder.layers") == 8 and config["seed"] == 1
        values = {} if slow else {**dict.fromkeys(SHARES, 0.0), TWO: 0.97, FAITHFUL: 0.93}
        return {"icl": 0.5 if step < 500 or slow else LEVEL + 0.02, **values}

    found = findings(tmp_path, "Z1", formula)
    assert found.verdict == "holds"
    eight = next(one for one in found.conditions if "8 layers" in one.text)
    assert eight.seed_count == 2
    assert not eight.absent
    (note,) = found.notes
    assert note.startswith("1 of 3 runs of 8 layers")
    assert "seed 1 (highest 0.50" in note
