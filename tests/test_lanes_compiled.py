"""Lanes whose step is one compiled program."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from test_lanes import FOUR, REQUEST, VARIANTS, files, group, lane_configs, together
from test_resume import CrashError
from tiny import tiny_config

from miclab.config.parts import NumericsConfig
from miclab.config.run import RunConfig
from miclab.config.schema import trajectory_hash
from miclab.errors import ConfigError
from miclab.studies.points import Mode
from miclab.training import lane_program, loop, numerics
from miclab.training.lanes import Lanes, Update
from miclab.training.loop import prepared, train_together
from miclab.worlds.sequences import raw_training_batch
from miclab.worlds.world import draw_world

COMPILED = replace(FOUR, lane_step="compiled")


def compiled(configs: list[RunConfig]) -> list[RunConfig]:
    return [replace(config, numerics=replace(config.numerics, lane_step="compiled")) for config in configs]


@pytest.fixture
def interpreted(monkeypatch):
    """The program of a group is called as it is, without a compiler."""
    monkeypatch.setattr(lane_program, "compiled_once", lambda key, make, options: make())


def keeps_bits(tmp_path: Path) -> None:
    """Trains compiled lanes together, two of them until a kill, then all in other places; and eager ones."""
    eager = lane_configs()[:3]
    configs = compiled(eager)
    assert together(configs, tmp_path / "all") == ["finished"] * 3
    expected = files(configs, tmp_path / "all")

    def dies(progress) -> None:
        if progress.step == 3:
            raise CrashError

    ready = [prepared(config, tmp_path / "killed") for config in configs]
    with pytest.raises(CrashError):
        train_together(ready[1:], [REQUEST] * 2, [None, dies])
    assert together(configs[::-1], tmp_path / "killed") == ["finished"] * 3
    assert files(configs, tmp_path / "killed") == expected
    assert together(eager, tmp_path / "all") == ["finished"] * 3
    for one, other in zip(configs, eager, strict=True):
        mine, theirs = (prepared(config, tmp_path / "all").run.parameters(4)[1] for config in (one, other))
        torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=2e-3)


def takes_the_drawing() -> None:
    """Makes the graphs of a group that draws its sequences, and generates no code from them."""
    made = []

    programs = {}

    def traced(key, make, options):
        if key not in programs:
            made.append(key)
            programs[key] = torch.compile(make(), dynamic=False, fullgraph=True, backend="eager")
        return programs[key]

    lane_program.compiled_once = traced
    eager = lane_configs()[:3]
    worlds = [draw_world(config) for config in eager]
    (one, mine), (program, theirs) = group(eager, True, worlds), group(compiled(eager), True, worlds)
    assert program.sampler is not None
    reasons: list[str] = []
    program.on_eager = reasons.append
    for step in range(2):
        for lanes in (one, program):
            lanes.step({lane: Update(None, 0.01, step) for lane in range(3)})
    assert (reasons, len(made)) == ([], 2)
    for wanted, found in zip(mine, theirs, strict=True):
        torch.testing.assert_close(found.flat, wanted.flat, rtol=1e-2, atol=2e-3)


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
from test_lanes_compiled import keeps_bits, takes_the_drawing
keeps_bits(Path(sys.argv[1]))
takes_the_drawing()
print(1)
"""
"""It has no shape checks, which would break a graph."""


@pytest.mark.slow
def test_compiled_lanes_keep_their_bits_and_are_near_eager_ones(tmp_path, run_python):
    """Fails if the bits of a compiled lane depend on its neighbours, its place or on a kill, or if it trains otherwise
    than an eager lane. Fails also if a part of a group's step leaves the graph, sampling included; each step would then
    start hundreds of kernels from Python. One process, since compiling takes long."""
    if reason := numerics.why_not_compiled():
        pytest.skip(reason)
    assert run_python(SCRIPT, tmp_path) == 1


@pytest.mark.parametrize("name", [*VARIANTS, "a term that ends"])
def test_the_program_of_a_group_makes_the_steps_of_eager_lanes(name, interpreted):
    """Fails if the program of a GPU moves an idle lane or its averages, mixes lanes, or takes another rate, mask of
    frozen weights or set of terms."""
    parts = VARIANTS.get(name, {"objective": {"attention_aid": {"weight": 0.5, "until": 3}}})
    eager = [replace(tiny_config(2, **parts), numerics=FOUR, seed=seed) for seed in range(3)]
    worlds = [draw_world(config) for config in eager]
    (one, mine), (program, theirs) = group(eager, True), group(compiled(eager), True)
    for step in range(5):
        # The second lane ends early, and is ahead of the others.
        busy = [lane for lane in range(3) if lane != 1 or step < 3]
        made = {lane: step + (lane == 1) for lane in busy}
        raws = {lane: raw_training_batch(eager[lane], worlds[lane], made[lane]) for lane in busy}
        updates = {lane: Update(raws[lane], 0.01 * (lane + 1), made[lane]) for lane in busy}
        still = [None if part is None else part[1].clone() for part in (program.flat, program.mean, program.square)]
        losses, same = one.step(updates), program.step(updates)
        assert losses.keys() == same.keys() == set(busy)
        for lane in busy:
            torch.testing.assert_close(same[lane], losses[lane], rtol=1e-4, atol=1e-5)
        for before, part in zip(still, (program.flat, program.mean, program.square), strict=True):
            assert before is None or torch.equal(part[1], before) == (1 not in busy)
    assert program.compiled
    for wanted, found in zip(mine, theirs, strict=True):
        torch.testing.assert_close(found.named, wanted.named, rtol=1e-2, atol=1e-3)


