"""Mirrors of a study's rows: each run once, and whatever a tracker does, the study goes on."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from tiny_study import carry_out, planned, tiny_study

from miclab.cli import main
from miclab.errors import MiclabError
from miclab.studies import mirrors, state
from miclab.studies.mirrors import Copy, Mirrors
from miclab.studies.rows import StudyTable


class Sink:
    """A mirror that keeps what it is sent."""

    def __init__(self):
        self.copies: list[Copy] = []

    def send(self, copy: Copy) -> None:
        self.copies.append(copy)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mirrors")
    study = tiny_study(folder, grid=[{"product": {"modalities.m1.noise": [0.1, 0.2]}}],
                       profiles={"quick": {"seeds": [0]}})  # fmt: skip
    plan = planned(study)
    carry_out(plan, folder / "runs")
    return study, plan, folder / "runs"


def mirror_all(done, root: Path, *names: str) -> None:
    """What `miclab study run` does at its end."""
    study, plan, runs = done
    with Mirrors(names, [StudyTable(study, plan, runs)], plan, root) as found:
        states = state.survey(plan, runs)
        found(states)
        found(states)


def test_every_finished_run_is_sent_once_also_over_several_starts(done, tmp_path, monkeypatch):
    sink = Sink()
    monkeypatch.setitem(mirrors.KINDS, "wandb", lambda folder: sink)
    mirror_all(done, tmp_path, "wandb")
    mirror_all(done, tmp_path, "wandb")
    study, plan, runs = done
    assert [copy.run for copy in sink.copies] == [run.name for run in plan.runs.values()]
    copy = sink.copies[1]
    assert (copy.study, copy.config["modalities.m1.noise"], copy.config["seed"]) == ("tiny", 0.2, 0)
    assert [step for step, _ in copy.rows] == [0, 1, 2, 4]
    frame = StudyTable(study, plan, runs).frame(state.survey(plan, runs)).filter(run=list(plan.runs)[1])
    assert [row["icl"] for _, row in copy.rows] == frame["icl"].to_list()
    assert "measure.induction.1.1" in copy.rows[0][1]
    assert "loss" not in copy.rows[0][1]
    assert "loss" in copy.rows[1][1]


def test_a_mirror_that_raises_is_reported_once_and_fails_no_run(tmp_path, monkeypatch, capsys):
    class Broken:
        def send(self, copy: Copy) -> None:
            raise SystemExit("no network")

    sink = Sink()
    monkeypatch.setitem(mirrors.KINDS, "mlflow", lambda folder: Broken())
    monkeypatch.setitem(mirrors.KINDS, "trackio", lambda folder: sink)
    study = tiny_study(tmp_path, profiles={"quick": {"seeds": [0, 1]}})
    carry_out(planned(study), tmp_path / "runs")
    command = ["study", "run", str(study.file), "--runs", str(tmp_path / "runs"), "--mirror", "mlflow", "trackio"]
    assert main(command) == 0
    assert capsys.readouterr().err.count("miclab: warning: the mirror mlflow is off: SystemExit: no network\n") == 1
    assert len(sink.copies) == 2


def test_a_tracker_that_is_not_installed_is_named_with_its_remedy(done, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "trackio", None)
    mirror_all(done, tmp_path, "trackio")
    assert "pip install '.[trackio]'" in capsys.readouterr().err
    with pytest.raises(MiclabError, match="--mirror tensorbord: one of wandb, mlflow, tensorboard, trackio"):
        mirror_all(done, tmp_path, "tensorbord")


def test_a_mirror_that_hangs_is_left_behind(done, tmp_path, monkeypatch, capsys):
    gate = threading.Event()
    monkeypatch.setattr(mirrors, "WAIT", 0.05)
    monkeypatch.setitem(mirrors.KINDS, "wandb", lambda folder: SimpleNamespace(send=lambda copy: gate.wait(60)))
    start = time.monotonic()
    mirror_all(done, tmp_path, "wandb")
    assert time.monotonic() - start < 30
    assert "still busy" in capsys.readouterr().err
    gate.set()


COPY = Copy(
    "study", "run", {"seed": 1, "decoder.positions": "rope"}, [(0, {"icl": 0.25}), (2, {"icl": 0.5, "x y": 1.0})]
)


def test_wandb_is_sent_each_row_at_its_step(tmp_path, monkeypatch):
    text: list = []
    run = SimpleNamespace(log=lambda row, step: text.append((step, row)), finish=lambda: text.append("finished"))
    fake = ModuleType("wandb")
    fake.init = lambda **requested: text.append((requested["group"], requested["name"], requested["config"])) or run  # type: ignore
    fake.Settings = dict  # type: ignore
    monkeypatch.setitem(sys.modules, "wandb", fake)
    mirrors.Wandb(tmp_path / "wandb").send(COPY)
    assert text == [("study", "run", COPY.config), *COPY.rows, "finished"]


def test_trackio_is_sent_each_row_at_its_step(tmp_path, monkeypatch):
    text: list = []
    fake = ModuleType("trackio")
    fake.init = lambda **requested: text.append((requested["project"], requested["name"]))  # type: ignore
    fake.log = lambda row, step: text.append((step, row))  # type: ignore
    fake.finish = lambda: text.append("finished")  # type: ignore
    monkeypatch.setitem(sys.modules, "trackio", fake)
    mirrors.Trackio(tmp_path).send(COPY)
    assert text == [("study", "run"), *COPY.rows, "finished"]


def test_tensorboard_reads_the_event_files(tmp_path):
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="TensorBoard is not installed: pip install -e '.[tensorboard]'",
    )
    mirrors.Tensorboard(tmp_path).send(COPY)
    events = reader.EventAccumulator(str(tmp_path / "study" / "run"))
    events.Reload()
    found = {tag: [(e.step, round(float(e.tensor_proto.float_val[0]), 6)) for e in events.Tensors(tag)]
             for tag in events.Tags()["tensors"]}  # fmt: skip
    assert found == {"icl": [(0, 0.25), (2, 0.5)], "x y": [(2, 1.0)]}


def test_mlflow_has_the_run_with_its_history(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed: pip install -e '.[mlflow]'")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    mirrors.Mlflow(tmp_path / "mlflow").send(COPY)
    mirrors.Mlflow(tmp_path / "mlflow").send(Copy("study", "other", {}, []))
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow/mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "study"]
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"run", "other"}
    assert runs["run"].info.status == "FINISHED"
    assert runs["run"].data.params == {"seed": "1", "decoder.positions": "rope"}
    history = client.get_metric_history(runs["run"].info.run_id, "icl")
    assert [(m.step, m.value) for m in history] == [(0, 0.25), (2, 0.5)]
    assert json.loads(json.dumps(runs["run"].data.metrics)) == {"icl": 0.5, "x y": 1.0}
