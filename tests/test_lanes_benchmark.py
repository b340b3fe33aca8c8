"""The measurement of lanes: what a step needs by formula, and what does not fit or would take too long."""

from __future__ import annotations

import json

import pytest
import torch
from tiny import lively_parameters, tiny_config
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import lanes
from benchmarks.roofs import linear, roofs, step_bytes, step_flops
from miclab.config import memory
from miclab.config.request import SplitSizes
from miclab.model.decoder import Decoder
from miclab.training.flat_parameters import TrainedParameters, gradient_function
from miclab.worlds.sequences import raw_training_batch
from miclab.worlds.world import draw_world


def test_a_number_of_lanes_that_does_not_fit_does_not_end_the_measurement(tmp_path, monkeypatch, capsys):
    """Fails if `make gpu` would stop at 512 lanes of a small GPU, and never reach the studies."""

    def full(decoder, number, *others):
        if number == 4:
            raise memory.TooLargeError("4 lanes do not fit.")
        if number == 5:
            raise torch.OutOfMemoryError("CUDA out of memory.\nmany more lines")
        return {"decoder": decoder, "lanes": number, "step": "eager", "run-steps per second": 1e9,
                "with drawing": 1e9, "bytes": 1, "share of arithmetic": 0.5, "share of memory": 0.5}  # fmt: skip

    monkeypatch.setattr(lanes, "measured", full)
    words = ["--device", "cpu", "--seconds", "0.01", "--output", str(tmp_path / "lanes.json"), "--decoder", "rope"]
    words += ["--step", "eager", "--lanes", "2", "4", "5", "8"]
    assert lanes.main(words) == 0
    printed = capsys.readouterr().out
    assert "4 lanes  eager     left out: 4 lanes do not fit." in printed
    assert "5 lanes  eager     left out: CUDA out of memory.\n" in printed
    assert [cell["lanes"] for cell in json.loads((tmp_path / "lanes.json").read_text())["cells"]] == [2, 8]
    # 10^9 lanes take eight seconds at that rate.
    assert lanes.main([*words[:-4], "16", "1000000000", "--limit", "5"]) == 0
    assert "the time is up" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "lanes.json").read_text())["cells"]) == 3


ROOFED = {
    "rope": {},
    "one-hot": {"positions": "onehot"},
    "two heads, output projection": {"heads": 2},
    "three layers, swiglu": {"layers": 3, "mlp": "swiglu", "heads": 2},
    "no biases": {"mlp_bias": "off"},
}


@pytest.mark.parametrize("name", ROOFED)
def test_the_counted_arithmetic_is_that_of_the_step(name):
    """Fails if the formula for a step's products leaves one out: PyTorch's own counter sees every product."""
    config = tiny_config(decoder={"mlp_hidden": 24, **ROOFED[name]})
    trained = TrainedParameters(config, lively_parameters(config))
    batch = raw_training_batch(config, draw_world(config), 0).batch()
    with FlopCounterMode(display=False) as counter:
        gradient_function(config, trained)(trained.flat, batch)
    assert counter.get_total_flops() == step_flops(config)


def test_the_counted_bytes_are_those_of_the_factors():
    """Fails if a factor or the optimiser is forgotten: one linear map, by hand, and a batch twice as large."""
    assert linear(3, 5, 7) == [(1, 3, 5, 7), (1, 5, 3, 7), (1, 3, 7, 5)]
    small, large = (tiny_config(optimiser={"batch_size": size}) for size in (16, 32))
    sgd = tiny_config(optimiser={"name": "sgd", "batch_size": 16})
    weights = Decoder(small).parameter_count()
    assert step_bytes(small) - step_bytes(sgd) == 16 * weights
    assert step_bytes(small) < step_bytes(large) < 2 * step_bytes(small)
    assert step_flops(large) == 2 * step_flops(small)
    found = roofs("cpu", 0.0, 64)
    assert min(found.flops, found.bytes) > 1e6


def test_metric_rows_are_measured_both_ways(monkeypatch, capsys):
    """Fails if a way is not timed, a ratio is the other way round, or what cannot be measured ends `make gpu`."""
    monkeypatch.setattr(lanes, "_steps", lambda options, start: iter(()))
    monkeypatch.setattr(lanes, "ROUNDS", 1)
    monkeypatch.setattr(lanes, "ROWS", SplitSizes(sequences=2, novel_sets=1))
    words = ["--device", "cpu", "--decoder", "rope", "--rows", "2"]
    assert lanes.main([*words, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert min(found[name] for name in ("one by one", "at once, first", "at once")) > 0
    assert found["ratio"] == found["one by one"] / found["at once"]
    assert found["ratio, first"] == found["one by one"] / found["at once, first"]

    def fails(group, parameters, due):
        group.on_separate("no rows")

    monkeypatch.setattr(lanes.LaneRows, "rows", fails)
    assert lanes.main(words) == 0
    assert "rope        2 lanes  metric rows left out: no rows" in capsys.readouterr().out
