"""SIGINT, heeded also where it was swallowed.

The KeyboardInterrupt that Python raises can get lost: in a callback of C, in a finaliser, in a bare `except` of a
library while it is imported. So the command line notes the signal as well, and work stops at its next step where one
is still open.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

_open = False


def _take(number: int, frame: object) -> None:
    global _open
    _open = True
    raise KeyboardInterrupt


@contextlib.contextmanager
def noted() -> Iterator[None]:
    """Notes every SIGINT while the block runs, unless this process is to ignore it."""
    before = signal.getsignal(signal.SIGINT)
    mine = threading.current_thread() is threading.main_thread() and before not in (signal.SIG_IGN, None)
    if mine:
        signal.signal(signal.SIGINT, _take)
    try:
        yield
    finally:
        claim()
        if mine:
            signal.signal(signal.SIGINT, before)


def claim() -> bool:
    """Whether a SIGINT is open; the caller heeds it, and it is open no more."""
    global _open
    found, _open = _open, False
    return found


def heed() -> None:
    """Raises KeyboardInterrupt where a SIGINT was swallowed."""
    if _open and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt
