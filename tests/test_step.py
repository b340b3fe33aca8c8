"""One training step: its parts put together, compiled once for all runs of equal shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from test_config import LEAVES, laid_over
from tiny import tiny_config
from torch.fx.experimental.proxy_tensor import make_fx

from miclab.config.parts import ParentConfig
from miclab.config.run import RunConfig
from miclab.config.schema import from_mapping
from miclab.model.decoder import Decoder
from miclab.training import optimiser
from miclab.training.flat_parameters import TrainedParameters, gradient_function
from miclab.training.numerics import why_not_compiled
from miclab.training.step import graph_key, step_function, training_step
from miclab.worlds.sequences import raw_training_batch, training_batch
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
        losses, slope = gradients(runs[1].flat, training_batch(config, world, i))
        flat = {"trained": runs[1].flat}
        optimiser.update(config.optimiser, flat, {"trained": slope}, states[1], 0.1 / (i + 1))
        found = step(raw_training_batch(config, world, i), 0.1 / (i + 1), i)
        assert found.keys() == losses.keys() == {"loss"}
        assert torch.equal(found["loss"], losses["loss"])
    for one, other in zip((runs[0].named, states[0]), (runs[1].named, states[1]), strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[key]) for key, value in one.items())
    assert bool(states[0]) == (name != "sgd")


# -- configurations that share a step -----------------------------------------------------------------------------
BASE = {
    "modalities": {name: {"classes": 32, "dimension": 8, "labels": 8} for name in ("m1", "m2")},
    "sequence": {"context": 4, "burstiness": 2},
    "optimiser": {"batch_size": 4},
    "numerics": {"mode": "eager"},
}
UNTRACED = ("modalities.m1.source",)
"""Fields whose other value needs data, which decides the shapes that the key holds."""


def leaves_of(value: Any, found: list[torch.Tensor]) -> Callable[[list[torch.Tensor]], Any]:
    """Collects the tensors of nested data; gives a function that puts others in their places."""
    if isinstance(value, torch.Tensor):
        place = len(found)
        found.append(value)
        return lambda new: new[place]
    if isinstance(value, dict):
        parts = {name: leaves_of(part, found) for name, part in value.items()}
        return lambda new: {name: part(new) for name, part in parts.items()}
    if is_dataclass(value):
        parts = {item.name: leaves_of(getattr(value, item.name), found) for item in fields(value)}
        return lambda new: replace(value, **{name: part(new) for name, part in parts.items()})
    return lambda new: value


def traced(config: RunConfig) -> tuple[Any, ...]:
    """The step as PyTorch traces it: its operations, its constants, and the shapes of what it is given."""
    trained = TrainedParameters(config, Decoder(config).initial_parameters(0))
    state = optimiser.initial_state(config.optimiser, {"trained": trained.flat})
    numbers = optimiser.coefficients(config.optimiser, 1, 0.1)
    own = (trained.flat, state.get("mean.trained"), state.get("square.trained"), numbers, trained.fixed)
    given: list[torch.Tensor] = []
    rebuilt = [leaves_of(part, given) for part in (*own, raw_training_batch(config, draw_world(config), 0))]
    step = step_function(config, trained)
    graph = make_fx(lambda *new: step(*[part(list(new)) for part in rebuilt]))(*given)
    constants = {name: value.tolist() for name, value in vars(graph).items() if isinstance(value, torch.Tensor)}
    constants |= {name: value.tolist() for name, value in graph.named_buffers()}
    return graph.code, constants, [(value.shape, value.dtype) for value in given]


OF_LANES = ("numerics.lane_step",)
"""Fields that a single run cannot have otherwise; `tests/test_lanes_compiled.py` has those steps."""


@pytest.fixture(scope="module")
def base() -> tuple[RunConfig, tuple[Any, ...]]:
    config = from_mapping(RunConfig, BASE)
    return config, traced(config)


def test_a_field_changes_the_key_of_a_step_or_leaves_the_step_as_it_is(base):
    """Fails if two configurations with different steps would share a compiled one. All fields, found by themselves:
    those that leave the key as it is are changed together, and the step is traced."""
    config, step = base
    mapping, passed_in = BASE, []
    for field, value in LEAVES.items():
        if field in OF_LANES:
            continue
        if graph_key(from_mapping(RunConfig, laid_over(BASE, field, value))) == graph_key(config):
            passed_in.append(field)
            mapping = mapping if field in UNTRACED else laid_over(mapping, field, value)
    assert {field.partition(".")[0] for field in passed_in} >= {"modalities", "sequence", "optimiser", "seed", "parent"}
    other = from_mapping(RunConfig, mapping)
    assert graph_key(other) == graph_key(config)
    assert traced(other) == step


def test_the_trace_sees_what_a_key_may_not_leave_out(base):
    """Fails if the test above could not fail: a constant, a mask and a coefficient each change the traced step."""
    config, step = base
    changes = [{"decoder": {"rope_theta": 10.0}}, {"decoder": {"attention": "sliding_window:window=2"}}]
    changes += [{"optimiser": {"weight_decay": 0.5}}]
    for change in changes:
        other = from_mapping(RunConfig, change, base=config)
        assert graph_key(other) != graph_key(config), change
        assert traced(other) != step, change


def test_configurations_that_share_a_step():
    """Fails if runs of another seed, more classes, more noise or another rate would compile anew."""
    config = tiny_config(2)
    more = {**config.modalities, "m1": replace(config.modalities["m1"], classes=64, zipf_exponent=1.0, noise=0.5)}
    same = [
        replace(config, seed=3, modalities=more, parent=ParentConfig(run="abc", step=3)),
        replace(config, optimiser=replace(config.optimiser, learning_rate=0.5, warmup_steps=3)),
        replace(config, sequence=replace(config.sequence, burstiness=1, novel_fraction=0.5)),
    ]
    assert {graph_key(c) for c in same} == {graph_key(config)}
    one = from_mapping(RunConfig, BASE)
    turned = replace(one, modalities=dict(reversed(one.modalities.items())))
    assert graph_key(turned) != graph_key(one)


COMPILED = """
import json, sys
from dataclasses import replace
sys.path.insert(0, "tests")
from tiny import lively_parameters, tiny_config
from miclab.training import numerics, optimiser, step
from miclab.training.flat_parameters import TrainedParameters
from miclab.worlds.sequences import raw_training_batch
from miclab.config.parts import NumericsConfig
from miclab.worlds.world import draw_world

def trained(mode, positions, seed):
    decoder = {"positions": positions, "layers": 1}
    config = tiny_config(2, decoder=decoder, numerics={"mode": mode}, frozen=["decoder.readout"])
    config = replace(config, seed=seed)
    world, run = draw_world(config), TrainedParameters(config, lively_parameters(config, seed))
    state = optimiser.initial_state(config.optimiser, {"trained": run.flat})
    one = step.training_step(config, run, state)
    losses = [float(one(raw_training_batch(config, world, i), 0.01, i)["loss"]) for i in range(3)]
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
