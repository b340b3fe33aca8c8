"""Oracles: the ceilings and floors that every accuracy is read beside, on the paper's own world."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import tiny_config

from miclab.config.request import SplitSizes
from miclab.config.run import RunConfig, two_modalities
from miclab.worlds.oracles import oracle_scores
from miclab.worlds.splits import split_batches
from miclab.worlds.world import draw_world


def mean_scores(config: RunConfig, split: str, sequences: int = 400) -> dict[str, float]:
    world = draw_world(config)
    found: dict[str, list] = {}
    for _, batch in split_batches(config, world, split, SplitSizes(sequences=sequences, novel_sets=2)):
        for name, value in oracle_scores(config, world, batch).items():
            found.setdefault(name, []).append(value)
    return {name: float(torch.cat(value).mean()) for name, value in found.items()}


PAPER = {"one modality": RunConfig(), "two modalities": RunConfig(modalities=two_modalities())}


@pytest.mark.parametrize("name", PAPER)
def test_oracles_bracket_every_split_of_the_papers_world(name):
    """Fails if a split's labels cannot be read where they should be: the nearest exemplar of the context answers all
    bursty splits, the nearest prototype `train` and `iwl` only; a random label of the context scores one half (two
    classes share it) plus collisions."""
    config = PAPER[name]
    labels = config.active_labels
    scores = {split: mean_scores(config, split) for split in ("train", "icl", "swapped", "iwl")}
    for split in ("train", "icl", "swapped"):
        assert scores[split]["nearest_exemplar"] > 0.99
        assert scores[split]["random_context_label"] == pytest.approx(0.5 + 0.5 / labels, abs=0.03)
    for split in ("train", "iwl"):
        assert scores[split]["nearest_prototype"] > 0.99
    assert scores["icl"]["nearest_prototype"] == pytest.approx(1 / labels, abs=0.05)
    assert scores["swapped"]["nearest_prototype"] < 0.01
    # Not bursty: eight independent labels, each the target by chance.
    assert scores["iwl"]["random_context_label"] == pytest.approx(1 / labels, abs=0.03)
    assert scores["iwl"]["nearest_exemplar"] == pytest.approx(1 / labels, abs=0.06)
    assert all(s["chance"] == pytest.approx(1 / labels) for s in scores.values())


def test_joint_labels_need_every_modality():
    """Fails if the joint label is put together in another order than the sequences do it."""
    modalities = {
        "m1": {"classes": 64, "dimension": 32, "labels": 8},
        "m2": {"classes": 64, "dimension": 32, "labels": 8},
    }
    sequence = {"context": 8, "burstiness": 4, "task": "joint_label", "groups": [4, 2]}
    config = tiny_config(modalities=modalities, sequence=sequence)
    assert mean_scores(config, "train")["nearest_prototype"] > 0.99
    assert mean_scores(config, "icl")["nearest_exemplar"] > 0.99
    assert mean_scores(config, "swapped")["nearest_prototype"] < 0.01
    swapped_order = replace(config, sequence=replace(config.sequence, order=("m2", "m1"), groups=(2, 4)))
    assert mean_scores(swapped_order, "iwl")["nearest_prototype"] > 0.99


def test_noise_lowers_the_ceilings():
    """Fails if the oracles see the classes instead of the noisy items."""
    modalities = {"m1": {"classes": 512, "dimension": 16, "labels": 8, "noise": 3.0}}
    config = tiny_config(modalities=modalities, sequence={"context": 8, "burstiness": 2})
    assert 0.3 < mean_scores(config, "train")["nearest_exemplar"] < 0.9
    assert mean_scores(config, "train")["nearest_prototype"] < 0.5
