"""Signals that end a training: they become a request to stop after the current step."""

from __future__ import annotations

import os
import signal
import threading

from miclab.runs import interrupts


class Signals:
    """Turns SIGINT and SIGTERM into a request to stop after the current step.

    A signal that comes too late to stop this run is passed on at the end, since another run may follow.
    """

    def __enter__(self) -> Signals:
        # A signal that was swallowed before training began counts too.
        self.received = "SIGINT" if interrupts.claim() else ""
        self.heeded = False
        self._old = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._take)
        return self

    def _take(self, number: int, frame: object) -> None:
        self.received = signal.Signals(number).name

    def __exit__(self, *details: object) -> None:
        for number, handler in self._old.items():
            # None: the handler was not set by Python, and cannot be set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if self.received and not self.heeded:
            os.kill(os.getpid(), signal.Signals[self.received])
