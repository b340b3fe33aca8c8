"""What cannot fit into memory is refused with an estimate before anything is allocated or written; the rest is not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tiny import tiny_config, tiny_mapping

from miclab.cli import main
from miclab.config import memory
from miclab.config.presets import request, run_config
from miclab.config.request import Request, SplitSizes
from miclab.measures.alignment import align
from miclab.measures.evaluate import evaluate
from miclab.model.decoder import Decoder
from miclab.training.loop import prepared, train, train_config
from miclab.worlds.world import draw_world

REQUEST = Request(steps=2, evaluate_every=2, checkpoint_every=2, sequences=4, novel_sets=1)


@pytest.mark.parametrize("stage", ["unimodal", "multimodal", "early_fusion"])
@pytest.mark.parametrize("preset", ["quick", "paper"])
def test_the_presets_fit_into_a_small_machine(stage, preset, monkeypatch):
    monkeypatch.setattr(memory, "machine_memory", lambda: 2**30)
    config, requested = run_config(stage, preset), request(stage, preset)
    memory.check_world(config)
    memory.check_model(config)
    memory.check_training(config)
    memory.check_evaluation(config, requested.sequences, requested.novel_sets)


HUGE = {
    "classes": {"modalities": {"m1": {"classes": 10_000_000, "dimension": 65_536, "labels": 8}}},
    "width": {"decoder": {"width": 65_536, "input_map": "linear", "layers": 24}},
    "hidden": {"decoder": {"mlp_hidden": 1_000_000, "width": 8192, "input_map": "linear"}},
    "context": {"sequence": {"context": 100_000, "burstiness": 2}, "modalities": {"m1": {"classes": 32, "labels": 8}}},
    "slots": {"decoder": {"positions": "onehot", "position_slots": 1_000_000}},
    "batch": {"optimiser": {"batch_size": 1_000_000}, "sequence": {"context": 10_000, "burstiness": 2}},
}


@pytest.mark.parametrize("name", HUGE)
def test_a_run_that_cannot_fit_is_refused_before_its_directory_is_made(name, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "machine_memory", lambda: 2**36)
    config = tiny_config(1, **HUGE[name])
    with pytest.raises(memory.TooLargeError, match=r"at least [\d.,]+ [GTP]iB of memory.*Nothing was begun\. Lower"):
        prepared(config, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("sizes", [{"sequences": 10**18}, {"novel_sets": 10**18}, {"sequences": 10**9}])
def test_sequences_that_cannot_fit_are_refused(sizes, tmp_path):
    run, _ = train_config(tiny_config(), REQUEST, tmp_path)
    with pytest.raises(memory.TooLargeError):
        train(run, replace(REQUEST, steps=4, **sizes))
    with pytest.raises(memory.TooLargeError):
        evaluate(run, sizes=SplitSizes(**sizes))
    assert run.step == 2


def test_the_command_line_says_so(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(json.dumps({**tiny_mapping(), "request": {"sequences": 10**18}}))
    assert main(["train", "unimodal", "--config", str(tmp_path / "run.yaml"), "--runs", str(tmp_path / "runs")]) == 2
    assert "1,000,000,000,000,000,000 sequences" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    task = ["mllm", "make-episodes", str(tmp_path / "task"), "--data", "glyphs", "--episodes", str(10**18)]
    assert main(task) == 2
    assert "1,000,000,000,000,000,000 episodes" in capsys.readouterr().err
    assert not (tmp_path / "task").exists()


def test_the_estimates_are_lower_bounds(monkeypatch):
    """Fails if something that fits would be refused: the tensors themselves are at least as large."""
    found: list[int] = []
    monkeypatch.setattr(memory, "check", lambda parts, advice: found.append(sum(parts.values())))
    for config in (tiny_config(), tiny_config(2), tiny_config(1, decoder={"mlp": "none"}), tiny_config(3)):
        found.clear()
        memory.check_model(config)
        decoder = Decoder(config)
        assert found[0] <= 4 * (decoder.parameter_count() + decoder.mask.numel())
        found.clear()
        memory.check_world(config)
        assert found[0] <= sum(4 * value.numel() for value in draw_world(config).tensors().values())


def test_less_memory_in_a_container_counts(monkeypatch, tmp_path):
    (tmp_path / "limit").write_text("12345\n")
    (tmp_path / "none").write_text("max\n")
    monkeypatch.setattr(memory, "LIMITS", (tmp_path / "none", tmp_path / "no file", tmp_path / "limit"))
    assert memory.machine_memory.__wrapped__() == 12345


def test_rows_of_an_alignment_that_cannot_fit_are_refused(tmp_path):
    run, _ = train_config(tiny_config(2), REQUEST, tmp_path)
    assert len(align(run, rows=8)) == 1
    with pytest.raises(memory.TooLargeError, match=r"1,000,000,000,000 rows"):
        align(run, rows=10**12)
