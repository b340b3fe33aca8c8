"""What all tests share: one thread, and shapes checked on every call of miclab."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

torch.set_num_threads(1)
SOURCES = Path(__file__).parents[1] / "miclab"


def _modules_with_shapes() -> list[str]:
    """Modules that annotate shapes. The configuration's are left out: they judge wrong types by themselves, and a type
    checker before them would hide what they say."""
    paths = [path for path in sorted(SOURCES.rglob("*.py")) if "from jaxtyping import" in path.read_text()]
    return [".".join(path.relative_to(SOURCES.parent).with_suffix("").parts) for path in paths]


# Before miclab is imported: every annotated shape is checked on every call in the tests, and only there.
install_import_hook(_modules_with_shapes(), "shape_checker.check")
# The same examples on every machine, and no example is judged by the clock.
settings.register_profile("miclab", deadline=None, derandomize=True, database=None)
settings.load_profile("miclab")


def pytest_configure(config: pytest.Config) -> None:
    """Names the mark of the end-to-end trainings: `-m "not slow"` leaves them out."""
    config.addinivalue_line("markers", "slow: trains a decoder for up to some minutes")


@pytest.fixture
def run_python() -> Callable[..., Any]:
    """Runs a script in a process of its own, without shape checks (they would break compiled graphs).

    The script is given the arguments as `sys.argv[1:]`; the last line that it prints is JSON and is returned.
    """

    def run(script: str, *arguments: object) -> Any:
        done = subprocess.run(
            [sys.executable, "-c", script, *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[1],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run
