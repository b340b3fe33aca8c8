"""Passes in which candidates share their prompt are whole passes."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_mllm import FAMILIES, OTHERS, production, task

from miclab.mllm.ablation import knocked_out
from miclab.mllm.batches import batches
from miclab.mllm.passes import UNTOUCHED, Intervention, Passes
from miclab.mllm.scoring import MEASURES, answers


def _lengths(model: Any) -> list[tuple[int, int]]:
    """Rows and tokens of each later pass of a model."""
    found: list[tuple[int, int]] = []

    def note(module: Any, arguments: Any, more: dict[str, Any]) -> None:
        found.append(tuple(more["input_ids"].shape))

    model.register_forward_pre_hook(note, with_kwargs=True)
    return found


@torch.no_grad()
@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_answers_with_a_shared_prompt_are_those_of_whole_passes(family: str, tmp_path: Path):
    of = production(family)
    chosen = task(tmp_path, of.view, names=("perpo", "perpozib"))
    conditions = {
        (): UNTOUCHED,
        **{
            heads: Intervention(lambda _, heads=heads: knocked_out(of.layers, heads), min(n for n, _ in heads), True)
            for heads in (((1, 0), (1, 2)), ((0, 1), (1, 3)))
        },
    }
    for size in (1, 3):
        read = _lengths(of.model)
        passes = Passes(of, conditions.values(), least=0)
        read_batches = list(batches(of.prompter(chosen), size))
        episodes, encoded = read_batches[-1]
        for episodes, encoded in read_batches:
            for condition in conditions.values():
                found = answers(of, episodes, encoded, None, passes, condition)
                whole = answers(of, episodes, encoded, None, None, condition)
                for name in MEASURES:
                    assert found.values[name] == pytest.approx(whole.values[name], abs=1e-4)
        assert passes.shares is True
        assert passes.split is not None
        rows, start = len(encoded.readings), passes.split.start
        # The prompt is read once for each episode.
        assert (len(episodes), start) in read
        assert start >= encoded.inputs["input_ids"].shape[1] - 20 > 20
        assert passes.split.rest.inputs["input_ids"].shape == (rows, encoded.inputs["input_ids"].shape[1] - start - 1)


@torch.no_grad()
def test_prompts_of_several_lengths_share_what_all_have(tmp_path: Path):
    of = production("llama")
    chosen = task(tmp_path, "text", names=("perpo", "perpozib"))
    first, second, third = chosen.episodes
    longer = replace(first, question="What is this, and what is it like?")
    alone = replace(third, support=third.support[::2])
    of_all = replace(chosen, episodes=(longer, second, alone))
    assert len(alone.candidates) == 1
    passes = Passes(of, least=0)
    for episodes, encoded in batches(of.prompter(of_all), 3):
        found = answers(of, episodes, encoded, None, passes)
        whole = answers(of, episodes, encoded)
        for name in MEASURES:
            assert found.values[name] == pytest.approx(whole.values[name], abs=1e-4)
        assert passes.split is not None
        assert passes.split.owner.tolist() == [0, 0, 1, 1, 2]
        assert passes.split.start == min(reading.last for reading in encoded.readings)


@torch.no_grad()
@pytest.mark.parametrize("broken", ["raises", "gives other numbers"])
def test_a_model_that_cannot_go_on_from_a_prefix_reads_whole_texts(broken: str, tmp_path: Path, monkeypatch):
    from transformers.cache_utils import DynamicLayer

    of = production("qwen2.5-vl")
    chosen = task(tmp_path)

    def select(self: Any, indices: Any) -> None:
        if broken == "raises":
            raise RuntimeError("no such thing")
        self.keys, self.values = self.keys[indices] + 0.5, self.values[indices]

    monkeypatch.setattr(DynamicLayer, "batch_select_indices", select)
    passes = Passes(of, least=0)
    said = {"raises": "RuntimeError: no such thing", "gives other numbers": "logits differ by up to"}[broken]
    for number, (episodes, encoded) in enumerate(batches(of.prompter(chosen), 1)):
        # The trial is made, and spoken of, once.
        with nullcontext() if number else pytest.warns(UserWarning, match=said):
            found = answers(of, episodes, encoded, None, passes)
        whole = answers(of, episodes, encoded)
        for name in MEASURES:
            assert found.values[name] == pytest.approx(whole.values[name], abs=1e-6)
    assert passes.shares is False


@torch.no_grad()
def test_a_prompt_is_shared_where_that_saves_enough(tmp_path: Path):
    of = production("llama")
    ((episodes, encoded), *_) = batches(of.prompter(task(tmp_path, "text")), 1)
    assert len(episodes[0].candidates) == 2
    weights, last = sum(parameter.numel() for parameter in of.model.parameters()), encoded.readings[0].last
    for least, shares in ((weights * last, True), (weights * last + weights, None)):
        passes = Passes(of, least=least)
        answers(of, episodes, encoded, None, passes)
        assert passes.shares is shares


def test_an_intervention_on_places_is_never_read_in_parts():
    of = production("llama")
    assert Passes(of, [UNTOUCHED, Intervention(lambda _: nullcontext(), 0)]).shares is False
    assert Passes(of, [UNTOUCHED, Intervention(lambda _: nullcontext(), 0, True)]).shares is None
