"""Commands say beforehand roughly how long they take: by the speed of recent runs, or an assumed one."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
from tiny import tiny_config

from miclab import storage
from miclab.circuits.diagnose import SIGNS, STEPS, diagnose
from miclab.cli import main
from miclab.cli.progress import ASSUMED, FEWEST, FROM, RECENT, announce, forward, rough, speed, training
from miclab.config.request import Request
from miclab.runs.find import open_run
from miclab.runs.run import Run
from miclab.training.loop import train_config

REQUEST = Request(steps=FEWEST, evaluate_every=FEWEST, checkpoint_every=FEWEST, sequences=4, novel_sets=2)


@pytest.fixture
def run(tmp_path) -> Run:
    return train_config(tiny_config(1), REQUEST, tmp_path)[0]


def took(run: Run, seconds: float) -> None:
    """Says in the run's manifest that its training took so long."""
    file = run.path / "manifest.json"
    manifest = json.loads(file.read_text())["manifest"]
    manifest["timing"] = [{**entry, "seconds": 0.0} for entry in manifest["timing"]]
    manifest["timing"][-1]["seconds"] = seconds
    file.write_bytes(storage.sealed(manifest))


def test_the_estimate_of_a_run_like_a_measured_one_is_its_time(run):
    """Fails if work and speed are not counted alike."""
    took(run, 40.0)
    measured = speed(run.path.parent)
    assert measured.runs == 1
    assert training(run.config, REQUEST) / measured.rate == pytest.approx(40.0)
    assert training(run.config, REQUEST, done=2) < training(run.config, REQUEST)
    assert training(run.config, REQUEST, done=FEWEST) == 0


def test_without_a_run_that_says_something_the_speed_is_assumed(run, tmp_path):
    short = train_config(tiny_config(1, seed=9), replace(REQUEST, steps=FEWEST - 1), tmp_path)[0]
    took(short, 100.0)
    took(run, 0.01)
    for root in (run.path.parent, tmp_path / "none"):
        assert speed(root).rate == ASSUMED
        assert "assumed" in speed(root).basis
    # What is no run, or damaged, is passed over.
    (run.path / "manifest.json").write_text("{}")
    assert speed(run.path.parent).runs == 0


def test_the_last_runs_count_and_not_all(tmp_path):
    runs = [train_config(tiny_config(1, seed=seed), REQUEST, tmp_path)[0] for seed in range(RECENT + 1)]
    for run in runs:
        took(run, 10.0)
    # The first of them was slow, and is not among the last ones.
    took(runs[0], 1000.0)
    os.utime(runs[0].path / "manifest.json", (0, 0))
    measured = speed(tmp_path)
    assert measured.runs == RECENT
    assert training(runs[0].config, REQUEST) / measured.rate == pytest.approx(10.0)


def test_more_of_anything_takes_longer():
    config = tiny_config(1)
    larger = [
        replace(config, decoder=replace(config.decoder, layers=8)),
        replace(config, decoder=replace(config.decoder, width=128)),
        replace(config, sequence=replace(config.sequence, context=64)),
    ]
    assert all(forward(other) > forward(config) for other in larger)
    longer = [replace(REQUEST, steps=1000), replace(REQUEST, sequences=1000), replace(REQUEST, novel_sets=8)]
    assert all(training(config, other) > training(config, REQUEST) for other in longer)


def test_large_items_that_a_bridge_maps_into_the_hosts_space_make_no_wider_decoder():
    """Fails if the size of a picture counts as the width of the residual stream."""
    config = tiny_config(2)

    def with_items(name: str, size: int) -> float:
        changed = {name: replace(config.modalities[name], dimension=size)}
        return forward(replace(config, modalities=config.modalities | changed))

    assert with_items("m2", 8) == with_items("m2", 3072)
    assert with_items("m1", 64) > forward(config)


def test_times_are_said_with_the_digits_that_mean_something():
    seconds = (3, 14, 88, 95, 400, 2000, 5500, 20_000, 400_000)
    words = ["10 seconds", "10 seconds", "90 seconds", "2 minutes", "7 minutes", "35 minutes", "1.5 hours",
             "5.5 hours", "5 days"]  # fmt: skip
    assert [rough(one) for one in seconds] == words


def test_only_what_takes_long_is_announced(tmp_path, capsys):
    announce("train", ASSUMED * (FROM - 1), tmp_path)
    assert capsys.readouterr().err == ""
    announce("train", ASSUMED * 300, tmp_path, workers=2, more=30)
    assert capsys.readouterr().err == (
        "miclab: train: about 3 minutes on this machine, by an assumed speed, as there is no run to measure it on\n"
    )


def test_commands_say_it_before_they_begin(run, capsys):
    took(run, 100_000.0)
    root = run.path.parent
    for command in ("diagnose", "knockout", "evaluate", "circuits", "ablate"):
        sizes = ("--sequences", "40", "--novel-sets", "2")
        assert main([command, run.path.name, "--runs", str(root), *sizes]) == 0
        printed = capsys.readouterr().err
        assert f"miclab: {command}: about " in printed, printed
        assert "by the speed of 1 recent run" in printed
        # Before the progress, not after it.
        assert printed.index(": about ") < printed.index(f"{command}: ", printed.index(" recent run"))


def test_diagnose_says_its_progress(run):
    steps: list[tuple[int, str]] = []
    found = diagnose(open_run(run.path), sizes=REQUEST.sizes, on_progress=lambda done, text: steps.append((done, text)))
    assert len(found.signs) == len(SIGNS)
    assert [done for done, _ in steps] == list(range(STEPS + 1))
    assert steps[1][1] == "no induction circuit"
