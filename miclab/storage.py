"""Bytes on disk: written whole or not at all, and checked when they are read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miclab.errors import DamagedError, RunError

if TYPE_CHECKING:
    from torch import Tensor


def digest(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns the operating system's refusal to write `path` into a RunError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = (
                "Free some space, then go on with `miclab resume`; all up to the last checkpoint is kept."
            )
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "Choose a directory that you may write to with --runs, or change its permissions."
        else:
            remedy = "Choose another directory with --runs."
        raise RunError(f"Cannot write {path}: {error.strerror or error}. {remedy}") from error


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes) -> str:
    """Writes a file so that a reader, or a crash, sees all of it or none; returns its SHA-256.

    Raises:
        RunError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with explained(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_directory(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    return digest(content)


def read_checked(path: Path, sha256: str, remedy: str) -> bytes:
    """A file's content.

    Raises:
        DamagedError: it is missing or is not what was written; `remedy` is the end of the message.
    """
    try:
        content = path.read_bytes()
    except OSError:
        content = None
    if content is None or digest(content) != sha256:
        raise DamagedError(path, remedy)
    return content


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

    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def tensors_from(content: bytes) -> dict[str, Tensor]:
    """Tensors of a safetensors file."""
    from safetensors.torch import load

    return load(content)
