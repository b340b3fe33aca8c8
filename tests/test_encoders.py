"""Encoders: shapes and gradients, pretraining that resumes to the bit, and what later stages take over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import tiny_config
from tiny_study import carry_out, planned, tiny_study

from miclab.config import schema
from miclab.config.request import Request, SplitSizes
from miclab.config.run import RunConfig
from miclab.errors import ConfigError, RunError
from miclab.measures.encoder import classifier_row
from miclab.measures.evaluate import evaluate, metric_row
from miclab.model.classifier import Classifier
from miclab.model.decoder import Decoder
from miclab.model.encoders import encode, encoder_shapes, initial_encoder
from miclab.runs.find import find
from miclab.runs.run import Run
from miclab.training.flat_parameters import TrainedParameters, gradient_function
from miclab.training.loop import prepared, train, train_config
from miclab.worlds.sequences import training_batch
from miclab.worlds.source_facts import resolved
from miclab.worlds.world import draw_world

KINDS = ("mlp", "cnn", "transformer", "vit")
REQUEST = Request(steps=4, evaluate_every=2, checkpoint_every=2, sequences=4, novel_sets=2)


def classifying(modality: dict[str, Any], **parts: Any) -> RunConfig:
    """A run that pretrains an encoder."""
    plain = {"modalities": {"m2": modality}, "sequence": {"task": "classification"}, "numerics": {"mode": "eager"}}
    plain["optimiser"] = {"name": "adam", "learning_rate": 1e-3, "batch_size": 8}
    return resolved(schema.from_mapping(RunConfig, {**plain, **parts}))


def gaussian(kind: str, **fields: Any) -> dict[str, Any]:
    return {"classes": 16, "dimension": 20, "labels": 2, "encoder": kind, "features": 6} | fields


def pictures(kind: str, **fields: Any) -> dict[str, Any]:
    return {"source": "small:glyphs", "labels": 4, "encoder": kind, "features": 6, "noise": 0.0} | fields


def stage_one(**m1: Any) -> RunConfig:
    return tiny_config(1, modalities={"m1": {"classes": 32, "dimension": 8, "labels": 8} | m1})


def stage_three(m2: dict[str, Any], parent: Run | None = None, **parts: Any) -> RunConfig:
    """M2 through an encoder, after a stage-1 run or from scratch."""
    modalities = {"m1": {"classes": 32, "dimension": 8, "labels": 8}, "m2": {**m2, "labels": 4}}
    if parent is not None:
        parts["parent"] = {"run": parent.hash, "step": parent.step}
    return tiny_config(2, modalities=modalities, **parts)


@pytest.mark.parametrize("kind", KINDS)
def test_features_have_their_shape_length_one_and_a_gradient_everywhere(kind):
    """Fails if an encoder ignores a part of its item or of its weights, or features are not of length 1."""
    config = classifying(pictures(kind))
    modality = config.modalities["m2"]
    weights = initial_encoder(modality, "m2", 0)
    assert {n: tuple(w.shape) for n, w in weights.items()} == encoder_shapes(config)
    items = torch.randn(3, 2, modality.dimension, generator=torch.Generator().manual_seed(0)) / modality.dimension**0.5
    items.requires_grad_()
    features = encode(modality, weights, "m2", items)
    assert features.shape == (3, 2, 6)
    assert torch.allclose(features.norm(dim=-1), torch.ones(3, 2), atol=1e-5)
    (slope,) = torch.autograd.grad(features[0, 0, 0], items)
    assert (slope[0, 0] != 0).float().mean() > 0.9
    assert not slope[0, 1].any()
    model = Classifier(config)
    trained = TrainedParameters(config, model.initial_parameters(0))
    _, flat = gradient_function(config, trained)(trained.flat, training_batch(config, draw_world(config), 0))
    start = 0
    for name, shape in trained.shapes.items():
        size = torch.Size(shape).numel()
        assert flat[start : start + size].abs().max() > 0, name
        start += size


def test_first_weights_are_a_function_of_seed_and_name():
    """Fails if encoders share a random stream, or making one moves the global one."""
    modality = classifying(gaussian("mlp")).modalities["m2"]
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one, again = initial_encoder(modality, "m2", 0), initial_encoder(modality, "m2", 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[n], again[n]) for n in one)
    assert not torch.equal(one["encoder.m2.0.weight"], initial_encoder(modality, "m2", 1)["encoder.m2.0.weight"])
    assert not torch.equal(one["encoder.m2.0.weight"], initial_encoder(modality, "m3", 0)["encoder.m3.0.weight"])


def test_a_killed_pretraining_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    """Fails if an encoder's run has a state beside its checkpoints."""
    config = classifying(pictures("cnn", classes=16))
    whole, _ = train_config(config, REQUEST, tmp_path / "whole")
    run = prepared(config, tmp_path / "killed").run

    def kill(progress):
        if progress.step == 3:
            raise SystemExit

    with pytest.raises(SystemExit):
        train(run, REQUEST, kill)
    train(find(run.hash, tmp_path / "killed"), REQUEST)
    again = find(run.hash, tmp_path / "killed")
    assert again.rows() == whole.rows()
    (_, one), (_, two) = again.parameters(), whole.parameters()
    assert all(torch.equal(one[n], two[n]) for n in one)
    assert set(whole.rows()[-1]["accuracy"]) == {"train", "held_out", "nearest"}
    assert whole.path.name.startswith("encoder-cnn-")
    with pytest.raises(RunError, match="pretrains an encoder"):
        evaluate(whole)


