"""Production models: where things stand among tokens, strengths measured inside the layers, heads knocked out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_mllm import FAMILIES, VISUAL, production, task, tokenizer
from torch import nn

from miclab.measures.attention import strengths
from miclab.mllm.ablation import MeanOutputs, knocked_out
from miclab.mllm.attention import measuring
from miclab.mllm.batches import batches
from miclab.mllm.episodes import make_episodes
from miclab.mllm.errors import ModelError, TaskError
from miclab.mllm.heads import measure_batch, measure_heads
from miclab.mllm.layers import attention_layers
from miclab.mllm.loading import Production, load_model
from miclab.mllm.options import EpisodeOptions
from miclab.mllm.passes import forward
from miclab.mllm.prompt import Prompter
from miclab.mllm.scoring import answers
from miclab.mllm.task import Style, Task
from miclab.mllm.task_folder import load_task
from miclab.worlds.roles import LABEL

FORMS = [(family, chat) for family in FAMILIES for chat in (False, True)]


ALONG = ("input_ids", "attention_mask", "mm_token_type_ids")
"""Inputs that have one entry for each position."""


@pytest.fixture(scope="module")
def tiny_task(tmp_path_factory) -> tuple[Production, Task]:
    """The tiny model, and episodes of which it answers some wrongly."""
    options = EpisodeOptions(data="small:concepts.pictures", episodes=24, seed=3, template="{item}{answer}\n")
    folder = make_episodes(tmp_path_factory.mktemp("task") / "pictures", options)
    return load_model("tiny"), load_task(folder, shots=2)


def encoded(of, folder, **more):
    chosen = task(folder, of.view, **more)
    prompter = of.prompter(chosen)
    return chosen, prompter, prompter.encode([(episode, episode.answer) for episode in chosen.episodes])


@pytest.mark.parametrize(("family", "chat"), FORMS)
def test_strengths_equal_those_of_whole_eager_maps(family: str, chat: bool, tmp_path: Path):
    of = production(family, chat)
    chosen, _, batch = encoded(of, tmp_path)
    values, _ = measure_batch(of, chosen.episodes, chosen)
    of.model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = of.model(**batch.inputs, output_attentions=True, use_cache=False).attentions
    for number, layer in enumerate(of.layers):
        columns = slice(number * layer.heads, (number + 1) * layer.heads)
        for row, reading in enumerate(batch.readings):
            whole = maps[number][row : row + 1, :, : reading.length, : reading.length]
            # A masked key has a weight of exactly 0; in so small a model no other weight is so near it.
            target = torch.tensor([reading.target])
            expected = strengths(whole, reading.roles, reading.labels[None], target, whole > 0)
            assert set(expected) == set(values)
            for name, value in expected.items():
                np.testing.assert_allclose(values[name][row, columns], value[0].numpy(), atol=1e-5, err_msg=name)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_measuring_does_not_change_what_the_model_says(family: str, tmp_path: Path):
    of = production(family)
    _, _, batch = encoded(of, tmp_path)
    before = [m.config._attn_implementation for m in of.model.modules() if hasattr(m, "config")]
    with torch.no_grad():
        plain = forward(of.model, batch.to(of.model))
        with measuring(of.model, of.layers, batch.readings):
            measured = forward(of.model, batch.to(of.model))
    torch.testing.assert_close(plain, measured, atol=1e-5, rtol=1e-4)
    assert before == [m.config._attn_implementation for m in of.model.modules() if hasattr(m, "config")]


@pytest.mark.parametrize("family", list(FAMILIES))
def test_knockout_equals_zeroed_columns_of_the_output_projection(family: str, tmp_path: Path):
    of = production(family)
    _, _, batch = encoded(of, tmp_path)
    heads = [(0, 1), (1, 3), (1, 0)]
    with torch.no_grad():
        plain = forward(of.model, batch.to(of.model))
        with knocked_out(of.layers, heads):
            hooked = forward(of.model, batch.to(of.model))
        torch.testing.assert_close(forward(of.model, batch.to(of.model)), plain)
        for layer, head in heads:
            size = of.layers[layer].head_size
            projection: Any = of.layers[layer].output_projection
            projection.weight[:, head * size : (head + 1) * size] = 0
        expected = forward(of.model, batch.to(of.model))
    assert (plain - expected).abs().max() > 1e-3
    torch.testing.assert_close(hooked, expected, atol=1e-6, rtol=1e-5)


def test_mean_ablation_puts_the_mean_over_prompts_in_place(tmp_path: Path):
    of = production("qwen2.5")
    _, _, batch = encoded(of, tmp_path)
    found = MeanOutputs(of)
    found.add(batch)
    layer, seen = of.layers[1], []
    handle = layer.output_projection.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        forward(of.model, batch.to(of.model))
    handle.remove()
    real = torch.cat([seen[0][row, : reading.length] for row, reading in enumerate(batch.readings)])
    torch.testing.assert_close(found.means()[1], real.mean(0).view(layer.heads, layer.head_size))
    with torch.no_grad(), knocked_out(of.layers, [(1, 2)], found.means()):
        handle = layer.output_projection.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
        forward(of.model, batch.to(of.model))
        handle.remove()
    by_head = seen[1].view(*seen[1].shape[:2], layer.heads, layer.head_size)
    torch.testing.assert_close(by_head[:, :, 2], found.means()[1][2].expand_as(by_head[:, :, 2]))
    torch.testing.assert_close(by_head[:, :, :2], seen[0].view_as(by_head)[:, :, :2])


@pytest.mark.parametrize(("family", "chat"), FORMS)
@pytest.mark.parametrize("side", [28, 56])
def test_positions_survive_merges_and_image_tokens(family: str, chat: bool, side: int, tmp_path: Path):
    of = production(family, chat)
    chosen, prompter, batch = encoded(of, tmp_path, side=side)
    for row, (episode, reading) in enumerate(zip(chosen.episodes, batch.readings, strict=True)):
        ids, kind, exemplar = batch.inputs["input_ids"][row], reading.roles.kind, reading.roles.exemplar
        assert prompter.tokenizer.decode(ids[list(reading.answer_positions)]).strip() == episode.answer
        assert reading.answer_positions[0] == reading.last + 1
        for number, example in enumerate(episode.support):
            label = ids[: reading.length][(kind == LABEL) & (exemplar == number)]
            assert prompter.tokenizer.decode(label).strip() == example.answer
            item = ids[: reading.length][(kind == 0) & (exemplar == number)]
            if of.view == "text":
                assert prompter.tokenizer.decode(item).strip() == example.item.text
            else:
                features = int((item == of.model.config.image_token_id).sum())
                assert features == (side // 28) ** 2 if family == "qwen2.5-vl" else features > 0
        assert episode.candidates[reading.target] == episode.answer
        assert [episode.candidates[i] for i in reading.labels] == [example.answer for example in episode.support]


def test_a_label_that_a_tokenizer_merges_with_its_neighbours_is_found(tmp_path: Path):
    chosen = task(tmp_path, "text", names=("dax", "toma"))
    chosen = Task(name="t", shots=2, episodes=chosen.episodes, style=Style(template="{item}: {answer}."), view="text")
    core = tokenizer(merges=120)
    prompter = Prompter(core, chosen)
    batch = prompter.encode([(e, e.answer) for e in chosen.episodes])
    for row, reading in enumerate(batch.readings):
        for number, example in enumerate(reading.episode.support):
            mask = (reading.roles.kind == LABEL) & (reading.roles.exemplar == number)
            text = core.decode(batch.inputs["input_ids"][row, : reading.length][mask])
            # A space before the label is part of its first token; the full stop behind it is not.
            assert text == f" {example.answer}"


@pytest.mark.parametrize("cut", [False, True])
@torch.no_grad()
def test_scores_say_what_greedy_decoding_writes(cut: bool, tiny_task: tuple[Production, Task]):
    """`cut`: without the heads of layer 1, so that there are answers that are none of the context's."""
    of, chosen = tiny_task
    heads = [(1, head) for head in range(8)] if cut else []
    prompter = of.prompter(chosen)
    with knocked_out(of.layers, heads):
        found = answers(of, *next(batches(prompter, len(chosen.episodes))))
        for number, episode in enumerate(chosen.episodes):
            written, likely = {}, {}
            for name in episode.candidates:
                encoded = prompter.encode([(episode, name)])
                inputs, (reading,) = encoded.to(of.model), encoded.readings
                places = list(reading.written)
                own = inputs["input_ids"][0, places]
                prompt = {k: v[:, : reading.length] if k in ALONG else v for k, v in inputs.items()}
                made = of.model.generate(**prompt, do_sample=False, max_new_tokens=len(places))[0, reading.length :]
                written[name] = made.tolist() == own.tolist()
                scores = torch.log_softmax(of.model(**inputs, use_cache=False).logits[0].double(), -1)
                likely[name] = float(scores[[p - 1 for p in places], own].sum())
            assert found.correct[number] == written[episode.answer]
            assert found.copied[number] == any(written.values())
            assert found.choice[number] == (max(likely, key=lambda name: likely[name]) == episode.answer)
            assert found.log_probability[number] == pytest.approx(likely[episode.answer], abs=1e-3)
    # Both values come up, so that each comparison could have failed.
    assert 0 < found.choice.mean() < 1
    if cut:
        assert found.copied.mean() < 1
    else:
        assert 0 < found.correct.mean() < 1
        assert found.copied.mean() > 0


