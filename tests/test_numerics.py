"""The numeric mode: what is used where there is no compiler, and that compiled and eager training agree."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_config

from miclab.errors import ConfigError
from miclab.training import numerics


@pytest.fixture
def without_compiler(monkeypatch, tmp_path):
    """A machine on which no C++ compiler is found."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    numerics.why_not_compiled.cache_clear()
    yield
    numerics.why_not_compiled.cache_clear()


def test_without_a_compiler_auto_means_eager_and_one_line_says_so(without_compiler):
    """The mode that will really be used is the one that names the run."""
    resolved, line = numerics.resolved(tiny_config(numerics={"mode": "auto"}))
    assert resolved.numerics.mode == "eager"
    assert "eager" in line
    assert "no C++ compiler was found" in line
    assert len(line.splitlines()) == 1


def test_without_a_compiler_compiled_mode_is_refused(without_compiler):
    """It was requested by name, so nothing else will do."""
    with pytest.raises(ConfigError, match=r"numerics\.mode = 'compiled'.*'eager' or 'auto'.*no C\+\+ compiler"):
        numerics.resolved(tiny_config(numerics={"mode": "compiled"}))


def test_eager_mode_is_taken_as_it_is(without_compiler):
    """No line about what the user chose."""
    config = tiny_config(numerics={"mode": "eager"})
    assert numerics.resolved(config) == (config, "")


def test_a_compiler_that_does_not_work_is_no_compiler(monkeypatch, tmp_path):
    """A name on PATH is not enough: something is compiled and run."""
    import torch

    def broken(*arguments, **options):
        raise RuntimeError("first line\nsecond line")

    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(torch, "compile", broken)
    numerics.why_not_compiled.cache_clear()
    try:
        resolved, line = numerics.resolved(tiny_config(numerics={"mode": "auto"}))
    finally:
        numerics.why_not_compiled.cache_clear()
    assert resolved.numerics.mode == "eager"
    assert "torch.compile failed (first line)" in line


class Machine:
    """A machine with other devices than this one, as PyTorch would describe it."""

    def __init__(self, monkeypatch, gpus: int, mps: bool = False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


def with_device(name: str) -> str:
    """The device that a run really uses."""
    return numerics.resolved(tiny_config(numerics={"device": name}))[0].numerics.device


def test_a_device_that_is_not_here_is_refused_with_those_that_are(monkeypatch):
    """Before a run is made; fails if training would quietly use another device than the one that is in the hash."""
    Machine(monkeypatch, gpus=0)
    with pytest.raises(ConfigError, match=r"numerics\.device = 'cuda' .*of this machine, which are cpu"):
        with_device("cuda")
    Machine(monkeypatch, gpus=2)
    with pytest.raises(ConfigError, match=r"'cuda:2' .*which are cuda:0, cuda:1, cpu"):
        with_device("cuda:2")
    with pytest.raises(ConfigError, match=r"'mps' .*which are cuda:0, cuda:1, cpu"):
        with_device("mps")
    assert [with_device(name) for name in ("cuda", "cuda:1", "cpu")] == ["cuda", "cuda:1", "cpu"]
    for name in ("gpu", "cuda:", "cuda:x", ""):
        with pytest.raises(ConfigError, match=r"numerics\.device = .*cpu, cuda, cuda:1 .*mps or auto"):
            tiny_config(numerics={"device": name})


def test_auto_is_the_best_device_and_the_hash_holds_its_name(monkeypatch):
    """Fails if a run is named by `auto`, which means something else on every machine."""
    for gpus, mps, best in ((0, False, "cpu"), (0, True, "mps"), (1, False, "cuda")):
        Machine(monkeypatch, gpus, mps)
        assert with_device("auto") == best


def test_what_a_device_cannot_do_is_refused():
    """Fails if tensor-float products or draws in float64 are requested where there are none."""
    with pytest.raises(ConfigError, match=r"numerics\.tf32 = 'on'.*'off' with numerics.device = 'cpu'"):
        tiny_config(numerics={"tf32": "on"})
    with pytest.raises(ConfigError, match=r"numerics\.sampler = 'device'.*'host' .*'mps', which has no float64"):
        tiny_config(numerics={"sampler": "device", "device": "mps"})


AGREEMENT = """
import json, sys
sys.path.insert(0, "tests")
from tiny import tiny_config
from miclab.config.request import Request
from miclab.training.loop import train_config

losses = {}
request = Request(steps=3, evaluate_every=1, checkpoint_every=1, sequences=4, novel_sets=1)
for mode in ("eager", "compiled"):
    config = tiny_config(numerics={"mode": mode}, optimiser={"learning_rate": 1e-2})
    run, outcome = train_config(config, request, sys.argv[1])
    assert run.environment["mode"] == mode
    losses[mode] = [row["loss"] for row in run.rows()[1:]]
print(json.dumps(losses))
"""


@pytest.mark.slow
def test_compiled_and_eager_training_agree(run_python, tmp_path):
    """Three steps at a learning rate of 0.01: the later losses also hold the gradients and the updates to account."""
    if reason := numerics.why_not_compiled():
        pytest.skip(reason)
    losses = run_python(AGREEMENT, tmp_path)
    assert losses["compiled"] == pytest.approx(losses["eager"], abs=1e-5)
    assert abs(losses["eager"][0] - losses["eager"][2]) > 1e-2
