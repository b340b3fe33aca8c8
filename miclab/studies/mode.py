"""The numeric mode of `auto` in a study, determined once for a directory of runs."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from miclab import storage
from miclab.config.parts import WIDEST_GROUP
from miclab.errors import ConfigError, RunError
from miclab.studies.state import FOLDER


def _fingerprint() -> list[str]:
    """The facts that decide whether a compiler works here, found without importing torch."""
    compilers = [shutil.which(name) or "" for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++") if name]
    return [importlib.metadata.version("torch"), sys.version, platform.node(), platform.machine(), *compilers]


USUAL_LANES = 8
"""Lanes of a group where the user leaves their number open."""


def study_mode(root: Path, lanes: str) -> Callable[[], str]:
    """A function that finds out what `auto` stands for in a study (see `miclab.studies.points.Mode`).

    Arguments:
        lanes: `off`, `auto`, or the number of lanes of a group.

    Raises:
        ConfigError: it is none of these.
    """
    if lanes == "off":
        return lambda: long_mode(root)
    if lanes != "auto" and not (lanes.isdecimal() and 1 <= int(lanes) <= WIDEST_GROUP):
        raise ConfigError("lanes", lanes, f"off, auto (groups of {USUAL_LANES}) or 1 to {WIDEST_GROUP}")
    return lambda: f"lanes:{USUAL_LANES if lanes == 'auto' else int(lanes)}"


def long_mode(root: Path) -> str:
    """`compiled` if a compiler works on this machine, else `eager`. It is the mode of a long run, so that all runs of a
    study share it. A trial takes some seconds, so the answer is kept beside the runs until the compiler or torch
    changes."""
    file, here = root / FOLDER / "mode.json", _fingerprint()
    try:
        found = json.loads(storage.read_file(file))
        if found["here"] == here and found["mode"] in ("eager", "compiled"):
            return found["mode"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    from miclab.training import numerics

    mode = "eager" if numerics.why_not_compiled() else "compiled"
    with contextlib.suppress(RunError):  # Who may only read tries the compiler every time.
        storage.write_bytes(file, storage.json_bytes({"here": here, "mode": mode}))
    return mode
