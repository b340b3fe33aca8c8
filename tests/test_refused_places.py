"""Full disks, places that may not be written and working directories that are gone, for every command that writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from places import REFUSED, gone, limited
from test_hostile_runs import REQUEST, _study
from test_interop import write_checkpoint
from tiny import tiny_config
from tiny_encoders import write_pictures
from tiny_study import Here, study_mapping

import miclab
from miclab.claims import demonstration
from miclab.cli import main
from miclab.config import schema
from miclab.errors import GONE
from miclab.studies.plan import Plan
from miclab.studies.rows import study_rows, table_file, write_table
from miclab.studies.study import load_study
from miclab.training.loop import train_config

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of files and /proc")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run, beside it what every command needs."""
    root = tmp_path_factory.mktemp("places")
    (root / "c.yaml").write_text(yaml.safe_dump(schema.to_mapping(tiny_config(1))))
    study = load_study(_study(root), "quick")
    plan = Plan([study], "eager")
    found = train_config(plan.runs[plan.members[study.name][0]].config, REQUEST, root / "runs")[0].path
    write_table(study_rows(study, plan, root / "runs"), table_file(study))
    # The study of the demonstration and that of a claim, both of tiny runs.
    (root / "files").mkdir()
    for name in ("demo", "multimodal"):
        (root / "files" / f"{name}.yaml").write_text(yaml.safe_dump(study_mapping(2)))
    write_pictures(root / "pictures")
    write_checkpoint(root)
    return found


class Encoder:
    """What stands in for a model of Hugging Face: the mean of every picture."""

    name, kind, method, weights, device = "mean", "images", "mean", "0" * 64, "cpu"

    def __call__(self, items: list) -> torch.Tensor:
        return torch.stack([torch.tensor(np.asarray(one, dtype=float).mean((0, 1))) for one in items])


@pytest.fixture(autouse=True)
def in_this_process(run, monkeypatch) -> None:
    """Workers and encoders need no process and no model of their own."""
    monkeypatch.setattr("miclab.studies.launchers.local.LocalLauncher", lambda workers=0: Here())
    monkeypatch.setattr("miclab.data.pretrained.load_encoder", lambda *names, **options: Encoder())
    monkeypatch.setattr(demonstration, "studies_directory", lambda: run.parent.parent / "files")


def command(name: str, run: Path, output: str) -> list[str]:
    root = run.parent.parent
    few = ["--request.steps", "4", "--request.sequences", "4", "--request.novel-sets", "1", "--seed", "7"]
    return {
        "train": ["train", "unimodal", "--config", str(root / "c.yaml"), *few, "--runs", output],
        "study run": ["study", "run", str(root / "t.yaml"), "--workers", "1", "--runs", output],
        "demo": ["demo", "--runs", f"{output}/runs", "--output", f"{output}/demo.html", "--workers", "1"],
        "reproduce": ["reproduce", "M1", "--studies", str(root / "files"), "--workers", "1", "--runs", output],
        "embed": [
            "data",
            "embed",
            "--model",
            "mean",
            "--images",
            str(root / "pictures"),
            "--output",
            f"{output}/v.safetensors",
        ],
        "study rows": ["study", "rows", str(root / "t.yaml"), "--stored", "--output", f"{output}/r.csv"],
        "report": ["report", str(run), "--output", f"{output}/r.html"],
        "export": ["export", str(run), "--output", f"{output}/folder"],
        "import": [
            "import",
            str(root / "ckpt.safetensors"),
            "--config",
            str(root / "released.yaml"),
            "--runs",
            output,
            "--sequences",
            "4",
            "--novel-sets",
            "1",
        ],
        "figure": ["figure", str(root / "t.yaml"), "--output", output],
        "data show": ["data", "show", "glyphs", "--classes", "1", "--exemplars", "1", "--output", f"{output}/s.png"],
        "make-episodes": ["mllm", "make-episodes", f"{output}/task", "--data", "glyphs", "--episodes", "2"],
    }[name]


WRITERS = ("train", "study run", "demo", "reproduce", "study rows", "report", "figure", "data show", "embed", "export",
           "import", "make-episodes")  # fmt: skip


def files_below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


SIZES = [
    *((name, 0) for name in WRITERS),
    ("train", 200),
    ("train", 5000),
    ("study run", 200),
    ("study run", 3000),
    ("embed", 200),
    ("data show", 200),
    ("make-episodes", 100),
]


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_a_full_disk_ends_every_command_with_a_message(name, size, run, tmp_path, capsys):
    """Fails if a command raises, gives another status, says nothing, or leaves a file that is not whole."""
    before = files_below(run)
    with limited(size):
        status = main(command(name, run, str(tmp_path)))
    message = capsys.readouterr().err
    assert status == 2, message
    assert "File too large" in message
    left = [file for file in files_below(tmp_path) if not file.endswith("/lock")]
    assert all(0 < (tmp_path / file).stat().st_size <= size for file in left), left
    assert not [file for file in left if ".tmp" in file or "making" in file]
    assert [file for file in files_below(run) if "lock" not in file] == [file for file in before if "lock" not in file]


@pytest.mark.parametrize("name", WRITERS)
def test_a_place_that_refuses_is_named(name, run, capsys):
    """Fails if a command raises, or does not name the place."""
    assert main(command(name, run, str(REFUSED))) == 2
    assert str(REFUSED) in capsys.readouterr().err


@pytest.mark.parametrize("name", WRITERS)
def test_a_working_directory_that_is_gone_is_refused(name, run, tmp_path, capsys):
    """Fails if a command ends in a traceback where no relative path can be resolved, or gives another advice than to
    go elsewhere."""
    with gone(tmp_path):
        assert main(command(name, run, "out")) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("miclab: ")
    assert message.endswith(GONE)
    assert not any(tmp_path.iterdir())


def test_a_new_process_in_a_working_directory_that_is_gone_says_so(tmp_path):
    """Fails if a library is loaded first, which may end the process in its own words."""
    with gone(tmp_path):
        ended = subprocess.run([sys.executable, "-m", "miclab", "train"], capture_output=True, text=True,
                               env={**os.environ, "PYTHONPATH": str(Path(miclab.__file__).parents[1])})  # fmt: skip
    assert (ended.returncode, ended.stderr) == (2, f"miclab: {GONE}\n")
