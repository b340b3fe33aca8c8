"""Siblings of stage-2 runs, frozen heads, transplants and drift: what tells a refined circuit from a new one."""

from __future__ import annotations

import pytest
import torch
from tiny import MODALITIES, lively_parameters, tiny_config
from tiny_study import planned, tiny_study

import miclab
from miclab.config import presets
from miclab.config.request import Request
from miclab.errors import ConfigError, RunError
from miclab.model.decoder import Decoder
from miclab.model.parts import HEADS, MLPS, READOUT, decoder_parts, size
from miclab.training.loop import prepared, train_config, train_together
from miclab.worlds.sequences import raw_training_batch
from miclab.worlds.world import world_from_tensors

REQUEST = Request(steps=3, evaluate_every=3, checkpoint_every=3, sequences=4, novel_sets=2)
TWO_HEADS = {"heads": 2, "output_projection": "on", "attention_bias": "both"}


# -- siblings ---------------------------------------------------------------------------------------------------------
def test_a_study_trains_a_sibling_from_the_same_checkpoint_at_stage_twos_rate(tmp_path):
    """Fails if the sibling starts from another run than stage 2, or has another rate or length, or sees the sequences
    of stage 1 again."""
    m1, m2 = (dict(MODALITIES[name]) for name in ("m1", "m2"))
    two = {"stage": "multimodal", "config": {"modalities": {"m1": m1, "m2": m2}}}
    study = tiny_study(
        tmp_path, 1, stage="continued", grid=[{"stage": "continued"}, two],
        parent={"steps": 2, "request": {"evaluate_every": 2, "checkpoint_every": 2}},
    )  # fmt: skip
    plan = planned(study)
    by_seed = {}
    for identity in plan.members["tiny"]:
        by_seed.setdefault(plan.runs[identity].seed, []).append(plan.runs[identity])
    for sibling, second in by_seed.values():
        assert (sibling.config.stage, second.config.stage) == ("unimodal", "multimodal")
        assert sibling.name.startswith("unimodal-")
        assert sibling.parent == second.parent
        assert sibling.config.parent.step == second.config.parent.step == 2
        assert sibling.request.steps == second.request.steps
        assert sibling.config.optimiser == second.config.optimiser
        before = plan.runs[sibling.parent].config
        assert before.sequences_seed == before.seed != sibling.config.sequences_seed
        assert sibling.config.world_seed == before.seed
    quick = {stage: presets.run_config(stage, "quick").optimiser for stage in ("unimodal", "multimodal", "continued")}
    assert quick["continued"] == quick["multimodal"] != quick["unimodal"]
    assert presets.request("continued", "paper") == presets.request("multimodal", "paper")


def test_a_sibling_starts_from_its_parents_weights_and_world(tmp_path):
    """Fails if a sibling starts from new weights or classes, or repeats the training sequences of stage 1."""
    first, _ = train_config(tiny_config(1), REQUEST, tmp_path)
    fields = {"request.evaluate_every": 2, "request.checkpoint_every": 2, "request.sequences": 4}
    found = miclab.train("unimodal", stage_one=first.path, runs=tmp_path, steps=2, fields=fields)
    run = found.disk
    assert run.config.parent.run == first.hash
    assert run.config.parent.step == first.step == 3
    assert run.config.sequence == first.config.sequence
    before, after = first.parameters(3)[1], run.parameters(0)[1]
    assert all(torch.equal(before[name], after[name]) for name in before)
    world, old = run.world_tensors(), first.world_tensors()
    assert all(torch.equal(old[name], world[name]) for name in old)
    batches = [raw_training_batch(one.config, world_from_tensors(one.config, old), 0).batch() for one in (first, run)]
    assert not torch.equal(batches[0].labels, batches[1].labels)


