"""Fine-tuning: what is trained, what a run can be gone on with, and how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_mllm import FAMILIES, production, task, tokenizer
from transformers import Phi3Config, Phi3ForCausalLM

from miclab.mllm.finetune import Finetuning
from miclab.mllm.layers import attention_layers
from miclab.mllm.loading import Production
from miclab.mllm.options import FinetuneOptions, LoadOptions


@pytest.mark.parametrize("family", list(FAMILIES))
def test_adapters_are_put_into_the_decoder_alone(family: str, tmp_path: Path):
    of = production(family)
    asked = task(tmp_path, of.view)
    decoder = of.model.get_decoder()
    work = Finetuning(of, asked, asked, tmp_path / "run", FinetuneOptions(steps=1, rank=2))
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
    asked = task(tmp_path, "text")
    trained = Finetuning(of, asked, asked, tmp_path / "run", FinetuneOptions(steps=1, rank=2)).trained
    assert sorted({name.split(".lora_")[0].split("self_attn.")[1] for name in trained}) == ["o_proj", "qkv_proj"]
    assert len(trained) == 2 * 2 * 2
