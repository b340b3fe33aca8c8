"""Encoders of the real classes at tiny sizes with random weights, with their real processors, saved as folders."""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tiny_mllm import SPECIAL, TEXT, TOWER, tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertModel,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

WORDS = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}  # fmt: skip


def ended_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that ends every text, as CLIP's does: the features of a text are those of its end."""
    tokens, end = tokenizer(), SPECIAL[0]
    ids = [(end, tokens.convert_tokens_to_ids(end))]
    tokens.backend_tokenizer.post_processor = TemplateProcessing(single=f"$A {end}", special_tokens=ids)
    return tokens


def clip(folder: Path) -> None:
    """CLIP: features of pictures and of texts in one space of 24 dimensions."""
    tokens = ended_tokenizer()
    config = CLIPConfig(text_config={**WORDS, "vocab_size": len(tokens)}, vision_config=TOWER, projection_dim=24)
    CLIPModel(config).save_pretrained(folder)
    tokens.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)


def siglip(folder: Path) -> None:
    """SigLIP: no projection; texts are padded to their full length."""
    tokens = tokenizer()
    text = {**WORDS, "vocab_size": len(tokens), "projection_size": 32}
    SiglipModel(SiglipConfig(text_config=text, vision_config=TOWER)).save_pretrained(folder)
    tokens.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 28, "width": 28}).save_pretrained(folder)


def dinov2(folder: Path) -> None:
    """DINOv2: no features by name, but a pooled output."""
    config = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    BitImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)


def bert(folder: Path) -> None:
    """BERT without the weights of its pooler, as many checkpoints are."""
    tokens = tokenizer()
    words = {k: v for k, v in WORDS.items() if k not in ("bos_token_id", "eos_token_id")}
    BertModel(BertConfig(**words, vocab_size=len(tokens)), add_pooling_layer=False).save_pretrained(folder)
    tokens.save_pretrained(folder)


def clap(folder: Path) -> None:
    """CLAP: features of sounds."""
    tokens = tokenizer()
    audio = {"spec_size": 64, "hidden_size": 16, "num_mel_bins": 16, "patch_embeds_hidden_size": 8, "patch_size": 4,
             "patch_stride": [4, 4], "depths": [1, 1], "num_attention_heads": [1, 2], "window_size": 4,
             "projection_dim": 24, "num_classes": 4, "num_hidden_layers": 2, "enable_fusion": False}  # fmt: skip
    text = {**WORDS, "vocab_size": len(tokens), "projection_dim": 24, "max_position_embeddings": 32}
    ClapModel(ClapConfig(audio_config=audio, text_config=text, projection_dim=24)).save_pretrained(folder)
    tokens.save_pretrained(folder)
    ClapFeatureExtractor(feature_size=16, sampling_rate=8000, max_length_s=1, truncation="rand_trunc",
                         padding="repeatpad", fft_window_size=512, hop_length=80,
                         frequency_min=50, frequency_max=4000).save_pretrained(folder)  # fmt: skip


ENCODERS: dict[str, Callable[[Path], None]] = {
    "clip": clip, "siglip": siglip, "dinov2": dinov2, "bert": bert, "clap": clap,
}  # fmt: skip


def save_encoder(name: str, folder: Path) -> Path:
    """Saves an encoder with weights of a fixed seed."""
    torch.manual_seed(0)
    ENCODERS[name](folder)
    return folder


def write_pictures(folder: Path, classes: int = 10, each: int = 3) -> Path:
    """Noisy pictures around one colour a class."""
    noise = np.random.default_rng(0)
    for number in range(classes):
        (folder / f"class {number}").mkdir(parents=True)
        colour = noise.integers(40, 216, 3)
        for exemplar in range(each):
            values = colour + noise.integers(-40, 40, (30, 32, 3))
            Image.fromarray(values.astype(np.uint8)).save(folder / f"class {number}" / f"{exemplar}.png")
    return folder


def write_texts(path: Path, classes: int = 10, each: int = 3) -> Path:
    """Phrases of one word a class."""
    words = TEXT.split()
    rows = [f'class {c},"{words[c]}, {words[e]}"' for c in range(classes) for e in range(each)]
    path.write_text("label,text\n" + "\n".join(rows) + "\n")
    return path


def write_sounds(folder: Path, classes: int = 10, each: int = 2) -> Path:
    """Two channels of 16 bits at 16 kHz, one pitch a class; some are longer than the extractor's second."""
    for number in range(classes):
        (folder / f"class {number}").mkdir(parents=True)
        for exemplar in range(each):
            seconds = np.arange(int(16_000 * (0.5 + exemplar))) / 16_000
            tone = (8000 * np.sin(2 * np.pi * (200 + 100 * number + 5 * exemplar) * seconds)).astype("<i2")
            with wave.open(str(folder / f"class {number}" / f"{exemplar}.wav"), "wb") as file:
                file.setnchannels(2)
                file.setsampwidth(2)
                file.setframerate(16_000)
                file.writeframes(np.stack([tone, tone], 1).tobytes())
    return folder
