"""Launchers of a study's tasks. Each takes paths of task files and returns their answers."""

from __future__ import annotations

from typing import Protocol


class Launcher(Protocol):
    """Starts tasks somewhere.

    A launcher reports a task that was lost with a process or a machine by the answer None.
    """

    def room(self) -> int:
        """How many more tasks it can take now."""
        ...

    def submit(self, paths: list[str]) -> None:
        """Starts tasks, by the paths of their files."""
        ...

    def wait(self, seconds: float) -> list[tuple[str, str | None]]:
        """Path and answer of tasks that ended, after so many seconds at most; None: its process died."""
        ...

    def stop(self) -> None:
        """Makes running tasks save a checkpoint and end; `wait` gives their answers."""
        ...

    def close(self) -> None:
        """Closes processes and connections."""
        ...
