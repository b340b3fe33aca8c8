"""Passes over one batch that share what does not change are whole passes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_mllm import production, task

from miclab.mllm.ablation import knocked_out
from miclab.mllm.passes import forward
from miclab.mllm.replay import Replay


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwen2.5-vl", "qwen3-vl", "gemma3", "idefics3", "llama", "gpt2"])
def test_a_replayed_pass_is_a_whole_pass(family: str, tmp_path: Path):
    of = production(family)
    chosen = task(tmp_path, of.view)
    prompter, replay = of.prompter(chosen), Replay(of, {0, 1})
    calls: dict[str, int] = {}

    def count(name: str):
        return lambda *_: calls.update({name: calls.get(name, 0) + 1})

    for layer in of.layers:
        layer.module.register_forward_hook(count(f"layer {layer.index}"))
    for tower in replay.outside:
        # The modules inside are called only if the tower computes.
        for inner in list(tower.modules())[1:]:
            inner.register_forward_hook(count("tower"))
    for episodes in (chosen.episodes[:1], chosen.episodes[1:]):
        encoded = prompter.encode([(episode, answer) for episode in episodes for answer in episode.candidates])
        positions = torch.arange(encoded.inputs["input_ids"].shape[1])
        made = {}
        for heads in ((), ((1, 0), (1, 2)), ((0, 1), (1, 3)), ()):
            first = min((layer for layer, _ in heads), default=None)
            with knocked_out(of.layers, heads):
                whole = forward(of.model, encoded.to(of.model), positions)
                calls.clear()
                with replay.reading(encoded, first) as given:
                    found = forward(of.model, given.to(of.model), positions)
            torch.testing.assert_close(found, whole, atol=1e-6, rtol=1e-6)
            assert calls["layer 1"] == 1
            made[heads] = (calls.get("layer 0", 0), calls.get("tower", 0))
        assert made[((1, 0), (1, 2))] == (0, 0)
        assert made[((0, 1), (1, 3))] == (1, 0)
        assert (made[()][0], made[()][1] > 0) == (1, False)
    # What a replay leaves behind is the model as it was.
    assert not [name for name, module in of.model.named_modules() if "forward" in module.__dict__]


@torch.no_grad()
def test_a_first_pass_that_is_changed_keeps_nothing(tmp_path: Path):
    of = production("llama")
    chosen = task(tmp_path, "text")
    encoded = of.prompter(chosen).encode([(episode, episode.answer) for episode in chosen.episodes])
    replay, plain = Replay(of, {1}), forward(of.model, encoded.to(of.model))
    for heads in (((0, 1),), ()):
        with knocked_out(of.layers, heads), replay.reading(encoded, 0 if heads else None) as given:
            found = forward(of.model, given.to(of.model))
    torch.testing.assert_close(found, plain)
