"""End to end: what a decoder learns from data of high and of low complexity, and from a second modality.

Each training has a process of its own, so that two workers of pytest-xdist share the work (`-n 2`).
"""

from __future__ import annotations

import pytest

COMMON = """
import json, sys
from dataclasses import replace
from miclab.evaluate import evaluate
from miclab.profiles import run_config
from miclab.request import Request, SplitSizes
from miclab.settings import ParentConfig
from miclab.train import train_config

def trained(config, steps):
    request = Request(steps=steps, evaluate_every=500, checkpoint_every=500, sequences=100, novel_sets=1)
    run, outcome = train_config(config, request, sys.argv[1])
    assert (outcome.status, outcome.step) == ("finished", steps), outcome
    return run

def unimodal(classes, burstiness, positions):
    config = run_config("unimodal", "quick")
    return replace(
        config,
        modalities={"m1": replace(config.modalities["m1"], classes=classes)},
        sequence=replace(config.sequence, burstiness=burstiness),
        decoder=replace(config.decoder, positions=positions),
    )

def tell(run, sequences=250):
    sizes = SplitSizes(sequences=sequences, novel_sets=8)
    scores = evaluate(run, sizes=sizes, measures=False).scores
    found = {name: split.accuracy for name, split in scores.items()}
    found["hash"] = run.hash
    # The step's own seconds, for whoever runs this by hand; nothing is asserted about them.
    found["seconds"] = sum(t["seconds"] for t in run.timing)
    print(json.dumps(found))
"""


@pytest.mark.slow
def test_much_data_makes_the_decoder_read_its_context(run_python, tmp_path):
    """K = 4096, B = 4 with one-hot positions: fails if any part of the induction circuit (positions, attention,
    gradients, optimiser) or the labels of the `icl` and `swapped` splits are wrong."""
    scores = run_python(COMMON + "tell(trained(unimodal(4096, 4, 'onehot'), 1500), 1000)", tmp_path)
    print(scores)
    assert scores["icl"] >= 0.95
    assert scores["swapped"] >= 0.95


@pytest.mark.slow
def test_little_data_makes_the_decoder_memorise(run_python, tmp_path):
    """K = 256, B = 1: fails if a class's label leaks into the context of the `iwl` split, or if the labels of
    `swapped` are not those that were memorised."""
    scores = run_python(COMMON + "tell(trained(unimodal(256, 1, 'rope'), 2000), 1000)", tmp_path)
    print(scores)
    assert scores["iwl"] >= 0.9
    assert scores["swapped"] <= 0.1


@pytest.mark.slow
def test_second_modality_is_read_in_context_after_the_first(run_python, tmp_path):
    """Stage 1 on K1 = 8192, then stage 2 with 32 times fewer classes of m2: fails if stage 2 loses the parent's
    decoder or world, if the projector is not trained, or if novel classes of m2 get wrong labels."""
    first = run_python(COMMON + "tell(trained(unimodal(8192, 4, 'rope'), 5000))", tmp_path)
    second = """
config = run_config("multimodal", "quick")
assert config.modalities["m2"].classes * 32 == config.modalities["m1"].classes == 8192
tell(trained(replace(config, parent=ParentConfig(run=sys.argv[2], step=5000)), 1500))
"""
    scores = run_python(COMMON + second, tmp_path, first["hash"])
    print(first)
    print(scores)
    assert scores["icl"] >= 0.90