def test_an_encoder_learns_and_later_stages_take_it_over(tmp_path):
    """Fails if pretraining does not train, stage 3 starts from other weights or prototypes, or trains a frozen part."""
    config = classifying(gaussian("mlp"), optimiser={"name": "adam", "learning_rate": 1e-2, "batch_size": 64})
    pretrained, _ = train_config(
        config, replace(REQUEST, steps=150, evaluate_every=150, checkpoint_every=150), tmp_path
    )
    rows = pretrained.rows()
    assert rows[0]["accuracy"]["train"] < 0.4 < 0.9 < rows[-1]["accuracy"]["train"]
    first, _ = train_config(stage_one(), replace(REQUEST, steps=2), tmp_path)
    m2 = gaussian("mlp", encoder_run=pretrained.hash[:12], encoder_step=150)
    weights = pretrained.parameters()[1]
    for frozen in ([], ["encoder.m2"], ["decoder", "bridge.m2"]):
        run, _ = train_config(stage_three(m2, first, frozen=frozen), replace(REQUEST, steps=2), tmp_path)
        before, after = run.parameters(0)[1], run.parameters(2)[1]
        assert torch.equal(run.world_tensors()["prototypes.m2"], pretrained.world_tensors()["prototypes.m2"])
        assert torch.equal(before["encoder.m2.0.weight"], weights["encoder.m2.0.weight"])
        assert torch.equal(before["decoder.readout"], first.parameters()[1]["decoder.readout"])
        for name in before:
            is_frozen = any(name.startswith(part) for part in frozen)
            assert torch.equal(before[name], after[name]) == is_frozen, name
    assert run.config.modalities["m2"].encoder_run == pretrained.hash
    with pytest.raises(RunError, match=r"does not fit modality m2: it has features 6 and not 5"):
        prepared(stage_three({**m2, "features": 5}, first), tmp_path)
    with pytest.raises(RunError, match="no checkpoint at step 7"):
        prepared(stage_three({**m2, "encoder_step": 7}, first), tmp_path)
    with pytest.raises(RunError, match="pretrains no encoder"):
        prepared(stage_three({**m2, "encoder_run": first.hash}, first), tmp_path)


