"""Signs of failure: a decoder that has learnt nothing is distinguished from one whose attention is diffuse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny import tiny_config

from miclab.circuits.diagnose import diffuse_attention, no_induction_circuit
from miclab.config.request import Request, SplitSizes
from miclab.measures.evaluate import Evaluation, evaluate
from miclab.training.loop import train_config

SIZES = SplitSizes(sequences=40, novel_sets=3)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run of two layers with one head each that has hardly begun, and its scores."""
    request = Request(steps=2, evaluate_every=2, checkpoint_every=2, sequences=4, novel_sets=1)
    run, _ = train_config(tiny_config(decoder={"positions": "rope"}), request, tmp_path_factory.mktemp("runs"))
    return run, evaluate(run, sizes=SIZES)


def learnt(found: Evaluation, entropy: float) -> Evaluation:
    """The same with nine answers of ten right, by an induction head 1.0 of this entropy."""
    icl = found.scores["icl"]
    strengths = {name: np.zeros_like(value) for name, value in icl.strengths.items()}
    strengths["induction_total"][:, 1, 0] = 0.7
    strengths["entropy"][:, 1, 0] = entropy
    correct = np.ones_like(icl.correct)
    correct[:, ::10] = 0
    return replace(found, scores=found.scores | {"icl": replace(icl, correct=correct, strengths=strengths)})


def test_attention_that_has_not_formed_is_not_called_diffuse(begun):
    """Fails if the even attention of fresh weights is laid to the position code."""
    run, found = begun
    circuit, diffuse = no_induction_circuit(run, found), diffuse_attention(run, found)
    assert circuit.shown
    assert "not above that of answering with any label" in circuit.evidence
    assert "the strongest induction head" in circuit.evidence
    assert "Train longer" in circuit.advice
    assert diffuse.shown is None
    assert diffuse.evidence.startswith("not judged: no induction head has formed")


@pytest.mark.parametrize(("entropy", "shown"), [(0.3, False), (0.7, True)])
def test_attention_of_a_formed_head_is_diffuse_or_not(begun, entropy, shown):
    """Fails if entropy is read from another head, or a formed circuit is denied."""
    run, found = begun
    found = learnt(found, entropy)
    assert no_induction_circuit(run, found).shown is False
    diffuse = diffuse_attention(run, found)
    assert diffuse.shown is shown
    assert f"head 1.0 has attention entropy {entropy:.2f}" in diffuse.evidence


def test_one_layer_is_advised_to_become_two(tmp_path):
    """Fails if a decoder that cannot have the circuit is advised to train longer."""
    request = Request(steps=1, evaluate_every=1, checkpoint_every=1, sequences=4, novel_sets=1)
    run, _ = train_config(tiny_config(decoder={"layers": 1, "positions": "rope"}), request, tmp_path)
    assert "two layers" in no_induction_circuit(run, evaluate(run, sizes=SIZES)).advice
