"""LoRA adapters in PEFT's own format: a folder with adapter_config.json and adapter_model.safetensors.

An adapter is loaded onto its base without merging the weights, so that no weight is rounded.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from miclab import storage
from miclab.mllm.errors import ModelContentError, ModelError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def is_adapter(where: str) -> bool:
    """Whether a folder holds an adapter instead of a model. Some adapters come with their base's config.json."""
    folder = Path(where)
    return (folder / CONFIG).is_file() and not any(folder.glob("model*.safetensors*"))


def _named(where: str, *names: str) -> list[str]:
    """Fields of the configuration of the adapter in a folder, as texts; empty where there is none.

    Raises:
        ModelContentError: it cannot be read.
    """
    file = Path(where) / CONFIG
    try:
        config = json.loads(storage.read_file(file))
        return [str(config.get(name) or "") for name in names]
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ModelContentError(file, f"it cannot be read: {error}") from error


def revision_of(where: str) -> str:
    """The revision of its base that an adapter was trained on, as its configuration names it; empty: the newest."""
    return _named(where, "revision")[0]


def base_of(where: str, base: str = "") -> str:
    """The base of the adapter in a folder: as given, or as its configuration names it. A relative path that is not
    below the working directory is looked for below the adapter's folder.

    Raises:
        ModelContentError: it is no LoRA adapter, its weights are no safetensors, or its base is not known.
    """
    folder = Path(where)
    kind, named = _named(where, "peft_type", "base_model_name_or_path")
    if kind != "LORA":
        raise ModelContentError(
            where, f"it is an adapter of PEFT's type {kind}. Allowed: LORA, whose heads are the base's."
        )
    if not (folder / WEIGHTS).is_file():
        raise ModelContentError(
            where, f"it has no {WEIGHTS}. Weights in pickle are not read; save the adapter as safetensors."
        )
    if not base and not named:
        raise ModelContentError(where, "it does not name its base. Give it with --base MODEL.")
    beside = folder / named
    if not base and not Path(named).is_dir() and beside.is_dir():
        return str(beside.resolve())
    return base or named


def with_adapter(model: Any, where: str) -> Any:
    """A model with the adapter in a folder.

    Raises:
        ModelError: the adapter's weights are not those that the base takes.
    """
    from peft import PeftModel, get_peft_model_state_dict

    with warnings.catch_warnings():
        # peft reads a property of transformers by a deprecated name. Its report on weights is checked below.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", UserWarning)
        found = PeftModel.from_pretrained(model, where, is_trainable=False)
    try:
        with safe_open(Path(where) / WEIGHTS, "pt") as file:
            given = set(file.keys())
    except SafetensorError as error:
        raise ModelContentError(Path(where) / WEIGHTS, f"it cannot be read: {error}") from error
    # Embeddings of a larger vocabulary stand beside the adapter's own weights. Only a look at the hub would find them.
    # So do biases of the base, where the adapter trains them.
    own = {f"base_model.model.{name}" for name in found.get_base_model().state_dict()}
    given, taken = given - own, set(get_peft_model_state_dict(found, save_embedding_layers=False)) - own
    if given != taken:
        odd = sorted(given ^ taken)
        raise ModelError(
            f"The adapter {where} does not fit its base {type(model).__name__}: {len(given - taken)} of its weights "
            f"have no place and {len(taken - given)} are missing, such as {odd[0]}. Give its own base: --base MODEL."
        )
    return found


def save_adapter(model: Any, folder: Path) -> None:
    """Writes the adapter of a model as PEFT does, each file at once."""
    with tempfile.TemporaryDirectory() as temporary:
        model.save_pretrained(temporary, safe_serialization=True, save_embedding_layers=False)
        # The configuration comes last, so that a folder with one is complete.
        for name in (WEIGHTS, CONFIG):
            storage.write_bytes(folder / name, (Path(temporary) / name).read_bytes())
