"""What all tests share: one thread, and shapes checked on every call of miclab."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

torch.set_num_threads(1)
# No test uses a network. A request to a hub that does not answer is repeated for minutes.
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
SOURCES = Path(__file__).parents[1] / "miclab"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
REQUIRE_BROWSER = "MICLAB_REQUIRE_BROWSER"
"""Environment variable: where it is set, a test that finds no browser fails."""


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests come first. At the end two workers then have short tests to share, and none waits a minute
    for the other's last one."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Names the tests that were skipped, and how to have them run, in the last lines."""
    skipped = terminalreporter.getreports("skipped")
    if skipped:
        terminalreporter.section(f"skipped: {len(skipped)}")
    for report in skipped:
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.line(f"{report.nodeid}: {reason.removeprefix('Skipped: ')}")


def without_browser(lack: str) -> NoReturn:
    """Skips the test for want of a browser, or fails it under `REQUIRE_BROWSER`."""
    if os.environ.get(REQUIRE_BROWSER):
        pytest.fail(f"{lack} ({REQUIRE_BROWSER} is set, so that this is no reason to skip)")
    pytest.skip(lack)


def browser_path() -> str:
    """Where a Chromium lies; skips the test where there is none, or fails it under `REQUIRE_BROWSER`."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    return found or without_browser(
        f"no browser is on the PATH ({', '.join(BROWSERS)}): install one, on Debian with `apt-get install chromium`"
    )


@pytest.fixture(scope="module", autouse=True)
def _no_browser_is_left() -> Iterator[None]:
    """Ends the browser that the tests of a file shared."""
    yield
    if "browser" in sys.modules:
        sys.modules["browser"].end()


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
