"""Plans carried out: every run trained once, whatever happens in between, and failures that stop nobody else."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_study import Here, carry_out, contents, planned, tiny_study

from miclab.runs.find import find, glance, list_runs, open_run
from miclab.studies import state, task
from miclab.studies.engine import DEATHS
from miclab.studies.lease import Owner, machine, reserve
from miclab.studies.rows import study_rows
from miclab.studies.task import perform, task_run, write_task
from miclab.training import loop as training
from miclab.training.loop import train_config
from miclab.training.trajectory import Trajectory

TWO_POINTS = [{"product": {"sequence.burstiness": [1, 2]}}]


def statuses(tally) -> list[str]:
    return [found.status for found in tally.states.values()]


def forbid_training(monkeypatch) -> None:
    """From here on a training step is an error."""
    monkeypatch.setattr(Trajectory, "_updates", lambda *arguments, **more: pytest.fail("a run was trained"))


def test_a_study_trains_what_training_by_hand_would_and_nothing_twice(tmp_path, monkeypatch):
    quick = {"quick": {"seeds": [1]}}
    grid = [{"product": {"modalities.m2.noise": [0.1, 0.2]}}]
    plan = planned(tiny_study(tmp_path, 2, grid=grid, profiles=quick))
    root, launcher = tmp_path / "runs", Here()
    assert set(statuses(carry_out(plan, root, launcher))) == {"done"}
    assert launcher.tasks == list(plan.runs)
    for run in plan.runs.values():
        train_config(run.config, run.request, tmp_path / "by hand")
    assert contents(root) == contents(tmp_path / "by hand")
    forbid_training(monkeypatch)
    again = Here()
    carry_out(
        planned(tiny_study(tmp_path, 2, profiles=quick, config={"modalities": {"m2": {"noise": 0.2}}})), root, again
    )
    assert again.tasks == []
    assert [f.name for f in (root / state.FOLDER).rglob("*") if f.is_file()] == []


def test_a_study_killed_at_any_run_and_in_the_middle_of_one_ends_with_the_same_bits(tmp_path, monkeypatch):
    """The process of the engine ends where the exception leaves it: no mark, no answer."""

    class KillError(Exception):
        pass

    plan = planned(tiny_study(tmp_path, 2, profiles={"quick": {"seeds": [0]}}, probes=["ablation"]))
    carry_out(plan, tmp_path / "whole")
    checkpoint, lives = Trajectory._checkpoint, [0]

    def dies(self):
        checkpoint(self)
        lives[0] += 1
        if lives[0] % 2:
            raise KillError

    def work(path: str) -> str:
        monkeypatch.setattr(Trajectory, "_checkpoint", dies)
        monkeypatch.setattr(task, "reason_of", lambda error: (_ for _ in ()).throw(error))
        return perform(path)

    kills = 0
    while True:
        try:
            tally = carry_out(plan, tmp_path / "killed", Here(work))
            break
        except KillError:
            kills += 1
            shutil.rmtree(tmp_path / "killed" / state.FOLDER / "failures", ignore_errors=True)
    assert kills >= 3
    assert set(statuses(tally)) == {"done"}
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_run_that_diverges_is_marked_with_its_children_and_stops_no_other(tmp_path):
    """Of two stage-1 runs one diverges; the other's child is trained."""
    grid = [{"product": {"parent.optimiser.learning_rate": [1e30, 1e-3]}}]
    study = tiny_study(tmp_path, 2, parent={"config": {"optimiser": {"name": "sgd", "warmup_steps": 0}}}, grid=grid,
                       profiles={"quick": {"seeds": [0]}})  # fmt: skip
    plan = planned(study)
    tally = carry_out(plan, tmp_path / "runs")
    assert statuses(tally) == ["failed", "failed", "done", "done"]
    parent, child = list(plan.runs)[:2]
    reason = tally.states[parent].reason
    assert reason.startswith("diverged: the loss was") or reason.startswith("diverged: a weight was not finite")
    assert tally.states[child].reason == f"its stage-1 run {plan.runs[parent].name} failed: {reason}"
    assert glance(tmp_path / "runs", plan.runs[child].name, plan.runs[child].point) is None
    # It would diverge again.
    again = Here()
    assert statuses(carry_out(plan, tmp_path / "runs", again, retry_failed=True)) == statuses(tally)
    assert again.tasks == []


def test_an_error_is_marked_with_its_reason_and_retried_only_on_request(tmp_path, monkeypatch):
    plan = planned(tiny_study(tmp_path, 2, profiles={"quick": {"seeds": [0, 1]}}))
    root, prepare = tmp_path / "runs", training.prepared

    def fails(config, *rest):
        if config.seed == 0:
            raise MemoryError("no room")
        return prepare(config, *rest)

    monkeypatch.setattr(training, "prepared", fails)
    tally = carry_out(plan, root)
    assert statuses(tally) == ["failed", "failed", "done", "done"]
    parent, child = list(plan.runs)[:2]
    assert tally.states[parent].reason == "MemoryError: no room"
    mark = json.loads(state.failure_file(root, parent).read_bytes())
    assert "raise MemoryError" in mark["traceback"]
    assert not state.failure_file(root, child).exists()
    monkeypatch.setattr(training, "prepared", prepare)
    again = Here()
    carry_out(plan, root, again)
    assert again.tasks == []
    assert set(statuses(carry_out(plan, root, again, retry_failed=True))) == {"done"}
    assert again.tasks == [parent, child]
    assert not state.failure_file(root, parent).exists()


def test_a_run_that_kills_its_process_is_given_up_in_the_end_and_no_other(tmp_path):
    """The executor of processes breaks as a whole, so the death of one loses the runs beside it too."""
    plan = planned(tiny_study(tmp_path))
    killer = next(iter(plan.runs))

    class Executor(Here):
        def room(self) -> int:
            return 2 - len(self.hand)

        def wait(self, seconds: float) -> list[tuple[str, str | None]]:
            broken = killer in map(task_run, self.hand)
            ended = [(path, None if broken else perform(path)) for path in self.hand]
            self.hand = []
            return ended

    launcher = Executor()
    tally = carry_out(plan, tmp_path / "runs", launcher)
    assert statuses(tally) == ["failed", "done"]
    assert f"its process died {DEATHS} times" in tally.states[killer].reason
    assert launcher.tasks.count(killer) == DEATHS


def test_a_run_that_another_process_holds_is_waited_for_and_not_trained(tmp_path, monkeypatch):
    """The other one finishes it meanwhile; a second, which dies without finishing, leaves it to us."""
    monkeypatch.setattr("miclab.studies.engine.ELSEWHERE", 0.0)
    plan = planned(tiny_study(tmp_path))
    first, second = plan.runs.values()
    root = tmp_path / "runs"
    leases = state.leases_folder(root)
    held = reserve(leases, first.hash)
    dead = reserve(leases, second.hash)
    assert held is not None
    assert dead is not None
    trained: list[str] = []

    def work(path: str) -> str:
        run = task_run(path)
        text = perform(path)
        if json.loads(text)["status"] == "busy":
            if run == first.hash:
                train_config(first.config, first.request, root)
                held.release()
            else:
                dead.path.write_text(json.dumps(vars(Owner(machine(), 2**22 + 7, "1", "dead"))))
        else:
            trained.append(run)
        return text

    launcher = Here(work)
    assert set(statuses(carry_out(plan, root, launcher))) == {"done"}
    assert trained == [second.hash]
    assert sorted(launcher.tasks) == sorted([first.hash, second.hash, second.hash])


def test_the_lock_of_a_run_that_is_trained_by_hand_holds_too(tmp_path):
    """Without a lease: the answer is that it is busy, and no failure is marked."""
    run = next(iter(planned(tiny_study(tmp_path)).runs.values()))
    root = tmp_path / "runs"
    by_hand = training.prepared(run.config, root).run
    path = write_task(root, run, "test")
    with by_hand.locked():
        message = json.loads(perform(str(path)))
    assert message["status"] == "busy"
    assert "is being trained by another process" in message["reason"]
    assert state.look(run, root).status == "begun"


