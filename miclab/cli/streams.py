"""Standard error that may be closed: text that cannot be shown is dropped, and the work continues."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast


class Lasting:
    """A stream of text whose reader may leave. The first write that fails turns it, and the file descriptor below it,
    to the null device.

    Arguments:
        stream: where the text goes.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes a text, or drops it; returns its length."""
        try:
            self._stream.write(text)
        except (OSError, ValueError):
            self._drop()
        return len(text)

    def flush(self) -> None:
        """Flushes the written text, or drops it."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._drop()

    def _drop(self) -> None:
        # What the stream still holds goes there too, so that Python's own last flush succeeds.
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _held_open() -> None:
    """Opens the null device for closed descriptors 0 to 2. Otherwise a file of a run could get the number of standard
    error, and the messages of libraries."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


@contextlib.contextmanager
def lasting_standard_error() -> Iterator[None]:
    """Standard error does not end the block, whether it is closed now or later."""
    before = sys.stderr
    _held_open()
    with contextlib.ExitStack() as stack:
        # Python has None for a stream that was closed from the start, and `print` takes that for standard output.
        stream = before if before is not None else stack.enter_context(open(os.devnull, "w"))
        sys.stderr = cast(TextIO, Lasting(stream))
        try:
            yield
        finally:
            sys.stderr = before
