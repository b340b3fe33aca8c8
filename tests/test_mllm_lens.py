"""Logit lens and direct logit attribution, against eager attention and the models' own logits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_mllm import production, task, tokenizer
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from miclab.cli import main
from miclab.mllm.edges import role_names
from miclab.mllm.episodes import make_episodes
from miclab.mllm.errors import ModelError, TaskError
from miclab.mllm.layers import attention_layers
from miclab.mllm.lens import ROLES, first_tokens, look
from miclab.mllm.loading import Production
from miclab.mllm.options import EpisodeOptions, LoadOptions
from miclab.mllm.results import read_table

NORMS = {"llama": "norm", "qwen2.5-vl": "norm", "gpt2": "ln_f", "gpt-neox": "final_layer_norm",
         "opt": "final_layer_norm", "gpt-oss": "norm", "gemma3": "norm"}  # fmt: skip


def whole(family: str, folder: Path):
    """A model, its lens, and its own logits and streams on each episode."""
    of = production(family)
    torch.manual_seed(1)
    for name, parameter in of.model.named_parameters():
        # Norms and biases that do nothing would hide mistakes.
        if parameter.dim() == 1 and "sinks" not in name:
            torch.nn.init.normal_(parameter, 1.0 if "weight" in name and family != "gemma3" else 0.0, 0.3)
    chosen = task(folder, of.view, names=("perpo", "dax"))
    return of, chosen, look(of, chosen, 2)


@torch.no_grad()
@pytest.mark.parametrize("family", list(NORMS))
def test_the_lens_is_the_readout_of_each_stream_and_parts_add_up(family: str, tmp_path: Path):
    of, chosen, found = whole(family, tmp_path)
    prompter = of.prompter(chosen)
    norm, unembedding = getattr(of.model.get_decoder(), NORMS[family]), of.model.get_output_embeddings()
    for row, episode in enumerate(chosen.episodes):
        encoded = prompter.encode([(episode, episode.answer)])
        (reading,), (token,) = encoded.readings, first_tokens(prompter, [episode])
        assert token is not None
        own = of.model(**encoded.inputs, use_cache=False, output_hidden_states=True)
        streams = [norm(own.hidden_states[0]), norm(own.hidden_states[1]), own.hidden_states[2]]
        # A picture's features are put in before the first layer.
        for stage, normed in enumerate(streams):
            logits = unembedding(normed)[0, : reading.length].double()
            difference = logits[:, token.right] - logits[:, list(token.other)].mean(-1)
            names = role_names(reading)
            for role, mask in {
                "last": [place == reading.last for place in range(reading.length)],
                "question": [name == "question" for name in names],
                "right label": [name == "label" and reading.labels[int(e)] == reading.target
                                for name, e in zip(names, reading.roles.exemplar, strict=True)],
            }.items():  # fmt: skip
                here, column = torch.tensor(mask), ROLES.index(role)
                value = found.lens["difference"][row, stage, column]
                assert value == pytest.approx(float(difference[here].mean()), abs=1e-3, rel=1e-3)
                likely = torch.softmax(logits, -1)[:, token.right]
                value = found.lens["probability"][row, stage, column]
                assert value == pytest.approx(float(likely[here].mean()), abs=1e-4, rel=1e-3)
        if family == "gemma3":
            continue
        logits = own.logits[0, reading.last].double()
        difference = float(logits[token.right] - logits[list(token.other)].mean())
        assert found.parts["sum"][row] == pytest.approx(difference, abs=1e-3)
        parts = sum(float(of_part[row]) for name, of_part in found.parts.items() if name != "sum")
        assert parts + float(found.by_head[row].sum()) == pytest.approx(difference, abs=1e-3)
    if family == "gemma3":
        assert "a norm or a factor stands between" in found.no_attribution
        assert (found.parts, found.heads, found.strongest(3)) == ({}, (), ())
        assert len(found.tables()) == 2


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "qwen2.5-vl", "opt"])
def test_a_heads_part_is_its_attention_times_values_through_the_readout(family: str, tmp_path: Path):
    of, chosen, found = whole(family, tmp_path)
    prompter, episode = of.prompter(chosen), chosen.episodes[0]
    encoded = prompter.encode([(episode, episode.answer)])
    (reading,), (token,) = encoded.readings, first_tokens(prompter, [episode])
    assert token is not None
    values: dict[int, torch.Tensor] = {}
    streams: list[torch.Tensor] = []
    norm = getattr(of.model.get_decoder(), NORMS[family])
    handles = [norm.register_forward_pre_hook(lambda _, arguments: streams.append(arguments[0]))]
    for layer in of.layers:

        def keep(module, arguments, output, index=layer.index):
            values[index] = output

        handles.append(layer.projections[2].register_forward_hook(keep))
    of.model.set_attn_implementation("eager")
    maps = of.model(**encoded.inputs, output_attentions=True, use_cache=False).attentions
    for handle in handles:
        handle.remove()
    stream = streams[0][0, reading.last]
    centred = stream - stream.mean() if family == "opt" else stream
    scale = (norm(stream) - (norm.bias if family == "opt" else 0)) / centred
    weight = of.model.get_output_embeddings().weight
    towards = (weight[token.right] - weight[list(token.other)].mean(0)) * scale
    for column, (number, head) in enumerate(found.heads):
        layer = of.layers[number]
        size, pair = layer.head_size, head // (layer.heads // layer.key_value_heads)
        attended = maps[number][0, head, reading.last] @ values[number][0, :, pair * size : (pair + 1) * size]
        projection: Any = layer.output_projection
        written = projection.weight[:, head * size : (head + 1) * size] @ attended
        written = written - written.mean() if family == "opt" else written
        assert found.by_head[0, column] == pytest.approx(float(written @ towards), abs=1e-3, rel=1e-3)


class Squared(LlamaForCausalLM):
    """A model that makes its logits in a way of its own."""

    def forward(self, *arguments: Any, **more: Any) -> Any:
        made = super().forward(*arguments, **more)
        made.logits = made.logits.square()
        return made


def of_readout(kind: str) -> Production:
    """A text model whose logits are not those of its unembedding."""
    torch.manual_seed(0)
    tokens = tokenizer()
    text = {"vocab_size": len(tokens), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.4, "bos_token_id": 0,
            "eos_token_id": 0, "pad_token_id": 0, "max_position_embeddings": 512}  # fmt: skip
    model: Any = {
        "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**text, head_dim=8, final_logit_softcapping=2.0)),
        "cohere": lambda: CohereForCausalLM(CohereConfig(**text, logit_scale=0.25)),
        "granite": lambda: GraniteForCausalLM(GraniteConfig(**text, logits_scaling=6.0, residual_multiplier=0.5)),
        "squared": lambda: Squared(LlamaConfig(**text)),
    }[kind]()
    model.eval()
    return Production(kind, model, tokens, attention_layers(model), LoadOptions())


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gemma2", "cohere", "granite"])
def test_the_last_lens_is_the_models_own_logits_also_with_a_factor_or_a_cap(kind: str, tmp_path: Path):
    of = of_readout(kind)
    chosen = task(tmp_path, "text", names=("perpo", "dax"))
    found, prompter = look(of, chosen, 2), of.prompter(chosen)
    for row, episode in enumerate(chosen.episodes):
        encoded = prompter.encode([(episode, episode.answer)])
        (reading,), (token,) = encoded.readings, first_tokens(prompter, [episode])
        assert token is not None
        own = of.model(**encoded.inputs, use_cache=False).logits[0, reading.last].double()
        difference = float(own[token.right] - own[list(token.other)].mean())
        assert abs(difference) > 1e-3
        at = (row, -1, ROLES.index("last"))
        assert found.lens["difference"][at] == pytest.approx(difference, abs=1e-4, rel=1e-4)
        assert found.lens["probability"][at] == pytest.approx(float(torch.softmax(own, -1)[token.right]), rel=1e-4)
        if kind == "cohere":
            parts = sum(float(of_part[row]) for name, of_part in found.parts.items() if name != "sum")
            assert parts + float(found.by_head[row].sum()) == pytest.approx(difference, abs=1e-4)
    why = {"gemma2": "soft cap of 2", "cohere": "", "granite": "a norm or a factor stands between"}[kind]
    assert why in found.no_attribution
    assert bool(why) == bool(found.no_attribution)


def test_logits_that_are_made_in_an_unknown_way_are_refused(tmp_path: Path):
    with pytest.raises(ModelError, match=r"Squared makes its logits .* in an unknown way"):
        look(of_readout("squared"), task(tmp_path, "text", names=("perpo", "dax")))


def test_answers_that_begin_alike_are_left_out(tmp_path: Path):
    of = production("llama")
    chosen = task(tmp_path, "text", names=("perpo", "zibbelwock"))
    same = replace(chosen, episodes=task(tmp_path, "text", names=("zib", "zid")).episodes)
    with pytest.raises(TaskError, match="the answers of every episode begin with one token"):
        look(of, same)
    found = look(of, replace(chosen, episodes=(*same.episodes, replace(chosen.episodes[0], name="apart"))), 2)
    assert (found.names, found.left_out) == (("apart",), 3)


def test_the_tiny_model_answers_through_layer_1(capsys, tmp_path: Path):
    folder = make_episodes(tmp_path / "letters", EpisodeOptions(episodes=12, seed=7, template="{item}{answer}\n"))
    requested = ["mllm", "lens", "tiny", "--task", str(folder), "--batch", "12", "--output", str(tmp_path / "o")]
    assert main([*requested, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["episodes"] == 12
    last = [stage["mean"] for stage in found["lens"]["probability"]["last"]]
    assert last[0] < 0.1
    assert last[-1] > 0.5
    layers = {layer: sum(one["mean"] for one in found["heads"] if one["head"].startswith(f"{layer}."))
              for layer in (0, 1)}  # fmt: skip
    assert layers[1] > 1 > abs(layers[0])
    parts = sum(one["mean"] for name, one in found["parts"].items() if name != "sum")
    assert parts + sum(layers.values()) == pytest.approx(found["parts"]["sum"]["mean"], abs=1e-3)
    rows = read_table(tmp_path / "o", "attribution.parquet")
    assert rows.filter(head=found["heads"][0]["head"])["logits"].mean() == pytest.approx(found["heads"][0]["mean"])
    page = (tmp_path / "o" / "lens.html").read_text()
    assert "Direct logit attribution" in page
    assert "lens-probability" in page
