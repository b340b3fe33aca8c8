"""The constant part of the keys of production models, beside the keys that their own rotation is given."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_mllm import production, task
from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM

from miclab.mllm.heads import measure_heads
from miclab.mllm.keys import recording_keys
from miclab.mllm.layers import attention_layers
from miclab.worlds.roles import LABEL

ROTARY = {"llama": "llama", "qwen3-vl": "qwen3_vl", "gemma3": "gemma3", "gpt-neox": "gpt_neox"}
"""Family, and the module of transformers that rotates its keys."""


@pytest.mark.parametrize("family", [*ROTARY, "gpt2"])
def test_keys_are_those_that_are_rotated(family: str, tmp_path: Path, monkeypatch):
    """Fails if keys are read at another place than right before rotation, heads that share keys are mixed up, or text
    that is the same in every episode counts as constant: beside loops over the keys that the rotation is given."""
    of = production(family)
    chosen = task(tmp_path, of.view)
    with recording_keys(of.layers) as found:
        measure_heads(of, chosen)
    given: list[torch.Tensor] = []
    prompter = of.prompter(chosen)
    batch = prompter.encode([(episode, episode.answer) for episode in chosen.episodes])
    if family in ROTARY:
        module = sys.modules[f"transformers.models.{ROTARY[family]}.modeling_{ROTARY[family]}"]
        rotate = module.apply_rotary_pos_emb

        def kept(query, key, *more, **others):
            given.append(key)
            return rotate(query, key, *more, **others)

        monkeypatch.setattr(module, "apply_rotary_pos_emb", kept)
        with torch.no_grad():
            of.model(**batch.inputs, use_cache=False)
    else:
        with torch.no_grad():
            given += [layer.keys for layer in of.model(**batch.inputs, use_cache=True).past_key_values.layers]
    assert len(given) == len(of.layers)
    for keys, layer in zip(given, of.layers, strict=True):
        for part in ("items", "labels"):
            expected = [share(keys, batch.readings, pair, part) for pair in range(layer.key_value_heads)]
            np.testing.assert_allclose(found.share(layer.index, part), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("many", [True, False])
def test_keys_of_a_fused_projection_in_an_unknown_order_are_not_known(many: bool, tmp_path: Path):
    of = production("qwen2.5")
    config = GPTBigCodeConfig(
        vocab_size=len(of.processor), n_embd=32, n_layer=1, n_head=4, n_positions=512, multi_query=many,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPTBigCodeForCausalLM(config).eval()
    other = replace(of, model=model, layers=attention_layers(model))
    with recording_keys(other.layers) as found:
        measure_heads(other, task(tmp_path, "text"))
    assert all(row["items"] is None and row["labels"] is None for row in found.rows())


def share(keys: torch.Tensor, readings, pair: int, part: str) -> float:
    """The definition: without the bias that few episodes give to the squared norm of a mean."""
    groups: dict[int, list[np.ndarray]] = {}
    for row, reading in enumerate(readings):
        for position in range(len(reading.roles.kind)):
            kind = int(reading.roles.kind[position])
            if kind == LABEL if part == "labels" else kind >= 0:
                key = keys[row, pair, position].double().numpy()
                groups.setdefault(int(reading.roles.exemplar[position]), []).append(key)
    constant, whole = [], []
    for group in groups.values():
        products = [a @ b for i, a in enumerate(group) for j, b in enumerate(group) if i != j]
        constant.append(np.mean(products))
        whole.append(np.mean([a @ a for a in group]))
    return float(np.mean(constant) / np.mean(whole))
