"""Processors without their video part. Pictures go through PIL and text through the tokenizer, which need no
torchvision and give equal results on every machine."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer, ProcessorMixin
from transformers.models.auto import processing_auto

from miclab.mllm.errors import ModelError


def images_only(processor_class: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """A processor's class without its video processor."""
    kept = [name for name in processor_class.get_attributes() if name in ("image_processor", "tokenizer")]

    class ImagesOnly(processor_class):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return list(kept)

    ImagesOnly.__name__ = processor_class.__name__
    return ImagesOnly


def load_processor(where: str, max_pixels: int = 0, offline: bool = False, revision: str = "") -> Any:
    """The processor of a model, or the tokenizer of a model of text alone.

    Arguments:
        where: folder or hub id.
        max_pixels: most pixels of a picture; larger ones are shrunk if the processor can. 0: its own limit.
        offline: uses no network.
        revision: of a hub id; empty: the newest.

    Raises:
        OSError, ValueError, KeyError, ImportError: as transformers does.
    """
    import transformers

    source: dict[str, Any] = {"local_files_only": offline, "trust_remote_code": False, "revision": revision or "main"}
    config = AutoConfig.from_pretrained(where, **source)
    tokenizer = AutoTokenizer.from_pretrained(where, **source)
    if not hasattr(config, "vision_config"):
        return tokenizer
    known: Any = processing_auto
    name = known.PROCESSOR_MAPPING_NAMES.get(config.model_type)
    found = getattr(transformers, name, None) if name else None
    limit: dict[str, Any] = {"max_pixels": max_pixels} if max_pixels else {}
    if found is None or "video_processor" not in found.get_attributes():
        return AutoProcessor.from_pretrained(where, **source, **limit)
    images = AutoImageProcessor.from_pretrained(where, backend="pil", **source, **limit)
    settings, _ = found.get_processor_dict(where, local_files_only=offline, revision=revision or "main")
    return images_only(found).from_args_and_dict([images, tokenizer], settings)


def limits_pixels(processor: Any) -> bool:
    """Whether pictures are shrunk to `max_pixels`, or there are none. Others, such as CLIP's, know no such limit."""
    images = getattr(processor, "image_processor", None)
    allowed = getattr(type(images), "valid_kwargs", None)
    return images is None or (allowed is not None and "max_pixels" in allowed.__annotations__)


def placeholder(processor: Any) -> str:
    """The token for an image in a processor's text."""
    found = getattr(processor, "boi_token", None) or getattr(processor, "image_token", None)
    if not found:
        raise ModelError(f"{type(processor).__name__} names no image token, so it reads text alone; use --view text.")
    return str(found)


def chat_template(processor: Any) -> str:
    """The chat template of a processor or its tokenizer; among several, the one named `default`. Empty: there is none.

    Raises:
        ModelError: there are several, and none is called `default`.
    """
    own = getattr(processor, "chat_template", None)
    found = own or getattr(getattr(processor, "tokenizer", processor), "chat_template", None) or ""
    if isinstance(found, dict):
        if len(found) > 1 and "default" not in found:
            raise ModelError(f"The model has several chat templates ({', '.join(found)}), and none is `default`. Use "
                             "--prompt plain.")  # fmt: skip
        found = found.get("default") or next(iter(found.values()), "")
    return str(found)
