"""`miclab mllm`: the protocol on production models."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

from miclab.cli.mllm_circuit import cut_edges, lens, patch, vectors
from miclab.cli.mllm_edges import attribute, paths
from miclab.cli.mllm_heads import compare_models, heads, knockout
from miclab.cli.mllm_options import (
    EpisodesFlags,
    FinetuneFlags,
    MemoryFlags,
    ScaleFlags,
    as_plain,
    close,
    remark,
    save_page,
)
from miclab.cli.mllm_reproduce import reproduce
from miclab.cli.terminal import bar, parse, print_json, print_table, say
from miclab.errors import MiclabError, nearest, visible
from miclab.mllm.options import EpisodeOptions, FinetuneOptions, LoadOptions, chosen, last_name


def finetune(arguments: list[str]) -> int:
    """`miclab mllm finetune`."""
    options = parse(FinetuneFlags, "mllm finetune", arguments)
    from miclab.mllm.errors import DivergedError, require

    require()
    from miclab.mllm.batches import lost_text
    from miclab.mllm.finetune import Finetuning
    from miclab.report.models import finetune_page

    requested = chosen(FinetuneOptions, options)
    opened = options.results("finetune", extends=("steps",))
    production = options.production()
    task = options.load(production.view)
    if len(task.episodes) < 4:
        raise MiclabError(f"{task.name} has {len(task.episodes)} episodes; fine-tuning takes 4 and more.")
    cut = 3 * len(task.episodes) // 4
    title = f"Fine-tuning of {options.model_name} on {task.name}"
    work = Finetuning(
        production, task.part(0, cut), task.part(cut), opened.folder / "run", requested, options.batch or 1
    )
    with opened as results:
        problem, status = "", 0
        with bar("finetune", requested.steps, work.step) as on_progress:
            try:
                rows = work.run(on_progress)
            except MiclabError as error:
                rows, problem, status = work.rows, str(error), 1 if isinstance(error, DivergedError) else 2
        problem = "; ".join(text for text in (problem, lost_text(work.lost, len(task.episodes))) if text)
        if not rows:
            return close(results, problem, status)
        save_page(results, arguments, title, finetune_page(rows), problem)
        remark(results, production.remarks)
    if options.json:
        print_json({"model": options.model_name, "task": task.name, "folder": str(results.folder), "rows": rows})
    else:
        measures = list(rows[0]["strengths"])
        cells = [
            [row["step"], *(row[m]["mean"] for m in ("correct", "choice", "copied")),
             *(row["strengths"][m]["top_mean"] for m in measures)]
            for row in rows
        ]  # fmt: skip
        columns = ["step", "accuracy", "forced choice", "CLA", *(m.replace("_", " ") for m in measures)]
        under = f"{len(work.held_out.episodes)} held-out episodes; strengths of the top heads at step 0"
        print_table(f"{title}: {under}", columns, cells)
    return close(results, problem, status)


def scale_up(arguments: list[str]) -> int:
    """`miclab mllm scale`."""
    options = parse(ScaleFlags, "mllm scale", arguments)
    from miclab.mllm.errors import ViewError, require

    require()
    from miclab.mllm.results import Results
    from miclab.mllm.scale import Size, scale

    if len(options.models) < 2:
        raise MiclabError("Name two or more models, the smallest first.")
    opened = Results(options.output, "scale", as_plain(options))
    tasks, lacking = {}, []
    for view in ("image", "text"):
        try:
            tasks[view] = options.load(view)
        except ViewError as error:
            # A task need not have both views. The needed one is checked once the model is known.
            lacking.append(error)
    if not tasks:
        raise lacking[0]
    first = next(iter(tasks.values()))
    rows: list[dict[str, Any]] = []

    def keep(size: Size) -> None:
        for number, name in enumerate(size.names):
            said = {"written": size.written[number]} if size.written else {}
            rows.append({"model": size.model, "episode": name, **said}
                        | {m: float(of[number]) for m, of in size.values.items()})  # fmt: skip
        results.table("answers.parquet", rows)

    episodes = len(first.episodes)
    with opened as results, bar("scale", episodes * len(options.models)) as on_progress:
        found, problem = scale(options.models, tasks, chosen(LoadOptions, options), options.batch, on_progress, keep,
                               options.judge == "benchmark")  # fmt: skip
        remark(results, dict.fromkeys(one for size in found for one in size.remarks))
    gains = [None, *(size.gain(smaller, "correct") for smaller, size in pairwise(found))]
    if options.json:
        print_json([{"model": s.model, "parameters": s.parameters, "layers": s.layers, "heads": s.heads,
                     **{m: s.interval(m).as_json() for m in s.values},
                     "gain": s.gain(found[i - 1], "correct").as_json() if i else None}
                    for i, s in enumerate(found)])  # fmt: skip
    else:
        shown = {"correct": "accuracy", "choice": "forced choice", "copied": "CLA"}
        if options.judge == "benchmark":
            shown = {"benchmark": "benchmark's accuracy", **shown}
        cells = [[s.model, s.parameters, f"{s.layers} x {s.heads}",
                  *(s.interval(m) for m in shown), gain]
                 for s, gain in zip(found, gains, strict=True)]  # fmt: skip
        columns = ["model", "parameters", "layers x heads", *shown.values(), "gain on the one before"]
        print_table(
            f"{last_name(str(options.task))}, {options.shots}-shot, {episodes} episodes [95 % interval]", columns, cells
        )
    return close(results, problem)


USAGE = """
  heads          strength of every head of MODEL over a task: `mllm heads MODEL --task DIR`
  knockout       answers of MODEL without its top heads, against random heads and whole layers
  edges          answers of MODEL without attention between kinds of position, by layers
  lens           logits by layer and kind of position, and of each head
  patch          causal tracing: activations put into a corrupted prompt, by part, layer and kind of position
  paths          exact path patching: what one sender adds to one receiver, alone
  attribute      the effect of every edge, estimated by gradients beside exact path patching
  vectors        answers without examples, with the mean output of induction heads added
  finetune       LoRA on a task, with strengths, accuracy and CLA at a schedule; resumes
  compare        top heads that two results of `heads` share, against chance: `mllm compare A B`
  scale          one task over several sizes of a family: `mllm scale MODEL MODEL ... --task DIR`
  reproduce      a claim of the paper: `mllm reproduce {P1,P2,P3} --model MODEL ... --task DIR`
  make-episodes  a task from pictures that miclab ships, or yours: `mllm make-episodes DIR`
  memory         the memory that MODEL needs, from its configuration

