"""What the commands of `miclab mllm` leave behind: a page, a manifest, and the exit status."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from miclab.mllm.results import Results
    from miclab.report.models import Page

SHOWN, MANIFEST = 3, "manifest.json"


def save_page(
    results: Results,
    arguments: Sequence[str],
    title: str,
    page: Page,
    problem: str = "",
) -> None:
    """Writes the page of a command, which names the command, among its results.

    Arguments:
        results: of the command.
        arguments: what it was given.
        title: of the page.
        page: what it shows.
        problem: why the results are partial.
    """
    from miclab.report.models import page_bytes

    command = results.body["command"]
    made_by = shlex.join(["miclab", "mllm", command, *arguments])
    results.file(f"{command}.html", page_bytes(title, made_by, page, problem))


def remark(results: Results, remarks: Iterable[str]) -> None:
    """Notes what is to be known of what a model was shown, and prints the first of it."""
    found = list(remarks)
    if not found:
        return
    results.note(remarks=found)
    more = f"; {len(found) - SHOWN} more in {MANIFEST}" if len(found) > SHOWN else ""
    print(f"miclab: {' '.join(found[:SHOWN])}{more}", file=sys.stderr)


def close(results: Results, problem: str = "", status: int = 2) -> int:
    """Marks results as whole or partial, says where they are, and gives the exit status: 0, or where there is a problem
    `status`."""
    results.finish(problem)
    if problem:
        print(f"miclab: {problem}\nmiclab: partial results are kept in {results.folder}", file=sys.stderr)
        return status
    print(f"wrote {results.folder}", file=sys.stderr)
    return 0
