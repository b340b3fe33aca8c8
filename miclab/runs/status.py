"""How the status of a run is marked in tables and on pages."""

from __future__ import annotations

from miclab.statistics.palette import Kind
from miclab.tables import Mark

KINDS: dict[str, Kind] = {"finished": "good", "done": "good", "diverged": "bad", "failed": "bad", "damaged": "bad"}
"""Kinds of the marks of runs and of planned runs; every other status is plain."""


def status_mark(status: str) -> Mark:
    """A status in its mark."""
    return Mark(status, KINDS.get(status, "plain"))
