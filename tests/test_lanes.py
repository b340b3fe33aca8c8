"""Lanes: runs that are trained as one program, each an ordinary run with bits of its own."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import own_doors  # noqa: F401  (its parts are in the registries)
import pytest
import torch
from test_resume import CrashError, contents
from tiny import lively_parameters, tiny_config
from torch._subclasses.fake_tensor import FakeTensorMode

from miclab.config import memory
from miclab.config.parts import NumericsConfig
from miclab.config.request import Request
from miclab.config.run import RunConfig
from miclab.errors import ConfigError, RunError
from miclab.runs.find import open_run
from miclab.training import loop, optimiser
from miclab.training.flat_parameters import TrainedParameters, gradient_function
from miclab.training.lanes import Lanes, Update
from miclab.training.loop import prepared, train_config, train_together
from miclab.worlds.sequences import RawBatch, raw_training_batch
from miclab.worlds.world import draw_world

REQUEST = Request(steps=4, evaluate_every=4, checkpoint_every=4, sequences=2, novel_sets=1)
FOUR = NumericsConfig(mode="lanes", lanes=4, sampler="device")


def lane_configs() -> list[RunConfig]:
    """Four runs of one step: they differ in seed, number and frequencies of classes, noise, rate and burstiness."""
    config = replace(tiny_config(decoder={"layers": 1}), numerics=FOUR)
    m1 = config.modalities["m1"]
    more = {**config.modalities, "m1": replace(m1, classes=64, zipf_exponent=1.5, noise=0.5)}
    return [
        config,
        replace(config, seed=1, modalities=more),
        replace(config, seed=2, optimiser=replace(config.optimiser, learning_rate=0.02, warmup_steps=3)),
        replace(config, seed=3, sequence=replace(config.sequence, burstiness=1, bursty_fraction=0.5)),
    ]


def together(configs: list[RunConfig], root: Path, requests: list[Request] | None = None) -> list[str]:
    """Trains configurations as one group; how each ended."""
    ready = [prepared(config, root) for config in configs]
    return [outcome.status for outcome in train_together(ready, requests or [REQUEST] * len(ready))]


def files(configs: list[RunConfig], root: Path) -> list[dict[str, bytes]]:
    return [contents(prepared(config, root).run) for config in configs]


def test_a_lane_has_the_same_bits_alone_among_others_and_in_another_place(tmp_path):
    """Fails if a lane's weights or rows depend on who else is in the group, or on when those end."""
    configs = lane_configs()
    assert together(configs, tmp_path / "all") == ["finished"] * 4
    train_config(configs[3], REQUEST, tmp_path / "alone")
    requests = [replace(REQUEST, steps=2 if place else 4) for place in range(3)]
    assert together([configs[2], *configs[:2]], tmp_path / "turned", requests) == ["finished"] * 3
    expected = files(configs, tmp_path / "all")
    assert files(configs[3:], tmp_path / "alone") == expected[3:]
    turned = files(configs[:3], tmp_path / "turned")
    assert turned[2] == expected[2]
    for one, other in zip(turned[:2], expected, strict=False):
        assert "checkpoints/000000002.safetensors" in one
        assert one.items() <= other.items()
    assert len({files["checkpoints/000000004.safetensors"] for files in expected}) == 4


def test_a_group_that_was_killed_goes_on_to_the_same_bits(tmp_path):
    """Fails if a resumed group, whose lanes stand at different steps and in other places, loses or repeats a step."""
    configs = lane_configs()[:3]

    def dies(progress) -> None:
        if progress.step == 3:
            raise CrashError

    ready = [prepared(config, tmp_path / "killed") for config in configs]
    with pytest.raises(CrashError):
        train_together(ready[1:], [REQUEST] * 2, [None, dies])
    assert {open_run(one.run.path).status for one in ready} == {"new", "stopped"}
    assert together(configs[::-1], tmp_path / "killed") == ["finished"] * 3
    together(configs, tmp_path / "whole")
    assert files(configs, tmp_path / "killed") == files(configs, tmp_path / "whole")


