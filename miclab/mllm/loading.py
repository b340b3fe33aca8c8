"""Models and processors from a folder or from the hub."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from miclab.data.checkpoint import CheckpointError, check_files, check_headers, check_tensors
from miclab.errors import missing_extra
from miclab.mllm.adapters import CONFIG, base_of, is_adapter, revision_of, with_adapter
from miclab.mllm.errors import ModelContentError, ModelError, memory_guard, require
from miclab.mllm.layers import AttentionLayer, attention_layers, decoder_of, left_out
from miclab.mllm.options import LoadOptions
from miclab.mllm.prompt import Prompter
from miclab.mllm.shipped import HERE, MODELS, shipped
from miclab.mllm.task import Task, View

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Production:
    """A model with its processor and options.

    Arguments:
        name: as it was requested.
        model: in evaluation mode.
        processor: processor, or tokenizer of a model that reads text alone.
        layers: its layers of attention.
        options: how it was loaded.
        remarks: on its inputs, in the order in which they arose.
    """

    name: str
    model: Any
    processor: Any
    layers: tuple[AttentionLayer, ...]
    options: LoadOptions
    remarks: dict[str, None] = field(default_factory=dict, compare=False, repr=False)

    @property
    def view(self) -> View:
        """The form of items that it reads: images, unless it reads text alone."""
        return "image" if hasattr(self.processor, "image_processor") else "text"

    def prompter(self, task: Task) -> Prompter:
        """Writes the task's episodes for this model."""
        return Prompter(
            self.processor, task, self.options.prompt, self._around(), self.options.background, self.remarks,
            self._learnt_positions(),
        )  # fmt: skip

    def _learnt_positions(self) -> int:
        """The number of positions of a decoder that has an embedding for each, such as GPT-2; 0: it has none."""
        config = getattr(self.model.config, "text_config", None) or self.model.config
        most = getattr(config, "max_position_embeddings", None) or 0
        words = self.model.get_input_embeddings()
        decoder = decoder_of(self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model)
        # OPT has two rows more, before the first position.
        is_learnt = most and any(
            isinstance(one, nn.Embedding) and one is not words and 0 <= one.num_embeddings - most <= 2
            for one in decoder.modules()
        )
        return most if is_learnt else 0

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
    """Turns exceptions of transformers while loading into a ModelError."""
    try:
        with memory_guard(f"loading {name}"):
            yield
    except ModelError:
        raise
    except CheckpointError as error:
        raise ModelContentError(error.file, f"it cannot be loaded: {error.problem}", error.place) from error
    except Exception as error:  # What a broken folder makes transformers raise has no common type.
        try:
            check_headers(name)
        except CheckpointError as damaged:
            raise ModelContentError(damaged.file, f"it cannot be loaded: {damaged.problem}") from error
        first = " ".join(str(error).split())[:300].rstrip(".") + "."
        raise ModelError(
            f"{name} cannot be loaded: {first} Give a folder that holds config.json, safetensors and a tokenizer, a "
            f"hub id that is in the cache or can be reached, or {HERE}, which come with miclab."
        ) from error