# -- frozen heads -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_frozen_head_keeps_every_weight_and_the_others_move(tmp_path, optimiser):
    """Fails if a frozen head moves, also by weight decay, or another head or MLP stands still."""
    options = {"name": optimiser, "weight_decay": 0.1, "learning_rate": 0.01, "batch_size": 4}
    config = tiny_config(1, decoder=TWO_HEADS, optimiser=options, frozen=["1.0", "decoder.blocks.0.mlp"])
    run, _ = train_config(config, REQUEST, tmp_path)
    parts = decoder_parts(config, Decoder(config).shapes())
    before, after = run.parameters(0)[1], run.parameters(3)[1]
    moved = {
        name: torch.cat([(before[n] != after[n])[own] for n, own in mask.items()]).double().mean().item()
        for name, mask in parts.items()
    }
    still = {name for name, share in moved.items() if share == 0}
    assert still == {"head 1.0", *(f"head 1.0 {part}" for part in ("query", "key", "value", "output")), "mlp 0"}
    assert all(moved[name] > 0.9 for name in ("head 1.1", "head 0.0", "head 1.1 query", "mlp 1", READOUT))


def test_a_frozen_head_is_the_same_in_a_group_of_lanes(tmp_path):
    """Fails if runs that are trained as one program move a frozen head."""
    config = tiny_config(1, decoder=TWO_HEADS, frozen=["0.1"], numerics={"mode": "lanes", "lanes": 2})
    ready = prepared(config, tmp_path)
    train_together([ready], [REQUEST])
    run = ready.run
    mask = decoder_parts(config, Decoder(config).shapes())["head 0.1"]
    before, after = run.parameters(0)[1], run.parameters(3)[1]
    assert all(torch.equal(before[name][own], after[name][own]) for name, own in mask.items())
    assert not torch.equal(before["decoder.readout"], after["decoder.readout"])


def test_what_cannot_be_frozen_is_named():
    """Fails if a head that there is not, or one of other attention, is passed over, or nothing is left to train."""
    with pytest.raises(ConfigError, match=r"frozen = '2\.0'"):
        tiny_config(1, frozen=["2.0"])
    with pytest.raises(ConfigError, match=r"frozen = '0\.0'"):
        tiny_config(1, decoder={"attention": "linear"}, frozen=["0.0"])
    rest = [
        "decoder.norm",
        "decoder.readout",
        *(f"decoder.blocks.{i}.{p}" for i in (0, 1) for p in ("mlp", "norm1", "norm2")),
    ]
    with pytest.raises(ConfigError, match="at least one part that is trained"):
        tiny_config(1, frozen=["0.0", "1.0", *rest])
    assert tiny_config(1, frozen=["0.0", *rest]).frozen[0] == "0.0"


def test_parts_share_no_weight_and_a_head_is_the_sum_of_its_four():
    """Fails if a weight belongs to two parts, to none, or to another head."""
    config = tiny_config(1, decoder=TWO_HEADS)
    shapes = Decoder(config).shapes()
    parts = decoder_parts(config, shapes)
    single = [
        mask
        for name, mask in parts.items()
        if name.startswith(("head", "mlp")) and name.count(" ") + name.startswith("mlp") == 2
    ]
    single += [parts["norms"], parts[READOUT]]
    seen = {name: torch.zeros(shape, dtype=torch.long) for name, shape in shapes.items()}
    for mask in single:
        for name, own in mask.items():
            seen[name] += own
    assert {int(value) for count in seen.values() for value in count.flatten()} == {1}
    for head in ("0.0", "0.1", "1.0", "1.1"):
        assert size(parts[f"head {head}"]) == sum(
            size(parts[f"head {head} {p}"]) for p in ("query", "key", "value", "output")
        )
    assert size(parts[HEADS]) == 4 * size(parts["head 0.0"])
    assert size(parts[MLPS]) == size(parts["mlp 0"]) + size(parts["mlp 1"])
    # Zeroing the output rows of a head is the same as knocking its output out.
    parameters = lively_parameters(config)
    own = parts["head 1.1 output"]["decoder.blocks.1.attention.output"]
    assert own.any(1).nonzero().flatten().tolist() == list(range(4, 8))
    assert parameters["decoder.blocks.1.attention.output"].shape == own.shape
    other = tiny_config(1, decoder={"attention": "linear"})
    with pytest.raises(RunError, match="linear"):
        decoder_parts(other, Decoder(other).shapes())
