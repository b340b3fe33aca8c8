"""Checks of a Hugging Face checkpoint: its files before anything is loaded, its tensors after.

Weights are safetensors inside the folder and nothing else, so no pickle is ever read. By itself the library
transformers would read a file of another kind that an index, an adapter or the configuration names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from miclab import storage
from miclab.errors import ContentError

INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
SHARD = re.compile(r"[^/\\\0.][^/\\\0]*\.safetensors")
"""A file of safetensors in the folder itself."""
NAMED = 3
"""Most tensors that a message names."""


class CheckpointError(ContentError):
    """A folder of a model, or a model of the hub, that is not loaded."""


def _found(place: str, name: str, offline: bool, revision: str) -> Path | None:
    """A file of a folder or of the hub; None if there is none."""
    if Path(place).is_dir():
        path = Path(place) / name
        return path if path.exists() else None
    from transformers.utils.hub import cached_file

    path = cached_file(
        place,
        name,
        local_files_only=offline,
        revision=revision or "main",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return Path(path) if path else None


def check_files(place: str, offline: bool, revision: str = "") -> None:
    """Checks that only safetensors of the folder would be loaded.

    Arguments:
        place: folder or hub id.
        offline: uses no network.
        revision: of a hub id; empty: `main`.

    Raises:
        CheckpointError: an index, an adapter or the configuration names something else.
        OSError: a file cannot be read.
    """
    if _found(place, ADAPTER, offline, revision):
        raise CheckpointError(place, f"it has {ADAPTER}: an adapter of another model. Merge both and save the whole.")
    config = _found(place, "config.json", offline, revision)
    if config and _object(config).get("transformers_weights") is not None:
        raise CheckpointError(config, "it has `transformers_weights`; the file has to be model.safetensors.")
    index = _found(place, INDEX, offline, revision)
    if index is None:
        return
    shards = _object(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise CheckpointError(index, "it has no `weight_map` from tensors to files.")
    for tensor, file in shards.items():
        if not isinstance(file, str) or not SHARD.fullmatch(file):
            text = f"it puts {tensor[:80]} into {str(file)[:80]!r}, which is no safetensors file of the folder."
            raise CheckpointError(index, text)


def _object(path: Path) -> Mapping[str, Any]:
    """The object of a JSON file."""
    try:
        found = json.loads(storage.read_file(path))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(path, f"it is no JSON ({str(error)[:100]}).") from error
    if not isinstance(found, dict):
        raise CheckpointError(path, "it holds no object.")
    return found


def check_headers(place: str) -> None:
    """Checks that every file of safetensors in a folder is whole.

    Raises:
        CheckpointError: one is damaged, or is no such file.
    """
    from safetensors import SafetensorError, safe_open

    for file in sorted(Path(place).glob("*.safetensors")):
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise CheckpointError(file, f"it is damaged, or no file of safetensors ({error})") from error


def check_tensors(place: str, missing: Iterable[str], unexpected: Iterable[str] = ()) -> None:
    """Makes sure that a checkpoint has the model's tensors and no others.

    Arguments:
        place: folder or hub id.
        missing: tensors of the model that it lacks, without those that are tied to one that it has.
        unexpected: tensors that it has and the model lacks.

    Raises:
        CheckpointError: there is one of either kind.
    """
    for names, text in (
        (sorted(missing), "lacks {} of its model, which would be random"),
        (sorted(unexpected), "has {} that its model does not know, so it is that of another model"),
    ):
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            listed = f"{len(names)} tensor{'s' * (len(names) > 1)} ({', '.join(names[:NAMED])}{more})"
            raise CheckpointError(place, f"the checkpoint {text.format(listed)}.")
