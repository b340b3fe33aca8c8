"""Costs of `miclab mllm`: memory of measuring heads, and episodes answered a second.

    python -m benchmarks.mllm --tokens 1024
    python -m benchmarks.mllm --answers tiny 0.5B 0.5B-VL
    python -m benchmarks.mllm --together tiny 0.5B 0.5B-VL

Without `--answers`: peak memory of measuring every head, beside a plain forward pass with eager attention, and the time
of both. One layer of Qwen2.5's class (the width and heads of its 3B model unless said otherwise) with random weights.
Memory is what the pass allocates beyond weights and inputs: on a GPU as its allocator reports it, on a CPU as the
profiler does, allocation by allocation.

With `--answers`: episodes a second of processor time, one at a time, each answered untouched and with two heads knocked
out in the first layer and in the middle one. First every pass is whole. Then passes share the layers before the change,
then also the prompt. `0.5B` has the shape of Qwen2.5-0.5B and random weights, and reads items in words. `0.5B-VL` is a
Qwen2.5-VL whose decoder has that shape. It reads pictures of 112 x 112 pixels, 16 tokens each, through a small tower.

With `--together`: the same interventions, and strengths of heads, one episode at a time and in batches of similar
length, with the time for writing prompts. Rounds of both alternate; each ratio is of their sums.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from benchmarks import program
from benchmarks.program import Line, Lines
from miclab.errors import ConfigError
from miclab.mllm.ablation import knocked_out
from miclab.mllm.attention import measuring
from miclab.mllm.batches import batches
from miclab.mllm.effects import answer_under
from miclab.mllm.episodes import make_episodes
from miclab.mllm.heads import measure_heads
from miclab.mllm.layers import attention_layers
from miclab.mllm.loading import Production, load_model
from miclab.mllm.options import EpisodeOptions, LoadOptions
from miclab.mllm.passes import UNTOUCHED, Intervention, Passes
from miclab.mllm.processors import images_only
from miclab.mllm.reading import Reading
from miclab.mllm.scoring import answers
from miclab.mllm.task import Episode, Example, Item, Task
from miclab.mllm.task_folder import load_task
from miclab.worlds.roles import LABEL, OTHER, Roles


def peak_of(run: Callable[[], Any], device: str) -> float:
    """Bytes that a pass holds at its highest, beyond what was held before."""
    if device != "cpu":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    held = highest = 0
    # Allocations and frees in their order; the profiler names them `[memory]`.
    profiler: Any = seen.profiler
    for event in sorted(profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            highest = max(highest, held)
    return highest


def reading(tokens: int) -> Reading:
    """Four examples spread over a sequence: an item of several positions, then a label of two."""
    kind, exemplar = torch.full((tokens,), OTHER), torch.full((tokens,), -1)
    share = tokens // 5
    for number in range(5):
        kind[number * share : (number + 1) * share - 4], exemplar[number * share : (number + 1) * share - 4] = 0, number
        if number < 4:
            kind[(number + 1) * share - 3 : (number + 1) * share - 1] = LABEL
            exemplar[(number + 1) * share - 3 : (number + 1) * share - 1] = number
    item = Item(text="item")
    episode = Episode("made up", tuple(Example(item, name) for name in "abab"), item, "a")
    roles = Roles(("text",), 4, kind, exemplar)
    return Reading(episode, "a", tokens - 1, (tokens,), (), roles, torch.tensor([0, 1, 0, 1]), 0)


SHAPE: dict[str, Any] = {
    "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
"""Decoder of Qwen2.5-0.5B."""
TOWER = {"depth": 8, "hidden_size": 512, "intermediate_size": 1368, "num_heads": 8, "out_hidden_size": 896,
         "fullatt_block_indexes": [3, 7]}  # fmt: skip
"""A vision tower of Qwen2.5-VL's kind, so small that the whole model has half a billion parameters."""
SIDE = 112
"""Pixels of a side of its pictures."""


def half_billion() -> Production:
    """A model of Qwen2.5-0.5B's shape with random weights, and the tiny model's tokenizer."""
    model: Any = Qwen2ForCausalLM(Qwen2Config(**SHAPE, tie_word_embeddings=True)).eval()
    tokens = load_model("tiny", LoadOptions(device="cpu")).processor.tokenizer
    tokens.chat_template = None
    return Production("0.5B", model, tokens, attention_layers(model), LoadOptions(device="cpu"))


