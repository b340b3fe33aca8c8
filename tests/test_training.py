"""End to end: what a decoder learns from data of high and of low complexity, and from a second modality.

Each training has a process of its own, so that two workers of pytest-xdist share the work (`-n 2`).
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny import tiny_config

from miclab.config.request import Request, SplitSizes
from miclab.errors import ConfigError
from miclab.measures.evaluate import evaluate
from miclab.training.loop import train_config

COMMON = """
import json, sys
from dataclasses import replace
from miclab.measures.evaluate import evaluate
from miclab.config.presets import run_config
from miclab.config.request import Request, SplitSizes
from miclab.config.parts import ParentConfig
from miclab.training.loop import train_config

def trained(config, steps):
    request = Request(steps=steps, evaluate_every=250, checkpoint_every=750, sequences=100, novel_sets=1)
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

def show(run, sequences=250):
    sizes = SplitSizes(sequences=sequences, novel_sets=8)
    scores = evaluate(run, sizes=sizes, measures=False).scores
    found = {name: split.accuracy for name, split in scores.items()}
    # The step's own seconds, for whoever runs this by hand; nothing is asserted about them.
    found["seconds"] = sum(t["seconds"] for t in run.timing)
    print(json.dumps(found))
"""


@pytest.mark.slow
def test_much_data_makes_the_decoder_read_its_context(run_python, tmp_path):
    """K = 4096, B = 4 with one-hot positions: fails if any part of the induction circuit (positions, attention,
    gradients, optimiser) or the labels of the `icl` and `swapped` splits are wrong."""
    scores = run_python(COMMON + "show(trained(unimodal(4096, 4, 'onehot'), 750), 1000)", tmp_path)
    print(scores)
    assert scores["icl"] >= 0.95
    assert scores["swapped"] >= 0.95


@pytest.mark.slow
def test_little_data_makes_the_decoder_memorise(run_python, tmp_path):
    """K = 256, B = 1: fails if a class's label leaks into the context of the `iwl` split, or if the labels of
    `swapped` are not those that were memorised."""
    scores = run_python(COMMON + "show(trained(unimodal(256, 1, 'rope'), 500), 1000)", tmp_path)
    print(scores)
    assert scores["iwl"] >= 0.9
    assert scores["swapped"] <= 0.1


@pytest.mark.slow
def test_second_modality_is_read_in_context_after_the_first(run_python, tmp_path):
    """Stage 1 on K1 = 8192, then stage 2 with 32 times fewer classes of m2: fails if stage 2 loses the parent's
    decoder or world, if the projector is not trained, or if novel classes of m2 get wrong labels."""
    stages = """
first = trained(unimodal(8192, 4, 'rope'), 1500)
config = run_config("multimodal", "quick")
assert config.modalities["m2"].classes * 32 == config.modalities["m1"].classes == 8192
show(trained(replace(config, parent=ParentConfig(run=first.hash, step=1500)), 750))
"""
    scores = run_python(COMMON + stages, tmp_path)
    print(scores)
    assert scores["icl"] >= 0.90


@pytest.mark.parametrize("positions", ["rope", "alibi"])
def test_a_longer_context_than_in_training_is_measured(tmp_path, positions):
    """Fails if the length of training is baked into a run with relative positions: the same weights on 16 examples,
    with strengths and oracles of those sequences."""
    config = tiny_config(2, decoder={"positions": positions, "initial_std": 0.3})
    run, outcome = train_config(config, Request(steps=2, evaluate_every=2, checkpoint_every=2, sequences=4), tmp_path)
    assert outcome.status == "finished"
    sizes = SplitSizes(sequences=6, novel_sets=2)
    found = evaluate(run, context=16, sizes=sizes)
    assert (found.context, found.step) == (16, 2)
    icl = found.scores["icl"]
    assert icl.correct.shape == (2, 6)
    assert icl.oracles["nearest_exemplar"].mean() > 0.9
    # B = 2: of 16 labels two are the target's, and more only by collisions.
    assert 2 / 16 <= icl.oracles["random_context_label"].mean() < 0.6
    assert icl.strengths["induction"].shape == (2, 2, 1)
    assert 0 < icl.strengths["total_label_attention"].min() <= icl.strengths["total_label_attention"].max() < 1
    assert evaluate(run, sizes=sizes).context == 4


def test_one_hot_says_why_it_cannot_see_a_longer_context(tmp_path):
    """Fails if one-hot slots are overrun in silence, or the message does not say the way out."""
    config = tiny_config(decoder={"positions": "onehot"})
    run, _ = train_config(config, Request(steps=1, evaluate_every=1, checkpoint_every=1, sequences=4), tmp_path)
    assert evaluate(run, context=16, sizes=SplitSizes(sequences=4, novel_sets=1)).context == 16
    with pytest.raises(ConfigError, match=r"sequence\.context = 34.*position_slots = 65 tokens; this one has 69.*rope"):
        evaluate(run, context=34)


def test_frozen_parts_of_a_run_stay_as_they_were(tmp_path):
    """Fails if stage 2 with frozen blocks still moves them on their way through training and the disk."""
    parent, _ = train_config(
        tiny_config(1), Request(steps=3, evaluate_every=3, checkpoint_every=3, sequences=4), tmp_path
    )
    config = tiny_config(2, frozen=["decoder.blocks"], parent={"run": parent.hash, "step": 3})
    config = replace(config, modalities={**config.modalities, "m1": parent.config.modalities["m1"]})
    child, _ = train_config(config, Request(steps=2, evaluate_every=2, checkpoint_every=2, sequences=4), tmp_path)
    before, after = parent.parameters(3)[1], child.parameters(2)[1]
    for name, value in before.items():
        assert bool((value == after[name]).all()) == name.startswith("decoder.blocks."), name
    assert all(bool((child.world_tensors()[n] == v).all()) for n, v in parent.world_tensors().items())
