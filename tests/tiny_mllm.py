"""Production models of the real classes at tiny sizes with random weights, with real tokenizers and processors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
    Qwen2VLTextConfig,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLTextConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from miclab.mllm.layers import attention_layers
from miclab.mllm.loading import Production
from miclab.mllm.options import LoadOptions
from miclab.mllm.processors import images_only
from miclab.mllm.task import Episode, Example, Item, Style, Task

TEXT = "Answer: dax blicket perpo wug toma. A picture of a red thing and a blue one.\nQuestion: what is this?\n"
SPECIAL = ["<|endoftext|>", "<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>", "<image>",
           "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", "<start_of_image>", "<end_of_image>",
           *(f"<row_{i}_col_{j}>" for i in range(1, 5) for j in range(1, 5))]  # fmt: skip
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}"
    "{% if c.type == 'image' %}IMAGE{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}</{{ m.role }}>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tokenizer(merges: int = 40) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer trained on a few words, so that others take several tokens."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        [TEXT] * 3,
        trainers.BpeTrainer(vocab_size=256 + len(SPECIAL) + merges, special_tokens=SPECIAL, initial_alphabet=alphabet,
                            show_progress=False),
    )  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=SPECIAL[0], pad_token=SPECIAL[0], extra_special_tokens=SPECIAL[1:]
    )


MROPE = {"rope_type": "default", "mrope_section": [2, 1, 1]}


def _marks(tokens: Any) -> dict[str, Any]:
    """Numbers of Qwen's marks around pictures."""
    marks = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
             "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}  # fmt: skip
    return {name: tokens.convert_tokens_to_ids(mark) for name, mark in marks.items()} | {"tie_word_embeddings": True}


def _text(config: type, tokens: Any, **more: Any) -> Any:
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    return config(
        vocab_size=len(tokens), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.2, **ids, **more,
    )  # fmt: skip


def qwen(tokens: Any) -> tuple[Any, Any]:
    """Qwen2.5-VL: a 28 x 28 picture is one token."""
    number = tokens.convert_tokens_to_ids
    text = {"vocab_size": len(tokens), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2, "bos_token_id": 0,
            "eos_token_id": 0, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]}}  # fmt: skip
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32,
              "fullatt_block_indexes": [1]}  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"), vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"), tie_word_embeddings=True,
    )  # fmt: skip
    images = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=4 * 28 * 28)
    return Qwen2_5_VLForConditionalGeneration(config), images_only(Qwen2_5_VLProcessor)(images, tokens, None)


def llava(tokens: Any) -> tuple[Any, Any]:
    """LLaVA: a picture is the four patches of CLIP's tower."""
    vision = CLIPVisionConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                              image_size=28, patch_size=14)  # fmt: skip
    number = tokens.convert_tokens_to_ids("<image>")
    config = LlavaConfig(vision_config=vision, text_config=_text(LlamaConfig, tokens), image_token_index=number,
                         vision_feature_layer=-1)  # fmt: skip
    images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = LlavaProcessor(images, tokens, patch_size=14, vision_feature_select_strategy="default",
                               num_additional_image_tokens=1)  # fmt: skip
    return LlavaForConditionalGeneration(config), processor


TOWER = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "image_size": 28, "patch_size": 14}  # fmt: skip
"""A vision tower of SigLIP's form."""


def idefics(tokens: Any) -> tuple[Any, Any]:
    """Idefics3, the class of SmolVLM's architecture: pictures are cut into tiles with row and column marks."""
    config = Idefics3Config(vision_config=TOWER, text_config=_text(LlamaConfig, tokens), scale_factor=2,
                            image_token_id=tokens.convert_tokens_to_ids("<image>"))  # fmt: skip
    images = Idefics3ImageProcessorPil(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})
    return Idefics3ForConditionalGeneration(config), Idefics3Processor(images, tokens, image_seq_len=1)


def smolvlm(tokens: Any) -> tuple[Any, Any]:
    """SmolVLM: Idefics3's decoder and marks with a class and a processor of its own."""
    config = SmolVLMConfig(vision_config=TOWER, text_config=_text(LlamaConfig, tokens), scale_factor=2,
                           image_token_id=tokens.convert_tokens_to_ids("<image>"))  # fmt: skip
    images = SmolVLMImageProcessorPil(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})
    return SmolVLMForConditionalGeneration(config), images_only(SmolVLMProcessor)(images, tokens, None, image_seq_len=1)


def qwen2(tokens: Any) -> tuple[Any, Any]:
    """Qwen2-VL: a 28 x 28 picture is one token."""
    vision = {"depth": 2, "hidden_size": 32, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 1}
    text = vars(_text(Qwen2VLTextConfig, tokens, rope_parameters=MROPE)) | {"model_type": "qwen2_vl_text"}
    vision["hidden_size"] = text["hidden_size"]
    config = Qwen2VLConfig(text_config=text, vision_config=vision, **_marks(tokens))
    images = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=4 * 28 * 28)
    return Qwen2VLForConditionalGeneration(config), images_only(Qwen2VLProcessor)(images, tokens, None)


def qwen3(tokens: Any) -> tuple[Any, Any]:
    """Qwen3-VL: patches of 14 here, so a 28 x 28 picture is one token; pictures also enter the first layer's output."""
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "patch_size": 14,
              "out_hidden_size": 32, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}  # fmt: skip
    text = vars(_text(Qwen3VLTextConfig, tokens, head_dim=8, rope_parameters=MROPE)) | {"model_type": "qwen3_vl_text"}
    config = Qwen3VLConfig(text_config=text, vision_config=vision, **_marks(tokens))
    images = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=4 * 28 * 28, patch_size=14)
    return Qwen3VLForConditionalGeneration(config), images_only(Qwen3VLProcessor)(images, tokens, None)


