"""The same study on Ray and Slurm: the same bits, and what is lost with a node is made again."""

from __future__ import annotations

import os
import signal
import sys
import time
import types
from pathlib import Path

import pytest
import submitit
from tiny_study import REQUEST, carry_out, contents, planned, tiny_study

from miclab.cli import main
from miclab.errors import MiclabError
from miclab.studies import state
from miclab.studies.launchers import slurm
from miclab.studies.launchers.ray import RayLauncher
from miclab.studies.launchers.slurm import SlurmLauncher

LONG = {"quick": {"seeds": [0], "request": {**REQUEST, "steps": 120, "evaluate_every": 8, "checkpoint_every": 80}}}
LONGER = {"quick": {"seeds": [0], "request": {**LONG["quick"]["request"], "steps": 640}}}
"""Long enough on a fast machine for a job to be met twice."""

RAY = """
import json, os, sys, time
from pathlib import Path
# On a busy machine Ray's own helpers take long to start.
os.environ["RAY_agent_register_timeout_ms"] = "120000"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray
from ray.cluster_utils import Cluster
from miclab.runs.find import list_runs, open_run
from miclab.studies import state
from miclab.studies.engine import Engine
from miclab.studies.launchers.ray import RayLauncher
from miclab.studies.plan import Plan
from miclab.studies.study import load_study

root = Path(sys.argv[2])
root.mkdir()
memory = 80 * 2**20
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": memory})
second = cluster.add_node(num_cpus=1, object_store_memory=memory)
cluster.wait_for_nodes()
plan = Plan([load_study(sys.argv[1], "quick")], "eager")
launcher = RayLauncher(cluster.address)
rooms, lost, killed = [launcher.room()], [], []
wait = launcher.wait

def watched(seconds):
    global second
    found = wait(seconds)
    lost.extend(path for path, text in found if text is None)
    if not killed and len(state.held(root)) == 2 and all(
        run.step >= 8 for run in map(open_run, list_runs(root)) if run.hash in state.held(root)
    ):
        killed.extend(state.held(root))
        cluster.remove_node(second, allow_graceful=False)
    return found

launcher.wait = watched
try:
    tally = Engine(plan, root, launcher).go()
    # The cluster takes a while to notice that a node is gone.
    deadline = time.monotonic() + 60
    while launcher.room() > 1 and time.monotonic() < deadline:
        time.sleep(0.2)
    rooms.append(launcher.room())
finally:
    launcher.close()
    cluster.shutdown()
print(json.dumps({"statuses": [s.status for s in tally.states.values()], "rooms": rooms, "lost": len(lost),
                  "killed": len(killed)}))
"""


@pytest.mark.slow
def test_a_ray_cluster_that_loses_a_node_ends_with_the_bits_of_this_machine(tmp_path, run_python):
    """Two nodes of one core; the second is killed while both train."""
    study = tiny_study(tmp_path, profiles={"quick": {**LONG["quick"], "seeds": [0, 1, 2]}})
    found = run_python(RAY, study.file, tmp_path / "runs")
    assert found == {"statuses": ["done"] * 3, "rooms": [2, 1], "lost": 1, "killed": 2}
    carry_out(planned(study), tmp_path / "alone")
    assert contents(tmp_path / "runs") == contents(tmp_path / "alone")


@pytest.fixture
def local_jobs(monkeypatch):
    """Jobs as processes of this machine, gathered and looked at without delay; sizes of the arrays are noted."""
    monkeypatch.setattr(slurm, "GATHERED", 0.2)
    monkeypatch.setattr(slurm, "POLL", 0.05)
    arrays: list[int] = []
    started: list = []

    def launcher(root: Path, **requested) -> SlurmLauncher:
        made = SlurmLauncher(root.resolve() / state.FOLDER / "jobs", cluster="local", **requested)
        send = made._executor.map_array

        def sent(function, paths):
            arrays.append(len(paths))
            jobs = send(function, paths)
            started.extend(jobs)
            return jobs

        monkeypatch.setattr(made._executor, "map_array", sent)
        return made

    yield launcher, arrays
    # A job's answer is there before its process has ended.
    for job in started:
        job._process.wait()