def test_a_lease_lost_in_the_middle_ends_training_without_a_mark(tmp_path, monkeypatch):
    run = next(iter(planned(tiny_study(tmp_path)).runs.values()))
    root = tmp_path / "runs"
    monkeypatch.setattr(task, "reserve", lambda *arguments: lost(reserve(*arguments)))

    def lost(held):
        held._lost = True
        return held

    message = json.loads(perform(str(write_task(root, run, "test"))))
    assert (message["status"], message["reason"]) == ("busy", "another process took the run over")
    assert state.look(run, root).status == "begun"


def test_a_task_that_a_signal_stops_is_given_again_as_long_as_it_gets_on(tmp_path, monkeypatch):
    """A job's time may end in the middle of a run; one that never gets a step done is given up."""
    updates, wished = Trajectory._updates, [3]

    def stopped(self):
        # The signal comes in the first step.
        self.signals.received = "SIGTERM" if wished[0] > 0 else ""
        wished[0] -= 1
        return updates(self)

    monkeypatch.setattr(Trajectory, "_updates", stopped)
    plan = planned(tiny_study(tmp_path, profiles={"quick": {"seeds": [0]}}))
    launcher = Here()
    assert statuses(carry_out(plan, tmp_path / "runs", launcher)) == ["done"]
    assert len(launcher.tasks) == 4
    monkeypatch.setattr(training, "prepared", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    plan = planned(tiny_study(tmp_path, profiles={"quick": {"seeds": [1]}}))
    tally = carry_out(plan, tmp_path / "runs")
    assert statuses(tally) == ["failed"]
    assert "died" in next(iter(tally.states.values())).reason


def test_a_study_that_is_stopped_gives_nothing_more_and_marks_nothing(tmp_path):
    plan = planned(tiny_study(tmp_path))

    class Stopped(Here):
        requested = False

        def wait(self, seconds: float) -> list[tuple[str, str | None]]:
            if not self.requested:
                signal.raise_signal(signal.SIGTERM)
                return []
            return [(path, None) for path in self.hand]

        def stop(self) -> None:
            self.requested = True

    launcher = Stopped()
    assert statuses(carry_out(plan, tmp_path / "runs", launcher)) == ["new", "new"]
    assert launcher.tasks == list(plan.runs)[:1]
    assert not (tmp_path / "runs" / state.FOLDER / "failures").exists()


def test_analyses_are_stored_and_computed_once_and_those_added_later_train_nothing(tmp_path, monkeypatch):
    root = tmp_path / "runs"
    profile = {"quick": {"seeds": [0]}}
    plan = planned(tiny_study(tmp_path, profiles=profile, probes=["ablation"]))
    carry_out(plan, root)
    (path,) = list_runs(root)
    assert open_run(path).analyses == [(4, "ablation.3x2")]
    before = (path / "analyses/000000004.ablation.3x2.json").stat().st_mtime_ns
    forbid_training(monkeypatch)
    more = tiny_study(tmp_path, profiles=profile, probes=["knockout", "ablation", "context"], probe_contexts=[4, 8])
    assert set(statuses(carry_out(planned(more), root))) == {"done"}
    run = open_run(path)
    assert [name for _, name in run.analyses] == ["ablation.3x2", "context.4.3x2", "context.8.3x2", "knockout.3x2"]
    assert (path / "analyses/000000004.ablation.3x2.json").stat().st_mtime_ns == before
    assert run.verify() == []
    # What the analysis at the trained length says is what the last row says.
    values = (run.analysis(4, "context.4.3x2") or {})["values"]
    assert values == {"": {"accuracy": run.rows()[-1]["accuracy"]["icl"], "sets": run.rows()[-1]["icl_sets"]}}
    again = Here()
    carry_out(planned(more), root, again)
    assert again.tasks == []
    # A damaged one is named and made again.
    file = path / "analyses/000000004.knockout.3x2.json"
    content = file.read_bytes()
    file.write_bytes(content[:-3])
    damaged = open_run(path)
    assert damaged.analysis(4, "knockout.3x2") is None
    assert "knockout.3x2.json is damaged" in damaged.warnings[0]
    assert set(statuses(carry_out(planned(more), root, again))) == {"done"}
    assert again.tasks == list(plan.runs)
    assert file.read_bytes() == content


def test_an_analysis_that_is_not_possible_is_stored_with_its_reason_and_fails_nothing(tmp_path):
    study = tiny_study(
        tmp_path, config={"decoder": {"layers": 1, "positions": "onehot"}},
        grid=[{"product": {"decoder.position_slots": [9, 33]}}],
        probes=["knockout", "context"], probe_contexts=[4, 8], profiles={"quick": {"seeds": [0]}},
    )  # fmt: skip
    plan = planned(study)
    assert statuses(carry_out(plan, tmp_path / "runs")) == ["done", "done"]
    found = map(open_run, list_runs(tmp_path / "runs"))
    run = next(one for one in found if one.config.decoder.position_slots == 9)
    assert "a single head" in (run.analysis(4, "knockout.3x2") or {})["refused"]
    assert "position_slots" in (run.analysis(4, "context.8.3x2") or {})["refused"]
    assert "values" in (run.analysis(4, "context.4.3x2") or {})


def test_an_analysis_that_breaks_fails_its_run_which_stays_trained(tmp_path, monkeypatch):
    from miclab.circuits import knockout

    plan = planned(tiny_study(tmp_path, probes=["ablation"], profiles={"quick": {"seeds": [0]}}))
    ablations = knockout.Interventions.ablations
    monkeypatch.setattr(knockout.Interventions, "ablations", lambda self: 1 / 0)
    tally = carry_out(plan, tmp_path / "runs")
    assert [(s.status, s.reason, s.step) for s in tally.states.values()] == [
        ("failed", "ZeroDivisionError: division by zero", 4)
    ]
    monkeypatch.setattr(knockout.Interventions, "ablations", ablations)
    forbid_training(monkeypatch)
    assert statuses(carry_out(plan, tmp_path / "runs", retry_failed=True)) == ["done"]


def test_a_checkpoint_that_an_earlier_request_did_not_keep_is_made_again_beside_the_run(tmp_path):
    """Stage 1 was trained to 8 steps without keeping step 2, where a study's children start."""
    plan = planned(tiny_study(tmp_path, 2, profiles={"quick": {"seeds": [0]}}, parent={"steps": 3,
                   "request": {"evaluate_every": 3, "checkpoint_every": 3}}))  # fmt: skip
    parent, child = plan.runs.values()
    root = tmp_path / "runs"
    longer = replace(parent.request, steps=8, evaluate_every=8, checkpoint_every=8)
    run, _ = train_config(parent.config, longer, root)
    assert 3 not in run.checkpoints
    before = contents(root)
    assert set(statuses(carry_out(plan, root))) == {"done"}
    run = open_run(run.path)
    assert 3 in run.checkpoints
    assert run.verify() == []
    assert {name: content for name, content in contents(root).items() if name in before} == before
    whole, _ = train_config(child.config, child.request, by_hand(tmp_path / "by hand", parent))
    assert contents(find(child.hash, root).path) == contents(whole.path)
    assert not (root / state.FOLDER / "again" / parent.hash).exists()


def test_a_checkpoint_of_stage_two_is_made_again_beside_the_run(tmp_path):
    """Fails if its parent is sought beside what is made again, where it is not."""
    quick = {"quick": {"seeds": [0], "request": {"steps": 3, "evaluate_every": 3, "checkpoint_every": 3}}}
    plan = planned(tiny_study(tmp_path, 2, profiles=quick, probes=["oracles"]))
    parent, child = plan.runs.values()
    root = by_hand(tmp_path / "runs", parent)
    run, _ = train_config(child.config, replace(child.request, steps=8, evaluate_every=8, checkpoint_every=8), root)
    assert 3 not in run.checkpoints
    assert set(statuses(carry_out(plan, root))) == {"done"}
    assert 3 in open_run(run.path).checkpoints


def by_hand(root: Path, parent) -> Path:
    """A directory with a stage-1 run trained as its plan requests."""
    train_config(parent.config, parent.request, root)
    return root


def test_a_finished_run_is_extended_where_a_study_requests_more_steps(tmp_path):
    quick = {"quick": {"seeds": [0]}}
    carry_out(planned(tiny_study(tmp_path, profiles=quick)), tmp_path / "runs")
    longer = planned(tiny_study(tmp_path, profiles={"quick": {"seeds": [0], "request": {"steps": 8}}}))
    assert statuses_before(longer, tmp_path / "runs") == ["begun"]
    assert statuses(carry_out(longer, tmp_path / "runs")) == ["done"]
    assert open_run(list_runs(tmp_path / "runs")[0]).step == 8
    assert statuses_before(planned(tiny_study(tmp_path, profiles=quick)), tmp_path / "runs") == ["done"]


def statuses_before(plan, root: Path) -> list[str]:
    return [found.status for found in state.survey(plan, root).values()]


def test_a_run_that_ended_at_its_plateau_is_done(tmp_path):
    request = {"steps": 400, "plateau_rows": 1, "plateau_rise": 2.0}
    plan = planned(tiny_study(tmp_path, profiles={"quick": {"seeds": [0], "request": request}}))
    tally = carry_out(plan, tmp_path / "runs")
    assert statuses(tally) == statuses_before(plan, tmp_path / "runs") == ["done"]
    assert next(iter(tally.states.values())).step == 4
    endless = tiny_study(tmp_path, profiles={"quick": {"seeds": [0], "request": {**request, "plateau_rows": 0}}})
    assert statuses_before(planned(endless), tmp_path / "runs") == ["begun"]


def test_a_run_that_has_enough_stops_and_is_done(tmp_path):
    """Fails if it goes on, is begun again, or loses its rows in the table."""
    request = {"steps": 400, "enough": 1e-9, "plateau_metric": "train", "sequences": 40}
    study = tiny_study(tmp_path, profiles={"quick": {"seeds": [0], "request": request}})
    plan = planned(study)
    tally = carry_out(plan, tmp_path / "runs")
    assert statuses(tally) == statuses_before(plan, tmp_path / "runs") == ["done"]
    (found,) = tally.states.values()
    assert found.step < 400
    assert found.reason.startswith("enough: train is 0.")
    last = study_rows(study, plan, tmp_path / "runs").row(-1, named=True)
    assert (last["last"], last["step"], last["status"]) == (True, found.step, "finished")
    endless = tiny_study(tmp_path, profiles={"quick": {"seeds": [0], "request": {**request, "enough": 0.0}}})
    assert statuses_before(planned(endless), tmp_path / "runs") == ["begun"]


def test_a_damaged_manifest_fails_its_run_alone(tmp_path):
    plan = planned(tiny_study(tmp_path))
    carry_out(plan, tmp_path / "runs")
    first = next(iter(plan.runs.values()))
    (tmp_path / "runs" / first.name / "manifest.json").write_text("{}")
    found = state.survey(plan, tmp_path / "runs")
    assert [s.status for s in found.values()] == ["failed", "done"]
    assert "manifest.json is damaged" in found[first.hash].reason


def test_a_directory_of_another_run_is_not_taken_for_this_one(tmp_path):
    """Directory names have the start of the hash only."""
    plan = planned(tiny_study(tmp_path))
    first, second = plan.runs.values()
    train_config(first.config, first.request, tmp_path / "runs")
    (tmp_path / "runs" / first.name).rename(tmp_path / "runs" / second.name)
    found = state.survey(plan, tmp_path / "runs")
    assert [s.status for s in found.values()] == ["new", "failed"]
    assert "holds another run" in found[second.hash].reason


def test_what_is_done_is_found_without_opening_what_is_not_there(tmp_path, monkeypatch):
    """One listing of the directory of runs; a run is opened only if it is in the listing."""
    plan = planned(tiny_study(tmp_path, grid=TWO_POINTS))
    first = next(iter(plan.runs.values()))
    train_config(first.config, first.request, tmp_path / "runs")
    opened: list[str] = []
    monkeypatch.setattr(state, "glance", lambda root, name, config: opened.append(name) or glance(root, name, config))
    assert [s.status for s in state.survey(plan, tmp_path / "runs").values()] == ["done", "new", "new", "new"]
    assert opened == [first.name]