def quiet() -> None:
    """Hides transformers' own progress bars and advice."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def place(name: str) -> str:
    """The place of a model: an existing folder, one that comes with miclab by its short name, or an unchanged hub id.

    Raises:
        ModelError: it is written as a folder, and there is none.
        DamagedError: it comes with miclab, and a file is not the one that was made.
    """
    if name in MODELS and not Path(name).is_dir():
        return str(shipped(name))
    if (name.startswith((".", "/", "~")) or name.count("/") > 1) and not Path(name).expanduser().is_dir():
        raise ModelError(f"{name} is no folder. Give the folder of a model, a hub id, or {HERE}.")
    return str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name


def _source(name: str, options: LoadOptions) -> tuple[str, str, str]:
    """The place of a model, its revision, and the folder of its adapter, or an empty text.

    Raises:
        ModelError: a folder is given with a revision, or the adapter cannot be used.
        DamagedError: it comes with miclab, and a file is not the one that was made.
    """
    revision = options.revision
    if "@" in name and not Path(name).expanduser().exists():
        name, _, revision = name.rpartition("@")
    where, adapter = place(name), ""
    if is_adapter(where):
        adapter = where
        base = base_of(where, options.base)
        try:
            where = place(base)
        except ModelError as error:
            raise ModelError(f"The base of the adapter {name}: {error} Or name it with --base MODEL.") from error
        if not options.base and not Path(where).is_dir():
            revision = revision or revision_of(adapter)
    elif options.base:
        raise ModelError(f"{name} is no adapter, so it has no base. --base goes with a folder that holds {CONFIG}.")
    if revision and Path(where).is_dir():
        raise ModelError(f"{where} is a folder, which has no revision {revision!r}. Revisions are of hub ids.")
    return where, revision, adapter


def load_model(name: str, options: LoadOptions | None = None) -> Production:
    """A model with its processor and its attention layers.

    Arguments:
        name: folder or hub id of a model or of an adapter, or the short name of a model that comes with miclab.
            NAME@REVISION chooses a revision of a hub id.
        options: how.

    Raises:
        ModelError: the extra or the model is missing, or its weights are not safetensors of its own folder. Tensors are
            missing or unknown, the adapter does not fit, or the attention layers cannot be found.
        OutOfMemoryError: it does not fit.
    """
    require()
    options = options or LoadOptions()
    quiet()
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    from miclab.mllm.processors import limits_pixels, load_processor

    where, revision, adapter = _source(name, options)
    more: dict[str, Any] = {}
    source: dict[str, Any] = {"local_files_only": options.offline, "trust_remote_code": False,
                              "revision": revision or "main"}  # fmt: skip
    if options.four_bit or options.eight_bit:
        more["quantization_config"] = _few_bits(options)
        more["device_map"] = {"": options.torch_device}
    if options.device_map != "none":
        more["device_map"] = options.device_map
    loaded: Any
    with _loading(where):
        check_files(where, options.offline, revision)
        config = AutoConfig.from_pretrained(where, **source)
        kind = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
        more |= {"config": config, "dtype": DTYPES[options.dtype], "use_safetensors": True,
                 "output_loading_info": True, **source}  # fmt: skip
        try:
            loaded = kind.from_pretrained(where, attn_implementation="sdpa", **more)
        except ValueError as error:
            # Some, such as gpt-oss with its sinks, have only eager attention.
            if "attn_implementation" not in str(error):
                raise
            loaded = kind.from_pretrained(where, attn_implementation="eager", **more)
        model, info = loaded
        check_tensors(where, info["missing_keys"], info["unexpected_keys"])
        if "device_map" not in more:
            model.to(torch.device(options.torch_device))
        if adapter:
            with _loading(adapter):
                model = with_adapter(model, adapter)
        processor = load_processor(where, options.max_pixels, options.offline, revision)
    inner = model.get_base_model() if adapter else model
    layers, cross = attention_layers(inner), left_out(inner)
    remarks = {f"{len(cross)} layers of cross-attention are left out, such as {cross[0]}.": None} if cross else {}
    if options.max_pixels and not limits_pixels(processor):
        remarks["--max-pixels has no effect: the processor of this model does not take it."] = None
    return Production(name, model.eval(), processor, layers, options, remarks)


def _few_bits(options: LoadOptions) -> Any:
    """The configuration of weights in 4 or 8 bits.

    Raises:
        ModelError: bitsandbytes is not installed.
    """
    try:
        import bitsandbytes  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        flag = "--four-bit" if options.four_bit else "--eight-bit"
        raise ModelError(f"{missing_extra(flag, 'bits', 'bitsandbytes')}. It needs a GPU.") from error
    from transformers import BitsAndBytesConfig

    if options.eight_bit:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=DTYPES[options.dtype]
    )
