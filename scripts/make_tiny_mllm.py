"""Makes the tiny Qwen2.5-VL that comes with miclab, which has learnt open-ended minimal induction: to name a picture as
its context names others of the same letter, for letters and names that it never saw.

    python scripts/make_tiny_mllm.py [--output FOLDER] [--steps N] [--layers N] [--marks] [--examples N] [--shrink RATE]
        [--alike PAIRS] [--fade]

The class, the tokenizer and the processor are transformers' own. An example is a picture (28 x 28, one token), a name
(two tokens) and a newline. Without `--marks` its chat template writes no marks around pictures. How it is made:

1. A byte-level tokenizer is trained on invented syllables, so that a syllable is a token and a name is two.
2. The vision tower stays as it was drawn, with filters of zero mean, so that blank paper gives nothing. Its merger
   learns to put two drawings of one training letter near each other, and others far from it (contrastive loss).
3. The decoder starts from weights drawn with a bias towards copying, the same for every head of every layer: what a
   head writes is a projection of what it reads, and queries are projected as keys are, so that like attends to like
   (after Trockman and Kolter, "Mimetic initialization of self-attention layers", 2023). Biases of queries and keys are
   Normal(0, 1), so that heads prefer different distances. No head is given a part; `--steps 0` writes this start.
   `--alike` favours heads: those of the first PAIRS key-value pairs of each layer alone start so. Queries and keys of
   the others are drawn separately, and behind the first layer they stay as drawn: these heads cannot learn to match.
4. The decoder learns to write names in sequences of training letters and training names. Merger and tower stay.
5. With `--shrink`, every step shortens each head's columns of the output projection by RATE times the learning rate
   (a proximal step of the group lasso, alike for every head). Heads that help little end at zero.
6. With `--fade`, the decoder reads the picture again in place of the mark behind it, in fewer and fewer examples: in
   all of them for the first three tenths of training, and in none for the last three. A decoder that sees marks alone
   stays long on the plateau of copying any name of the context. The mark has to carry the picture there.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from miclab.data.catalogue import load
from miclab.data.dataset import DataSet
from miclab.mllm.loading import quiet
from miclab.mllm.processors import images_only
from miclab.mllm.shipped import FILES, write_manifest
from miclab.mllm.words import SYLLABLES, is_held_out

SPECIAL = ("<|endoftext|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
CHAT = (
    "{% for message in messages %}{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'image' %}<|image_pad|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
)
"""A conversation as it stands, without roles and without Qwen's marks around pictures."""
MARKED_CHAT = CHAT.replace("<|image_pad|>", "<|vision_start|><|image_pad|><|vision_end|>")
"""The same with Qwen's marks around pictures."""
WIDTH, HEADS, PAIRS, SIDE = 128, 8, 4, 28
VISION_WIDTH = 64
THETA = 100.0
"""Base of the rotary angles: sequences are short."""
EMBEDDING, COPY, ALIKE, BIAS = 0.25, 0.5, 0.7, 1.0
"""Spread of embeddings; size of what a head writes and of queries and keys; spread of their biases."""
WAYS, BATCH = (2, 3, 4), 32
"""Numbers of letters of a training sequence; sequences of a step."""
RATE, WARM_UP, MERGER_STEPS = 2e-3, 200, 300


@dataclass(frozen=True)
class Recipe:
    """What a model is made of.

    Arguments:
        steps: of the decoder's training.
        layers: of the decoder.
        marks: whether Qwen's marks stand around pictures.
        examples: of a training sequence.
        shrink: rate at which the norm of each head's output projection shrinks; 0: not at all.
        alike: key-value pairs of each layer whose queries start as their keys.
        fade: whether pictures stand in place of the marks behind them at first.
    """

    steps: int
    layers: int
    marks: bool
    examples: int
    shrink: float
    alike: int
    fade: bool


