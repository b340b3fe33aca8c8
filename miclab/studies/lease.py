"""Who trains a run: a lease that one process at a time can hold, also on a file system that several machines share.

    .studies/claims/HASH.0     a small file: machine, process, token; its time of change is the heartbeat

A lease is made by `link`, which fails if the name exists. The lease of a dead owner is not removed. A process that
finds it stale links HASH.1, and of several such processes one succeeds. The highest number owns the run. The maker of a
lease checks it again. It gives the lease up unless it is the highest and its predecessor still exists.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from miclab import storage
from miclab.errors import RunError

BEAT = 15.0
"""Seconds between heartbeats."""
NAME = re.compile(r"[^.]+\.[0-9]{1,9}")
"""The names of leases: RUN.GENERATION."""
TIMEOUT = 300.0
"""Seconds without a heartbeat after which the lease of another machine is stale."""


def machine() -> str:
    """A name of this machine since it was started, and of the processes that can see each other."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return "/".join(parts)


def started(process: int) -> str:
    """When a process of this machine began, which distinguishes it from a later one with the same number; empty if
    there is none."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    try:
        # After the name in brackets, which may hold any text, state is the first field and the start the twentieth.
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "unknown"
    return "" if state[0] in "ZX" else state[19]


@dataclass(frozen=True)
class Owner:
    """The owner of a lease.

    Arguments:
        machine: see `machine`.
        process: its number there.
        started: see `started`.
        token: of this one lease.
    """

    machine: str
    process: int
    started: str
    token: str

    @property
    def machine_name(self) -> str:
        """Host name."""
        return self.machine.partition("/")[0]


def _now(folder: Path) -> float:
    """The time by the clock of the file system, which is the clock of the heartbeats."""
    beside = folder / f".clock.{secrets.token_hex(6)}.tmp"
    try:
        beside.touch()
        return beside.stat().st_mtime
    except OSError:
        # A user without permission to write can only watch.
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def _owner(path: Path) -> Owner | None:
    try:
        found = Owner(**json.loads(storage.read_file(path)))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    fits = type(found.process) is int and 0 < found.process < 2**31
    return (
        found if fits and all(isinstance(text, str) for text in (found.machine, found.started, found.token)) else None
    )


def is_stale(path: Path, owner: Owner | None, timeout: float = TIMEOUT) -> bool:
    """Whether the owner of a lease is gone: dead on this machine, or silent on another."""
    if owner is not None and owner.machine == machine():
        return started(owner.process) != owner.started
    try:
        beat = path.stat().st_mtime
    except OSError:
        return True
    return _now(path.parent) - beat > timeout


def _generation(path: Path) -> int:
    return int(path.suffix[1:])


def _leases(folder: Path, run: str) -> list[Path]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted((folder / n for n in names if NAME.fullmatch(n) and n.partition(".")[0] == run), key=_generation)


def owners(folder: Path, timeout: float = TIMEOUT) -> dict[str, Owner]:
    """Owner of every run under a lease that is not stale, by run."""
    try:
        names = [n for n in os.listdir(folder) if NAME.fullmatch(n)]
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RunError(f"Cannot read {folder}: {error.strerror or error}.") from error
    last: dict[str, Path] = {}
    for path in sorted((folder / name for name in names), key=_generation):
        last[path.stem] = path
    found = {}
    for run, path in last.items():
        owner = _owner(path)
        if owner is not None and not is_stale(path, owner, timeout):
            found[run] = owner
    return found


class Lease:
    """A lease of a run, held until `release`. Make one with `reserve`."""

    def __init__(self, path: Path, owner: Owner):
        self.path, self.owner = path, owner
        self._over = threading.Event()
        self._lost = False
        threading.Thread(target=self._beat, daemon=True, name="heartbeat").start()

    @property
    def lost(self) -> bool:
        """Whether another process took the run over because this one seemed dead."""
        return self._lost

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            with contextlib.suppress(OSError):
                highest = _leases(self.path.parent, self.path.stem)
                if not highest or highest[-1] != self.path:
                    self._lost = True
                    return
                os.utime(self.path)

    def release(self) -> None:
        """Releases the run."""
        self._over.set()
        for path in _leases(self.path.parent, self.path.stem):
            # This includes the lease's predecessors.
            if _generation(path) <= _generation(self.path):
                with contextlib.suppress(OSError):
                    path.unlink()


def reserve(folder: Path, run: str, timeout: float = TIMEOUT) -> Lease | None:
    """Leases a run to this process; None where another process holds it.

    Arguments:
        folder: directory of leases.
        run: name of the run, without a point.
        timeout: see `TIMEOUT`.

    Raises:
        RunError: a lease cannot be written.
    """
    owner = Owner(machine(), os.getpid(), started(os.getpid()), secrets.token_hex(8))
    before = _leases(folder, run)
    followed = _owner(before[-1]) if before else None
    if before and not is_stale(before[-1], followed, timeout):
        return None
    path = folder / f"{run}.{_generation(before[-1]) + 1 if before else 0}"
    temporary = storage.temporary_beside(path)
    storage.write_bytes(temporary, storage.json_bytes(vars(owner)))
    try:
        with contextlib.suppress(FileExistsError), storage.explained(path):
            # Over a network the answer of a successful `link` may be lost, but the number of links is reliable.
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
            if os.stat(temporary).st_nlink != 2:
                return None
    finally:
        temporary.unlink(missing_ok=True)
    still = not before or _owner(before[-1]) == followed
    if not still or _leases(folder, run)[-1:] != [path]:
        path.unlink(missing_ok=True)
        return None
    return Lease(path, owner)
