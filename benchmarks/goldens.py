"""Goldens: what the commands give today, kept so that a change of the code can be compared with it.

    python -m benchmarks.goldens write DIRECTORY      makes them
    python -m benchmarks.goldens compare DIRECTORY    makes them again and names every difference; status 1 if any

    runs/NAME.json            directory names, digests of world and parameters (steps 0 and 20), metric rows
    analyses/COMMAND.json     evaluate, circuits, knockout, ablate, align, diagnose of one stage-2 run
    claims/PROFILE.json       the ledger
    figures/PROFILE/ID.svg    every figure that has rows
    plans/STUDY-PROFILE.json  run hashes of every study
    data/list.json            the shipped data sets
    help/COMMAND.txt          help of every command and subcommand

Everything is compared exactly, with two exceptions: numbers in `claims/` may differ by 1e-9, and numbers in `figures/`
by 0.01 of a point. Bits of runs depend on the processor and on PyTorch: compare on the machine that wrote the goldens.
Only the command line is used (see `benchmarks.golden_items`), so that modules may move.
"""

from __future__ import annotations

import fnmatch
import importlib.metadata
import json
import math
import os
import platform
import re
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from benchmarks import program
from benchmarks.golden_items import Files, GoldenError, Job, as_text, close_server, jobs, owns
from benchmarks.program import Line, Lines, say

TOLERANCES = {"claims": 1e-9, "figures": 0.01}
SHOWN = 20
"""Differences of one file that are printed at most."""