def test_padding_changes_nothing(tmp_path: Path):
    of = production("llava")
    chosen = task(tmp_path)
    together = answers(of, *next(batches(of.prompter(chosen), 3)))
    alone = [answers(of, *one) for one in batches(of.prompter(chosen), 1)]
    np.testing.assert_allclose(together.log_probability, [float(a.log_probability[0]) for a in alone], rtol=1e-4)
    wide, _ = measure_batch(of, chosen.episodes, chosen)
    table = measure_heads(of, chosen, batch=1)
    for name, value in wide.items():
        np.testing.assert_allclose(table.values[name], value, atol=1e-5)


def test_layers_are_read_from_the_model():
    for family in FAMILIES:
        layers = production(family).layers
        assert [(layer.index, layer.heads, layer.key_value_heads, layer.head_size) for layer in layers] == [
            (0, 4, 2, 8),
            (1, 4, 2, 8),
        ]


def test_an_unknown_architecture_is_refused_with_what_was_looked_for():
    class OddAttention(nn.Module):
        pass

    with pytest.raises(ModelError, match=r"Looked for modules with a `layer_idx`.*OddAttention"):
        attention_layers(nn.Sequential(nn.Linear(2, 2), OddAttention()))


def test_a_model_without_replaceable_attention_is_refused(tmp_path: Path):
    of = production("qwen2.5")
    _, _, batch = encoded(of, tmp_path)
    for layer in of.layers:
        # As code that comes with a checkpoint may do: attention of its own.
        layer.module.forward = lambda hidden_states, **more: (hidden_states, None)
    with pytest.raises(ModelError, match="no eager attention"), measuring(of.model, of.layers, batch.readings):
        forward(of.model, batch.to(of.model))


