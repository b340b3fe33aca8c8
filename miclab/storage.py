"""Bytes on disk: written whole or not at all, and checked when they are read."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miclab.errors import GONE, BusyError, DamagedError, RunContentError, RunError, is_working_directory_gone

if TYPE_CHECKING:
    from torch import Tensor

TEMPORARY = ".*.tmp"
"""Pattern of the names of incomplete files and directories, which a crash leaves behind."""
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")


def digest(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns the system's error on writing `path` into a RunError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "Free some space, then go on with `miclab resume`; all up to the last checkpoint is kept."
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "Choose a directory that you may write to with --runs or --output, or change its permissions."
        else:
            gone = is_working_directory_gone() and not os.path.isabs(path)
            remedy = GONE if gone else "Choose another directory with --runs or --output."
        raise RunError(f"Cannot write {path}: {error.strerror or error}. {remedy}") from error


def temporary_beside(path: Path) -> Path:
    """A hidden name that is unique over threads, processes and machines. `TEMPORARY` matches it."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def is_temporary(name: str) -> bool:
    """Whether `temporary_beside` makes such names."""
    return _TEMPORARY.fullmatch(name) is not None


def sync_directory(path: Path) -> None:
    """Makes the names in a directory survive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_place(path: Path) -> None:
    """Checks that a file could be written, by an empty one that is removed again. No directory is made.

    Raises:
        RunError: it could not.
    """
    there = next(parent for parent in path.absolute().parents if parent.exists())
    with explained(path):
        temporary = temporary_beside(there / path.name)
        temporary.touch(exist_ok=False)
        temporary.unlink()


def write_bytes(path: Path, content: bytes) -> str:
    """Writes a file atomically, with the directories that it needs, and returns its SHA-256. A reader or a crash sees
    all of it or nothing.

    Raises:
        RunError: the file cannot be written.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    return replace_bytes(path, content)


def replace_bytes(path: Path, content: bytes) -> str:
    """`write_bytes` into an existing directory.

    Raises:
        RunError: the file cannot be written.
    """
    temporary = temporary_beside(path)
    with explained(path):
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_directory(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    return digest(content)


def read_file(path: Path | str) -> bytes:
    """All of a regular file. A fifo, a device or a directory in its place is not opened: it could block, or never end.

    Raises:
        OSError: it cannot be read; `strerror` says why.
    """
    check_regular(path)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        size = check_regular(handle)
        content = os.read(handle, size + 1)
        if len(content) == size:
            return content
        # It grows, or is larger than one call reads, or says no size.
        parts = [content]
        while part := os.read(handle, 2**20):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(handle)


def check_regular(path: Path | str | int) -> int:
    """Makes sure that a path, or an open descriptor, is a regular file; its length in bytes.

    Raises:
        OSError: it is something else, or cannot be opened.
    """
    found = os.stat(path)
    mode = found.st_mode
    if stat.S_ISREG(mode):
        return found.st_size
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a directory and no file", str(path))
    kind = "a fifo" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
    raise OSError(errno.EINVAL, f"it is {kind} and no file", str(path))


def unreadable(path: Path | str, error: OSError) -> RunContentError:
    """The error that the system refused to read a file of a run."""
    return RunContentError(path, f"expected a file that can be read ({error.strerror or error})")


def read_checked(path: Path | str, sha256: str, remedy: str) -> bytes:
    """A file's content.

    Raises:
        DamagedError: it is missing or was changed; `remedy` is the end of the message.
        RunContentError: it cannot be read, for example for lack of permission, though it may be intact.
    """
    try:
        content = read_file(path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EIO):
            raise unreadable(path, error) from error
        content = None
    if content is None or digest(content) != sha256:
        raise DamagedError(path, remedy)
    return content


def sealed(content: Mapping[str, Any]) -> bytes:
    """A mapping as JSON that carries its own checksum."""
    body = json_bytes(content)
    return HEAD + body[:-1] + _tail(body)


HEAD = b'{"manifest": '
"""How a sealed file begins."""


def _tail(body: bytes) -> bytes:
    return f', "sha256": "{digest(body)}"}}\n'.encode()


def read_sealed(path: Path | str, remedy: str) -> dict[str, Any]:
    """The mapping that `sealed` made a file of.

    Raises:
        DamagedError: it is not what was written; `remedy` is the end of the message.
        RunContentError: it cannot be read.
    """
    try:
        content = read_file(path)
    except OSError as error:
        raise unreadable(path, error) from error
    # The text is checked and not what it means, so that nothing has to be written again to be compared.
    body = content[len(HEAD) : -len(_tail(b""))]
    if content == HEAD + body + _tail(body + b"\n"):
        with contextlib.suppress(ValueError, RecursionError):
            found = _FINITE.decode(body.decode())
            if isinstance(found, dict):
                return found
    raise DamagedError(path, remedy)


def _finite_number(text: str) -> float:
    value = float(text)
    if value - value != 0:
        raise ValueError(f"{text} is not finite")
    return value


_FINITE = json.JSONDecoder(parse_float=_finite_number, parse_constant=_finite_number)
"""Reads JSON without NaN and infinity, which `json_bytes` never writes."""


@contextlib.contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Holds the lock of a file for this process. The system releases it however the process ends.

    Raises:
        BusyError: another process holds it (the message is `busy`).
        RunError: the lock cannot be taken at all.
    """
    with explained(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(busy) from error
        except OSError as error:
            raise RunError(
                f"Cannot lock {path}: {error.strerror or error}. Choose another disk with --runs."
            ) from error
        yield
    finally:
        os.close(handle)


def json_bytes(value: Any) -> bytes:
    """Canonical JSON: sorted keys, so that equal values are equal bytes. NaN and infinity become null."""
    return (json.dumps(_finite(value), sort_keys=True, allow_nan=False) + "\n").encode()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors in the safetensors format."""
    from safetensors.torch import save

    return save({name: tensor.detach().cpu().clone() for name, tensor in tensors.items()})


def tensors_from(content: bytes, file: Path | str) -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Raises:
        RunContentError: it is not a safetensors file; the message names `file`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        why = str(error).partition("\n")[0][:100]
        raise RunContentError(file, f"expected a file of safetensors ({why})") from error