def test_a_group_whose_step_cannot_be_compiled_goes_on_in_eager_mode_and_says_so(tmp_path, monkeypatch):
    """Fails if a compiler that gives up in the middle ends a training, moves a lane before, or leaves no record."""
    calls = []

    def gives_up(key, make, options):
        function = make()

        def program(*inputs):
            calls.append(key)
            if len(calls) == 2:
                raise NotImplementedError("no kernel\nfor this")
            return function(*inputs)

        return program

    monkeypatch.setattr(lane_program, "compiled_once", gives_up)
    monkeypatch.setattr(loop, "Lanes", partial(Lanes, together=True))
    eager = lane_configs()[:2]
    configs = compiled(eager)
    with pytest.warns(UserWarning, match=r"could not be compiled on cpu and is eager from here on \(no kernel\)"):
        assert together(configs, tmp_path) == ["finished"] * 2
    assert len(calls) == 2
    assert together(eager, tmp_path) == ["finished"] * 2
    for one, other in zip(configs, eager, strict=True):
        run, plain = (prepared(config, tmp_path).run for config in (one, other))
        assert (run.environment["lane step"], "lane step" in plain.environment) == ("eager", False)
        torch.testing.assert_close(run.parameters(4)[1], plain.parameters(4)[1], rtol=1e-2, atol=2e-3)


def test_a_compiled_group_that_runs_out_of_memory_is_computed_in_parts(monkeypatch):
    """Fails if a part of a step is made twice, or is lost, where the memory ends in the middle of one."""
    eager = lane_configs()[:3]
    worlds = [draw_world(config) for config in eager]
    failures = 0

    def small(key, make, options):
        function = make()
        if key[0] == "drawing":
            return function

        def program(flat, *others):
            nonlocal failures
            # The memory ends in the second part as well.
            if len(flat) > 2 or (failures == 1 and torch.equal(flat[0], program_lanes.flat[2])):
                failures += 1
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return function(flat, *others)

        return program

    (one, mine) = group(eager, True, worlds)
    monkeypatch.setattr(lane_program, "compiled_once", small)
    said: list[int] = []
    program_lanes, theirs = group(compiled(eager), True, worlds)
    program_lanes.in_parts.on_halved = said.append
    for step in range(2):
        for lanes in (one, program_lanes):
            lanes.step({lane: Update(None, 0.01, step) for lane in range(3)})
    assert said == [2, 1]
    for wanted, found in zip(mine, theirs, strict=True):
        torch.testing.assert_close(found.flat, wanted.flat, rtol=1e-2, atol=2e-3)


# -- the option ---------------------------------------------------------------------------------------------------
def test_the_step_is_in_the_hash_of_lanes_alone(tmp_path):
    """Fails if compiled lanes share a folder with eager ones, or the option changes the hash of a single run."""
    config = lane_configs()[0]
    assert trajectory_hash(replace(config, numerics=COMPILED)) != trajectory_hash(config)
    single = tiny_config(numerics={"mode": "auto", "lane_step": "compiled"})
    assert numerics.resolved(single, 1)[0] == tiny_config(numerics={"mode": "eager"})
    given = NumericsConfig(mode="auto", lane_step="compiled")
    assert Mode("eager").resolved(given) == NumericsConfig(mode="eager")
    assert Mode("lanes:4").resolved(given) == NumericsConfig(mode="lanes", lanes=4, lane_step="compiled")
    with pytest.raises(ConfigError, match=r"numerics\.lane_step.*'eager' with numerics\.mode = 'eager'"):
        tiny_config(numerics={"mode": "eager", "lane_step": "compiled"})


def test_without_a_compiler_a_compiled_step_is_refused_before_a_run_is_made(tmp_path: Path, monkeypatch):
    """Fails if a group finds out in its first step, or the message does not say what to give instead."""
    monkeypatch.setattr(numerics, "why_not_compiled", lambda device="cpu": f"nothing compiles on {device}")
    with pytest.raises(ConfigError, match=r"numerics\.lane_step = 'compiled'.*'eager' here: nothing compiles on cpu"):
        prepared(replace(tiny_config(), numerics=COMPILED), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