def gemma3(tokens: Any) -> tuple[Any, Any]:
    """Gemma 3: a picture is always the same number of tokens, which see each other in both directions; one layer of two
    looks at a window only."""
    tokens.boi_token, tokens.eoi_token, tokens.image_token = "<start_of_image>", "<end_of_image>", "<image>"
    for name in ("boi", "eoi", "image"):
        setattr(tokens, f"{name}_token_id", tokens.convert_tokens_to_ids(getattr(tokens, f"{name}_token")))
    text = _text(Gemma3TextConfig, tokens, head_dim=8, sliding_window=16,
                 layer_types=["sliding_attention", "full_attention"])  # fmt: skip
    config = Gemma3Config(
        text_config=text, vision_config=TOWER | {"patch_size": 7}, mm_tokens_per_image=4,
        boi_token_index=tokens.boi_token_id, eoi_token_index=tokens.eoi_token_id,
        image_token_index=tokens.image_token_id,
    )  # fmt: skip
    images = Gemma3ImageProcessorPil(size={"height": 28, "width": 28})
    return Gemma3ForConditionalGeneration(config), Gemma3Processor(images, tokens, image_seq_length=4)


def qwen_text(tokens: Any) -> tuple[Any, Any]:
    """Qwen2.5, text alone."""
    return Qwen2ForCausalLM(_text(Qwen2Config, tokens)), tokens


def llama(tokens: Any) -> tuple[Any, Any]:
    """Llama, text alone."""
    return LlamaForCausalLM(_text(LlamaConfig, tokens)), tokens


def gpt2(tokens: Any) -> tuple[Any, Any]:
    """GPT-2: fused maps of weights [in, out]; scores of later layers are smaller."""
    config = GPT2Config(vocab_size=len(tokens), n_embd=32, n_layer=2, n_head=4, n_positions=512, initializer_range=0.2,
                        scale_attn_by_inverse_layer_idx=True, bos_token_id=0, eos_token_id=0)  # fmt: skip
    return GPT2LMHeadModel(config), tokens


def gpt_neox(tokens: Any) -> tuple[Any, Any]:
    """GPT-NeoX, as Pythia is: queries, keys and values of each head lie side by side in one map."""
    config = GPTNeoXConfig(vocab_size=len(tokens), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                           num_attention_heads=4, max_position_embeddings=512, initializer_range=0.2, bos_token_id=0,
                           eos_token_id=0)  # fmt: skip
    return GPTNeoXForCausalLM(config), tokens


def opt(tokens: Any) -> tuple[Any, Any]:
    """OPT: the output's map has another name, and queries are scaled before they are compared."""
    config = OPTConfig(vocab_size=len(tokens), hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
                       max_position_embeddings=512, word_embed_proj_dim=32, init_std=0.2, bos_token_id=0,
                       eos_token_id=0, pad_token_id=0)  # fmt: skip
    return OPTForCausalLM(config), tokens


def gpt_oss(tokens: Any) -> tuple[Any, Any]:
    """gpt-oss: a sink beside the scores of each head, and a window in one layer of two."""
    text = _text(GptOssConfig, tokens, head_dim=8, num_local_experts=2, num_experts_per_tok=1, sliding_window=6,
                 layer_types=["sliding_attention", "full_attention"])  # fmt: skip
    model = GptOssForCausalLM(text)
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.self_attn.sinks, 1.0, 1.0)
    return model, tokens


OTHERS = {"gpt2": gpt2, "gpt-neox": gpt_neox, "opt": opt, "gpt-oss": gpt_oss}
"""Families that read text alone, whose attention is laid out in another way."""


FAMILIES = {
    "qwen2.5-vl": qwen, "llava": llava, "idefics3": idefics, "qwen2.5": qwen_text, "llama": llama, "smolvlm": smolvlm,
    "qwen2-vl": qwen2, "qwen3-vl": qwen3, "gemma3": gemma3,
}  # fmt: skip
VISUAL = tuple(family for family in FAMILIES if family not in ("qwen2.5", "llama"))


def production(family: str, chat: bool = False) -> Production:
    """A model of a family, in float32, with weights of a fixed seed."""
    torch.manual_seed(0)
    model, processor = (FAMILIES | OTHERS)[family](tokenizer())
    if chat:
        image = getattr(processor, "image_token", "")
        processor.chat_template = CHAT.replace("IMAGE", image)
    model = model.eval()
    return Production(family, model, processor, attention_layers(model), LoadOptions())


@dataclass
class Pictures:
    """Writes pictures of one colour.

    Arguments:
        folder: where they go.
    """

    folder: Path

    def paint(self, name: str, colour: tuple[int, int, int], side: int = 28) -> Path:
        path = self.folder / f"{name}.png"
        Image.new("RGB", (side, side), colour).save(path)
        return path


def task(folder: Path, view: str = "image", names: tuple[str, str] = ("perpo", "zibbelwock"), side: int = 28) -> Task:
    """Three episodes of two classes, the names of which take one and several tokens."""
    pictures, episodes = Pictures(folder), []
    for number in range(3):
        items = [
            Item((pictures.paint(f"{number}-{i}", (40 * i, 90 * (i % 2), 60 * number), side),), f"a red thing {i}")
            for i in range(5)
        ]
        support = tuple(Example(item, names[i % 2]) for i, item in enumerate(items[:4]))
        episodes.append(Episode(f"episode {number}", support, items[4], names[number % 2], "What is this?"))
    return Task(name="tiny", shots=2, episodes=tuple(episodes), style=Style(instruction="Look.\n"), view=view)
