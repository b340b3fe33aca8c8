"""The wheel: it holds all that the commands need, and needs no more than it names."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A fresh environment that holds the wheel, and of other packages those alone that the wheel names, with what they
    name themselves. Returns its Python."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    [wheel] = folder.glob("miclab-*.whl")
    venv.create(folder / "environment", with_pip=False, symlinks=True)
    [site] = (folder / "environment" / "lib").glob("python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    [own] = site.glob("miclab-*.dist-info")
    for other in needed(Distribution.at(own)):
        for top in {file.parts[0] for file in other.files or () if file.parts[0] not in ("..", "__pycache__")}:
            source = Path(str(other.locate_file(top)))
            if source.exists() and not (site / top).exists():
                (site / top).symlink_to(source)
    return folder / "environment" / "bin" / "python"


def needed(start: Distribution) -> list[Distribution]:
    """The packages that a package needs on this machine, without its extras, and theirs."""
    found: dict[str, Distribution] = {}
    waiting = [start]
    while waiting:
        for text in waiting.pop().requires or ():
            requirement = Requirement(text)
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if wanted and requirement.name.lower() not in found:
                found[requirement.name.lower()] = distribution(requirement.name)
                waiting.append(found[requirement.name.lower()])
    return list(found.values())


def run(python: Path, folder: Path, *words: str) -> str:
    """Standard output of a command of the installed package, called somewhere else."""
    done = subprocess.run(
        [str(python), "-m", "miclab", *words], cwd=folder, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_works_alone(installed, tmp_path):
    """Fails if a template, a study, a table of rows or data file is missing from the wheel, if a command needs a
    package that the wheel does not name, or if it reads files of the working directory."""
    absent = (
        "import importlib.util as u; print([n for n in ('ray', 'transformers', 'pytest', 'pyarrow') if u.find_spec(n)])"
    )
    found = subprocess.run([str(installed), "-c", absent], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    small = ["--modalities.m1.classes", "64", "--sequence.context", "4", "--sequence.burstiness", "2"]
    short = ["--request.steps", "20", "--request.evaluate-every", "10", "--request.checkpoint-every", "20"]
    made = json.loads(run(installed, tmp_path, "train", "unimodal", *small, *short, "--json"))
    assert made["status"] == "finished"
    evaluated = json.loads(run(installed, tmp_path, "evaluate", made["run"], "--sequences", "50", "--json"))
    assert evaluated
    run(installed, tmp_path, "report", made["run"], "--output", "page.html")
    assert "<html" in (tmp_path / "page.html").read_text(encoding="utf-8")
    claims = json.loads(run(installed, tmp_path, "claims", "U2", "--json"))
    assert claims[0]["id"] == "U2"
    assert claims[0]["runs"] > 0
    sources = run(installed, tmp_path, "data", "list", "--json")
    assert "concepts" in sources