# -- comparing --------------------------------------------------------------------------------------------------------
def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value of nested data with its path."""
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from leaves(part, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value:
        for index, part in enumerate(value):
            yield from leaves(part, f"{path}[{index}]")
    else:
        yield path, value


def near(one: Any, other: Any, tolerance: float) -> bool:
    """Whether two plain values are equal, numbers within the tolerance."""
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (one, other))
    if numbers and tolerance:
        return math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)
    return type(one) is type(other) and one == other


_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
_IDENTITY = re.compile(r"(?<=[a-z_])[0-9a-f]{10}\b")


def alike(one: str, other: str, tolerance: float) -> bool:
    """Whether two lines are equal, numbers in them within the tolerance."""
    if one == other or not tolerance:
        return one == other
    if _NUMBER.sub("0", one) != _NUMBER.sub("0", other):
        return False
    pairs = zip(_NUMBER.findall(one), _NUMBER.findall(other), strict=True)
    return all(abs(float(a) - float(b)) <= tolerance for a, b in pairs)


def numbered(text: str) -> str:
    """A picture whose identities, digests of what is drawn, are replaced by the order in which they appear."""
    order: dict[str, str] = {}
    return _IDENTITY.sub(lambda match: order.setdefault(match[0], f"identity{len(order)}"), text)


def differences(file: str, old: str, new: str) -> list[tuple[str, str]]:
    """Where two files differ, and what stands there."""
    if old == new:
        return []
    tolerance = TOLERANCES.get(file.partition("/")[0], 0.0)
    if file.endswith(".json"):
        before, after = dict(leaves(json.loads(old))), dict(leaves(json.loads(new)))
        missing = [(path, f"was {before[path]!r}, is missing") for path in before.keys() - after.keys()]
        added = [(path, f"is new: {after[path]!r}") for path in after.keys() - before.keys()]
        changed = [
            (path, f"was {before[path]!r}, is {after[path]!r}")
            for path in before.keys() & after.keys()
            if not near(before[path], after[path], tolerance)
        ]
        return sorted(missing + added + changed)
    before, after = numbered(old).splitlines(), numbered(new).splitlines()
    if len(before) != len(after):
        return [("lines", f"were {len(before)}, are {len(after)}")]
    pairs = enumerate(zip(before, after, strict=True), 1)
    return [(f"line {n}", f"was {a.strip()!r}, is {b.strip()!r}") for n, (a, b) in pairs if not alike(a, b, tolerance)]


def machine() -> dict[str, str]:
    """What bits depend on, beside the code."""
    facts = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "polars", "matplotlib", "tyro")}
    processor = Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else platform.processor()
    model = re.search(r"model name\s*: (.*)", processor)
    return {
        **facts,
        "python": platform.python_version(),
        "processor": model[1] if model else platform.machine(),
        "AVX-512": str("avx512f" in processor),
    }


# -- the commands -----------------------------------------------------------------------------------------------------
def made(chosen: dict[str, Job], failed: dict[str, str]) -> Iterator[tuple[str, Files]]:
    """Carries out jobs one after the other, with a line for each; what fails is noted."""
    begin = time.perf_counter()
    for number, (name, job) in enumerate(chosen.items(), 1):
        since, files = time.perf_counter(), {}
        with tempfile.TemporaryDirectory(prefix="goldens-") as folder:
            try:
                files = job(Path(folder))
            except (GoldenError, OSError, ValueError, KeyError) as error:
                failed[name] = f"{type(error).__name__}: {error}"
        now = time.perf_counter()
        word = "failed" if name in failed else f"{len(files)} file{'s' * (len(files) != 1)}"
        say(f"[{number}/{len(chosen)}] {name}: {word}, {now - since:.1f} s ({now - begin:.0f} s)")
        yield name, files
    close_server()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    say(f"{used.ru_utime + used.ru_stime:.0f} s of processor time")


def write(directory: Path, chosen: dict[str, Job]) -> Lines:
    """Writes goldens into a new directory."""
    if directory.exists() and any(directory.iterdir()):
        raise GoldenError(f"{directory} is not empty. Name a new directory, or delete it first.")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "machine.json").write_text(as_text(machine()))
    failed: dict[str, str] = {}
    for _, files in made(chosen, failed):
        for name, text in files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    for name, reason in failed.items():
        yield Line(f"{name} failed: {reason}", {"golden": name, "failed": reason}, failed=True)


def compare(directory: Path, chosen: dict[str, Job], allowed: tuple[str, ...]) -> Lines:
    """Makes goldens again and prints how they differ from those of a directory."""
    if not (directory / "machine.json").is_file():
        raise GoldenError(f"{directory} holds no goldens. `python -m benchmarks.goldens write {directory}` makes them.")
    before = json.loads((directory / "machine.json").read_text())
    for name, value in machine().items():
        if before.get(name) != value:
            say(f"note: {name} was {before.get(name)!r}, is {value!r}: bits of runs may differ")
    old = {str(p.relative_to(directory)): p for p in directory.rglob("*") if p.is_file() and p.name != "machine.json"}
    failed: dict[str, str] = {}
    found: list[tuple[str, str, str]] = []
    for job, files in made(chosen, failed):
        if job in failed:
            found.append((job, "", f"cannot be made: {failed[job]}"))
            continue
        for file in sorted({*files, *(name for name in old if owns(job, name))}):
            if file not in files or file not in old:
                found.append((file, "", "is missing" if file in old else "is new"))
            else:
                found += [(file, *one) for one in differences(file, old[file].read_text(), files[file])]
    if chosen.keys() == jobs().keys():
        known = [file for file in old if not any(owns(job, file) for job in chosen)]
        found += [(file, "", "is missing: nothing makes it any more") for file in known]
    bad = [one for one in found if not any(fnmatch.fnmatch(n, p) for p in allowed for n in (one[0], ":".join(one[:2])))]
    for file in dict.fromkeys(name for name, *_ in bad):
        own = [one for one in bad if one[0] == file]
        for number, (_, where, words) in enumerate(own):
            text = f"{file}{':' * bool(where)}{where} {words}" if number < SHOWN else ""
            yield Line(text, {"file": file, "where": where, "difference": words}, failed=True)
        if len(own) > SHOWN:
            yield Line(f"{file}: and {len(own) - SHOWN} more differences")
    count = len({file for file, *_ in bad})
    yield Line(f"{len(bad)} differences in {count} files; {len(found) - len(bad)} more are allowed")


Patterns = Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="PATTERN")]


@dataclass(frozen=True, kw_only=True)
class Options(program.Options):
    """What is done, where, and with which goldens."""

    action: tyro.conf.Positional[Literal["write", "compare"]]
    """Make goldens, or make them again and compare."""
    directory: tyro.conf.Positional[Path]
    """Directory of the goldens; a new one for `write`."""
    only: Patterns = ()
    """Goldens to make, such as 'runs/*'; the option is repeated for each. Empty: all."""
    allow: Patterns = ()
    """Differences that are no fault, as FILE or FILE:PATH, such as 'help/*' or 'plans/*:*.in_committed_rows'; the
    option is repeated for each."""


def measure(options: Options) -> Lines:
    """The differences, or what could not be made."""
    every = jobs()
    only = options.only or ("*",)
    chosen = {name: job for name, job in every.items() if any(fnmatch.fnmatch(name, pattern) for pattern in only)}
    if not chosen:
        raise GoldenError(f"--only {' '.join(only)} names no golden: {', '.join(every)}")
    if options.action == "write":
        return write(options.directory, chosen)
    return compare(options.directory, chosen, options.allow)


main = program.program("goldens", Options, measure, __doc__)

if __name__ == "__main__":
    sys.exit(main(None))
