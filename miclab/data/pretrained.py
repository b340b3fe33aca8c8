"""Encoders of Hugging Face: a batch of pictures, texts or sounds to one vector each.

The vector comes from `get_image_features`, `get_text_features` or `get_audio_features` (CLIP, SigLIP, CLAP). Without
such a method it is the pooled output (DINOv2), and without that the mean of the last hidden state.
"""

from __future__ import annotations

import contextlib
import hashlib
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from miclab.data.checkpoint import CheckpointError, check_files
from miclab.data.dataset import DataContentError, DataError
from miclab.errors import ConfigError, is_out_of_memory, missing_extra

Kind = Literal["images", "texts", "audio"]
FEATURES: dict[Kind, str] = {
    "images": "get_image_features",
    "texts": "get_text_features",
    "audio": "get_audio_features",
}
"""Methods that give features, by the kind of item."""
PREPARES: dict[Kind, str] = {"images": "image processor", "texts": "tokenizer", "audio": "feature extractor"}
LARGEST = 1_000_000
"""A tokenizer without a limit gives a larger number."""


class EncoderError(DataError):
    """An encoder is missing, or gives no features for this kind of item."""


class EncoderContentError(DataContentError, EncoderError):
    """A folder of an encoder that does not hold what its reader needs."""


@contextlib.contextmanager
def _loading(name: str, what: str, remedy: str) -> Iterator[None]:
    """Turns exceptions of transformers while loading into an EncoderError."""
    try:
        yield
    except CheckpointError as error:
        raise EncoderContentError(error.file, f"it cannot be loaded: {error.problem}. {remedy}", error.place) from error
    except ImportError as error:
        raise EncoderError(f"The {what} of {name} needs a package that is not installed: {_first(error)}") from error
    except (OSError, ValueError, KeyError, RuntimeError, AssertionError, TypeError, AttributeError) as error:
        if is_out_of_memory(error):
            raise
        raise EncoderError(f"The {what} of {name} cannot be loaded: {_first(error)} {remedy}") from error


def _first(error: BaseException) -> str:
    """The beginning of a long message, in one line."""
    return textwrap.shorten(str(error), 200, placeholder=" ...")


def torch_device(device: str) -> str:
    """Name of the device; `auto` is a GPU where there is one.

    Raises:
        ConfigError: it is a GPU, and torch can use none.
    """
    there = torch.cuda.is_available()
    if device != "auto" and device != "cpu" and not (device.startswith("cuda") and there):
        raise ConfigError("device", device, "auto, cpu, cuda, ..." if there else "auto or cpu: torch finds no GPU here")
    return ("cuda" if there else "cpu") if device == "auto" else device


@dataclass(frozen=True)
class PretrainedEncoder:
    """A model in evaluation mode with its preprocessor.

    Arguments:
        name: as it was requested.
        kind: of its items.
        model: in float32.
        prepare: image processor, tokenizer or feature extractor.
        method: source of the vector: `get_..._features`, `pooled` or `mean`.
        weights: SHA-256 of its parameters.
        device: on which it runs.
    """

    name: str
    kind: Kind
    model: Any
    prepare: Any
    method: str
    weights: str
    device: str

    @property
    def sampling_rate(self) -> int:
        """Sampling rate of sounds, in samples per second."""
        return int(self.prepare.sampling_rate)

    def _inputs(self, items: Sequence[Any]) -> dict[str, Tensor]:
        if self.kind == "images":
            found = self.prepare(images=list(items), return_tensors="pt")
        elif self.kind == "texts":
            found = self.prepare(list(items), return_tensors="pt", truncation=True, **self._padding())
        else:
            # CLAP's extractor cuts long sounds at a random place; the first part is the same every time.
            most = int(getattr(self.prepare, "nb_max_samples", 0) or 2**62)
            found = self.prepare(
                [item[:most] for item in items],
                sampling_rate=self.sampling_rate,
                return_tensors="pt",
                **self._padding(),
            )
        return {name: value.to(self.device) for name, value in found.items() if isinstance(value, Tensor)}

    def _padding(self) -> dict[str, Any]:
        """The padding of a batch. SigLIP was trained on texts of its full length, and CLAP's extractor has its own
        length for sounds. Everything else is padded to the longest."""
        if self.kind == "audio":
            return {} if hasattr(self.prepare, "nb_max_samples") else {"padding": True}
        config = self.model.config
        text = getattr(config, "text_config", config)
        places = int(getattr(text, "max_position_embeddings", 0) or LARGEST)
        # RoBERTa and its relatives count positions from the number of the padding token.
        if "roberta" in text.model_type or "clap" in text.model_type:
            places -= int(text.pad_token_id or 0) + 1
        limit = min(int(self.prepare.model_max_length), places)
        whole = text.model_type.startswith("siglip")
        return {"padding": "max_length" if whole else True, **({"max_length": limit} if limit < LARGEST else {})}

    @torch.inference_mode()
    def __call__(self, items: Sequence[Any]) -> Float[Tensor, "item dimension"]:
        """One vector an item, float32 on the CPU.

        Arguments:
            items: PIL images, texts, or float32 arrays of samples.

        Raises:
            EncoderError: the model gives no vectors for them.
        """
        inputs = self._inputs(items)
        with _running(self.name):
            if self.method.startswith("get_"):
                output = getattr(self.model, self.method)(**inputs)
                found = output if isinstance(output, Tensor) else output.pooler_output
            else:
                output = self.model(**inputs)
                pooled = getattr(output, "pooler_output", None) if self.method == "pooled" else None
                found = _mean(output.last_hidden_state, inputs.get("attention_mask")) if pooled is None else pooled
        found = found.float().flatten(1).cpu()
        if len(found) != len(items):
            raise EncoderError(f"{self.name} gave {len(found)} vectors for {len(items)} {self.kind}.")
        return found


