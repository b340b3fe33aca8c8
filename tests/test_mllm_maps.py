"""Attention maps as arrays: equal to eager attention, named by role, bounded before the model reads anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tiny_mllm import production, task

from miclab.cli import main
from miclab.errors import ConfigError, RunError
from miclab.mllm.errors import TaskError
from miclab.mllm.maps import map_bytes, plan_maps, save_maps


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwen2.5-vl", "gemma3", "gpt2"])
def test_saved_maps_are_those_of_eager_attention(family: str, tmp_path: Path):
    of = production(family)
    chosen, file = task(tmp_path, of.view), tmp_path / "new" / "maps.safetensors"
    planned = plan_maps(of, chosen, file, 2, 4)
    save_maps(of, chosen, planned, file)
    of.model.set_attn_implementation("eager")
    with safe_open(file, "pt") as saved:
        metadata = {name: json.loads(value) for name, value in saved.metadata().items()}
        assert (metadata["model"], metadata["task"], metadata["format"]) == (family, "tiny", 1)
        assert set(saved.keys()) == {f"attention.{episode}.{layer}" for episode in (0, 1) for layer in (0, 1)}
        for number, encoded in enumerate(planned.episodes):
            (reading,) = encoded.readings
            size = reading.length
            maps = of.model(**encoded.inputs, output_attentions=True, use_cache=False).attentions
            for layer in (0, 1):
                found = saved.get_tensor(f"attention.{number}.{layer}")
                torch.testing.assert_close(found, maps[layer][0, :, :size, :size], atol=1e-5, rtol=1e-5)
            said = metadata["episodes"][number]
            assert (said["name"], said["answer"]) == (f"episode {number}", ("perpo", "zibbelwock")[number])
            assert len(said["tokens"]) == len(said["roles"]) == len(said["examples"]) == size
            for example, label in enumerate(said["labels"]):
                own = [token for token, role, of_example in
                       zip(said["tokens"], said["roles"], said["examples"], strict=True)
                       if (role, of_example) == ("label", example)]  # fmt: skip
                assert "".join(own).strip() == label
            assert {"item", "label", "question", "query", "text", "answer"} == set(said["roles"])
    assert planned.bytes == sum(2 * 4 * one.readings[0].length ** 2 * 4 for one in planned.episodes)


def test_maps_that_are_too_large_are_refused_before_a_pass(tmp_path: Path, monkeypatch):
    of = production("llama")
    chosen, file = task(tmp_path, "text"), tmp_path / "maps.safetensors"
    monkeypatch.setattr(of.model, "forward", None)
    length = plan_maps(of, chosen, file, 1, 1).episodes[0].readings[0].length
    assert map_bytes(of, [length]) == 2 * 4 * length**2 * 4
    monkeypatch.setattr("miclab.mllm.maps.MIB", map_bytes(of, [length]))
    with pytest.raises(TaskError, match=r"2 of 3 episodes would take .* more than the 1 MiB of --save-limit"):
        plan_maps(of, chosen, file, 3, 1)
    assert not file.exists()
    file.write_text("mine")
    with pytest.raises(ConfigError, match="not there yet"):
        plan_maps(of, chosen, file, 1, 1)
    with pytest.raises(RunError):
        save_maps(production("llama"), chosen, plan_maps(of, chosen, tmp_path / "a", 1, 1), file / "below.safetensors")


def test_the_place_of_maps_is_checked_before_the_work(capsys, tmp_path: Path):
    (tmp_path / "file").write_text("")
    requested = ["mllm", "heads", "tiny", "--task", str(tmp_path / "none"), "--output", str(tmp_path / "o")]
    # The task is not there either, which is found later.
    for place in (tmp_path / "file" / "maps", tmp_path / "file"):
        assert main([*requested, "--save-attention", str(place)]) == 2
        assert str(place) in capsys.readouterr().err
    assert main([*requested, "--save-attention", str(tmp_path / "new" / "maps")]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
