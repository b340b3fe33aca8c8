"""Adapters as PEFT writes them, with other options than those of `finetune`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from miclab.mllm.errors import ModelError
from miclab.mllm.loading import _source, load_model
from miclab.mllm.options import LoadOptions
from miclab.mllm.shipped import shipped

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
"""peft reads a property of transformers by a deprecated name."""


def adapter(folder: Path, **options: Any) -> Any:
    """Saves an adapter of the tiny model, with random weights, and returns the model with it."""
    model = load_model("tiny").model
    torch.manual_seed(0)
    made = get_peft_model(model, LoraConfig(r=2, target_modules=r".*language_model.*\.(q_proj|v_proj)", **options))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter += torch.randn_like(parameter) / 20
    made.save_pretrained(folder)
    changed(folder, base_model_name_or_path=str(shipped("tiny")))
    return made.eval()


def changed(folder: Path, **fields: Any) -> None:
    """Changes fields of an adapter's configuration."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@torch.no_grad()
@pytest.mark.parametrize("options", [{"bias": "lora_only"}, {"bias": "all"}, {"use_dora": True}])
def test_an_adapter_with_other_options_is_read_whole(options: Any, tmp_path: Path):
    made = adapter(tmp_path, **options)
    ids = torch.arange(3, 9)[None]
    read = load_model(str(tmp_path)).model(input_ids=ids).logits
    assert (read - made(input_ids=ids).logits).abs().max() < 1e-5
    assert (read - load_model("tiny").model(input_ids=ids).logits).abs().max() > 1e-3


def test_a_damaged_adapter_is_named_and_not_its_base(tmp_path: Path):
    adapter(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError) as raised:
        load_model(str(tmp_path))
    assert str(raised.value).startswith(f"{tmp_path / 'adapter_model.safetensors'}: it cannot be loaded: it is damaged")


def test_the_revision_of_a_base_is_the_adapters(tmp_path: Path):
    adapter(tmp_path)
    changed(tmp_path, base_model_name_or_path="someone/base", revision="step-1000")
    assert _source(str(tmp_path), LoadOptions()) == ("someone/base", "step-1000", str(tmp_path))
    assert _source(str(tmp_path), LoadOptions(revision="other"))[1] == "other"
    assert _source(str(tmp_path), LoadOptions(base="someone/else"))[1] == ""
    changed(tmp_path, base_model_name_or_path=str(shipped("tiny")))
    assert _source(str(tmp_path), LoadOptions())[1] == ""


def test_the_base_is_found_beside_the_adapter_and_its_configuration_does_not_hide_it(tmp_path: Path):
    base, folder = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(shipped("tiny"), base)
    made = adapter(folder)
    changed(folder, base_model_name_or_path="../base")
    shutil.copy(base / "config.json", folder)
    assert _source(str(folder), LoadOptions()) == (str(base), "", str(folder))
    ids = torch.arange(3, 9)[None]
    assert (load_model(str(folder)).model(input_ids=ids).logits - made(input_ids=ids).logits).abs().max() < 1e-5
