"""Task folders, data and model folders of others: wrong content is refused in words that name the file."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from mutations import IRREGULAR, VALUES, mutated, survived
from PIL import Image
from safetensors.numpy import save_file

from miclab import storage
from miclab.data.checkpoint import check_files
from miclab.data.folders import load_folder
from miclab.data.vector_files import read_table
from miclab.errors import ContentError
from miclab.mllm.adapters import base_of
from miclab.mllm.results import read_manifest
from miclab.mllm.results import read_table as read_results
from miclab.mllm.task_folder import load_task

CASES = 150


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (90, 20, 10)).save(path)


def replaced(file: Path, content: bytes, source: random.Random) -> None:
    """Wrong content in a file, or what is no file in its place."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    if source.random() < 0.15:
        IRREGULAR[source.choice(list(IRREGULAR))](file)
    else:
        file.write_bytes(content)


SHOT = [{"query": {"image": ["images/a.png"], "answer": "x", "question": "q"}, "question": "q",
         "support": {"1-shot": [{"image": ["images/a.png"], "answer": "x"}]}}] * 2  # fmt: skip
QUERY = [{"image": ["images/a.png"], "answer": "x", "question": "q", "classes": ["x", "y"],
          "support": {"x": {"images": ["images/a.png"], "texts": ["t"]}, "y": {"images": ["images/a.png"]}},
          }]  # fmt: skip
TASK = {"instruction": "i", "template": "{item} {answer}", "made": {"ways": 2, "shots": 1}}


def task(folder: Path, source: random.Random) -> None:
    picture(folder / "images" / "a.png")
    contents = {"1-shot.json": SHOT, "query.json": QUERY, "task.json": TASK}
    wrong = source.choice(list(contents))
    for name, content in contents.items():
        if name != "1-shot.json" or source.random() < 0.5 or wrong == name:
            value = mutated(content, source) if name == wrong else content
            replaced(folder / name, json.dumps(value).encode(), source if name == wrong else random.Random(1))
    shots = source.choice((0, 1, 2))
    load_task(folder, shots=shots, view=source.choice(("image", "text")))


def vectors(folder: Path, source: random.Random) -> None:
    """Embeddings whose file is well-formed and whose arrays, names and types are not those of a data set."""
    kinds: list[Any] = [np.float32, np.float64, np.int64, np.complex64, np.bool_, "U3", "S2"]
    shape = source.choice([(), (0,), (4,), (4, 3), (2, 2, 3), (0, 3), (4, 0), (1, 1, 1, 1)])
    values = np.ones(shape, source.choice(kinds))
    labels = np.ones(source.choice([(), (4,), (2,), (4, 1)]), source.choice(kinds))
    names = source.choice([("vectors", "labels"), ("labels", "vectors"), ("", "x"), ("vectors", "class")])
    kind = source.choice(["npy", "npz", "safetensors", "parquet", "folder"])
    file = folder / f"v.{kind}"
    folder.mkdir()
    if kind == "npy":
        np.save(file, values)
        replaced(folder / "v.labels.csv", json.dumps(mutated(SHOT, source)).encode(), source)
    elif kind == "npz":
        arrays: Any = dict(zip([n or "e" for n in names], (values, labels), strict=True))
        np.savez(file, **arrays)
    elif kind == "safetensors":
        arrays = {n: a for n, a in zip(names, (values, labels), strict=True) if a.dtype.kind in "fib"}
        save_file(arrays, file, {"class_names": json.dumps(mutated(["a", "b"], source)), "x": "\x1b[2J"})
    elif kind == "parquet":
        columns = {names[0] or "e": source.choice([[[1.0], [2.0, 3.0]], [[1.0], None], [[], []], [[[1.0]], [[2.0]]]]),
                   names[1]: source.choice([["a", None], [1, 2], [None, None], [[1], [2]]])}  # fmt: skip
        with file.open("wb") as out:
            pl.DataFrame(columns).write_parquet(out)
    else:
        file.mkdir()
        state: Any = {"_data_files": [{"filename": "d.arrow"}], "_indices_data_files": None}
        info: Any = {"features": {"label": {"names": ["a", "b"]}}}
        replaced(file / "state.json", json.dumps(mutated(state, source)).encode(), source)
        replaced(file / "dataset_info.json", json.dumps(mutated(info, source)).encode(), source)
        frame = pl.DataFrame({"vectors": [[1.0], [2.0]], "label": [0, source.choice([1, 9])]})
        with (file / "d.arrow").open("wb") as out:
            frame.write_ipc_stream(out)
    read_table(file)


def pictures(folder: Path, source: random.Random) -> None:
    for name in ("a", "b"):
        for number in range(2):
            picture(folder / name / f"{number}.png")
    raw = bytearray((folder / "a" / "0.png").read_bytes())
    raw[source.randrange(len(raw))] ^= 1 << source.randrange(8)
    replaced(folder / "a" / "0.png", bytes(raw), source)
    load_folder("folder", str(folder))  # pyright: ignore[reportCallIssue]


def model(folder: Path, source: random.Random) -> None:
    config = {"model_type": "gpt2", "transformers_weights": None, "architectures": ["GPT2LMHeadModel"]}
    index = {"metadata": {}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    folder.mkdir()
    replaced(folder / "config.json", json.dumps(mutated(config, source)).encode(), source)
    replaced(folder / "model.safetensors.index.json", json.dumps(mutated(index, source)).encode(), source)
    check_files(str(folder), True)


def adapter(folder: Path, source: random.Random) -> None:
    folder.mkdir()
    content = {"peft_type": "LORA", "base_model_name_or_path": "x"}
    replaced(folder / "adapter_config.json", json.dumps(mutated(content, source)).encode(), source)
    replaced(folder / "adapter_model.safetensors", b"", source)
    assert isinstance(base_of(str(folder)), str)


def results(folder: Path, source: random.Random) -> None:
    """Results of `miclab mllm`, sealed, whose tables have their right checksums."""
    folder.mkdir()
    content = source.choice([b"", b"PAR1", json.dumps(VALUES[-1]).encode()])
    manifest = {"command": "heads", "status": "complete", "reason": "", "asked": {"model": "tiny"}, "versions": {},
                "files": {"heads.parquet": storage.digest(content)}}  # fmt: skip
    value = mutated(manifest, source) if source.random() < 0.8 else manifest
    body = json.dumps(value, sort_keys=True) + "\n"
    sealed = json.dumps({"manifest": value, "sha256": storage.digest(body.encode())}, sort_keys=True) + "\n"
    replaced(folder / "manifest.json", sealed.encode(), source)
    replaced(folder / "heads.parquet", content, source)
    read_manifest(folder)["asked"].get("model")
    read_results(folder, "heads.parquet")


@pytest.mark.parametrize("attack", [task, vectors, pictures, model, adapter, results])
def test_wrong_content_is_refused_in_words(attack: Callable[[Path, random.Random], Any], tmp_path: Path):
    """Fails if a reader raises anything but the errors of readers, which say what was expected where."""

    def cases() -> Iterator[tuple[str, Callable[[], Any]]]:
        for number in range(CASES):
            yield str(number), lambda number=number: attack(tmp_path / str(number), random.Random(number))

    count, broken = survived(cases(), ContentError)
    assert not broken, f"{len(broken)} of {count}:\n" + "\n".join(broken)