def test_a_lane_that_diverges_is_marked_and_the_others_go_on(tmp_path):
    """Fails if a lane that is not finite ends its group or reaches another lane."""
    config = replace(tiny_config(optimiser={"name": "sgd", "learning_rate": 0.1}), numerics=FOUR)
    wild = replace(config, seed=1, optimiser=replace(config.optimiser, learning_rate=1e30))
    configs = [config, wild, replace(config, seed=2)]
    assert together(configs, tmp_path / "all") == ["finished", "diverged", "finished"]
    run = open_run(prepared(wild, tmp_path / "all").run.path)
    assert (run.status, run.step) == ("diverged", 1 if 1 in run.checkpoints else 0)
    assert together([config, configs[2]], tmp_path / "tame") == ["finished", "finished"]
    assert files([config, configs[2]], tmp_path / "all") == files([config, configs[2]], tmp_path / "tame")


# -- one program against single runs ------------------------------------------------------------------------------
def group(configs: list[RunConfig], as_one: bool, worlds=()) -> tuple[Lanes, list[TrainedParameters]]:
    trained = [TrainedParameters(config, lively_parameters(config, config.seed)) for config in configs]
    states = [optimiser.initial_state(c.optimiser, {"trained": t.flat}) for c, t in zip(configs, trained, strict=True)]
    return Lanes(configs, trained, states, as_one, worlds), trained


def test_lanes_and_single_runs_have_the_same_curves(tmp_path, monkeypatch):
    """Fails if a lane trains otherwise than a run of its own would: eight seeds, as one program and one by one, by
    whole trainings. Their losses over fifty steps are compared row by row, and their accuracies at the end."""
    request = replace(REQUEST, steps=50, evaluate_every=25, checkpoint_every=50, sequences=50)
    eager = NumericsConfig(mode="eager", sampler="device")
    optimiser = {"name": "adam", "learning_rate": 0.003}
    single = replace(tiny_config(decoder={"layers": 1}, optimiser=optimiser), numerics=eager)
    singles = [replace(single, seed=seed) for seed in range(8)]
    lanes = [replace(config, numerics=replace(FOUR, lanes=8)) for config in singles]
    monkeypatch.setattr(loop, "Lanes", partial(Lanes, together=True))
    assert together(lanes, tmp_path, [request] * 8) == ["finished"] * 8
    for config in singles:
        train_config(config, request, tmp_path)
    pairs = [[prepared(config, tmp_path).run for config in pair] for pair in zip(lanes, singles, strict=True)]
    curves = torch.tensor([[[row["loss"] for row in run.rows()[1:]] for run in pair] for pair in pairs])
    assert curves.shape[:2] == (8, 2)
    torch.testing.assert_close(curves[:, 0], curves[:, 1], rtol=1e-3, atol=1e-3)
    # Other seeds are not as near, so that a comparison of a run with itself or with its neighbour would be seen.
    assert ((curves[:, 0] - curves[:, 1].roll(1, 0)).abs().amax(1) > 0.01).all()
    assert (curves[:, 0, -1] < curves[:, 0, 0]).all()
    for one, other in ([run.rows()[-1]["accuracy"] for run in pair] for pair in pairs):
        for name, value in one.items():
            noise = math.sqrt(max(value * (1 - value), 1 / 50) / 50)
            assert abs(value - other[name]) <= 3 * noise, name


