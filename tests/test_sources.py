"""The door for data: what the decorator registers is found, listed and trained on, also from outside the package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from miclab.cli import main
from miclab.config import extensions
from miclab.data import DataError, DataSet, load, registry, source
from miclab.data.shipped import SHIPPED
from miclab.errors import MiclabError

EXAMPLE = Path(__file__).parent / "extensions" / "source_from_file.py"


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registrations of a test end with it."""
    monkeypatch.setattr(registry.SOURCES, "_known", dict(registry.SOURCES._known))
    monkeypatch.setattr(registry.SOURCES, "_files", dict(registry.SOURCES._files))
    monkeypatch.setattr(extensions, "_loaded", {})
    monkeypatch.setattr(extensions, "_installed", set())


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    """Loads the example as `--plugin` does, and writes a file that it reads."""
    plugin = extensions.load_plugin(EXAMPLE)
    assert extensions.fingerprints_of([(registry.SOURCES, "flowers")]) == (plugin.fingerprint,)
    generator = np.random.default_rng(0)
    lines = ["species,a,b,c,d,e,f"]
    for number in range(20):
        mean = generator.normal(size=6)
        lines += [f"species {number}," + ",".join(f"{v:.3f}" for v in mean + 0.2 * generator.normal(size=6))
                  for _ in range(5)]  # fmt: skip
    path = tmp_path / "flowers.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_source_outside_the_package_is_trained_on(flowers: Path, tmp_path: Path, capsys) -> None:
    """Fails if anything but importing the file is needed, or the run does not see the file's vectors."""
    data = load(f"flowers:{flowers}")
    assert (len(data.class_names), len(data.items), int(data.held_out_classes.sum())) == (20, 100, 4)
    options = {
        "modalities.m1.source": f"flowers:{flowers}", "modalities.m1.labels": 4, "modalities.m1.noise": 0.0,
        "modalities.m1.centre": "training", "sequence.context": 4, "sequence.burstiness": 2,
        "optimiser.batch-size": 16, "numerics.mode": "eager", "request.steps": 4, "request.evaluate-every": 4,
        "request.checkpoint-every": 4, "request.sequences": 10, "request.novel-sets": 1,
    }  # fmt: skip
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    plugin = ["--plugin", str(EXAMPLE)]
    assert main([*plugin, "train", "unimodal", *arguments, "--runs", str(tmp_path / "runs"), "--json"]) == 0
    capsys.readouterr()
    assert main(["show", next((tmp_path / "runs").iterdir()).name, "--runs", str(tmp_path / "runs"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    modality = shown["config"]["modalities"]["m1"]
    assert (modality["source"], modality["content"], modality["classes"]) == (f"flowers:{flowers}", data.content, 16)


def test_what_is_registered_drives_list_help_and_messages(flowers: Path, capsys) -> None:
    assert main(["data", "--help"]) == 0
    assert "flowers:FILE " in capsys.readouterr().out
    assert main(["data", "list"]) == 0
    out = capsys.readouterr().out
    assert "flowers:FILE" in out
    assert all(name in out for name in SHIPPED)
    with pytest.raises(DataError, match="did you mean 'flowers:FILE'"):
        load(f"flower:{flowers}")
    with pytest.raises(DataError, match="lacks its FILE: write flowers:FILE"):
        load("flowers")
    with pytest.raises(DataError, match="takes nothing after its name: write glyphs"):
        load("glyphs:x")
    assert main(["data", "check", f"flowers:{flowers}"]) == 0


def made(name: str, argument: str, progress: registry.Progress) -> DataSet:
    return DataSet(
        name="another name", kind="vector", class_names=("a", "b"), items=torch.eye(4),
        class_of=torch.tensor([0, 0, 1, 1]), held_out_classes=torch.tensor([False, True]),
        held_out_exemplars=torch.tensor([False, True, False, True]), sources=("x",), source_of=torch.zeros(4).long(),
        licence="none",
    )  # fmt: skip


def test_registration(tmp_path: Path) -> None:
    """Fails if one name may mean two sources, or the same file may not be imported twice."""
    assert source("mine")(made) is made
    source("mine")(made)
    assert load("mine").name == "mine"
    other = tmp_path / "other.py"
    other.write_text("from miclab.data import source\n@source('mine')\ndef read(name, argument, progress): ...\n")
    with pytest.raises(MiclabError, match=r"a source named 'mine' already \(in .*test_sources\.py\)"):
        extensions.load_plugin(other)
    with pytest.raises(MiclabError, match="no name for a source"):
        source("a:b")(made)
    source("wrong")(lambda name, argument, progress: [1, 2])
    with pytest.raises(DataError, match="gave a list, and not a DataSet"):
        load("wrong")
