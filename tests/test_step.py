"""One training step: its parts put together, compiled once for all runs of equal shapes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import tiny_config

from miclab.model.decoder import Decoder
from miclab.training import optimiser
from miclab.training.flat_parameters import TrainedParameters, gradient_function
from miclab.training.numerics import why_not_compiled
from miclab.training.step import graph_key, training_step
from miclab.worlds.sequences import training_batch, training_draft
from miclab.worlds.world import draw_world


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_step_is_a_batch_a_gradient_and_an_update(name):
    """Fails if the step sees another batch, returns another loss than the one before its update, forgets what is
    frozen, or counts updates wrongly."""
    options = {"name": name, "weight_decay": 0.1, "batch_size": 8}
    config = tiny_config(2, optimiser=options, frozen=["decoder.blocks.1"], sequence={"novel_fraction": 0.5})
    world = draw_world(config)
    runs = [TrainedParameters(config, Decoder(config).initial_parameters(0)) for _ in range(2)]
    states = [optimiser.initial_state(config.optimiser, {"trained": run.flat}) for run in runs]
    step, gradients = training_step(config, runs[0], states[0]), gradient_function(config, runs[1])
    for i in range(3):
        loss, slope = gradients(runs[1].flat, training_batch(config, world, i))
        flat = {"trained": runs[1].flat}
        optimiser.update(config.optimiser, flat, {"trained": slope}, states[1], 0.1 / (i + 1))
        assert torch.equal(step(training_draft(config, world, i), 0.1 / (i + 1)), loss)
    for one, other in zip((runs[0].named, states[0]), (runs[1].named, states[1]), strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[key]) for key, value in one.items())
    assert bool(states[0]) == (name != "sgd")


def test_configurations_that_share_a_step():
    """Fails if runs of another seed, more classes or more noise would compile anew, or if a key forgets a part of the
    graph."""
    config = tiny_config(2)
    more = {**config.modalities, "m1": replace(config.modalities["m1"], classes=64, zipf_exponent=1.0, noise=0.5)}
    same = [
        replace(config, seed=3, modalities=more),
        replace(config, optimiser=replace(config.optimiser, learning_rate=0.5, warmup_steps=3)),
        replace(config, sequence=replace(config.sequence, burstiness=1, novel_fraction=0.5)),
    ]
    other = [
        replace(config, decoder=replace(config.decoder, positions="rope_released")),
        replace(config, decoder=replace(config.decoder, rope_theta=10.0)),
        replace(config, optimiser=replace(config.optimiser, weight_decay=0.5, name="adam")),
        replace(config, optimiser=replace(config.optimiser, beta1=0.5)),
        replace(config, frozen=("decoder.readout",)),
        replace(config, bridge=replace(config.bridge, projector="large")),
        replace(config, sequence=replace(config.sequence, order=("m2", "m1"))),
        replace(config, sequence=replace(config.sequence, context=6)),
    ]
    assert {graph_key(c) for c in same} == {graph_key(config)}
    assert len({graph_key(c) for c in (config, *other)}) == len(other) + 1


COMPILED = """
import json, sys
from dataclasses import replace
sys.path.insert(0, "tests")
from tiny import lively_parameters, tiny_config
from miclab.training import numerics, optimiser, step
from miclab.training.flat_parameters import TrainedParameters
from miclab.worlds.sequences import training_draft
from miclab.config.parts import NumericsConfig
from miclab.worlds.world import draw_world

def trained(mode, positions, seed):
    decoder = {"positions": positions, "layers": 1}
    config = tiny_config(2, decoder=decoder, numerics={"mode": mode}, frozen=["decoder.readout"])
    config = replace(config, seed=seed)
    world, run = draw_world(config), TrainedParameters(config, lively_parameters(config, seed))
    state = optimiser.initial_state(config.optimiser, {"trained": run.flat})
    one = step.training_step(config, run, state)
    losses = [float(one(training_draft(config, world, i), 0.01)) for i in range(3)]
    return losses + run.flat.tolist()

found = {}
for job in sys.argv[1:]:
    mode, positions, seed = job.split()
    found[job] = trained(mode, positions, int(seed))
print(json.dumps([found, len(step._compiled)]))
"""


@pytest.mark.slow
def test_runs_that_share_a_compiled_step_keep_their_own_bits(run_python):
    """Fails if a run is given another one's world, frozen weights, averages or graph: runs one after the other in one
    process have the bits that each has in a process of its own, and nearly those of eager mode."""
    if reason := why_not_compiled():
        pytest.skip(reason)
    jobs = ["compiled rope 0", "compiled rope 1", "compiled rope_released 0"]
    eager = [job.replace("compiled", "eager") for job in jobs]
    found, graphs = run_python(COMPILED, *jobs, *eager)
    assert graphs == 2
    for job in jobs[1:]:  # The first has had no other before it.
        alone, _ = run_python(COMPILED, job)
        assert found[job] == alone[job]
    for job, like in zip(jobs, eager, strict=True):
        torch.testing.assert_close(torch.tensor(found[job]), torch.tensor(found[like]), rtol=1e-3, atol=1e-4)
    assert len({tuple(values[:3]) for values in found.values()}) >= 3
    assert found[jobs[0]][:3] != found[jobs[1]][:3] != found[jobs[2]][:3]