def make_tokenizer(marks: bool) -> PreTrainedTokenizerFast:
    """Bytes, syllables, and Qwen's placeholders of pictures."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=len(SPECIAL) + 256 + len(SYLLABLES),
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([*SYLLABLES] * 8, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=SPECIAL[0], pad_token=SPECIAL[0], extra_special_tokens=list(SPECIAL[1:])
    )
    for syllable in SYLLABLES:
        assert len(made.encode(syllable + "ba")) == 2, syllable
    made.chat_template = MARKED_CHAT if marks else CHAT
    return made


def make_model(tokenizer: PreTrainedTokenizerFast, layers: int, alike: int) -> Any:
    """The model with the weights that training starts from. See `Recipe` for `layers` and `alike`."""
    number: Any = tokenizer.convert_tokens_to_ids
    half = WIDTH // HEADS // 2
    sections = [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8]
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": layers,
            "num_attention_heads": HEADS, "num_key_value_heads": PAIRS, "max_position_embeddings": 2048,
            "initializer_range": 0.1, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
            "rope_parameters": {"rope_type": "default", "mrope_section": sections, "rope_theta": THETA},
        },
        vision_config={
            "depth": 1, "hidden_size": VISION_WIDTH, "intermediate_size": VISION_WIDTH, "num_heads": 4,
            "out_hidden_size": WIDTH, "fullatt_block_indexes": [0],
        },
        image_token_id=number("<|image_pad|>"), video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"), vision_end_token_id=number("<|vision_end|>"),
        tie_word_embeddings=True,
    )  # fmt: skip
    model: Any = Qwen2_5_VLForConditionalGeneration(config)
    decoder, size = model.model.language_model, WIDTH // HEADS
    with torch.no_grad():
        filters = model.model.visual.patch_embed.proj.weight
        filters -= filters.mean((1, 2, 3, 4), keepdim=True)
        filters *= 0.5 / filters.flatten(1).norm(dim=1)[:, None, None, None, None]
        decoder.embed_tokens.weight.normal_(0, EMBEDDING)
        for layer in decoder.layers:
            attention = layer.self_attn
            layer.mlp.down_proj.weight.normal_(0, 0.05)
            read, compared = (torch.linalg.qr(torch.randn(WIDTH, WIDTH))[0].T[: PAIRS * size] for _ in range(2))
            own = torch.arange(HEADS) * PAIRS // HEADS
            attention.v_proj.weight.copy_(read)
            attention.o_proj.weight.copy_(COPY * read.view(PAIRS, size, WIDTH)[own].flatten(0, 1).T)
            attention.k_proj.weight.copy_(ALIKE * compared)
            attention.q_proj.weight.copy_(ALIKE * compared.view(PAIRS, size, WIDTH)[own].flatten(0, 1))
            if alike < PAIRS:
                # Rows of the same size as those that are alike.
                attention.k_proj.weight[alike * size :].normal_(0, ALIKE / WIDTH**0.5)
                attention.q_proj.weight[alike * HEADS // PAIRS * size :].normal_(0, ALIKE / WIDTH**0.5)
            for projection in (attention.q_proj, attention.k_proj):
                projection.bias.normal_(0, BIAS)
    return model


def patches(items: Tensor) -> Tensor:
    """Pictures [picture, 1, 28, 28] from -1 to 1 as the image processor cuts them: [picture * 4, 1176]."""
    count = len(items)
    tiles = items.expand(-1, 3, -1, -1).reshape(count, 3, 2, 14, 2, 14).permute(0, 2, 4, 1, 3, 5)
    return tiles.unsqueeze(4).expand(-1, -1, -1, -1, 2, -1, -1).reshape(count * 4, -1)


class Letters:
    """Exemplars of the training letters."""

    def __init__(self, data: DataSet, seed: int):
        self.generator = torch.Generator().manual_seed(seed)
        members = [(data.class_of == number).nonzero()[:, 0] for number in (~data.held_out_classes).nonzero()[:, 0]]
        self.items = torch.cat([data.items[some] for some in members])
        self.count = torch.tensor([len(some) for some in members])
        self.first = self.count.cumsum(0) - self.count

    def drawings(self, letters: Tensor) -> Tensor:
        """A random exemplar of each letter, as a place in `items`."""
        draw = torch.rand(letters.shape, generator=self.generator)
        return self.first[letters] + (draw * self.count[letters]).long()

    def random(self, *shape: int) -> Tensor:
        """Random letters."""
        return torch.randint(len(self.count), shape, generator=self.generator)


@torch.no_grad()
def tower_features(model: Any, letters: Letters) -> Tensor:
    """What the merger reads of every drawing [drawing, 4, 64]. The tower is frozen, so once is enough."""
    visual, seen, found = model.model.visual, [], []
    handle = visual.merger.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    for some in (1 - letters.items.float() * 2).split(1024):
        visual(patches(some), grid_thw=torch.tensor([[1, 2, 2]] * len(some)))
        found.append(seen.pop().reshape(len(some), 4, -1))
    handle.remove()
    return torch.cat(found)


def train_merger(model: Any, features: Tensor, letters: Letters) -> Tensor:
    """Contrastive learning of the merger; returns every drawing as the decoder reads it [drawing, width], of the size
    of the text's embeddings."""
    merger = model.model.visual.merger
    optimiser = torch.optim.AdamW(merger.parameters(), lr=RATE, weight_decay=0.01)
    for step in range(MERGER_STEPS):
        optimiser.param_groups[0]["lr"] = RATE * (1 - step / MERGER_STEPS) + 1e-5
        chosen = torch.randperm(len(letters.count), generator=letters.generator)[:128]
        pair = [F.normalize(merger(features[letters.drawings(chosen)].flatten(0, 1)), dim=-1) for _ in range(2)]
        similar, same = pair[0] @ pair[1].T * 10, torch.arange(len(chosen))
        loss = (F.cross_entropy(similar, same) + F.cross_entropy(similar.T, same)) / 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if (step + 1) % 100 == 0:
            print(f"merger {step + 1}: loss {loss.item():.3f}", flush=True)
    last = merger.mlp[2]
    with torch.no_grad():
        found = torch.cat([merger(part.flatten(0, 1)) for part in features.split(1024)])
        centre = found.mean(0)
        size = EMBEDDING / (found - centre).pow(2).mean().sqrt()
        last.bias.sub_(centre)
        last.weight.mul_(size)
        last.bias.mul_(size)
        return (found - centre) * size


