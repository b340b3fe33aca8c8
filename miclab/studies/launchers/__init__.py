"""Where the tasks of a study are done. Each launcher takes paths of task files and gives back their answers."""

from __future__ import annotations

from typing import Protocol


class Launcher(Protocol):
    """Starts tasks somewhere.

    A launcher promises nothing about a task that it lost with a process or a machine but to say so: an answer of None.
    """

    def room(self) -> int:
        """How many more tasks can be given now."""
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
        """Lets go of processes and connections."""
        ...
