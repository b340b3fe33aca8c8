"""How each golden is made. Only the command line is used, so that modules may move."""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from benchmarks.golden_runs import RUNS, STEPS, Training
from miclab.errors import MiclabError

ROOT = Path(__file__).parents[1]
PROFILES = ("quick", "paper")
ANALYSED = "stage-2"
SIZES = ("--sequences", "40", "--novel-sets", "2")
ANALYSES = {
    "evaluate": SIZES,
    "circuits": SIZES,
    "knockout": SIZES,
    "ablate": SIZES,
    "align": ("--rows", "32"),
    "diagnose": SIZES,
}
Files = dict[str, str]
"""Content of files by name."""


class GoldenError(MiclabError):
    """A golden that cannot be made, or a directory that cannot be used."""


def environment() -> dict[str, str]:
    """Variables of every command: one thread, this tree, and help of one width."""
    fixed = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NO_COLOR": "1", "TERM": "dumb"}
    return {**os.environ, **fixed, "COLUMNS": "100"}


def checked(arguments: tuple[object, ...], status: int, output: str, errors: str) -> str:
    """A command's output; raises GoldenError if it failed."""
    if status:
        words = " ".join(map(str, arguments))
        raise GoldenError(f"`miclab {words}` ended with status {status}: {errors.strip()[-1000:]}")
    return output


def miclab(*arguments: object) -> str:
    """What a command prints, run in a process of its own."""
    command = [sys.executable, "-m", "miclab", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment())
    return checked(arguments, done.returncode, done.stdout, done.stderr)


SERVER = """
import contextlib, io, json, runpy, sys
commands, answers = sys.stdin, sys.stdout
for line in commands:
    sys.argv, status, texts = ["miclab", *json.loads(line)], 0, (io.StringIO(), io.StringIO())
    with contextlib.redirect_stdout(texts[0]), contextlib.redirect_stderr(texts[1]):
        try:
            runpy.run_module("miclab", run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            status = int(ended.code or 0)
    print(json.dumps([status, *(text.getvalue() for text in texts)]), file=answers, flush=True)
"""


