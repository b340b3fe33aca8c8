"""Verdicts: the plateau, Holm's line below the table, words that fit a cell, and sentences for readers."""

from __future__ import annotations

import pytest
from claims_rows import STUDIES, make_rows, studies_directory

from miclab.claims.evidence import Evidence, grid
from miclab.claims.ledger import below, chosen, judged
from miclab.claims.words import MOST_WORDS, in_part, merged
from miclab.config.axes import field_of
from miclab.statistics.grid import mean

STEPS = (250, 1000, 1500)
BOUND = 0.8
CLAIMS = ("U1", "U5", "U6", "L1", "M1", "M2", "M6", "M8", "A1", "X1", "X3", "X6", "X7", "X10", "X13")


def leaving(*when):
    """ICL of 0.5, any label of the context, until a seed's step; then 0.97. None: it never leaves."""

    def formula(config, step):
        leaves = when[config["seed"]]
        return {"icl": 0.97 if leaves is not None and step >= leaves else 0.5}

    return formula


def cells(tmp_path, *when):
    directory = studies_directory(tmp_path)
    make_rows(directory, "multimodal", leaving(*when), steps=STEPS, spread=0.002)
    return grid(Evidence(directory, "quick"), "multimodal", "K2", "icl")


@pytest.mark.parametrize(
    ("when", "verdict", "left"),
    [
        ((250, 250, 250), "holds", None),
        ((1000, 250, 1000), "holds", (3, 3)),
        ((1000, None, 1000), "undecided", (2, 3)),
        ((None, None, None), "fails", (0, 3)),
    ],
)
def test_a_cell_near_the_plateau_is_judged_by_the_seeds_that_left_it(tmp_path, when, verdict, left):
    """Fails if a seed that left late is not counted, or a mixed cell decides a condition."""
    found = cells(tmp_path, *when).condition(mean("icl") > BOUND, "ICL", "K2 is 256")
    assert found.verdict == verdict
    assert [(cell.left, cell.seeds) for cell in found.plateau] == ([left] if left else [])


def test_a_mixed_cell_decides_what_its_seeds_cannot_change(tmp_path):
    """All seeds left, or none: ICL is above 0.3 in both. Fails if a mixed cell opens every condition, or if the three
    values' spread of t is all that counts."""
    found = cells(tmp_path, 1000, None, 1000)
    wide = found.condition(mean("icl") > -1.0, "ICL", "")
    assert (wide.verdict, wide.open) == ("holds", False)
    near = found.condition(mean("icl") < 1.6, "ICL", "")
    assert (near.verdict, near.open) == ("holds", False)
    assert "2 of 3 seeds left the plateau (0.09 to 0.99)" in str(wide.plateau[0])


def test_which_decoder_leaves_first_is_counted_by_seed(tmp_path):
    """Fails if steps are not paired by seed, or a run that never leaves counts as the first."""
    directory = studies_directory(tmp_path)

    def formula(config, step):
        first = field_of(config, "code") == "onehot"
        return {"icl": 0.97 if step >= (250 if first else 1500) and (first or config["seed"] < 2) else 0.5}

    make_rows(directory, "anchors", formula, steps=STEPS)
    everything = grid(Evidence(directory, "quick"), "anchors", "code", "icl")
    one, other = (lambda cell, code=code: cell.code == code for code in ("onehot", "rope"))
    for share, pair in ((1.0, (one, other)), (0.0, (other, one))):
        found = everything.leaves_first(*pair, "").measured
        assert found is not None
        assert (found.mean, found.count) == (share, 3)
    assert everything.leaves_first(one, one, "").measured is None, "nobody is first"


@pytest.fixture(scope="module")
def ledger():
    """Claims of the committed ledger with every kind of verdict."""
    return judged(Evidence(STUDIES, "quick"), chosen(CLAIMS))


def test_a_verdict_fits_its_cell_and_says_preset_seeds_and_interval(ledger):
    """Fails if a verdict in part names no condition or too many words, or a sentence lacks what it has to say."""
    for line in ledger:
        if line.findings.verdict == "holds in part":
            words = line.verdict.partition(", if ")[2].rpartition(" (")[0].split()
            assert 0 < len(words) <= MOST_WORDS, line.verdict
        if line.runs:
            seeds = f"{line.findings.seeds} seeds" if line.findings.seeds else ""
            condition = f", if {line.deciding.text}: "
            assert all(text in line.sentence for text in ("Preset quick", seeds, condition, "[", "reader")), (
                line.sentence
            )


def test_holm_stands_below_the_table_and_changes_no_verdict(ledger):
    """Fails if a claim of three seeds is counted as surviving, or one without a p is."""
    holm, wanting = below(ledger)
    decided = [line.entry.id for line in ledger if line.findings.verdict in ("holds", "fails")]
    assert f"the {len(decided)} claims" in holm
    alive = holm.partition(": ")[2].partition(" survive")[0]
    for line in ledger:
        if 0 < line.findings.seeds <= 3:
            assert line.entry.id not in alive.split(", ")
    assert "10 seeds" in wanting
    assert below(ledger[:0]) == ()


def test_conditions_that_differ_in_a_word_are_one():
    assert merged(["K is 1", "B is 2", "K is 4"]) == {"K is 1, 4": 2, "B is 2": 1}
    assert in_part(["K is 1"], 2) == "holds in part, if K is 1 (1 of 2 conditions)"
    assert in_part(["a " * 9 + "b", "c " * 9 + "d"], 3).endswith("b and 1 other (2 of 3 conditions)")
    long = [f"{'c ' * 9}{end}" for end in "de"]
    assert in_part(["a " * 9 + "b", *long], 4).endswith("b and 2 others (3 of 4 conditions)"), "conditions, not texts"


def test_a_criterion_that_is_faulty_stays_and_is_marked(ledger):
    """Fails if X3's criterion is changed, or the better one does not stand beside it with its date and verdict."""
    (line,) = [line for line in ledger if line.entry.id == "X3"]
    assert line.entry.criterion.startswith("ICL at step 1500 as a cubic in log2 K + b log2 B: the b that fits best")
    assert any("2026-11-26" in note and "faulty" in note for note in line.findings.notes)
    assert "by the better criterion of 2026-11-26 the verdict is: fails" in line.findings.notes