def half_billion_with_pictures() -> Production:
    """A Qwen2.5-VL with a decoder of Qwen2.5-0.5B's shape, random weights, and the tiny model's tokenizer."""
    tokens = load_model("tiny", LoadOptions(device="cpu")).processor.tokenizer
    tokens.chat_template = None
    marks = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
             "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}  # fmt: skip
    rope = {"rope_type": "default", "mrope_section": [8, 12, 12], "rope_theta": 1e6}
    config = Qwen2_5_VLConfig(
        text_config={**SHAPE, "rope_parameters": rope}, vision_config=TOWER, tie_word_embeddings=True,
        **{name: tokens.convert_tokens_to_ids(mark) for name, mark in marks.items()},
    )  # fmt: skip
    model: Any = Qwen2_5_VLForConditionalGeneration(config).eval()
    images = Qwen2VLImageProcessorPil(min_pixels=SIDE**2, max_pixels=SIDE**2)
    processor = images_only(Qwen2_5_VLProcessor)(images, tokens, None)
    return Production("0.5B-VL", model, processor, attention_layers(model), LoadOptions(device="cpu"))


MADE: dict[str, Callable[[], Production]] = {"0.5B": half_billion, "0.5B-VL": half_billion_with_pictures}
"""Models with random weights by name."""


def model_named(name: str) -> Production:
    """`0.5B`, `0.5B-VL`, `tiny` or the model in a folder."""
    return MADE[name]() if name in MADE else load_model(name, LoadOptions(device="cpu"))