@pytest.mark.slow
def test_a_slurm_job_that_meets_its_time_limit_or_dies_goes_on_in_another_with_the_same_bits(tmp_path, local_jobs):
    """The first warning of the end of time comes as SIGUSR2; the second job is killed."""
    make, arrays = local_jobs
    study = tiny_study(tmp_path, profiles=LONGER)
    (run,) = planned(study).runs.values()
    root = tmp_path / "runs"
    launcher = make(root)
    wait, hit, before = launcher.wait, [], [0]

    def watched(seconds: float):
        owner = state.held(root).get(run.hash)
        reached = state.look(run, root).step
        if owner is not None and len(hit) < 2 and reached >= before[0] + 8:
            hit.append((signal.SIGUSR2, signal.SIGKILL)[len(hit)])
            os.kill(owner.process, hit[-1])
            deadline = time.monotonic() + 60
            while state.held(root) and time.monotonic() < deadline:
                time.sleep(0.05)
            before[0] = state.look(run, root).step
            if len(hit) == 1:
                # Not at the end of a schedule: a checkpoint of the signal.
                assert state.look(run, root).reason == "stopped by SIGTERM"
        return wait(seconds)

    launcher.wait = watched  # type: ignore[method-assign]
    tally = carry_out(planned(study), root, launcher)
    assert len(hit) == 2
    assert [s.status for s in tally.states.values()] == ["done"]
    assert arrays == [1, 1, 1]
    carry_out(planned(study), tmp_path / "alone")
    found = {n: c for n, c in contents(root).items() if not n.startswith(state.FOLDER)}
    assert found == contents(tmp_path / "alone")
    assert list((root / state.FOLDER / "tasks").iterdir()) == []


class Job:
    """A job that never ends."""

    def done(self) -> bool:
        return False

    def cancel(self) -> None: ...


def test_arrays_are_gathered_and_cut_to_the_limit_of_the_site(tmp_path, local_jobs, monkeypatch):
    make, _ = local_jobs
    launcher, sent = make(tmp_path, array_limit=2), []
    monkeypatch.setattr(launcher._executor, "map_array", lambda f, paths: sent.append(paths) or [Job() for _ in paths])
    names = [str(tmp_path / f"{i}.json") for i in range(5)]
    launcher.submit(names[:1])
    assert launcher.wait(0.0) == []
    assert sent == []
    launcher.submit(names[1:])
    assert sent == [names[:2], names[2:4], names[4:]]
    slurm.answer_file(names[3]).write_text("{}")
    assert launcher.wait(0.0) == [(names[3], "{}")]


