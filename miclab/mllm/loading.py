"""Models and processors from a folder or from the hub."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from miclab.data.checkpoint import check_files, check_tensors
from miclab.mllm.errors import ModelError, memory_guard, require
from miclab.mllm.layers import AttentionLayer, attention_layers
from miclab.mllm.options import LoadOptions
from miclab.mllm.prompt import Prompter
from miclab.mllm.shipped import MODELS, shipped
from miclab.mllm.task import Task, View

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Production:
    """A model with what is needed to use it.

    Arguments:
        name: as it was requested.
        model: in evaluation mode.
        processor: processor, or tokenizer of a model that reads text alone.
        layers: its layers of attention.
        options: how it was loaded.
    """

    name: str
    model: Any
    processor: Any
    layers: tuple[AttentionLayer, ...]
    options: LoadOptions

    @property
    def view(self) -> View:
        """How it can be shown items: as images, unless it reads text alone."""
        return "image" if hasattr(self.processor, "image_processor") else "text"

    def prompter(self, task: Task) -> Prompter:
        """Writes the task's episodes for this model."""
        return Prompter(self.processor, task, self.options.prompt, self._around())

    def _around(self) -> tuple[str, str]:
        """Tokens that the configuration puts before and after every image, as text."""
        config, tokenizer = self.model.config, getattr(self.processor, "tokenizer", self.processor)
        ids = [getattr(config, f"vision_{side}_token_id", None) for side in ("start", "end")]
        if None in ids or hasattr(self.processor, "boi_token"):
            return "", ""
        before, after = tokenizer.convert_ids_to_tokens(ids)
        return str(before), str(after)


@contextlib.contextmanager
def _loading(name: str) -> Iterator[None]:
    """Turns what transformers raises while it loads into a ModelError."""
    try:
        with memory_guard(f"loading {name}"):
            yield
    except ModelError:
        raise
    except Exception as error:  # What a broken folder makes transformers raise has no common type.
        first = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{name} cannot be loaded: {first} Give a folder that holds config.json, safetensors and a tokenizer, a "
            "hub id that is in the cache or can be reached, or `tiny`, which comes with miclab."
        ) from error


def quiet() -> None:
    """Keeps transformers' own progress bars and advice off the terminal."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def place(name: str) -> str:
    """Where a model is: an existing folder, one that comes with miclab by its short name, or a hub id as it stands.

    Raises:
        ModelError: it is written as a folder, and there is none.
        DamagedError: it comes with miclab, and a file is not the one that was made.
    """
    if name in MODELS and not Path(name).is_dir():
        return str(shipped(name))
    if (name.startswith((".", "/", "~")) or name.count("/") > 1) and not Path(name).expanduser().is_dir():
        raise ModelError(f"{name} is no folder. Give the folder of a model, a hub id, or `tiny`.")
    return str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name


def load_model(name: str, options: LoadOptions | None = None) -> Production:
    """A model with its processor and its attention layers.

    Arguments:
        name: folder, hub id, or a short name of a model that comes with miclab.
        options: how.

    Raises:
        ModelError: the extra is missing, there is no such model, its weights are no safetensors of its own folder, it
            lacks tensors or has others, or its attention layers cannot be found.
        OutOfMemoryError: it does not fit.
    """
    require()
    options = options or LoadOptions()
    quiet()
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    from miclab.mllm.processors import load_processor

    where = place(name)
    more: dict[str, Any] = {}
    source = {"local_files_only": options.offline, "trust_remote_code": False}
    if options.four_bit:
        more["quantization_config"] = _four_bit(options)
        more["device_map"] = {"": options.torch_device}
    model: Any
    with _loading(where):
        check_files(where, options.offline)
        config = AutoConfig.from_pretrained(where, **source)
        kind = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
        model, info = kind.from_pretrained(
            where, config=config, dtype=DTYPES[options.dtype], use_safetensors=True, attn_implementation="sdpa",
            output_loading_info=True, **source, **more,
        )  # fmt: skip
        check_tensors(info["missing_keys"], info["unexpected_keys"])
        if not options.four_bit:
            model.to(torch.device(options.torch_device))
        processor = load_processor(where, options.max_pixels, options.offline)
    return Production(name, model.eval(), processor, attention_layers(model), options)


def _four_bit(options: LoadOptions) -> Any:
    try:
        import bitsandbytes  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ModelError(
            "--four-bit needs bitsandbytes, which is not installed: pip install bitsandbytes. It needs a GPU."
        ) from error
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=DTYPES[options.dtype]
    )
