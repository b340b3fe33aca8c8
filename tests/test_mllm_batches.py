"""Episodes that go through a model together have the results that they have one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_mllm import FAMILIES, OTHERS, VISUAL, Pictures, production, task

from miclab.mllm import batches as batching
from miclab.mllm.batches import batches
from miclab.mllm.effects import answer_under
from miclab.mllm.heads import measure_heads
from miclab.mllm.lens import look
from miclab.mllm.passes import UNTOUCHED
from miclab.mllm.scale import evaluate_model
from miclab.mllm.task import Task


def mixed(folder: Path, view: str) -> Task:
    """Seven episodes: neighbours differ in length, and one has other candidates."""
    first, second, third = task(folder, view).episodes
    long = "What is this, and what is it like to us?"
    made = [first, replace(second, question=long), third, replace(first, question=long), second,
            replace(third, support=third.support[::2]), replace(second, question=long[:20])]  # fmt: skip
    return replace(task(folder, view), episodes=tuple(replace(one, name=f"e{n}") for n, one in enumerate(made)))


@torch.no_grad()
@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_results_are_those_of_one_by_one(family: str, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(batching, "TOKENS", 10**5)
    of = production(family)
    chosen = mixed(tmp_path, of.view)
    sizes = [[episode.name for episode in some] for some, _ in batches(of.prompter(chosen), 0)]
    assert max(map(len, sizes)) >= 3
    # Equal prompts go together though others stand between them.
    assert any({"e1", "e3"} <= {*some} for some in sizes)
    assert not any({"e0", "e1"} <= {*some} for some in sizes)
    alone, together = (answer_under(of, chosen, {"": UNTOUCHED}, batch=batch) for batch in (1, 0))
    assert together.episodes == alone.episodes == tuple(episode.name for episode in chosen.episodes)
    for name, values in alone.found[""].named().items():
        assert together.found[""].named()[name] == pytest.approx(values, abs=1e-4)
    one, many = (measure_heads(of, chosen, batch) for batch in (1, 0))
    assert [episode.name for episode in many.measured] == [episode.name for episode in one.measured]
    for name, values in one.values.items():
        assert many.values[name] == pytest.approx(values, abs=1e-5)


@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_encoded_episodes_are_joined_as_the_processor_pads_them(family: str, tmp_path: Path):
    of = production(family)
    prompter, chosen = of.prompter(mixed(tmp_path, of.view)), mixed(tmp_path, of.view)
    for some, encoded in batches(prompter, len(chosen.episodes)):
        assert some == chosen.episodes
        whole = prompter.encode([(episode, answer) for episode in some for answer in episode.candidates])
        assert encoded.inputs.keys() == whole.inputs.keys()
        for name, value in whole.inputs.items():
            assert torch.equal(encoded.inputs[name], value), name
        assert [one.last for one in encoded.readings] == [one.last for one in whole.readings]


@torch.no_grad()
@pytest.mark.parametrize("family", VISUAL)
def test_pictures_of_several_sizes_are_read_as_alone(family: str, tmp_path: Path):
    of, pictures = production(family), Pictures(tmp_path)
    chosen = mixed(tmp_path, of.view)
    large = pictures.paint("large", (200, 30, 90), 56)
    first = chosen.episodes[0]
    changed = replace(first, query=replace(first.query, images=(large,)))
    without = replace(first, name="e9", support=first.support[:2])
    chosen = replace(chosen, episodes=(changed, *chosen.episodes[1:], without))
    alone, together = (evaluate_model(of, chosen, batch) for batch in (1, len(chosen.episodes)))
    assert together.names == alone.names
    for name, values in alone.values.items():
        assert together.values[name] == pytest.approx(values, abs=1e-4)


@torch.no_grad()
def test_a_lens_has_the_order_of_the_task(tmp_path: Path):
    of = production("llama")
    chosen = mixed(tmp_path, of.view)
    alone, together = (look(of, chosen, batch) for batch in (1, 0))
    assert together.names == alone.names
    np.testing.assert_allclose(together.by_head, alone.by_head, atol=1e-4)
    for name, values in alone.lens.items():
        np.testing.assert_allclose(together.lens[name], values, atol=1e-4)


def test_batches_and_windows_are_bounded(tmp_path: Path, monkeypatch):
    of = production("llama")
    chosen = mixed(tmp_path, of.view)
    prompter = of.prompter(chosen)
    read: list[str] = []
    encode = prompter.encode

    def noting(wanted):
        read.append(wanted[0][0].name)
        return encode(wanted)

    monkeypatch.setattr(prompter, "encode", noting)
    shortest = min(one.readings[0].length for _, one in batches(prompter, 1))
    for tokens in (1, 4 * shortest + 40, 10**6):
        monkeypatch.setattr(batching, "TOKENS", tokens)
        for some, encoded in batches(prompter, 0):
            assert len(some) == 1 or encoded.inputs["input_ids"].numel() <= tokens
            lengths = [len(one.roles.kind) for one in encoded.readings]
            assert min(lengths) >= batching.SIMILAR * max(lengths) - 10
    # Of a long task, only a window is encoded before the first batch is read.
    monkeypatch.setattr(batching, "WINDOW", 1)
    for size, before in ((0, 1), (1, 1), (3, 3)):
        read.clear()
        next(iter(batches(prompter, size)))
        assert len(read) == before


def test_an_episode_that_cannot_be_read_costs_no_other(tmp_path: Path):
    of = production("llama")
    chosen = mixed(tmp_path, of.view)
    broken = replace(chosen.episodes[1], question="a <|endoftext|> b")
    chosen = replace(chosen, episodes=(chosen.episodes[0], broken, *chosen.episodes[2:]))
    lost: dict[str, str] = {}
    read = [episode.name for some, _ in batches(of.prompter(chosen), 0, lost) for episode in some]
    assert sorted(read) == ["e0", "e2", "e3", "e4", "e5", "e6"]
    assert list(lost) == ["e1"]
