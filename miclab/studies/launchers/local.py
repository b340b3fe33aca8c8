"""This machine: processes of one thread each, which are reused from run to run."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import Any

from joblib.externals import loky

from miclab.config.extensions import handed_on
from miclab.studies.task import Stoppable, environment, perform

GRACE = 60.0
"""Seconds for a worker to save a checkpoint after its engine died."""


def prepare_worker(owner: int) -> None:
    """Prepares a worker for signals. If its engine dies, it saves a checkpoint and ends."""
    Stoppable.take_signals()

    def watch() -> None:
        while os.getppid() == owner:
            time.sleep(1.0)
        if Stoppable.busy:
            os.kill(os.getpid(), signal.SIGTERM)
            deadline = time.monotonic() + GRACE
            while Stoppable.busy and time.monotonic() < deadline:
                time.sleep(0.1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch").start()


def cores() -> int:
    """Cores that this process may use."""
    return loky.cpu_count()


class LocalLauncher:
    """Worker processes on this machine.

    Arguments:
        workers: number of processes; by default one for each core.
    """

    def __init__(self, workers: int = 0):
        self.workers = workers or cores()
        self._executor: Any = None
        self._futures: dict[Any, str] = {}
        self._lost: list[tuple[str, None]] = []

    def room(self) -> int:
        """Workers without a task."""
        return self.workers - len(self._futures)

    def _open_executor(self) -> Any:
        if self._executor is None:
            self._executor = loky.ProcessPoolExecutor(
                self.workers,
                timeout=None,
                initializer=prepare_worker,
                initargs=(os.getpid(),),
                env=environment(),
            )
        return self._executor

    def submit(self, paths: list[str]) -> None:
        """Gives tasks to workers."""
        for path in paths:
            try:
                self._futures[self._open_executor().submit(perform, path, handed_on())] = path
            except loky.BrokenProcessPool:
                # A worker died since the last `wait`; the next one reports the other tasks.
                self._lost.append((path, None))

    def wait(self, seconds: float) -> list[tuple[str, str | None]]:
        """Answers of ended tasks. When a worker dies, all running tasks are lost and a new executor is made."""
        found: list[tuple[str, str | None]] = list(self._lost)
        self._lost = []
        if not self._futures:
            if not found:
                time.sleep(seconds)
            return found
        ended, _ = loky.wait(list(self._futures), timeout=seconds, return_when=loky.FIRST_COMPLETED)
        for future in ended:
            path = self._futures.pop(future)
            try:
                found.append((path, future.result()))
            except (loky.BrokenProcessPool, loky.CancelledError):
                found.append((path, None))
        if any(answer is None for _, answer in found):
            found += [(path, None) for path in self._futures.values()]
            self._futures = {}
            self._shut(kill=True)
        return found

    def stop(self) -> None:
        """Sends SIGTERM to the workers: training saves a checkpoint and ends."""
        for process in self._processes():
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGTERM)

    def _processes(self) -> list[int]:
        return [] if self._executor is None else list(self._executor._processes or {})

    def _shut(self, kill: bool) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, kill_workers=kill)
            self._executor = None

    def close(self) -> None:
        """Ends the workers."""
        self._shut(kill=bool(self._futures))
