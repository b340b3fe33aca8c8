"""Models whose attention is laid out in another way, adapters, revisions, and weights in few bits."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from tiny_mllm import OTHERS, production, task, tokenizer
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, MllamaConfig, MllamaForConditionalGeneration

from miclab.errors import ConfigError
from miclab.measures.attention import strengths
from miclab.mllm.ablation import knocked_out
from miclab.mllm.batches import batches
from miclab.mllm.errors import ModelError
from miclab.mllm.finetune import ADAPTER, Finetuning
from miclab.mllm.heads import measure_batch, measure_heads
from miclab.mllm.layers import attention_layers, left_out, width_in
from miclab.mllm.loading import Production, load_model
from miclab.mllm.memory import configuration
from miclab.mllm.options import FinetuneOptions, LoadOptions
from miclab.mllm.passes import forward
from miclab.mllm.scoring import answers


@pytest.mark.parametrize("family", list(OTHERS))
def test_strengths_equal_those_of_whole_eager_maps(family: str, tmp_path: Path):
    of = production(family)
    chosen = task(tmp_path, "text")
    prompter = of.prompter(chosen)
    batch = prompter.encode([(episode, episode.answer) for episode in chosen.episodes])
    values, _ = measure_batch(of, chosen.episodes, chosen)
    of.model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = of.model(**batch.inputs, output_attentions=True, use_cache=False).attentions
    pairs = 2 if family == "gpt-oss" else 4
    assert [(layer.index, layer.heads, layer.key_value_heads, layer.head_size) for layer in of.layers] == [
        (0, 4, pairs, 8), (1, 4, pairs, 8),
    ]  # fmt: skip
    for number, layer in enumerate(of.layers):
        columns = slice(number * layer.heads, (number + 1) * layer.heads)
        for row, reading in enumerate(batch.readings):
            whole = maps[number][row : row + 1, :, : reading.length, : reading.length]
            expected = strengths(whole, reading.roles, reading.labels[None], torch.tensor([reading.target]), whole > 0)
            for name, value in expected.items():
                np.testing.assert_allclose(values[name][row, columns], value[0].numpy(), atol=1e-5, err_msg=name)
    if family == "gpt-oss":
        # What the sinks take, the positions lack.
        assert float(maps[0][0, :, -1].sum(-1).max()) < 0.999


@pytest.mark.parametrize("family", list(OTHERS))
def test_knockout_equals_zeroed_inputs_of_the_output_projection(family: str, tmp_path: Path):
    of = production(family)
    chosen = task(tmp_path, "text")
    batch = of.prompter(chosen).encode([(episode, episode.answer) for episode in chosen.episodes])
    with torch.no_grad():
        plain = forward(of.model, batch.to(of.model))
        with knocked_out(of.layers, [(0, 1), (1, 3)]):
            hooked = forward(of.model, batch.to(of.model))
        for layer, head in ((0, 1), (1, 3)):
            projection: Any = of.layers[layer].output_projection
            assert width_in(projection) == 32
            # GPT-2's weights are [in, out], the others' [out, in].
            weight = projection.weight if family == "gpt2" else projection.weight.T
            weight[8 * head : 8 * (head + 1)] = 0
        expected = forward(of.model, batch.to(of.model))
    assert (plain - expected).abs().max() > 1e-3
    torch.testing.assert_close(hooked, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", list(OTHERS))
def test_they_are_loaded_from_disk_and_answer(family: str, tmp_path: Path):
    of = production(family)
    of.model.save_pretrained(tmp_path / "model")
    of.processor.save_pretrained(tmp_path / "model")
    chosen = task(tmp_path, "text")
    loaded = load_model(str(tmp_path / "model"), LoadOptions(device_map="auto" if family == "gpt2" else "none"))
    expected, found = (answers(one, *next(batches(one.prompter(chosen), 3))) for one in (of, loaded))
    np.testing.assert_allclose(found.log_probability, expected.log_probability, rtol=1e-4)


def test_layers_of_cross_attention_are_left_out_by_name():
    text = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "cross_attention_layers": [1], "pad_token_id": 0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}  # fmt: skip
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_global_layers": 1,
              "attention_heads": 2, "vision_output_dim": 64, "image_size": 28, "patch_size": 14,
              "intermediate_layers_indices": [0], "supported_aspect_ratios": [[1, 1]], "max_num_tiles": 1}  # fmt: skip
    with torch.device("meta"):
        model = MllamaForConditionalGeneration(MllamaConfig(text_config=text, vision_config=vision))
    assert [layer.index for layer in attention_layers(model)] == [0, 2]
    assert [name.split("layers.")[1] for name in left_out(model)] == ["1.cross_attn"]
    # A decoder that may also read an encoder has a second attention in each layer, of the same number.
    crossed = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_embd=8, n_layer=2, n_head=2, add_cross_attention=True))
    assert len(attention_layers(crossed)) == 2
    assert len(left_out(crossed)) == 2
    assert left_out(production("llama").model) == ()


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> tuple[Path, Path, Production]:
    """A base on disk, the adapter of a fine-tuning of it, and the model that was fine-tuned."""
    folder = tmp_path_factory.mktemp("adapter")
    of = production("qwen2.5")
    of.model.save_pretrained(folder / "base")
    of.processor.save_pretrained(folder / "base")
    of = load_model(str(folder / "base"))
    chosen = task(folder, "text")
    work = Finetuning(of, chosen, chosen, folder / "run", FinetuneOptions(steps=2, every=2, train_batch=2, rank=2,
                                                                        learning_rate=1e-2), 3)  # fmt: skip
    work.run()
    return folder / "base", folder / "run" / ADAPTER, work.production


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_adapter_is_a_model_for_miclab_and_for_peft(tuned: tuple[Path, Path, Production], tmp_path: Path):
    base, adapter, trained = tuned
    chosen = task(tmp_path, "text")
    loaded = load_model(str(adapter))
    assert [layer.index for layer in loaded.layers] == [0, 1]
    batch = loaded.prompter(chosen).encode([(e, e.answer) for e in chosen.episodes])
    peft: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
    with torch.no_grad():
        expected = forward(trained.model.eval(), batch.to(trained.model))
        torch.testing.assert_close(forward(loaded.model, batch.to(loaded.model)), expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(peft(**batch.inputs).logits[:, -1:], expected, atol=1e-5, rtol=1e-4)
        plain = load_model(str(base))
        assert (forward(plain.model, batch.to(plain.model)) - expected).abs().max() > 1e-3
        with knocked_out(loaded.layers, [(1, 0)]):
            assert (forward(loaded.model, batch.to(loaded.model)) - expected).abs().max() > 1e-4
    table = measure_heads(loaded, chosen, 3)
    for name, value in measure_heads(trained, chosen, 3).values.items():
        np.testing.assert_allclose(table.values[name], value, atol=1e-5)
    with pytest.raises(ModelError, match="Merge it into its base"):
        Finetuning(loaded, chosen, chosen, tmp_path / "run", FinetuneOptions(steps=1))
    assert configuration(str(adapter)).model_type == "qwen2"


@pytest.mark.parametrize("family", list(OTHERS))
def test_adapters_of_every_layout_are_trained_and_loaded(family: str, tmp_path: Path):
    of = production(family)
    of.model.save_pretrained(tmp_path / "base")
    of.processor.save_pretrained(tmp_path / "base")
    of = load_model(str(tmp_path / "base"))
    chosen = task(tmp_path, "text")
    options = FinetuneOptions(steps=1, train_batch=1, rank=2, learning_rate=1e-2)
    work = Finetuning(of, chosen, chosen, tmp_path / "run", options, 3)
    work.run()
    assert len(work.trained) == 2 * sum(len(layer.projections) for layer in work.production.layers)
    loaded = load_model(str(tmp_path / "run" / ADAPTER))
    batch = loaded.prompter(chosen).encode([(e, e.answer) for e in chosen.episodes])
    with torch.no_grad():
        expected = forward(work.production.model.eval(), batch.to(work.production.model))
        torch.testing.assert_close(forward(loaded.model, batch.to(loaded.model)), expected, atol=1e-5, rtol=1e-4)


def changed(adapter: Path, folder: Path, **config: Any) -> Path:
    """A copy of an adapter with another configuration."""
    shutil.copytree(adapter, folder)
    body = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(body | config))
    return folder


def test_an_adapters_base_is_found_or_given(tuned: tuple[Path, Path, Production], tmp_path: Path):
    base, adapter, _ = tuned
    moved = changed(adapter, tmp_path / "moved", base_model_name_or_path="./nowhere")
    with pytest.raises(ModelError, match=r"base of the adapter .*moved: \./nowhere is no folder.*--base MODEL"):
        load_model(str(moved))
    assert load_model(str(moved), LoadOptions(base=str(base))).layers
    nameless = changed(adapter, tmp_path / "nameless", base_model_name_or_path=None)
    with pytest.raises(ModelError, match="--base MODEL"):
        load_model(str(nameless))
    with pytest.raises(ModelError, match="is no adapter"):
        load_model(str(base), LoadOptions(base=str(base)))
    with pytest.raises(ModelError, match="PEFT's type PROMPT_TUNING"):
        load_model(str(changed(adapter, tmp_path / "prompt", peft_type="PROMPT_TUNING")))
    pickled = changed(adapter, tmp_path / "pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    with pytest.raises(ModelError, match="pickle are not read"):
        load_model(str(pickled))
    other = production("gpt2")
    other.model.save_pretrained(tmp_path / "other")
    tokenizer().save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match=r"cannot be loaded|does not fit"):
        load_model(str(adapter), LoadOptions(base=str(tmp_path / "other")))
    wrong = changed(adapter, tmp_path / "wrong", target_modules=["q_proj"])
    with pytest.raises(ModelError, match="does not fit its base"):
        load_model(str(wrong))


def test_revisions_are_of_hub_ids(tuned: tuple[Path, Path, Production], monkeypatch):
    base, _, _ = tuned
    for name, options in ((f"{base}@step1", LoadOptions()), (str(base), LoadOptions(revision="step1"))):
        with pytest.raises(ModelError, match=r"has no revision 'step1'|is no folder"):
            load_model(name, options)
    seen: list[tuple[str, str]] = []

    def watched(name: str, **more: Any) -> Any:
        seen.append((name, more["revision"]))
        raise OSError("not here")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", watched)
    for name, options in (("who/what@step1", LoadOptions()), ("who/what", LoadOptions(revision="step1"))):
        with pytest.raises(ModelError, match="not here"):
            load_model(name, options)
    assert seen == [("who/what", "step1")] * 2


@pytest.mark.parametrize("field", ["four_bit", "eight_bit"])
def test_weights_in_few_bits_need_bitsandbytes(field: str, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    flag = field.replace("_", "-")
    with pytest.raises(ModelError, match=f"`--{flag}` needs the extra `bits`"):
        load_model("tiny", replace(LoadOptions(), **{field: True}))
    with pytest.raises(ConfigError, match="4 bits or 8"):
        LoadOptions(four_bit=True, eight_bit=True)
    with pytest.raises(ConfigError, match="a map chooses the devices"):
        LoadOptions(device_map="auto", device="cpu")
