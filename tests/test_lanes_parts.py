"""Parts that users add, in lanes: terms of the loss, attention and position codes through the project's doors."""

from __future__ import annotations

from dataclasses import replace

import own_doors  # noqa: F401  (`attention_aid`, `dilated`, `linear_example` and `t5_bias` are in the registries)
import pytest
import torch
from test_lanes import FOUR, group
from tiny import lively_parameters, tiny_config

from miclab.config.options import ATTENTION
from miclab.config.positions import POSITION_CODES
from miclab.errors import RunError
from miclab.training import optimiser
from miclab.training.flat_parameters import TrainedParameters
from miclab.training.lanes import Update
from miclab.training.objective import loss_term
from miclab.training.step import training_step
from miclab.worlds.sequences import raw_training_batch
from miclab.worlds.world import draw_world


@loss_term("test_unlike_lanes")
def unlike(batch, logits, activations):
    """A term that decides by a value, as one program of many runs cannot."""
    return logits.square().mean() if float(logits.detach().sum()) > 0 else logits.abs().mean()


@loss_term("test_margin", needs=("final", "blocks.0.attention.heads"))
def margin(batch, logits, activations):
    """A term that is a function, of logits, targets, and activations of two places."""
    right = logits.gather(1, batch.target[:, None])
    spread = activations["blocks.0.attention.heads"].square().mean()
    return (logits - right + 1).relu().mean() + spread + activations["final"].square().mean()


PLAIN = {"name": "sgd", "batch_size": 8}
"""An optimiser that does not turn a slope of nearly 0 into a whole step."""
AIDED = {"attention_aid": {"weight": 0.5, "until": 2, "layer": 1}, "test_margin": 0.3}
PLUGINS = {
    "attention, position code and terms": {
        "decoder": {"attention": "dilated:stride=2", "positions": "t5_bias", "heads": 2},
        "objective": AIDED,
    },
    "attention without scores": {"decoder": {"attention": "linear_example"}, "objective": {"test_margin": 1.0}},
    "no cross-entropy": {"objective": {"cross_entropy": 0.0, "test_margin": 1.0}},
}


@pytest.mark.parametrize("name", PLUGINS)
def test_parts_of_plugins_train_in_lanes_as_in_single_runs(name):
    """Fails if a part of a user is not the one of its lane, or a term ends later in a lane than in a run of its own.
    One lane is two steps ahead, so that its term has ended while those of the others count."""
    configs = [replace(tiny_config(2, optimiser=PLAIN, **PLUGINS[name]), numerics=FOUR, seed=seed) for seed in range(3)]
    worlds = [draw_world(config) for config in configs]
    lanes, joined = group(configs, True)
    singles = []
    for config in configs:
        alone = replace(config, numerics=replace(FOUR, mode="eager", lanes=0))
        trained = TrainedParameters(alone, lively_parameters(config, config.seed))
        state = optimiser.initial_state(alone.optimiser, {"trained": trained.flat})
        singles.append((trained, training_step(alone, trained, state)))
    for step in range(4):
        made = {lane: step + 2 * (lane == 1) for lane in range(3)}
        raws = {lane: raw_training_batch(configs[lane], worlds[lane], made[lane]) for lane in made}
        found = lanes.step({lane: Update(raws[lane], 0.1, made[lane]) for lane in made})
        for lane, (_, one) in enumerate(singles):
            torch.testing.assert_close(found[lane], one(raws[lane], 0.1, made[lane]), rtol=1e-3, atol=1e-4)
    if "attention_aid" in configs[0].objective:
        assert len(lanes.gradients) == 2
    for (trained, _), mine in zip(singles, joined, strict=True):
        torch.testing.assert_close(mine.named, trained.named, rtol=1e-2, atol=1e-3)
        assert (trained.flat - lively_flat(trained, configs[0])).abs().max() > 1e-3


def lively_flat(trained: TrainedParameters, config) -> torch.Tensor:
    """The first parameters of the first lane, which no lane has after a step."""
    return TrainedParameters(config, lively_parameters(config)).flat


def test_every_part_of_the_package_can_be_a_lane():
    """Fails if a built-in mechanism or position code cannot be computed for all lanes at once, or is computed
    otherwise: one step of two lanes against the lanes one by one."""
    own = [name for name, kind in ATTENTION.items() if kind.__module__.startswith("miclab.")]
    codes = [name for name, kind in POSITION_CODES.items() if kind.__module__.startswith("miclab.")]
    assert min(len(own), len(codes)) > 5
    for part, names in (("attention", own), ("positions", codes)):
        for name in names:
            heads = 2 if part == "attention" else 1
            config = tiny_config(decoder={part: name, "heads": heads}, optimiser=PLAIN)
            config = replace(config, numerics=replace(FOUR, lanes=2))
            configs = [config, replace(config, seed=1)]
            raws = [raw_training_batch(one, draw_world(one), 0) for one in configs]
            (one, single), (program, joined) = group(configs, False), group(configs, True)
            for lanes in (one, program):
                lanes.step({lane: Update(raw, 0.1, 0) for lane, raw in enumerate(raws)})
            for mine, theirs in zip(single, joined, strict=True):
                torch.testing.assert_close(
                    theirs.flat, mine.flat, rtol=1e-2, atol=2e-3, msg=lambda text, n=name: n + text
                )


def test_a_part_that_cannot_be_in_one_program_is_refused_by_name():
    """Fails if a user is shown PyTorch's words alone for a term that no GPU can compute for many runs at once."""
    config = replace(tiny_config(objective={"test_unlike_lanes": 1.0}), numerics=FOUR)
    raw = raw_training_batch(config, draw_world(config), 0)
    lanes, trained = group([config], True)
    before = trained[0].flat.clone()
    with pytest.raises(RunError, match=r"loss term test_unlike_lanes.*Write it without.*or train .* single runs"):
        lanes.step({0: Update(raw, 0.01, 0)})
    assert torch.equal(trained[0].flat, before)
    # Lane after lane, as on a CPU, it can.
    alone, _ = group([config], False)
    assert alone.step({0: Update(raw, 0.01, 0)})[0].keys() >= {"loss.test_unlike_lanes"}