MODEL is a folder with config.json, safetensors and a tokenizer, a hub id, or `tiny` or `tiny-marks`, which come with
miclab.
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
        say(f"{len(blank)} pictures are all of one colour: {', '.join(blank[:3])}")
    if options.json:
        print_json({"folder": str(folder), "episodes": requested.episodes, "ways": requested.ways,
                    "shots": requested.shots, "one_colour": blank})  # fmt: skip
        return 0
    content = f"{requested.episodes} episodes, {requested.ways} classes, {requested.shots} examples of each"
    print(visible(f"wrote {folder}: {content}"))
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
    "heads": heads, "knockout": knockout, "edges": cut_edges, "lens": lens, "patch": patch, "paths": paths,
    "attribute": attribute, "vectors": vectors, "finetune": finetune, "compare": compare_models, "scale": scale_up,
    "reproduce": reproduce, "make-episodes": _make_episodes, "memory": _memory,
}  # fmt: skip


def run_mllm(arguments: list[str]) -> int:
    """`miclab mllm SUBCOMMAND`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: miclab mllm {{{','.join(SUBCOMMANDS)}}} [options]\n{USAGE}")
        return 0 if arguments else 2
    name, rest = arguments[0], arguments[1:]
    if name not in SUBCOMMANDS:
        raise MiclabError(f"`mllm {name}` is no command: {nearest(name, SUBCOMMANDS)}")
    return SUBCOMMANDS[name](rest)