@contextlib.contextmanager
def _running(name: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise EncoderError(f"{name} cannot read these items: {_first(error)} Is it a model for them?") from error


def _mean(states: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over places; for texts, without padding."""
    if states.dim() == 4:
        return states.flatten(2).mean(2)
    if mask is None or mask.shape != states.shape[:2]:
        return states.mean(1)
    weights = mask[..., None].to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)


def _digest(model: Any) -> str:
    """SHA-256 of all parameters by their names."""
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def load_encoder(name: str, kind: Kind, *, device: str = "auto", offline: bool = False) -> PretrainedEncoder:
    """An encoder from a folder or from the hub. Weights are read from safetensors alone, and no code of the model's.

    Arguments:
        name: folder or hub id.
        kind: of its items.
        device: cpu, cuda, ..., or auto.
        offline: uses no network.

    Raises:
        EncoderError: the extra `mllm` or the model is missing, weights are not safetensors or incomplete, or the model
            does not take this kind of item.
        ConfigError: there is no such device.
    """
    try:
        import transformers
        from transformers.utils import logging
    except ImportError as error:
        raise EncoderError(missing_extra("miclab data embed", "mllm", error.name or "transformers")) from error
    where = torch_device(device)
    if (name.startswith((".", "/", "~")) or name.count("/") > 1) and not Path(name).expanduser().is_dir():
        raise EncoderError(f"{name} is no folder. Give the folder of a model, or a hub id such as OWNER/NAME.")
    place = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    source: dict[str, Any] = {"local_files_only": offline, "trust_remote_code": False}
    model: Any
    with _loading(name, "model", "Give a folder with config.json and safetensors."):
        check_files(place, offline)
    with _loading(name, PREPARES[kind], f"Is it a model for {kind}?"):
        if kind == "images":
            prepare = transformers.AutoImageProcessor.from_pretrained(place, backend="pil", **source)
        elif kind == "texts":
            prepare = transformers.AutoTokenizer.from_pretrained(place, **source)
        else:
            prepare = transformers.AutoFeatureExtractor.from_pretrained(place, **source)
    with _loading(name, "model", "Give a folder with config.json and safetensors, or a hub id that can be reached."):
        model, info = transformers.AutoModel.from_pretrained(
            place, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **source
        )
    method = FEATURES[kind] if hasattr(model, FEATURES[kind]) else "pooled"
    if method == "pooled" and getattr(model.config, "is_encoder_decoder", False):
        model = model.get_encoder()
    lacking = [key for key in info["missing_keys"] if "position_ids" not in key]
    if method == "pooled" and lacking and all("pooler" in key for key in lacking):
        # An untrained pooler would give random directions.
        method, lacking = "mean", []
    if lacking:
        raise EncoderError(f"{name} lacks {len(lacking)} weights, such as {sorted(lacking)[0]}: it is not whole.")
    if kind == "texts" and prepare.pad_token is None:
        prepare.pad_token = prepare.eos_token
    model = model.eval().to(where)
    return PretrainedEncoder(name, kind, model, prepare, method, _digest(model), where)
