"""Analyses at equal ICL: their checkpoint, cumulative knockouts, and the layer at which a modality joins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import lively_parameters, tiny_config
from tiny_study import carry_out, planned, tiny_study

from miclab.circuits.cumulative_knockout import drawn_heads
from miclab.circuits.joining_layer import hidden_items, joining_layer
from miclab.model.decoder import Decoder
from miclab.runs.find import open_run
from miclab.seeds import stream
from miclab.studies import state
from miclab.studies.plan import PlannedAnalysis
from miclab.studies.rows import study_rows
from miclab.worlds.sequences import config_roles, plan_bursty, realise
from miclab.worlds.world import draw_world

QUICK = {
    "seeds": [0],
    "request": {"steps": 4, "evaluate_every": 2, "checkpoint_every": 2, "sequences": 8, "novel_sets": 2},
}


def test_the_first_checkpoint_with_enough_icl_is_looked_at(tmp_path, monkeypatch):
    """Fails if a later checkpoint is taken, or another analysis is moved; below the level there is none."""
    study = tiny_study(tmp_path, 2, probes=["joining", "cuts", "ablation"], profiles={"quick": QUICK})
    plan = planned(study)
    monkeypatch.setattr(state, "EQUAL_ICL", 1.1)
    carry_out(plan, tmp_path / "runs")
    assert not [name for name in study_rows(study, plan, tmp_path / "runs").columns if name.startswith("probe.cuts")]
    disk = open_run(tmp_path / "runs" / plan.runs[plan.members["tiny"][0]].name)
    assert "never reaches" in disk.analysis(4, "cuts.8x2")["refused"]
    scores = {row["step"]: row["accuracy"]["icl"] for row in disk.rows()}
    for level in (0.0, *scores.values(), 1.1):
        monkeypatch.setattr(state, "EQUAL_ICL", level)
        reached = [step for step, icl in scores.items() if icl >= level]
        for name, step in (("cuts", min(reached, default=4)), ("ablation", 4)):
            assert state.analysis_step(PlannedAnalysis(name, 4, 8, 2), disk) == step
    monkeypatch.setattr(state, "EQUAL_ICL", 0.0)
    carry_out(plan, tmp_path / "runs")
    last = study_rows(study, plan, tmp_path / "runs").row(-1, named=True)
    assert last["probe.cuts.untouched"] == pytest.approx(scores[0])
    assert len(last["probe.cuts.top 1.sets"]) == 2
    assert "probe.cuts.top 2" not in last


def test_random_heads_are_never_the_top_ones_nor_drawn_twice():
    """Fails if a draw repeats, is of another size, or takes a head that it was not given."""
    others = [(layer, 0) for layer in range(7)]
    for count in range(1, 7):
        draws = drawn_heads(others, count, 3)
        assert len(set(draws)) == len(draws) == 5 if count < 6 else len(draws) == 5 or len(draws) == 7
        assert all(len(set(some)) == count and set(some) <= set(others) for some in draws)
    assert drawn_heads(others, 2, 3) == drawn_heads(others, 2, 3) != drawn_heads(others, 2, 4)


def test_hidden_items_are_seen_by_their_own_modality_alone():
    """Fails if what stands at an item reaches a label or the other modality, or if an item no longer sees its own."""
    config = tiny_config(2, decoder={"layers": 2, "initial_std": 0.3})
    decoder, parameters, roles = Decoder(config), lively_parameters(config), config_roles(config)
    world, generator = draw_world(config), stream(0, "sequences of a test")
    batch = realise(config, world, plan_bursty(config, world, 2, generator), generator)
    items = roles.is_item("m2")

    def residual(edits, moved):
        change = {"embedding": lambda value: value + items[:, None] * (3.0 if moved else 0.0)}
        return decoder.trace(parameters, batch, capture=("blocks.1.attention.output", "blocks.1.attention.pattern"),
                             edits={**edits, **change}).activations  # fmt: skip

    hidden = hidden_items(range(2), "m2", roles)
    plain, moved = residual(hidden, False), residual(hidden, True)
    point = "blocks.1.attention.output"
    torch.testing.assert_close(
        plain[point][:, ~items[: plain[point].shape[1]]], moved[point][:, ~items[: moved[point].shape[1]]]
    )
    assert (plain[point][:, items] - moved[point][:, items]).abs().max() > 1e-3
    free = residual(hidden_items(range(1), "m2", roles), True)
    assert (free[point][:, ~items] - plain[point][:, ~items]).abs().max() > 1e-3


def test_the_layer_of_joining_is_the_mean_of_what_layers_take_up():
    """Fails if layers are counted from 1, or if a modality that is not needed is given a layer."""
    icl = np.array([[0.1, 0.1], [0.1, 0.9], [0.9, 0.9], [0.9, 0.9]])
    for one, layers in ((icl, [1, 0]), (np.array([[0.1], [0.5], [0.9]]), [0.5])):
        found = joining_layer(one)
        assert found is not None
        np.testing.assert_allclose(found, layers)
    assert joining_layer(np.array([[0.9], [0.95], [0.95]])) is None
    assert joining_layer(np.array([[0.1, 0.9], [0.5, 0.9], [0.9, 0.9]])) is None