VARIANTS = {
    "default": {},
    "one-hot, frozen readout": {"decoder": {"positions": "onehot"}, "frozen": ["decoder.readout"]},
    "learnt positions, layer norm, sgd": {
        "decoder": {"positions": "learned", "norm": "layernorm"},
        "optimiser": {"name": "sgd", "batch_size": 5},
    },
    "swiglu, adam, noise on tokens": {
        "decoder": {"mlp": "swiglu", "heads": 2},
        "optimiser": {"name": "adam", "batch_size": 5},
        "sequence": {"token_noise": 0.5, "novel_fraction": 0.5},
    },
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_program_of_all_lanes_does_what_the_lanes_do_one_by_one(name):
    """Fails if lanes mix, an idle lane moves, or the fixed parameters or the rate of another lane are used."""
    configs = [replace(tiny_config(2, **VARIANTS[name]), numerics=FOUR, seed=seed) for seed in range(3)]
    worlds = [draw_world(config) for config in configs]
    (one, single), (program, joined) = group(configs, False), group(configs, True)
    for step in range(6):
        # The second lane ends early.
        busy = [lane for lane in range(3) if lane != 1 or step < 3]
        before = [parameters.flat.clone() for parameters in joined]
        updates = {
            lane: Update(raw_training_batch(configs[lane], worlds[lane], step), 0.01 * (lane + 1), step)
            for lane in busy
        }
        losses, same = one.step(updates), program.step(updates)
        assert losses.keys() == same.keys() == set(busy)
        for lane in busy:
            torch.testing.assert_close(same[lane], losses[lane], rtol=1e-3, atol=1e-4)
        moved = [not torch.equal(old, new.flat) for old, new in zip(before, joined, strict=True)]
        assert moved == [lane in busy for lane in range(3)]
    for mine, theirs in zip(single, joined, strict=True):
        torch.testing.assert_close(theirs.named, mine.named, rtol=1e-2, atol=1e-3)


def test_a_group_that_draws_its_own_batches_trains_on_those_of_its_runs():
    """Fails if the batches of a group on a GPU are of another step, run or noise than each run's own: equal bits."""
    configs = lane_configs()[:3]
    worlds = [draw_world(config) for config in configs]
    (given, one), (drawing, other) = group(configs, True), group(configs, True, worlds)
    assert given.sampler is None
    assert drawing.sampler is not None
    for step in range(3):
        raws = [raw_training_batch(config, world, step) for config, world in zip(configs, worlds, strict=True)]
        given.step({lane: Update(raw, 0.01, step) for lane, raw in enumerate(raws)})
        drawing.step({lane: Update(None, 0.01, step) for lane in range(3)})
    for mine, theirs in zip(one, other, strict=True):
        assert torch.equal(mine.flat, theirs.flat)


# -- on another device --------------------------------------------------------------------------------------------
ELSEWHERE = {
    **VARIANTS,
    "biases and shifts": {
        "decoder": {"positions": "alibi", "token_constant": 0.5, "attention_bias": "key"},
        "sequence": {"jitter": 3, "first_token": "learnt"},
    },
    "joint labels": {"sequence": {"task": "joint_label", "groups": [2, 4]}},
    "a window": {"decoder": {"attention": "sliding_window"}},
    "learnt biases": {"decoder": {"positions": "fire"}},
    "parts of plugins": {
        "decoder": {"attention": "dilated", "positions": "t5_bias"},
        "objective": {"attention_aid": {"weight": 0.5}},
    },
    "attention of a plugin": {"decoder": {"attention": "linear_example"}},
}


def elsewhere(value: torch.Tensor) -> torch.Tensor:
    """A fake of a tensor, on another device."""
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def batch_elsewhere(raw: RawBatch) -> RawBatch:
    """A raw batch whose tensors are fakes on another device."""

    def moved(value):
        if isinstance(value, dict):
            return {name: elsewhere(part) for name, part in value.items()}
        return elsewhere(value) if isinstance(value, torch.Tensor) else value

    return RawBatch(*(moved(getattr(raw, item.name)) for item in fields(RawBatch)))


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_step_on_another_device_meets_no_tensor_of_the_cpu(name):
    """Fails if a mask, a code of positions or a number of the optimiser stays behind. The tensors are fakes, which have
    shapes and a device and no values, and which refuse to be mixed."""
    config = tiny_config(2, **ELSEWHERE[name])
    raw, parameters = raw_training_batch(config, draw_world(config), 0), lively_parameters(config)
    with FakeTensorMode(allow_non_fake_inputs=True):
        trained = TrainedParameters(config, {name: elsewhere(value) for name, value in parameters.items()})
        batch = batch_elsewhere(raw).batch()
        losses, slope = gradient_function(config, trained)(trained.flat, batch)
        state = optimiser.initial_state(config.optimiser, {"trained": trained.flat})
        numbers = elsewhere(torch.zeros(3))
        averages = (state.get("mean.trained"), state.get("square.trained"))
        optimiser.move(config.optimiser, trained.flat, slope, *averages, numbers)
    assert {losses["loss"].device.type, slope.device.type, trained.flat.device.type} == {"meta"}


# -- what is refused ----------------------------------------------------------------------------------------------
def test_what_cannot_be_one_group_is_refused(tmp_path):
    """Fails if runs of other shapes, of another width, or too many of them, are trained as if they fitted."""
    config = replace(tiny_config(), numerics=replace(FOUR, lanes=2))
    others = {
        "same shapes": replace(config, decoder=replace(config.decoder, layers=3)),
        "same numerics.lanes": replace(config, numerics=FOUR),
    }
    for words, other in others.items():
        with pytest.raises(RunError, match=words):
            together([config, other], tmp_path)
    with pytest.raises(RunError, match="3 runs do not fit into a group of 2 lanes"):
        together([replace(config, seed=seed) for seed in range(3)], tmp_path)
    with pytest.raises(RunError, match="2 runs do not fit"):
        together([replace(config, seed=seed, numerics=NumericsConfig(mode="eager")) for seed in range(2)], tmp_path)
    for numerics in ({"mode": "lanes"}, {"mode": "eager", "lanes": 2}):
        with pytest.raises(ConfigError, match=r"numerics\.lanes.*with numerics.mode = 'lanes', and 0 without"):
            tiny_config(numerics=numerics)


def test_out_of_memory_halves_the_lanes_at_once(tmp_path, monkeypatch):
    """Fails if a group ends where half of it would fit, trains other weights then, or does not say so; or if it ends
    without words where not even one lane fits. Memory ends where a stand-in for vmap says so."""
    numerics = replace(FOUR, lanes=8)
    configs = [replace(tiny_config(decoder={"layers": 1}), numerics=numerics, seed=seed) for seed in range(4)]
    vmap, most = torch.func.vmap, 8

    def small(function):
        def gradient(flat, *others):
            # The group's metric rows are computed by vmap too, and are given parameters by name.
            if isinstance(flat, torch.Tensor) and len(flat) > most:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return vmap(function)(flat, *others)

        return gradient

    monkeypatch.setattr(loop, "Lanes", partial(Lanes, together=True))
    assert together(configs, tmp_path / "large") == ["finished"] * 4
    monkeypatch.setattr(torch.func, "vmap", small)
    # The group draws by vmap too, and is not what is to be halved.
    monkeypatch.setattr("miclab.training.lanes.serves", lambda configs: False)
    most = 2
    with pytest.warns(UserWarning, match="cpu ran out of memory: of 8 lanes, [42] are computed at once") as said:
        assert together(configs, tmp_path / "small") == ["finished"] * 4
    assert len(said) == 2
    for config in configs:
        large, low = (prepared(config, tmp_path / name).run for name in ("large", "small"))
        assert (low.environment["lanes at once"], "lanes at once" in large.environment) == (2, False)
        weights = [run.parameters(REQUEST.steps)[1] for run in (large, low)]
        torch.testing.assert_close(weights[1], weights[0], rtol=1e-3, atol=1e-5)
    most = 0
    with (
        pytest.warns(UserWarning, match="of 8 lanes, [421] are"),
        pytest.raises(memory.TooLargeError, match=r"ran out of memory with 8 lanes.*Lower numerics\.lanes"),
    ):
        together(configs, tmp_path / "none")
    assert {prepared(config, tmp_path / "none").run.status for config in configs} == {"stopped"}


def test_a_group_is_compared_with_the_memory_of_its_device_before_a_run_is_made(tmp_path, monkeypatch):
    """Fails if a GPU's group is measured by the machine's memory, or directories are made for one that cannot fit."""
    config = replace(tiny_config(), numerics=FOUR)
    monkeypatch.setattr(loop.numerics, "memory_of", lambda device: 4 * memory.lane_size(config) - 1)
    with pytest.raises(memory.TooLargeError, match=r"At most 3 lanes fit"):
        prepared(config, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_run_that_was_begun_on_another_device_is_not_resumed(tmp_path):
    """Fails if a run of a GPU goes on with a CPU's bits, or if a GPU that is not here has to say its memory."""
    config = tiny_config(numerics={"mode": "eager"})
    run, _ = train_config(config, replace(REQUEST, steps=2), tmp_path)
    run.note("stopped", "a test", environment={**run.environment, "device": "cuda"})
    with pytest.raises(RunError, match=r"device cuda \(now cpu\); resuming would not give the same bits"):
        train_config(config, REQUEST, tmp_path)
    assert run.step == 2
    assert [loop.numerics.memory_of(device) for device in ("cuda:99", "cpu", "mps")] == [0, 0, 0]


def test_a_group_that_cannot_fit_is_refused_with_what_fits():
    """Fails if the estimate forgets the number of lanes, or is more than what a lane really holds."""
    config = replace(tiny_config(2), numerics=FOUR)
    own = memory.lane_size(config)
    _, trained = group([config], True)
    held = 4 * 4 * trained[0].flat.numel()
    assert held / 2 < own < 100 * held
    memory.check_lanes(config, 4 * own)
    with pytest.raises(memory.TooLargeError, match=r"4 lanes needs at least .* At most 3 lanes fit"):
        memory.check_lanes(config, 4 * own - 1)