def test_features_of_a_frozen_encoder_are_kept_and_are_what_it_gives(tmp_path):
    """Fails if kept features are not the encoder's, or the model still has the encoder; for a pretrained and for an
    untrained one, as M2 and as the host."""
    config = classifying(pictures("mlp"))
    pretrained, _ = train_config(config, REQUEST, tmp_path)
    fields = {"encoder_run": pretrained.hash, "encoder_step": 4}
    for text, seed in ((fields, 0), ({}, 0)):
        kept = resolved(stage_three(pictures("mlp", **text), frozen=["encoder.m2"]))
        loose = resolved(stage_three(pictures("mlp", **text)))
        one, two = (train_config(c, replace(REQUEST, steps=1), tmp_path)[0] for c in (kept, loose))
        weights = two.parameters(0)[1]
        features = one.world_tensors()["features.m2"]
        modality = kept.modalities["m2"]
        batch = training_batch(loose, draw_world(loose, two.world_tensors()), 0)
        seen = training_batch(kept, draw_world(kept, one.world_tensors()), 0)
        assert torch.allclose(encode(modality, weights, "m2", batch.items["m2"]), seen.items["m2"], atol=1e-5)
        assert features.shape[1] == 6
        assert not any(n.startswith("encoder.") for n in one.parameters(0)[1])
        assert one.rows()[0]["accuracy"] == two.rows()[0]["accuracy"]
        assert seed == kept.seed
    host = tiny_config(1, modalities={"m1": pictures("mlp", **fields)}, sequence={"context": 4, "burstiness": 2})
    first, _ = train_config(host, replace(REQUEST, steps=2), tmp_path)
    assert torch.equal(first.world_tensors()["features.m1"], train_features(pretrained))
    assert Decoder(first.config).width == 6


def train_features(pretrained: Run) -> torch.Tensor:
    """Features of all glyphs of the small set by a pretrained encoder."""
    from miclab.worlds.exemplars import known_exemplars

    modality = pretrained.config.modalities["m2"]
    known = known_exemplars(modality)
    items = known.vectors(torch.arange(len(known.data.items)))
    return encode(modality, pretrained.parameters()[1], "m2", items)


def test_two_secondaries_at_once_and_any_source_first(tmp_path):
    """Fails if a third modality, or real data as the host, cannot be trained, evaluated and aligned."""
    modalities = {
        "speech": {"source": "small:concepts.speech", "labels": 4, "encoder": "mlp", "features": 8},
        "words": {"source": "small:concepts.words", "labels": 4},
        "m3": {"classes": 12, "dimension": 5, "labels": 4},
    }
    plain = schema.to_mapping(tiny_config(1)) | {"modalities": modalities}
    run, outcome = train_config(schema.from_mapping(RunConfig, plain), replace(REQUEST, steps=2), tmp_path)
    assert outcome.status == "finished"
    assert set(run.rows()[-1]["alignment"]) == {"words", "m3"}


def test_a_study_trains_encoders_and_parents_of_parents(tmp_path):
    """Fails if a run begins before the encoders and the stage that it starts from, or equal encoders are trained twice;
    and points from scratch have no stage 1."""
    m1 = pictures("mlp", encoder_step=2, labels=4)
    study = tiny_study(
        tmp_path,
        2,
        config={"modalities": {"m1": {**m1, "classes": 16}, "m2": {**pictures("mlp", classes=12, encoder_step=2)}}},
        encoder={"request": {"evaluate_every": 2, "checkpoint_every": 2}},
        grid=[
            {"product": {"modalities.m2.noise": [0.0, 0.1]}},
            {"product": {"parent.steps": [0]}},
            {"product": {"modalities.m2.encoder_step": [0]}},
        ],
        profiles={"quick": {"seeds": [0]}},
    )
    study = replace(study, config={**study.config, "frozen": ["encoder.m2"]}, probes=("oracles",))
    plan = planned(study)
    stages = [run.config.stage for run in plan.runs.values()]
    assert sorted(stages) == [
        "early_fusion",
        "encoder",
        "encoder",
        "multimodal",
        "multimodal",
        "multimodal",
        "unimodal",
    ]
    tally = carry_out(plan, tmp_path / "runs")
    assert {s.status for s in tally.states.values()} == {"done"}, tally.states
    for run in plan.runs.values():
        disk = find(run.hash, tmp_path / "runs")
        assert disk.hash == run.hash == schema.trajectory_hash(disk.config)
        if run.config.stage == "multimodal":
            assert set(run.origins) <= set(plan.runs)
            assert run.parent in run.origins
            assert disk.analyses