def interventions(production: Production) -> list[Intervention]:
    """None, then two heads out of the first layer, and out of the middle one."""
    indices = [layer.index for layer in production.layers]
    depths = [indices[0], indices[len(indices) // 2]]
    sets = [tuple((depth, head) for head in (part % 2, 2 + part % 2)) for part, depth in enumerate(depths)]
    return [UNTOUCHED, *(
        Intervention(lambda _, heads=heads: knocked_out(production.layers, heads), heads[0][0], True) for heads in sets
    )]  # fmt: skip


def words_or_pictures(production: Production, folder: str, episodes: int) -> Task:
    """Episodes of concepts, 2-way 2-shot, as the model can see them."""
    made = EpisodeOptions(data="concepts.pictures", episodes=episodes, template="{item}{answer}\n")
    return load_task(make_episodes(Path(folder) / "task", made), shots=2, view=production.view)


def together(name: str, episodes: int, rounds: int = 2) -> dict[str, Any]:
    """Episodes a second of one model, one by one and in batches of similar length."""
    production = model_named(name)
    named = {str(number): one for number, one in enumerate(interventions(production))}
    found: dict[str, Any] = {"model": name, "episodes": episodes}
    with TemporaryDirectory() as folder:
        task = words_or_pictures(production, folder, episodes)
        found["batches"] = [len(some) for some, _ in batches(production.prompter(task), 0)]
        run: dict[str, Callable[[Task, int], dict[str, Any]]] = {
            "answers": lambda task, batch: {
                f"{key} {measure}": values
                for key, of in answer_under(production, task, named, batch=batch).found.items()
                for measure, values in of.named().items()
            },
            "heads": lambda task, batch: measure_heads(production, task, batch).values,
        }
        for what, read in run.items():
            read(task.part(0, 1), 1)
            spent, values = {1: 0.0, 0: 0.0}, {}
            for _ in range(rounds):
                for batch in spent:
                    started = time.process_time()
                    values[batch] = read(task, batch)
                    spent[batch] += time.process_time() - started
            each = {batch: rounds * episodes / seconds for batch, seconds in spent.items()}
            found[what] = {
                "one by one": round(each[1], 3), "together": round(each[0], 3), "ratio": round(each[0] / each[1], 2),
                "largest difference": max(float(abs(values[0][key] - of).max()) for key, of in values[1].items()),
            }  # fmt: skip
    return found


def answered(name: str, episodes: int) -> dict[str, Any]:
    """Episodes a second of one model, by what its passes share."""
    production = model_named(name)
    conditions = interventions(production)
    with TemporaryDirectory() as folder:
        task = words_or_pictures(production, folder, episodes + 1)
        lots = [lot for lot in batches(production.prompter(task), 1) if len(lot[0][0].candidates) > 1]
        lengths = [encoded.readings[0].length for _, encoded in lots]
        found: dict[str, Any] = {
            "model": name, "parameters": sum(p.numel() for p in production.model.parameters()),
            "tokens": round(sum(lengths) / len(lengths)),
        }  # fmt: skip
        seen = []
        for how in ("whole", "layers shared", "prompt shared"):
            passes = None if how == "whole" else Passes(production, conditions, shares=how == "prompt shared", least=0)
            values: list[Any] = []
            spent = 0.0
            for number, (some, encoded) in enumerate(lots):
                # The first episode is a warm-up. It also shows whether the prompt can be shared.
                started = time.process_time()
                values += [answers(production, some, encoded, None, passes, one).named() for one in conditions]
                spent += (time.process_time() - started) * (number > 0)
            seen.append(values)
            found[how] = round((len(lots) - 1) / spent, 3)
        found["largest difference"] = max(
            float(abs(mine[measure] - other[measure]).max())
            for values in seen[1:] for mine, other in zip(values, seen[0], strict=True) for measure in mine
        )  # fmt: skip
    return found


@dataclass(frozen=True, kw_only=True)
class Options(program.Options):
    """What is measured, and its size."""

    tokens: tuple[int, ...] = (512, 1024)
    """Positions of the sequence; one measurement for each."""
    heads: int = 16
    """Heads of the layer."""
    pairs: int = 2
    """Heads of keys and values, which divide the heads."""
    size: int = 128
    """Width of a head."""
    device: str = "cpu"
    """Device of the layer, as PyTorch names it."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Numbers of the layer."""
    answers: tuple[str, ...] = ()
    """Models that answer: tiny, 0.5B, 0.5B-VL, or folders."""
    together: tuple[str, ...] = ()
    """Models that answer one by one and in batches: tiny, 0.5B, 0.5B-VL, or folders."""
    episodes: int = 8
    """Episodes of --answers and --together."""


def as_line(values: dict[str, Any]) -> Line:
    """What was measured as a line of JSON."""
    return Line(json.dumps(values), values)


def measure(options: Options) -> Lines:
    """A line for each model, or for each number of positions."""
    if options.heads % options.pairs:
        raise ConfigError("--pairs", options.pairs, f"a divisor of --heads {options.heads}")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("--device", options.device, "cpu; this machine has no GPU that PyTorch can use")
    torch.manual_seed(0)
    for name in options.answers:
        yield as_line(answered(name, options.episodes))
    for name in options.together:
        yield as_line(together(name, options.episodes))
    if options.answers or options.together:
        return
    width = options.heads * options.size
    config = Qwen2Config(
        vocab_size=64, hidden_size=width, intermediate_size=width, num_hidden_layers=1, bos_token_id=0, eos_token_id=0,
        num_attention_heads=options.heads, num_key_value_heads=options.pairs, max_position_embeddings=1 << 16,
    )  # fmt: skip
    model: Any = Qwen2ForCausalLM(config).eval()
    model.to(device=options.device, dtype=getattr(torch, options.dtype))
    for tokens in options.tokens:
        yield as_line({"tokens": tokens, "heads": options.heads, **of_length(model, tokens, options.device)})


def of_length(model: Any, tokens: int, device: str) -> dict[str, Any]:
    """Peak memory and seconds of a plain pass and of one that measures every head, and the ratio of memory."""
    layers = attention_layers(model)
    ids, one = torch.randint(64, (1, tokens), device=device), reading(tokens)

    @torch.no_grad()
    def plain() -> None:
        model(ids, use_cache=False, logits_to_keep=1)

    @torch.no_grad()
    def measured() -> None:
        with measuring(model, layers, (one,)):
            model(ids, use_cache=False, logits_to_keep=1)

    model.set_attn_implementation("eager")
    rows: dict[str, Any] = {}
    for name, run in (("plain", plain), ("measured", measured)):
        run()
        started = time.perf_counter()
        run()
        spent = time.perf_counter() - started
        rows[name] = {"peak_mib": peak_of(run, device) / 2**20, "seconds": spent}
    return {**rows, "peak_ratio": round(rows["measured"]["peak_mib"] / rows["plain"]["peak_mib"], 3)}


main = program.program("mllm", Options, measure, __doc__)

if __name__ == "__main__":
    sys.exit(main(None))