def test_an_array_that_slurm_refuses_waits_and_the_first_one_is_an_error(tmp_path, local_jobs, monkeypatch):
    make, _ = local_jobs
    launcher = make(tmp_path, array_limit=1)
    sent: list[list[str]] = []

    def refuses(function, paths):
        if len(sent) == 1:
            raise launcher._refusal("too many jobs")
        sent.append(paths)
        return [Job() for _ in paths]

    monkeypatch.setattr(launcher._executor, "map_array", refuses)
    launcher.submit([str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    assert (sent, launcher.room()) == ([[str(tmp_path / "a.json")]], 0)
    sent.append([])
    monkeypatch.setattr(slurm, "GATHERED", -slurm.REFUSED - 1)
    assert launcher.wait(0.0) == []
    assert sent[2:] == [[str(tmp_path / "b.json")]]
    assert launcher.room() > 0
    other = make(tmp_path)
    monkeypatch.setattr(
        other._executor, "map_array", lambda f, paths: (_ for _ in ()).throw(other._refusal("no such account"))
    )
    other.submit([str(tmp_path / "a.json")])
    with pytest.raises(MiclabError, match="Slurm refused the first array: no such account"):
        other.wait(0.0)
    # What was never submitted is answered for when the study is stopped.
    other.stop()
    assert other.wait(0.0) == [(str(tmp_path / "a.json"), None)]


def test_clusters_that_are_not_there_are_named(tmp_path, capsys, monkeypatch):
    study = tiny_study(tmp_path)
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None)
    common = ["study", "run", str(study.file), "--runs", str(tmp_path / "runs")]
    for more, message in (
        (["--launcher", "slurm"], "There is no `sbatch` here"),
        (["--launcher", "slurm", "--slurm", "time"], "write KEY=VALUE"),
        (["--launcher", "slurm", "--array-limit", "0"], "--array-limit is 1 or more"),
        (["--launcher", "slurm", "--gpus", "-1"], "--gpus are 0 or more"),
        (["--gpus", "1"], "--gpus has no effect here: it is for --launcher ray and slurm"),
        (["--array-limit", "0"], "--array-limit has no effect here"),
    ):
        assert main([*common, *more]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(MiclabError, match="cannot have these parameters"):
        SlurmLauncher(tmp_path, parameters={"partitoin": "long"}, cluster="local")


def test_jobs_have_their_gpus_and_too_many_are_refused_with_what_is_there(tmp_path, monkeypatch):
    """`sinfo` is a script that prints what a site with three kinds of nodes prints."""
    sinfo = tmp_path / "sinfo"
    sinfo.write_text('#!/bin/sh\ncase "$*" in *cpus*) echo "(null)";; *) printf "(null)\\ngpu:2\\n'
                     'gpu:a100:4(S:0-1),gpu:v100:2,shard:9\\n";; esac\n')  # fmt: skip
    sinfo.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert slurm.gpus_of_nodes() == [0, 2, 6]
    requested: list[dict] = []
    update = submitit.AutoExecutor.update_parameters
    monkeypatch.setattr(
        submitit.AutoExecutor, "update_parameters", lambda own, **named: (requested.append(named), update(own, **named))
    )
    for gpus in (6, 0):
        SlurmLauncher(tmp_path, cluster="local", gpus=gpus)
    assert [named.get("slurm_gpus_per_node") for named in requested] == [6, None]
    with pytest.raises(MiclabError, match="--gpus 7: every node has at most 6 GPUs"):
        SlurmLauncher(tmp_path, cluster="local", gpus=7)
    with pytest.raises(MiclabError, match="--gpus 1: no node of the partition cpus has a GPU"):
        SlurmLauncher(tmp_path, parameters={"partition": "cpus"}, cluster="local", gpus=1)
    # What `sinfo` cannot say is left to Slurm.
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert slurm.gpus_of_nodes() is None
    assert SlurmLauncher(tmp_path, cluster="local", gpus=7)


def test_ray_tasks_have_their_gpus_and_too_many_are_refused_with_what_is_there(monkeypatch):
    """A stand-in for Ray's client: two living nodes of two GPUs, and a dead one of eight."""
    requested, closed = [], []
    nodes = [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0}}] * 2
    nodes.append({"Alive": False, "Resources": {"CPU": 8.0, "GPU": 8.0}})
    fake = types.SimpleNamespace(
        init=lambda **options: None,
        shutdown=lambda: closed.append(1),
        nodes=lambda: nodes,
        cluster_resources=lambda: {"CPU": 16.0, "GPU": 4.0},
        remote=lambda **options: requested.append(options) or (lambda function: function),
    )
    monkeypatch.setitem(sys.modules, "ray", fake)
    assert [RayLauncher(gpus=gpus).room() for gpus in (0, 1, 2)] == [16, 4, 2]
    assert [options["num_gpus"] for options in requested] == [0, 1, 2]
    assert RayLauncher(workers=3, gpus=1).room() == 3
    assert not closed
    with pytest.raises(MiclabError, match="--gpus 3: the Ray cluster has 4 GPUs on 2 nodes, at most 2 on one"):
        RayLauncher(gpus=3)
    assert closed