def test_what_an_encoder_cannot_be_is_refused():
    """Fails if a pretraining has a parent, two modalities or no encoder, or the host of the mixture an encoder."""
    with pytest.raises(ConfigError, match="one modality with an encoder"):
        classifying({"classes": 16, "dimension": 20, "labels": 2})
    with pytest.raises(ConfigError, match=r"modalities\.m1\.encoder.*'none' for a host"):
        stage_one(encoder="mlp")
    with pytest.raises(ConfigError, match="encoder_step = 3"):
        stage_one(encoder_step=3)
    config = stage_three(gaussian("mlp"), frozen=["encoder.m2"])
    assert "encoder.m2" in config.parts()
    row = metric_row(
        config, draw_world(config), Decoder(config).initial_parameters(0), SplitSizes(sequences=4, novel_sets=1)
    )
    assert "m2" in row["alignment"]
    only = classifying(gaussian("mlp"))
    row = classifier_row(
        only, draw_world(only), Classifier(only).initial_parameters(0), SplitSizes(sequences=4, novel_sets=2)
    )
    assert set(row["accuracy"]) == {"train", "nearest"}


HASHES = ("c605bd6288c63d2f", "fa4ab2dba5b20414")


def test_runs_of_before_keep_their_names():
    """Fails if a field that was added for sources or encoders renames a run of before: two hashes of that time."""
    assert schema.trajectory_hash(RunConfig()).startswith(HASHES[0])
    assert schema.trajectory_hash(tiny_config(2)).startswith(HASHES[1])


def test_spoken_words_after_words(tmp_path):
    """End to end on the small concepts: an encoder of spoken words, words alone, then both. Fails if real items, their
    labels or the stages do not fit together. Queries are exemplars that no stage has seen, of 48 concepts; chance is
    1/8 for the encoder (8 ways) and for words (8 labels), and 1/4 for both. So few concepts are learnt by heart, so
    nothing is required of held-out ones."""
    adam = {"name": "adamw", "learning_rate": 2e-3, "warmup_steps": 50, "batch_size": 64}
    shared = {"sequence": {"context": 4, "burstiness": 2}, "optimiser": adam, "numerics": {"mode": "eager"}}
    shared["decoder"] = {"output_projection": "on"}
    speech = {"source": "small:concepts.speech", "encoder": "mlp", "features": 32}
    requested = Request(steps=100, evaluate_every=100, checkpoint_every=100, sequences=50)
    encoder = classifying({**speech, "noise": 0.0}, optimiser={"name": "adam", "learning_rate": 1e-3, "batch_size": 64})
    pretrained, _ = train_config(encoder, requested, tmp_path)
    words = {"source": "small:concepts.words", "labels": 8, "noise": 0.5}
    first = schema.from_mapping(RunConfig, {**shared, "modalities": {"m1": words}})
    before, _ = train_config(first, requested, tmp_path)
    m2 = {**speech, "labels": 4, "noise": 0.5, "encoder_run": pretrained.hash, "encoder_step": 100}
    both = {**shared, "modalities": {"m1": words, "m2": m2}, "frozen": ["encoder.m2"]}
    both["parent"] = {"run": before.hash, "step": 100}
    run, _ = train_config(schema.from_mapping(RunConfig, both), requested, tmp_path)
    scores = [one.rows()[-1]["accuracy"] for one in (pretrained, before, run)]
    assert scores[0]["nearest"] > 0.4
    assert scores[1]["train"] > 0.55
    assert scores[2]["train"] > 0.6
