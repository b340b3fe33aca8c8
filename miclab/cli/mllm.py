"""`miclab mllm`: the protocol on production models."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace

from miclab.cli.mllm_flags import EpisodesFlags, MemoryFlags
from miclab.cli.mllm_heads import compare_models, heads
from miclab.cli.mllm_knockout import knockout
from miclab.cli.mllm_models import finetune, scale_up
from miclab.cli.mllm_reproduce import reproduce
from miclab.cli.terminal import bar, parse, print_json
from miclab.errors import MiclabError, nearest
from miclab.mllm.options import EpisodeOptions, chosen

USAGE = """usage: miclab mllm {heads,knockout,finetune,compare,scale,reproduce,make-episodes,memory} [options]

  heads          strength of every head of MODEL over a task: `mllm heads MODEL --task DIR`
  knockout       answers of MODEL without its top heads, against random heads and whole layers
  finetune       LoRA on a task, with strengths, accuracy and CLA at a schedule; resumes
  compare        top heads that two results of `heads` share, against chance: `mllm compare A B`
  scale          one task over several sizes of a family: `mllm scale MODEL MODEL ... --task DIR`
  reproduce      a claim of the paper: `mllm reproduce {P1,P2,P3} --model MODEL ... --task DIR`
  make-episodes  a task from pictures that miclab ships, or yours: `mllm make-episodes DIR`
  memory         the memory that MODEL needs, from its configuration

MODEL is a folder with config.json, safetensors and a tokenizer, a hub id, or `tiny`, which comes with miclab.
Heads are LAYER.HEAD, both counted from 0.
`miclab mllm COMMAND --help` shows the options of each."""


def _make_episodes(arguments: list[str]) -> int:
    options = parse(EpisodesFlags, "mllm make-episodes", arguments)
    from miclab.mllm.episodes import make_episodes

    requested = replace(chosen(EpisodeOptions, options), template=options.template.replace("\\n", "\n"))
    with bar("episodes", requested.episodes) as on_progress:
        folder = make_episodes(options.folder, requested, on_progress)
    blank = json.loads((folder / "task.json").read_text(encoding="utf-8"))["made"].get("one_colour", [])
    if blank:
        print(f"miclab: {len(blank)} pictures are all of one colour: {', '.join(blank[:3])}", file=sys.stderr)
    if options.json:
        print_json({"folder": str(folder), "episodes": requested.episodes, "ways": requested.ways,
                    "shots": requested.shots, "one_colour": blank})  # fmt: skip
        return 0
    print(
        f"wrote {folder}: {requested.episodes} episodes, {requested.ways} classes, {requested.shots} examples of each"
    )
    return 0


def _memory(arguments: list[str]) -> int:
    options = parse(MemoryFlags, "mllm memory", arguments)
    from miclab.mllm.errors import require

    require()
    from miclab.mllm.memory import memory

    found = memory(options.name, options.tokens)
    if options.json:
        needs = {k: {"weights": n.weights, "plain": n.plain, "measured": n.measured} for k, n in found.needs.items()}
        print_json({k: v for k, v in vars(found).items() if k != "needs"} | {"bytes": needs})
        return 0
    found.show()
    return 0


SUBCOMMANDS: dict[str, Callable[[list[str]], int]] = {
    "heads": heads, "knockout": knockout, "finetune": finetune, "compare": compare_models, "scale": scale_up,
    "reproduce": reproduce, "make-episodes": _make_episodes, "memory": _memory,
}  # fmt: skip


def run_mllm(arguments: list[str]) -> int:
    """`miclab mllm SUBCOMMAND`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    name, rest = arguments[0], arguments[1:]
    if name not in SUBCOMMANDS:
        raise MiclabError(f"`mllm {name}` is no command: {nearest(name, SUBCOMMANDS)}")
    return SUBCOMMANDS[name](rest)
