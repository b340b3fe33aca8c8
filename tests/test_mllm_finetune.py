"""Fine-tuning: what is trained, what a run can be gone on with, and how it ends."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_mllm import FAMILIES, production, task, tokenizer
from transformers import Phi3Config, Phi3ForCausalLM

from miclab.errors import DamagedError
from miclab.mllm.errors import DivergedError, ModelError, TaskError
from miclab.mllm.finetune import METRICS, Finetuning
from miclab.mllm.layers import attention_layers
from miclab.mllm.loading import Production
from miclab.mllm.options import FinetuneOptions, LoadOptions
from miclab.mllm.task import Style


@pytest.mark.parametrize("family", list(FAMILIES))
def test_adapters_are_put_into_the_decoder_alone(family: str, tmp_path: Path):
    of = production(family)
    chosen = task(tmp_path, of.view)
    decoder = of.model.get_decoder()
    work = Finetuning(of, chosen, chosen, tmp_path / "run", FinetuneOptions(steps=1, rank=2))
    inside = {id(parameter) for parameter in decoder.parameters()}
    # Two matrices for each of the four projections of both layers.
    assert len(work.trained) == 2 * 4 * 2
    assert all(id(parameter) in inside for parameter in work.trained.values())


def test_fused_projections_get_adapters_too(tmp_path: Path):
    tokens = tokenizer()
    config = Phi3Config(
        vocab_size=len(tokens), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    model = Phi3ForCausalLM(config).eval()
    of = Production("phi3", model, tokens, attention_layers(model), LoadOptions())
    chosen = task(tmp_path, "text")
    trained = Finetuning(of, chosen, chosen, tmp_path / "run", FinetuneOptions(steps=1, rank=2)).trained
    assert sorted({name.split(".lora_")[0].split("self_attn.")[1] for name in trained}) == ["o_proj", "qkv_proj"]
    assert len(trained) == 2 * 2 * 2


OPTIONS = FinetuneOptions(steps=2, every=1, train_batch=1, rank=2, learning_rate=1e-3)


def begun(folder: Path, options: FinetuneOptions = OPTIONS, **changes: Any) -> Finetuning:
    """A fine-tuning of a text model; `changes` are made to its options."""
    of = production("qwen2.5")
    of = replace(of, options=replace(of.options, **changes.get("load", {})))
    chosen = replace(task(folder.parent, "text"), **changes.get("task", {}))
    if "picture" in changes:
        chosen.episodes[0].query.images[0].write_bytes(changes["picture"])
    return Finetuning(of, chosen, chosen, folder, options, changes.get("evaluation_batch", 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"load": {"dtype": "bfloat16"}}, "dtype ('float32', now 'bfloat16')"),
        ({"load": {"prompt": "plain"}}, "prompt ("),
        ({"load": {"max_pixels": 100}}, "max_pixels ("),
        ({"task": {"style": Style(template="{item} {answer};", instruction="Look.\n")}}, "template ("),
        ({"task": {"style": Style()}}, "instruction ("),
        ({"evaluation_batch": 1}, "evaluation_batch (3, now 1)"),
        ({"picture": b"another"}, "held_out_sha256 ("),
    ],
)
def test_a_run_is_resumed_with_its_own_options_only(changes: dict[str, Any], message: str, tmp_path: Path, once: Path):
    folder = shutil.copytree(once, tmp_path / "run")
    with pytest.raises(ModelError) as caught:
        begun(folder, **changes)
    assert message in str(caught.value)
    assert "--output" in str(caught.value)


@pytest.fixture(scope="module")
def once(tmp_path_factory) -> Path:
    """The folder of a fine-tuning of two steps."""
    folder = tmp_path_factory.mktemp("finetune") / "run"
    begun(folder).run()
    return folder


def test_a_run_is_extended_and_a_row_that_was_not_saved_is_dropped(tmp_path: Path, once: Path):
    folder = shutil.copytree(once, tmp_path / "run")
    with (folder / METRICS).open("a") as file:
        file.write('{"step": 3}\n')
    more = begun(folder, replace(OPTIONS, steps=3)).run()
    assert more == begun(tmp_path / "whole", replace(OPTIONS, steps=3)).run()
    assert [path.name for path in sorted(folder.glob("checkpoint*"))] == ["checkpoint-000003.safetensors"]


def cut(path: Path) -> None:
    """Takes the end of a file away."""
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("name", "harm"),
    [*((name, harm) for name in (METRICS, "checkpoint-000002.safetensors") for harm in (cut, Path.unlink)),
     ("run.json", cut)],
)  # fmt: skip
def test_a_damaged_run_is_refused(name: str, harm: Callable[[Path], Any], tmp_path: Path, once: Path):
    folder = shutil.copytree(once, tmp_path / "run")
    harm(folder / name)
    with pytest.raises(DamagedError, match=name):
        begun(folder)


def test_a_run_that_diverges_says_so(tmp_path: Path):
    with pytest.raises(DivergedError, match="--learning-rate"):
        begun(tmp_path / "run", replace(OPTIONS, learning_rate=1e30)).run()


def test_strengths_of_some_episodes_are_not_taken_for_all(tmp_path: Path):
    of = production("qwen2.5-vl")
    chosen = task(tmp_path)
    work = Finetuning(of, chosen, chosen, tmp_path / "run", OPTIONS)
    chosen.episodes[1].query.images[0].write_bytes(b"no picture")
    with pytest.raises(TaskError, match="1 of 3 episodes could not be read"):
        work.run()
