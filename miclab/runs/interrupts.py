"""SIGINT that is acted on even if a library swallowed it.

Python's KeyboardInterrupt can get lost in a callback of C, in a finaliser, or in a bare `except` while a library is
imported. So the command line records the signal as well, and work stops at its next step if the signal is still
pending.
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
    """Records every SIGINT while the block runs, unless this process ignores it."""
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
    """Whether a SIGINT is pending. The caller acts on it, and it is then no longer pending."""
    global _open
    found, _open = _open, False
    return found


def heed() -> None:
    """Raises KeyboardInterrupt where a SIGINT was swallowed."""
    if _open and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt
