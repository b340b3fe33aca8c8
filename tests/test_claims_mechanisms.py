"""X17 to X20 on rows made by formulas, one for each of the two explanations that the study compares."""

from __future__ import annotations

import pytest
from claims_rows import make_rows, studies_directory

from miclab.claims.entries.mechanisms import FEW
from miclab.claims.evidence import Evidence
from miclab.claims.ledger import chosen, judged
from miclab.config.axes import field_of

LOW, HIGH = 0.2, 0.95


def makes_keys_hold_items(attention):
    """Smeared keys, from one position back."""
    return attention["name"] == "smeared" and (attention["on"], attention["back"]) == ("keys", 1)


def gives_previous_token(attention):
    """The same, a fixed pattern, or values of the position before."""
    values = attention["name"] == "smeared" and attention["on"] == "values"
    return makes_keys_hold_items(attention) or attention["name"] == "previous_token" or values


def composition(few, attention):
    """H2: the previous token is enough at a burstiness of 2 alone."""
    return makes_keys_hold_items(attention) if few else gives_previous_token(attention)


def previous_token(few, attention):
    """H1: whatever gives the previous token reads."""
    return gives_previous_token(attention)


def head_in_first(few, attention):
    """As H2, but smeared keys work through a head in layer 0 and help nowhere else."""
    return composition(few, attention) and attention.get("layers") != [1]


def everywhere(few, attention):
    """All but plain rope read, keys smeared from two back too."""
    return attention["name"] != "softmax"


@pytest.mark.parametrize(
    ("reads", "uniform", "failing"),
    [
        (composition, HIGH, {}),
        (composition, LOW, {"X18": 2}),
        (previous_token, HIGH, {"X17": 4, "X20": 2}),
        (head_in_first, HIGH, {"X18": 4}),
        (everywhere, HIGH, {"X17": 4, "X20": 6}),
    ],
)
def test_each_explanation_fails_the_claims_that_speak_against_it(tmp_path, reads, uniform, failing):
    """Fails if a claim does not distinguish the explanations, or holds where layer 0 is needed."""

    def formula(config, step):
        few = (field_of(config, "K"), field_of(config, "B")) in FEW
        icl = HIGH if reads(few, config["decoder"]["attention"]) else LOW
        return {
            "icl": icl, "probe.uniform_pattern.untouched": icl,
            "probe.uniform_pattern.head 1.1 uniform": min(icl, uniform),
            "probe.uniform_pattern.head 2.1 uniform": LOW,
        }  # fmt: skip

    directory = studies_directory(tmp_path)
    make_rows(directory, "mechanisms", formula, steps=(50, 1500), spread=0.001)
    evidence = Evidence(directory, "quick")
    found = {}
    for line in judged(evidence, chosen(["X17", "X18", "X19", "X20"])):
        outcomes = [condition.verdict for condition in line.findings.conditions]
        assert set(outcomes) <= {"holds", "fails"}
        if "fails" in outcomes:
            found[line.entry.id] = outcomes.count("fails")
        assert line.missing == 0
    assert found == failing
