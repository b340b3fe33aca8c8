"""Model folders from others: what lacks a tensor, has another, or names a file that is not safetensors is refused by
name; nothing but safetensors is ever opened. Pictures that lie outside a task are not shown."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_mllm import production

from miclab.data.pretrained import EncoderError, load_encoder
from miclab.mllm.episodes import make_episodes
from miclab.mllm.errors import ModelError, TaskError
from miclab.mllm.loading import load_model
from miclab.mllm.options import EpisodeOptions, LoadOptions
from miclab.mllm.shipped import shipped
from miclab.mllm.task_folder import load_task

OFFLINE = LoadOptions(offline=True)
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return load_file(shipped("tiny") / "model.safetensors")


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the shipped model."""
    return Path(shutil.copytree(shipped("tiny"), tmp_path / "model"))


def save(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_every_tensor_that_is_missing_is_named(folder, tensors):
    """Every fourth alone, all of them, and the file of none."""
    for name in sorted(tensors)[::4]:
        save({other: value for other, value in tensors.items() if other != name}, folder)
        last = name.removeprefix("visual.").removeprefix("model.")
        with pytest.raises(ModelError, match=rf"lacks \d+ tensors? \(.*{last}"):
            load_model(str(folder), OFFLINE)
    save({}, folder)
    with pytest.raises(ModelError, match=r"lacks \d\d tensors .* and \d\d more"):
        load_model(str(folder), OFFLINE)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(str(folder), OFFLINE)


def test_a_tensor_that_the_model_does_not_know_is_named(folder, tensors):
    for name in ("model.layers.7.mlp.up_proj.weight", "x", "lm_head.bias"):
        save({**tensors, name: torch.zeros(2)}, folder)
        with pytest.raises(ModelError, match=rf"has 1 tensor \(.*{name.rpartition('.')[2]}\)"):
            load_model(str(folder), OFFLINE)


class Bomb:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.trace),)


NAMES = ["pytorch_model.bin", "model.pt", "../outside.safetensors", "/tmp/outside.safetensors", "sub/a.safetensors",
         "a.safetensors.bin", "a.safetensors/../b.bin", ".a.safetensors", "a\x00.safetensors", "", ".", "..", 3, None,
         ["a.safetensors"], "a\\b.safetensors", "a.SAFETENSORS", "a.safetensors\n"]  # fmt: skip


def attacks(folder: Path, tensors: dict[str, torch.Tensor]) -> dict[str, Callable[[], None]]:
    """Ways in which a folder may name a pickle, or a file elsewhere."""

    def index(name: Any) -> None:
        (folder / "model.safetensors").unlink()
        weights = {"metadata": {}, "weight_map": {**dict.fromkeys(tensors, "a.safetensors"), min(tensors): name}}
        (folder / INDEX).write_text(json.dumps(weights))

    def configuration(name: str) -> None:
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**content, "transformers_weights": name}))

    found: dict[str, Callable[[], None]] = {f"index of {name!r}": lambda name=name: index(name) for name in NAMES}
    for name in ("adapter_model.bin", "pytorch_model.bin", "../a.safetensors"):
        found[f"configuration of {name}"] = lambda name=name: configuration(name)
    found["adapter"] = lambda: (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "x"}')
    found["pickle alone"] = lambda: (folder / "model.safetensors").unlink()
    for text in ("[]", "{}", '{"weight_map": {}}', '{"weight_map": []}', "{", "[" * 100_000, "null"):
        found[f"index {text[:20]}"] = lambda text=text: (folder / INDEX).write_text(text)
    return found


@pytest.mark.parametrize("load", ["model", "encoder"])
def test_no_pickle_is_ever_opened(load, tmp_path, tensors):
    folder, trace = tmp_path / "model", tmp_path / "trace"
    for name in attacks(folder, tensors):
        shutil.copytree(shipped("tiny"), folder)
        attacks(folder, tensors)[name]()
        for file in ("pytorch_model.bin", "adapter_model.bin", "model.pt", "a.safetensors.bin"):
            (folder / file).write_bytes(pickle.dumps(Bomb(trace)))
        shutil.copy(shipped("tiny") / "model.safetensors", folder / "a.safetensors")
        with pytest.raises(ModelError if load == "model" else EncoderError, match="cannot be loaded"):
            load_model(str(folder), OFFLINE) if load == "model" else load_encoder(str(folder), "texts", offline=True)
        assert not trace.exists(), name
        shutil.rmtree(folder)


def test_an_index_of_safetensors_in_the_folder_is_read(folder, tensors):
    names = sorted(tensors)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
    (folder / "model.safetensors").unlink()
    weights = {name: file for file, part in files.items() for name in part}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    assert len(load_model(str(folder), OFFLINE).layers) == len(load_model("tiny", OFFLINE).layers)


def test_pictures_outside_a_task_are_not_shown(tmp_path):
    """Absolute, by `..`, beside the task, through links; what lies below the task, or one beside it, is shown."""
    folder = make_episodes(tmp_path / "task", EpisodeOptions(data="small:glyphs", episodes=1, seed=1))
    entries = json.loads((folder / "2-shot.json").read_text())
    inside = entries[0]["query"]["image"][0]
    secret = tmp_path / "secret.png"
    shutil.copy(folder / inside, secret)
    for name in ("papers", "sibling"):
        (tmp_path / name).mkdir()
        shutil.copy(secret, tmp_path / name / "a.png")
    (tmp_path / "sibling" / "query.json").write_text("[]")
    (folder / "link.png").symlink_to(secret)
    (folder / "away").symlink_to(tmp_path)
    (folder / "again.png").symlink_to(folder / "link.png")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "own.png").symlink_to(folder / inside)
    (tmp_path / "sibling" / "link.png").symlink_to(secret)
    outside = [str(secret), "../secret.png", "images/../../secret.png", "link.png", "away/secret.png", "again.png",
               "secret.png", "papers/a.png", "away/papers/a.png", "/etc/hostname", "/dev/zero", "~/a.png",
               "sibling/link.png", f"../{folder.name}/../secret.png", "a\x00.png", "loop", "loop/a.png", "x" * 5000,
               "", ".", str(folder / inside)]  # fmt: skip

    def shown(name: str) -> Path:
        entries[0]["query"]["image"] = [name]
        (folder / "2-shot.json").write_text(json.dumps(entries))
        return load_task(folder, shots=2).episodes[0].query.images[0]

    for name in outside:
        with pytest.raises(TaskError, match=r"lies outside|leads out|is no path|is missing"):
            shown(name)
    for name in (inside, f"./{inside}", f"images/../{inside}", "own.png", f"task/{inside}", f"away/task/{inside}",
                 "sibling/a.png"):  # fmt: skip
        assert shown(name).read_bytes() == secret.read_bytes()


@pytest.mark.parametrize(("family", "remarks"), [("qwen2.5-vl", 0), ("llava", 1)])
def test_a_limit_of_pixels_that_has_no_effect_is_remarked(family: str, remarks: int, tmp_path: Path):
    of = production(family)
    for part in (of.model, of.processor):
        part.save_pretrained(tmp_path)
    found = load_model(str(tmp_path), LoadOptions(max_pixels=784)).remarks
    assert len(found) == remarks
    assert all(one.startswith("--max-pixels has no effect") for one in found)
    assert not load_model(str(tmp_path)).remarks
