"""Encoders as lanes: runs that pretrain one, that train one with their decoder, and that keep features of one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_encoders import KINDS, classifying, gaussian, pictures, stage_three
from test_lanes import FOUR
from test_studies_lanes import Counting
from tiny_study import carry_out, contents, tiny_study

import miclab
from miclab.config.run import RunConfig
from miclab.errors import ConfigError
from miclab.model.classifier import model_of
from miclab.model.encoders import encode
from miclab.runs.find import find
from miclab.studies.mode import study_mode
from miclab.studies.plan import Plan
from miclab.training import optimiser
from miclab.training.flat_parameters import TrainedParameters
from miclab.training.lanes import Lanes, Update
from miclab.training.lineage import Lineage
from miclab.training.loop import train_config
from miclab.training.step import training_step
from miclab.worlds.exemplars import known_exemplars
from miclab.worlds.sequences import raw_training_batch
from miclab.worlds.source_facts import resolved
from miclab.worlds.world import World, draw_world


def lanes_of(config: RunConfig, count: int = 3) -> list[RunConfig]:
    """Runs that differ in seed, as lanes of a group of four."""
    return [replace(resolved(config), numerics=FOUR, seed=seed) for seed in range(count)]


def parameters_of(config: RunConfig) -> dict[str, torch.Tensor]:
    """Initial parameters, large enough that every part counts."""
    generator = torch.Generator().manual_seed(config.seed)
    first = model_of(config).initial_parameters(config.weights_seed)
    return {n: p + 0.2 * torch.randn(p.shape, generator=generator) for n, p in first.items()}


def world_of(config: RunConfig) -> World:
    """The world of a run without earlier runs; kept features are random directions."""
    return draw_world(config, Lineage.resolve(config, "nowhere").kept_tensors())


VARIANTS = {
    **{f"pretraining of {kind}": classifying(pictures(kind)) for kind in KINDS},
    **{f"a decoder with {kind}": stage_three(gaussian(kind)) for kind in KINDS[:3]},
    "real items through an encoder": stage_three(pictures("mlp")),
    "a decoder with vit": stage_three(pictures("vit")),
    "features that are kept": stage_three(pictures("cnn"), frozen=["encoder.m2"]),
    "a frozen encoder of drawn items": stage_three(gaussian("mlp"), frozen=["encoder.m2"]),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_one_program_lanes_one_by_one_and_single_runs_are_the_same_training(name):
    """Fails if a lane uses another lane's encoder or features, or trains otherwise than a run of its own."""
    configs = lanes_of(VARIANTS[name])
    worlds = [world_of(config) for config in configs]
    curves = []
    for as_one in (True, False):
        trained = [TrainedParameters(config, parameters_of(config)) for config in configs]
        states = [
            optimiser.initial_state(c.optimiser, {"trained": t.flat}) for c, t in zip(configs, trained, strict=True)
        ]
        group, losses = Lanes(configs, trained, states, as_one, worlds if as_one else ()), torch.zeros(4, 3)
        for step in range(4):
            raws = [raw_training_batch(config, world, step) for config, world in zip(configs, worlds, strict=True)]
            found = group.step({lane: Update(raw, 0.01, step) for lane, raw in enumerate(raws)})
            losses[step] = torch.stack([found[lane]["loss"] for lane in range(3)])
        curves.append(losses)
    single = torch.zeros(4, 3)
    for lane, (config, world) in enumerate(zip(configs, worlds, strict=True)):
        trained = TrainedParameters(config, parameters_of(config))
        state = optimiser.initial_state(config.optimiser, {"trained": trained.flat})
        step = training_step(config, trained, state)
        for number in range(4):
            single[number, lane] = step(raw_training_batch(config, world, number), 0.01, number)["loss"]
    torch.testing.assert_close(curves[0], curves[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(curves[1], single, rtol=1e-3, atol=1e-4)
    assert len({round(float(value), 6) for value in single[-1]}) == 3


@pytest.mark.parametrize("frozen", [(), ("encoder.m2",)], ids=["trained on", "kept"])
def test_encoders_stage_one_and_stage_three_of_a_study_are_groups(frozen: tuple[str, ...], tmp_path):
    """Fails if runs of encoders are not grouped, a lane starts from another lane's encoder or features, or its bits
    depend on who else is in its group."""
    m2 = pictures("mlp", classes=12, encoder_step=4)
    study = tiny_study(
        tmp_path,
        2,
        config={"numerics": {"mode": "auto"}, "modalities": {"m2": m2}, "frozen": list(frozen)},
        encoder={"request": {"evaluate_every": 4, "checkpoint_every": 4}},
        profiles={"quick": {"seeds": [0, 1]}},
    )
    plan = Plan([study], study_mode(tmp_path, "3"))
    launcher = Counting()
    tally = carry_out(plan, tmp_path / "runs", launcher)
    assert {found.status for found in tally.states.values()} == {"done"}
    assert launcher.sizes == [2, 2, 2]
    stages = [run.config.stage for run in plan.runs.values()]
    assert sorted(stages) == ["encoder"] * 2 + ["multimodal"] * 2 + ["unimodal"] * 2
    # The first seed's runs once more, each alone in its group.
    for run in (run for run in plan.runs.values() if run.seed == 0):
        alone, _ = train_config(run.config, run.request, tmp_path / "alone")
        assert contents(tmp_path / "alone" / alone.path.name) == contents(tmp_path / "runs" / run.name), run.name
    encoders = {run.seed: run for run in plan.runs.values() if run.config.stage == "encoder"}
    for run in (run for run in plan.runs.values() if run.parent):
        disk, pretrained = find(run.hash, tmp_path / "runs"), find(encoders[run.seed].hash, tmp_path / "runs")
        assert disk.config.modalities["m2"].encoder_run == pretrained.hash
        weights = {n.replace(".items.", ".m2."): v for n, v in pretrained.parameters(4)[1].items()}
        if frozen:
            modality = disk.config.modalities["m2"]
            known = known_exemplars(modality)
            features = encode(modality, weights, "m2", known.vectors(torch.arange(len(known.data.items))))
            assert torch.equal(disk.world_tensors()["features.m2"], features)
        else:
            first = disk.parameters(0)[1]
            assert torch.equal(first["encoder.m2.0.weight"], weights["encoder.m2.0.weight"])


def test_encoders_are_lanes_in_python(tmp_path):
    """Fails if the function pretrains no encoders, or gives a lane the encoder of another."""
    sizes = {
        "request.evaluate_every": 2,
        "request.checkpoint_every": 2,
        "request.sequences": 2,
        "optimiser.batch_size": 4,
    }
    small = {"modalities.m2.classes": 16, "modalities.m2.dimension": 20, "modalities.m2.features": 6}
    seeds = [{"seed": 1}, {"seed": 2}]
    fields = {**sizes, **small, "modalities.m2.labels": 16}
    pretrained = miclab.train_lanes(seeds, "encoder", steps=2, width=3, runs=tmp_path, fields=fields)
    assert [(run.config.stage, run.config.seed, run.step) for run in pretrained] == [
        ("encoder", 1, 2),
        ("encoder", 2, 2),
    ]
    fields = {**sizes, "modalities.m1.classes": 32, "modalities.m2.labels": 4, "request.novel_sets": 1}
    named = [f"m2={run.hash}@2" for run in pretrained]
    joined = miclab.train_lanes(seeds, "multimodal", steps=2, encoders=named, runs=tmp_path, fields=fields)
    for run, encoder in zip(joined, pretrained, strict=True):
        name = "encoder.m2.0.weight"
        assert torch.equal(run.disk.parameters(0)[1][name], encoder.disk.parameters(2)[1][name])
    with pytest.raises(ConfigError, match=r"encoders.*one text for each lane"):
        miclab.train_lanes(seeds, "multimodal", encoders=named[:1], runs=tmp_path)