def test_an_answer_without_tokens_is_refused(tmp_path: Path):
    of = production("qwen2.5")
    core = of.processor
    core.backend_tokenizer.normalizer = __import__("tokenizers").normalizers.Replace("\u200b", "")
    chosen = task(tmp_path, "text", names=("\u200b", "dax"))
    with pytest.raises(TaskError, match="makes nothing of it"):
        of.prompter(chosen).encode([(e, e.answer) for e in chosen.episodes])


def test_a_head_that_does_not_exist_is_refused():
    of = production("llama")
    with pytest.raises(ModelError, match=r"no head 0\.4: layers 0 to 1 have 4 heads"), knocked_out(of.layers, [(0, 4)]):
        pass


def test_a_broken_picture_is_named(tmp_path: Path):
    of = production("qwen2.5-vl")
    chosen = task(tmp_path)
    (tmp_path / "0-0.png").write_bytes(b"no picture")
    with pytest.raises(TaskError, match=r"episode 0: .*0-0\.png: it is no picture"):
        of.prompter(chosen).encode([(chosen.episodes[0], "dax")])
    # It costs its own episode alone, wherever it stands.
    table = measure_heads(of, chosen, batch=2)
    assert [episode.name for episode in table.measured] == ["episode 1", "episode 2"]
    assert table.lost.keys() == {"episode 0"}
    assert "1 of 3 episodes could not be read" in table.why_partial
    for number in range(3):
        (tmp_path / f"{number}-1.png").write_bytes(b"no picture")
    with pytest.raises(TaskError, match="3 of 3 episodes could not be read"):
        measure_heads(of, chosen)


def test_every_visual_family_refuses_a_task_in_pictures_only_when_it_reads_text(tmp_path: Path):
    for family in FAMILIES:
        of = production(family)
        assert (of.view == "image") == (family in VISUAL)
    with pytest.raises(ModelError, match="--view text"):
        production("llama").prompter(task(tmp_path, "image"))