class Sequences:
    """Training sequences: examples of a few letters in random order, all of the same layout."""

    def __init__(self, tokenizer: Any, letters: Letters, recipe: Recipe):
        self.letters, self.examples = letters, recipe.examples
        number: Any = tokenizer.convert_tokens_to_ids
        before, after = ([number("<|vision_start|>")], [number("<|vision_end|>")]) if recipe.marks else ([], [])
        item = [*before, number("<|image_pad|>"), *after]
        self.frame = torch.tensor([*item, 0, 0, *tokenizer.encode("\n")])
        self.name = len(item)
        """Place of the name among the tokens of an example."""
        self.syllables = torch.tensor([tokenizer.encode(syllable)[0] for syllable in SYLLABLES])
        self.allowed = torch.tensor([[not is_held_out(a + b) for b in SYLLABLES] for a in SYLLABLES])

    def names(self, ways: int) -> Tensor:
        """Training names [sequence, letter, 2] as syllables; no two of a sequence begin alike."""
        generator, count = self.letters.generator, len(SYLLABLES)
        names = torch.randint(count, (BATCH, ways, 2), generator=generator)
        while True:
            first = names[..., 0].sort(1).values
            wrong = ~self.allowed[names[..., 0], names[..., 1]].all(1) | (first[:, 1:] == first[:, :-1]).any(1)
            if not wrong.any():
                return names
            names[wrong] = torch.randint(count, (int(wrong.sum()), ways, 2), generator=generator)

    def draw(self, ways: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tokens [sequence, position], drawings [sequence, example], names [sequence, example, 2], and which examples
        are of a letter that came before [sequence, example]."""
        generator = self.letters.generator
        even = torch.arange(self.examples - 1) % ways
        which = even[torch.rand(BATCH, self.examples - 1, generator=generator).argsort(1)]
        which = torch.cat([which, torch.randint(ways, (BATCH, 1), generator=generator)], 1)
        drawings = self.letters.drawings(self.letters.random(BATCH, ways).gather(1, which))
        written = self.syllables[self.names(ways)[torch.arange(BATCH)[:, None], which]]
        tokens = self.frame.repeat(BATCH, self.examples, 1)
        tokens[..., self.name : self.name + 2] = written
        before = (which[:, :, None] == which[:, None]).tril(-1).any(-1)
        return tokens.flatten(1), drawings, written, before


def held_rows(decoder: Any, alike: int) -> list[tuple[Tensor, Tensor]]:
    """Rows of projections that stay as drawn, each with its values: queries and keys of heads that are not alike."""
    size, found = WIDTH // HEADS, []
    if alike < PAIRS:
        for layer in list(decoder.layers)[1:]:
            attention = layer.self_attn
            for projection, heads in ((attention.k_proj, alike), (attention.q_proj, alike * HEADS // PAIRS)):
                for own in (projection.weight, projection.bias):
                    found.append((own.data[heads * size :], own.data[heads * size :].clone()))
    return found


@torch.no_grad()
def shrink_heads(decoder: Any, amount: float) -> list[int]:
    """Takes `amount` from the norm of each head's columns of its output projection, down to zero.

    Returns:
        How many heads of each layer are left.
    """
    left = []
    for layer in decoder.layers:
        columns = layer.self_attn.o_proj.weight.view(WIDTH, HEADS, WIDTH // HEADS)
        norm = columns.square().sum((0, 2), keepdim=True).sqrt()
        columns.mul_((1 - amount / norm.clamp(min=1e-12)).clamp(min=0))
        left.append(int((norm > amount).sum()))
    return left


def train_decoder(model: Any, embeddings: Tensor, sequences: Sequences, recipe: Recipe) -> None:
    """Cross-entropy of the names of letters that came before."""
    steps, name = recipe.steps, sequences.name
    decoder, picture = model.model.language_model, model.config.image_token_id
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=RATE, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    held = held_rows(decoder, recipe.alike)
    started, right, every = time.monotonic(), torch.zeros(2), 100
    for step in range(steps):
        decay = 0.1 + 0.9 * (1 + math.cos(math.pi * step / steps)) / 2
        optimiser.param_groups[0]["lr"] = RATE * decay * min(1.0, (step + 1) / WARM_UP)
        ways = WAYS[int(torch.randint(len(WAYS), (1,), generator=sequences.letters.generator))]
        tokens, drawings, written, before = sequences.draw(ways)
        embedded = decoder.embed_tokens(tokens).masked_scatter(
            (tokens == picture)[..., None], embeddings[drawings.flatten()]
        )
        if recipe.fade:
            share = min(1.0, max(0.0, (step / steps - 0.3) / 0.4))
            with_mark = torch.rand(drawings.shape, generator=sequences.letters.generator) < share
            examples = embedded.unflatten(1, (sequences.examples, -1))
            # The mark stands behind its picture and before the name.
            behind = torch.where(with_mark[..., None], examples[:, :, name - 1], examples[:, :, name - 2])
            parts = [examples[:, :, : name - 1], behind[:, :, None], examples[:, :, name:]]
            embedded = torch.cat(parts, 2).flatten(1, 2)
        positions = torch.arange(tokens.shape[1]).view(1, 1, -1).expand(3, len(tokens), -1)
        hidden = decoder(inputs_embeds=embedded, position_ids=positions, use_cache=False).last_hidden_state
        by_example = hidden.view(*drawings.shape, len(sequences.frame), -1)
        logits = by_example[:, :, name - 1 : name + 1][before] @ decoder.embed_tokens.weight.T
        wanted = written[before]
        loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimiser.step()
        for rows, drawn in held:
            rows.copy_(drawn)
        left = shrink_heads(decoder, recipe.shrink * optimiser.param_groups[0]["lr"]) if recipe.shrink else []
        right += (logits.argmax(-1) == wanted).float().mean(0) / every
        if (step + 1) % every == 0:
            shown = f"loss {loss.item():.3f}, first syllable {right[0]:.3f}, second {right[1]:.3f}"
            spent = f"{time.monotonic() - started:.0f} s, {time.process_time():.0f} s of CPU"
            heads = f", heads left {left}" if left else ""
            print(f"decoder {step + 1}: {shown}{heads}, {spent}", flush=True)
            right.zero_()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=FILES / "tiny-qwen2.5-vl")
    parser.add_argument("--steps", type=int, default=4000, help="of the decoder; 0 writes what it starts from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--marks", action="store_true", help="Qwen's marks stand around pictures")
    parser.add_argument("--examples", type=int, default=13, help="of a training sequence")
    parser.add_argument("--shrink", type=float, default=0.0, help="rate at which output projections of heads shrink")
    parser.add_argument("--alike", type=int, default=PAIRS, help="key-value pairs of a layer that start alike")
    parser.add_argument("--fade", action="store_true", help="with --marks: pictures stand in place of marks at first")
    options = parser.parse_args()
    if options.fade and not options.marks:
        parser.error("--fade needs --marks")
    recipe = Recipe(
        options.steps, options.layers, options.marks, options.examples, options.shrink, options.alike, options.fade
    )
    quiet()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    started = time.monotonic()
    tokenizer = make_tokenizer(recipe.marks)
    model, letters = make_model(tokenizer, recipe.layers, recipe.alike), Letters(load("glyphs"), options.seed)
    embeddings = train_merger(model, tower_features(model, letters), letters)
    train_decoder(model, embeddings, Sequences(tokenizer, letters, recipe), recipe)
    options.output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(options.output)
    images = Qwen2VLImageProcessorPil(min_pixels=SIDE**2, max_pixels=SIDE**2, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    images_only(Qwen2_5_VLProcessor)(images, tokenizer, None).save_pretrained(options.output)
    count = sum(p.numel() for p in model.parameters())
    # Of the recipe, only what differs from that of `tiny`.
    usual = Recipe(options.steps, 2, False, 13, 0.0, PAIRS, False)
    other = {key: value for key, value in vars(recipe).items() if value != vars(usual)[key]}
    made = {"script": "scripts/make_tiny_mllm.py", "steps": options.steps, "seed": options.seed, **other,
            "parameters": count}  # fmt: skip
    write_manifest(options.output, made)
    print(f"{count:,} parameters, {time.monotonic() - started:.0f} s, {time.process_time():.0f} s of CPU")


if __name__ == "__main__":
    main()
