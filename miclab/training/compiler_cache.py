"""The folder of compiled steps: a second process finds there what a first one compiled.

PyTorch keeps compiled graphs on disk. It unpickles them and loads their machine code, so whoever can write into the
folder can run code as the user. Its usual folder has a name that others can guess, among the machine's temporary files.
So miclab uses a folder of the user's own:

    ~/.cache/miclab/compiled/KIND   Linux, or under `XDG_CACHE_HOME`
    ~/Library/Caches/miclab/...     macOS
    %LOCALAPPDATA%/miclab/...       Windows

KIND stands for PyTorch's version and the processor's instructions. Machines of a cluster share home directories. Code
that was compiled for one processor gives wrong numbers on another, and PyTorch does not notice. Others can neither read
nor write the folder. Nothing in it comes from another user: miclab sends no part of it, and loads no part that was
sent. A part fits only the same graph, PyTorch and options. The folder may be deleted at any time.

A user who names another folder in `TORCHINDUCTOR_CACHE_DIR` gets `KIND` inside it.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import platform
import shutil
import stat
import sys
import tempfile
from pathlib import Path

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
"""PyTorch's own variable. In a folder that the user names there, each kind of machine has its own subfolder."""


def processor_flags() -> str:
    """The instructions that the processor has, as Linux names them; elsewhere the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":") for line in lines)
    return next((flags for name, _, flags in named if name.strip() in ("flags", "Features")), platform.processor())


def machine_kind() -> str:
    """A name for all machines, and settings of PyTorch, on which the same compiled code is right."""
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    known = (torch.__version__, sys.version, platform.machine(), capability, processor_flags())
    return f"{capability.lower().replace(' ', '-')}-{hashlib.sha256(repr(known).encode()).hexdigest()[:16]}"


def usual_folder() -> Path:
    """The user's folder for compiled steps on this kind of machine.

    Raises:
        RuntimeError: the user has no home directory.
    """
    if sys.platform == "darwin":
        base = Path.home() / "Library/Caches"
    elif os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local")
    else:
        named = Path(os.environ.get("XDG_CACHE_HOME") or "")
        base = named if named.is_absolute() else Path.home() / ".cache"
    return base / "miclab" / "compiled" / machine_kind()


def is_private(folder: Path) -> bool:
    """Whether a folder, no link, belongs to this user and nobody else can write into it. On Windows the user's own
    folders always do."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        return False
    return os.name == "nt" or (found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _named_by_user() -> str:
    """The folder in the variable; empty if it is PyTorch's usual one. PyTorch puts that there itself, as soon as a
    process has computed a gradient."""
    named = os.environ.get(VARIABLE, "")
    is_usual = Path(named).parent == Path(tempfile.gettempdir()) and Path(named).name.startswith("torchinductor_")
    return "" if is_usual else named


@functools.lru_cache(maxsize=1)
def use_own_folder() -> str:
    """Makes PyTorch keep compiled steps in the user's folder; returns its path. Where that cannot be had, they are kept
    in a new private folder until this process ends."""
    try:
        if named := _named_by_user():
            # Who may write into it is the user's choice. A process that this one starts is given the subfolder.
            folder = Path(named) if Path(named).name == machine_kind() else Path(named).absolute() / machine_kind()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            parts = ()
        else:
            folder = usual_folder()
            parts = (folder.parent.parent, folder.parent, folder)
            for part in parts:
                part.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not all(map(is_private, parts)) or not os.access(folder, os.W_OK | os.X_OK):
            raise OSError(f"{folder} can be changed by others")
    except (OSError, RuntimeError):
        folder = Path(tempfile.mkdtemp(prefix="miclab-compiled-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[VARIABLE] = str(folder)
    return str(folder)
