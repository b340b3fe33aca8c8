"""Training that was killed, stopped, extended or damaged ends with the bits of training that was left alone."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_config

from miclab import storage
from miclab.config import schema
from miclab.config.parts import ParentConfig
from miclab.config.request import Request
from miclab.config.run import RunConfig
from miclab.errors import ConfigError, DamagedError, RunError
from miclab.runs import find as runs
from miclab.training import numerics
from miclab.training.loop import prepared, train, train_config

CONFIG = tiny_config()
REQUEST = Request(steps=12, evaluate_every=4, checkpoint_every=4, sequences=4, novel_sets=1)

SURVEY = """
import json, sys
from dataclasses import replace
from pathlib import Path
from benchmarks.resilience import REQUEST, survey
print(json.dumps(survey(Path(sys.argv[1]), kills=4, seed=1, request=replace(REQUEST, steps=40))))
"""


class CrashError(Exception):
    """Ends a training process between two steps, as a fault in the caller would."""


def contents(run: runs.Run) -> dict[str, bytes]:
    """Files of a run but for times and optimiser."""
    files = (file for file in run.path.rglob("*") if file.is_file() and file.name not in ("manifest.json", "lock"))
    return {str(f.relative_to(run.path)): f.read_bytes() for f in files if ".optimiser." not in f.name}


def crashed(config: RunConfig, request: Request, root: Path, step: int) -> runs.Run:
    """A run whose process ended right after a step."""

    def on_progress(progress) -> None:
        if progress.step == step:
            raise CrashError

    run = prepared(config, root).run
    with pytest.raises(CrashError):
        train(run, request, on_progress)
    return runs.open_run(run.path)


def test_kills_signals_and_flipped_bytes_leave_the_same_bits(run_python, tmp_path):
    """A small round of `python -m benchmarks.resilience`, where all of it is described."""
    found = run_python(SURVEY, tmp_path)
    assert found["wrong"] == []
    assert found["kills"]["kills"] == 4
    assert found["kills"]["runs equal to the bit"] == found["kills"]["runs"] >= 2
    assert found["signals"] == {"SIGINT": 1, "SIGTERM": 1}
    # The checkpoints of steps 0, 1, 4, 6 and 8, each with its optimiser; rows also at step 2.
    assert found["flips"] == {"config": 1, "world": 1, "manifest": 1, "checkpoint": 5, "optimiser": 5, "rows": 6}


@pytest.mark.parametrize(
    "optimiser",
    [
        {"name": "sgd"},
        {"name": "adam"},
        {"name": "adamw", "schedule": "cosine", "warmup_steps": 3, "decay_steps": 12},
    ],
    ids=lambda o: o["name"],
)
def test_a_crash_between_checkpoints_costs_only_the_steps_after_the_last(tmp_path, optimiser):
    """Optimiser state and place in the schedule of the learning rate come back with the weights."""
    config = tiny_config(optimiser=optimiser)
    reference, _ = train_config(config, REQUEST, tmp_path / "reference")
    left = crashed(config, REQUEST, tmp_path / "crashed", 7)
    assert (left.step, left.status, left.verify()) == (4, "stopped", [])
    steps: list[int] = []
    outcome = train(left, REQUEST, lambda progress: steps.append(progress.step))
    assert (outcome.status, outcome.reason, steps) == ("finished", "all steps done", list(range(5, 13)))
    assert contents(left) == contents(reference)
    assert left.parameters(8)[1].keys() == left.parameters(12)[1].keys()
    assert any(not torch.equal(v, left.parameters(12)[1][k]) for k, v in left.parameters(8)[1].items())


@pytest.mark.parametrize("steps", [4, 6])
def test_an_extended_run_has_the_bits_of_one_with_all_steps(tmp_path, steps):
    """Also where the first end (6) is off the schedule of rows: its own row comes on top and changes no other, and its
    checkpoint stays, since a stage-2 run may have started there."""
    reference, _ = train_config(CONFIG, replace(REQUEST, steps=20), tmp_path / "reference")
    train_config(CONFIG, replace(REQUEST, steps=steps), tmp_path / "extended")
    run, outcome = train_config(CONFIG, replace(REQUEST, steps=20), tmp_path / "extended")
    assert (outcome.status, outcome.step) == ("finished", 20)
    extra = {} if steps == 4 else {n: c for n, c in contents(run).items() if "000000006." in n}
    assert len(extra) == (0 if steps == 4 else 2)
    assert contents(run) == contents(reference) | extra
    assert [row for row in run.rows() if row["step"] != 6] == reference.rows()


def test_a_finished_run_is_not_trained_again(tmp_path):
    """Nor is its directory touched."""
    run, _ = train_config(CONFIG, REQUEST, tmp_path)
    before = {file: file.stat().st_mtime_ns for file in run.path.rglob("*") if file.is_file()}
    _, outcome = train_config(CONFIG, replace(REQUEST, steps=8), tmp_path, lambda progress: pytest.fail("a step"))
    assert (outcome.status, outcome.step) == ("finished", 12)
    assert {file: file.stat().st_mtime_ns for file in run.path.rglob("*") if file.is_file()} == before


def test_a_diverged_run_keeps_its_last_good_checkpoint_and_says_so(tmp_path):
    """A learning rate of 1e30 makes a NaN within two steps; going on would only make more of them."""
    config = tiny_config(optimiser={"name": "sgd", "learning_rate": 1e30})
    run, outcome = train_config(config, REQUEST, tmp_path)
    assert (outcome.status, run.status) == ("diverged", "diverged")
    assert f"the last good checkpoint is step {run.step}" in run.reason
    assert all(bool(value.isfinite().all()) for value in run.parameters()[1].values())
    assert run.verify() == []
    again = train(run, REQUEST, lambda progress: pytest.fail("a step"))
    assert (again.status, again.step, again.reason) == ("diverged", outcome.step, run.reason)


def test_a_plateau_ends_training_and_holds_when_resumed(tmp_path):
    """An accuracy cannot rise by 2, so the run ends after two rows; with the same request it stays ended, and without a
    plateau it goes on with the bits of a run that never had one."""
    request = replace(REQUEST, plateau_rows=1, plateau_rise=2.0)
    run, outcome = train_config(CONFIG, request, tmp_path / "run")
    assert (outcome.status, outcome.step, run.status) == ("finished", 8, "finished")
    assert outcome.reason.startswith("plateau: icl rose by no more than 2.0 over 1 rows")
    again = train(run, request, lambda progress: pytest.fail("a step"))
    assert again == outcome
    reference, _ = train_config(CONFIG, REQUEST, tmp_path / "reference")
    assert train(run, REQUEST).reason == "all steps done"
    assert contents(run) == contents(reference)


@pytest.mark.parametrize(("plateau", "step"), [({"plateau_rows": 1, "plateau_rise": 2.0}, 8), ({}, 12)])
def test_a_process_that_dies_after_its_last_checkpoint_has_nothing_left_to_train(tmp_path, monkeypatch, plateau, step):
    """The run still says `running`: whether it is done, and why, follows from its rows."""
    request, note = replace(REQUEST, **plateau), runs.Run.note

    def dies(self: runs.Run, status: str, *arguments: Any, **changes: Any) -> None:
        if status != "running":
            raise CrashError
        note(self, status, *arguments, **changes)

    run = prepared(CONFIG, tmp_path).run
    with monkeypatch.context() as patch:
        patch.setattr(runs.Run, "note", dies)
        with pytest.raises(CrashError):
            train(run, request)
    left = runs.open_run(run.path)
    assert (left.status, left.step) == ("running", step)
    outcome = train(left, request, lambda progress: pytest.fail("a step"))
    assert (outcome.status, outcome.step, left.status) == ("finished", step, "finished")
    assert outcome.reason.startswith("plateau" if plateau else "all steps done")


@pytest.mark.parametrize("entry", [{"torch": "1.0"}, {"mode": "compiled"}, {"threads": 7}, {"device": "cuda"}])
def test_resuming_where_the_bits_would_differ_is_refused(tmp_path, monkeypatch, entry):
    """Another version of PyTorch, numeric mode, number of threads or device: named with both values."""
    run, _ = train_config(CONFIG, replace(REQUEST, steps=4), tmp_path)
    before, environment = contents(run), numerics.environment(CONFIG)
    monkeypatch.setattr(numerics, "environment", lambda config: environment | entry)
    ((name, value),) = entry.items()
    with pytest.raises(
        RunError, match=rf"was trained with {name} {environment[name]} \(now {value}\)".replace("+", r"\+")
    ):
        train(run, REQUEST)
    assert contents(run) == before
    assert runs.open_run(run.path).status == "finished"


def test_another_processor_is_warned_of(tmp_path, monkeypatch):
    """Its last bits may differ, but a cluster whose machines are not all alike must be able to go on."""
    run, _ = train_config(CONFIG, replace(REQUEST, steps=4), tmp_path)
    environment = numerics.environment(CONFIG) | {"processor": "abacus"}
    monkeypatch.setattr(numerics, "environment", lambda config: environment)
    assert train(run, REQUEST).status == "finished"
    assert any("this processor has abacus" in text for text in run.warnings)


def test_a_run_of_other_semantics_is_refused(tmp_path, monkeypatch):
    """When the same configuration comes to mean another result, going on would join two halves that do not fit."""
    run, _ = train_config(CONFIG, replace(REQUEST, steps=4), tmp_path)
    monkeypatch.setattr(schema, "SEMANTICS", schema.SEMANTICS + 1)
    with pytest.raises(RunError, match="its configuration meant another result"):
        train(run, REQUEST)
    assert runs.open_run(run.path).rows() == run.rows()


def test_a_compiled_run_is_refused_where_nothing_can_be_compiled(tmp_path, monkeypatch):
    """With a reason, not with a failure of the compiler."""
    monkeypatch.setattr(numerics, "why_not_compiled", lambda: "")
    run = prepared(tiny_config(numerics={"mode": "compiled"}), tmp_path).run
    monkeypatch.setattr(numerics, "why_not_compiled", lambda: "no C++ compiler was found")
    with pytest.raises(ConfigError, match=r"numerics\.mode = 'compiled'.*no C\+\+ compiler was found"):
        train(run, REQUEST)


def test_a_signal_that_comes_too_late_is_passed_on(tmp_path):
    """At the last step there is nothing left to stop, but the run that follows in the same process must not begin."""
    # A shell lets the jobs of its background ignore SIGINT; what is passed on is then ignored too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt(progress) -> None:
        if progress.step == 12:
            signal.raise_signal(signal.SIGINT)

    run = prepared(CONFIG, tmp_path).run
    try:
        with pytest.raises(KeyboardInterrupt):
            train(run, REQUEST, interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert runs.open_run(run.path).status == "finished"


def test_a_signal_ends_training_with_a_checkpoint_at_the_step_in_hand(tmp_path):
    """In the middle between two rows, where nothing would have been written."""

    def interrupt(progress) -> None:
        if progress.step == 7:
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    run, outcome = train_config(CONFIG, REQUEST, tmp_path / "stopped", interrupt)
    assert (outcome.status, outcome.step, run.step, run.reason) == ("stopped", 7, 7, "stopped by SIGTERM")
    # With fewer steps requested than it has, it is left as it is: on its way to more.
    less = train(run, replace(REQUEST, steps=5))
    assert (less.status, less.step) == ("finished", 7)
    left = runs.open_run(run.path)
    assert (left.status, left.request["steps"]) == ("stopped", REQUEST.steps)
    assert signal.getsignal(signal.SIGTERM) == before
    train(run, REQUEST)
    reference, _ = train_config(CONFIG, REQUEST, tmp_path / "reference")
    assert run.rows() == reference.rows()
    assert run.checkpoints == reference.checkpoints
    assert all(torch.equal(v, run.parameters(12)[1][k]) for k, v in reference.parameters(12)[1].items())


# -- stage 2 ----------------------------------------------------------------------------------------------------------
STAGE_ONE = tiny_config()


def stage_two(parent: runs.Run, step: int, **parts: Any) -> RunConfig:
    return replace(tiny_config(2), parent=ParentConfig(run=parent.hash, step=step), **parts)


def test_stage_two_takes_the_parents_world_and_decoder_to_the_bit(tmp_path):
    """From the checkpoint that was named, not from the last one; the bridge is fresh."""
    parent, _ = train_config(STAGE_ONE, REQUEST, tmp_path)
    child, _ = train_config(stage_two(parent, 4), replace(REQUEST, steps=2), tmp_path)
    world, inherited = child.world_tensors(), parent.world_tensors()
    assert set(inherited) == {"prototypes.m1", "label_embeddings"}
    assert all(torch.equal(world[name], tensor) for name, tensor in inherited.items())
    first = child.parameters(0)[1]
    assert {name for name in first if name not in parent.parameters(4)[1]} == {"bridge.m2.0", "bridge.m2.1"}
    assert all(torch.equal(first[name], value) for name, value in parent.parameters(4)[1].items())
    assert not torch.equal(first["decoder.readout"], parent.parameters(12)[1]["decoder.readout"])


def test_frozen_parts_keep_their_bits_and_the_others_change(tmp_path):
    """Every parameter is one or the other."""
    parent, _ = train_config(STAGE_ONE, replace(REQUEST, steps=4), tmp_path)
    config = stage_two(parent, 4, frozen=("decoder.blocks.0", "decoder.readout"))
    child, _ = train_config(config, replace(REQUEST, steps=4), tmp_path)
    first, last = child.parameters(0)[1], child.parameters(4)[1]
    kept = {name for name in first if torch.equal(first[name], last[name])}
    assert kept == {n for n in first if n.startswith("decoder.blocks.0.") or n == "decoder.readout"}
    assert "bridge.m2.0" not in kept


def test_a_parent_that_does_not_fit_is_refused(tmp_path):
    """No such run, no such checkpoint, or another decoder: said before anything is written."""
    parent, _ = train_config(STAGE_ONE, replace(REQUEST, steps=4), tmp_path)
    with pytest.raises(RunError, match="'0123456789abcdef' names no run"):
        prepared(replace(tiny_config(2), parent=ParentConfig(run="0123456789abcdef", step=4)), tmp_path)
    with pytest.raises(RunError, match=r"no checkpoint at step 3; it has \[0, 1, 2, 4\]"):
        prepared(stage_two(parent, 3), tmp_path)
    with pytest.raises(RunError, match="another decoder"):
        prepared(stage_two(parent, 4, decoder=replace(STAGE_ONE.decoder, heads=2)), tmp_path)
    assert runs.list_runs(tmp_path) == [parent.path]


def test_a_parent_has_one_name_however_it_is_named(tmp_path):
    """The hash of a run must not depend on how its parent was spelled."""
    parent, _ = train_config(STAGE_ONE, replace(REQUEST, steps=4), tmp_path)
    config = stage_two(parent, 4)
    spelled = [parent.path.name, str(parent.path), parent.hash[:8], parent.hash]
    made = {prepared(replace(config, parent=ParentConfig(run=name, step=4)), tmp_path).run.path for name in spelled}
    assert len(made) == 1


def test_a_parent_that_was_damaged_since_is_named(tmp_path):
    """Stage 2 has not begun and begins once the parent is whole again."""
    parent, _ = train_config(STAGE_ONE, replace(REQUEST, steps=4), tmp_path)
    child = prepared(stage_two(parent, 4), tmp_path).run
    file = parent.path / "checkpoints" / "000000004.safetensors"
    content = file.read_bytes()
    storage.write_bytes(file, content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DamagedError, match=str(file)):
        train(child, REQUEST)
    storage.write_bytes(file, content)
    assert train(child, replace(REQUEST, steps=2)).status == "finished"


def test_checkpoints_at_chosen_steps_change_no_row_and_no_weight(tmp_path):
    """Fails if a chosen step is not kept, brings a row, or moves the mean of losses; also over a crash between."""
    chosen = replace(REQUEST, checkpoint_at=(3, 7), checkpoint_every=12)
    plain, _ = train_config(CONFIG, replace(REQUEST, checkpoint_every=12), tmp_path / "plain")
    run = crashed(CONFIG, chosen, tmp_path / "chosen", step=6)
    assert train(run, chosen).status == "finished"
    run = runs.open_run(run.path)
    assert {3, 7} <= set(run.checkpoints)
    assert not {3, 7} & set(plain.checkpoints)
    assert run.rows() == plain.rows()
    short, _ = train_config(CONFIG, replace(REQUEST, steps=7), tmp_path / "short")
    for name, value in short.parameters(7)[1].items():
        assert torch.equal(value, run.parameters(7)[1][name]), name
    with pytest.raises(ConfigError, match=r"request\.checkpoint_at = \(0,\) is not possible"):
        Request(checkpoint_at=(0,))
