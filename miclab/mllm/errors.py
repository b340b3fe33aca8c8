"""Errors of production models, in words."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager

from miclab.errors import ContentError, MiclabError, is_out_of_memory, missing_extra

LOWER = (
    "Lower it with --batch 1, --dtype bfloat16, --four-bit, --max-pixels (fewer image tokens) or fewer --shots. "
    "`miclab mllm memory MODEL` computes what a model needs."
)


class ModelError(MiclabError):
    """A model that cannot be loaded, or that cannot do what was requested."""


class TaskError(MiclabError):
    """A folder of episodes that cannot be used."""


class TaskContentError(ContentError, TaskError):
    """A file of a task or of results that does not hold what its reader needs."""


class ModelContentError(ContentError, ModelError):
    """A folder of a model or of an adapter that does not hold what its reader needs."""


class ViewError(TaskContentError):
    """Episodes that have no pictures, or no words, where those were to be shown."""


class DivergedError(ModelError):
    """A fine-tuning whose loss is no longer a number (exit status 1)."""


class OutOfMemoryError(ModelError):
    """The device has too little memory."""


def require() -> None:
    """Raises ModelError if the extra is not installed, before anything is loaded."""
    try:
        import peft  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise ModelError(missing_extra("miclab mllm", "mllm", error.name or "transformers")) from error


def _needed(text: str) -> str:
    """How much memory a failed allocation needed and how much was free, from the allocator's message."""
    cuda = re.search(r"Tried to allocate ([\d.]+ [KMGT]?i?B)", text)
    free = re.search(r"of which ([\d.]+ [KMGT]?i?B) is free", text)
    plain = re.search(r"allocate (\d+) bytes", text)
    if cuda:
        return f"{cuda[1]} more were needed" + (f", {free[1]} were free" if free else "")
    if plain:
        return f"{int(plain[1]) / 2**30:.2f} GiB more were needed"
    return "the allocator did not say how much more is needed"


@contextmanager
def memory_guard(doing: str) -> Iterator[None]:
    """Turns an exhausted memory into an OutOfMemoryError that gives the needed memory and the flags that lower it."""
    import torch

    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        needed = _needed(str(error))
    else:
        return
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    raise OutOfMemoryError(f"Out of memory while {doing}: {needed}. {LOWER}")