@functools.cache
def server() -> subprocess.Popen[str]:
    """A process that carries out `python -m miclab` for one list of arguments after the other."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", SERVER]
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT, env=environment())
    atexit.register(process.kill)
    return process


def close_server() -> None:
    """Ends the process of `server`, if there is one, and waits for it."""
    if server.cache_info().currsize:
        server().communicate()


def printed(*arguments: object) -> str:
    """What a command that trains nothing prints. All of these share a process, which saves their imports."""
    process = server()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps([*map(str, arguments)]) + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise GoldenError(f"`miclab {' '.join(map(str, arguments))}` broke the process that it ran in")
    return checked(arguments, *json.loads(answer))


def as_text(value: Any) -> str:
    """Canonical JSON with a line for each leaf."""
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


# -- runs -------------------------------------------------------------------------------------------------------------
def tensors(file: Path) -> dict[str, str]:
    """Type, shape and SHA-256 of every tensor of a safetensors file, read without PyTorch."""
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    body, found = content[8 + size :], {}
    for name, entry in sorted(json.loads(content[8 : 8 + size]).items()):
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            shape = "x".join(map(str, entry["shape"]))
            found[name] = f"{entry['dtype']} {shape} {hashlib.sha256(body[start:end]).hexdigest()}"
    return found


def described(run: Path) -> dict[str, Any]:
    """Everything about a run that has to stay: name, world, parameters, metric rows."""
    rows = [json.loads(line) for file in sorted(run.glob("rows/*.jsonl")) for line in file.read_text().splitlines()]
    weights = {str(step): tensors(run / f"checkpoints/{step:09d}.safetensors") for step in (0, STEPS)}
    whole = {step: hashlib.sha256(as_text(found).encode()).hexdigest() for step, found in weights.items()}
    return {
        "directory": run.name,
        "world": tensors(run / "world.safetensors"),
        "parameters": weights,
        "sha256 of all parameters": whole,
        "rows": {str(row["step"]): row for row in rows},
    }


def trained(trainings: tuple[Training, ...], folder: Path) -> dict[str, Path]:
    """Carries out trainings one after the other; the directory of every run by its role."""
    found: dict[str, Path] = {}
    for training in trainings:
        file = folder / f"{training.role}.yaml"
        file.write_text(yaml.safe_dump(dict(training.fields)))
        options = [option.format(**found) for option in training.options]
        where = ("--config", file, "--runs", folder / "runs", "--json")
        outcome = json.loads(miclab("train", training.stage, *where, *options))
        found[training.role] = Path(outcome["run"])
        if "stage_one" in outcome:
            found["stage one"] = Path(outcome["stage_one"]["run"])
    return found


def run_files(name: str, folder: Path) -> Files:
    """The golden of one configuration."""
    found = {role: described(run) for role, run in trained(RUNS[name], folder).items()}
    return {f"runs/{name}.json": as_text(found)}


def analysis_files(folder: Path) -> Files:
    """What the commands on a checkpoint print."""
    run, files = trained(RUNS[ANALYSED], folder)["run"], {}
    for command, options in ANALYSES.items():
        text = miclab(command, run.name, "--runs", run.parent, *options, "--json")
        files[f"analyses/{command}.json"] = as_text(json.loads(text.replace(str(folder), "FOLDER")))
    return files


# -- what needs no training -------------------------------------------------------------------------------------------
def claim_files(profile: str) -> Files:
    """The ledger; claims by their id, so that a new one moves no other."""
    lines = json.loads(printed("claims", "--preset", profile, "--json"))
    return {f"claims/{profile}.json": as_text({line["id"]: line for line in lines})}


def figure_files(profile: str, folder: Path) -> Files:
    """Every figure that has rows."""
    printed("figure", "--preset", profile, "--output", folder / "figures")
    drawn = sorted((folder / "figures").rglob("*.svg"))
    return {f"figures/{profile}/{path.name}": path.read_text() for path in drawn}


def plan_files(study: Path, profile: str, folder: Path) -> Files:
    """The runs of a study by name. Names that runs were given, and the axes, which the hashes hold, are left out."""
    runs = json.loads(printed("study", "plan", study, "--preset", profile, "--runs", folder / "runs", "--json"))
    return {f"plans/{study.stem}-{profile}.json": as_text({run["run"]: _hashed(run) for run in runs})}


def _hashed(run: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in run.items() if name not in ("name", "axes")}


def data_files() -> Files:
    """The shipped data sets."""
    sets = json.loads(printed("data", "list", "--json"))
    return {"data/list.json": as_text({one["name"]: one for one in sets})}


def help_files(*command: str) -> Files:
    """Help of a command and of the commands below it."""
    text = printed(*command, "--help")
    files = {f"help/{' '.join(('miclab', *command))}.txt": text}
    if command:
        group = re.match(rf"usage: miclab {' '.join(command)} \{{([\w,-]+)\}}", text)
        below = group[1].split(",") if group else []
    else:
        below = re.findall(r"^  ([a-z][\w-]*) {2,}\S", text.partition("commands:")[2].partition("\n\n")[0], re.M)
    for name in below:
        files |= help_files(*command, name)
    return files


Job = Callable[[Path], Files]


def jobs() -> dict[str, Job]:
    """Every golden by name; each gets an empty folder and gives its files, whose names start with the job's."""
    found: dict[str, Job] = {"help": lambda folder: help_files(), "data": lambda folder: data_files()}
    for profile in PROFILES:
        found[f"claims/{profile}"] = lambda folder, profile=profile: claim_files(profile)
        found[f"figures/{profile}"] = lambda folder, profile=profile: figure_files(profile, folder)
        for study in sorted((ROOT / "studies").glob("*.yaml")):
            name = f"plans/{study.stem}-{profile}"
            found[name] = lambda folder, study=study, profile=profile: plan_files(study, profile, folder)
    for name in RUNS:
        found[f"runs/{name}"] = lambda folder, name=name: run_files(name, folder)
    found["analyses"] = analysis_files
    return found


def owns(job: str, file: str) -> bool:
    """Whether a file is of a job."""
    return file.startswith((f"{job}.", f"{job}/"))
