"""`miclab mllm`: the protocol on production models."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miclab.cli.mllm_flags import (
    CompareFlags,
    EpisodesFlags,
    FinetuneFlags,
    HeadsFlags,
    KnockoutFlags,
    MemoryFlags,
    ScaleFlags,
)
from miclab.cli.terminal import bar, parse, print_json, print_table
from miclab.errors import MiclabError, nearest

if TYPE_CHECKING:
    from miclab.mllm.heads import HeadTable
    from miclab.mllm.results import Results

USAGE = """usage: miclab mllm {heads,knockout,finetune,compare,scale,make-episodes,memory} [options]

  heads          strength of every head of MODEL over a task: `mllm heads MODEL --task DIR`
  knockout       answers of MODEL without its top heads, against random heads and whole layers
  finetune       LoRA on a task, with strengths, accuracy and CLA at a schedule; resumes
  compare        top heads that two results of `heads` share, against chance: `mllm compare A B`
  scale          one task over several sizes of a family: `mllm scale MODEL MODEL ... --task DIR`
  make-episodes  a task from pictures that miclab ships, or yours: `mllm make-episodes DIR`
  memory         the memory that MODEL needs, from its configuration

MODEL is a folder with config.json, safetensors and a tokenizer, or a hub id. Heads are LAYER.HEAD, both counted from 0.
`miclab mllm COMMAND --help` shows the options of each."""


def _close(results: Results, problem: str) -> int:
    """Marks results as whole or partial, says where they are, and gives the exit status."""
    results.finish(problem)
    if problem:
        print(f"miclab: {problem}\nmiclab: partial results are kept in {results.folder}", file=sys.stderr)
        return 2
    print(f"wrote {results.folder}", file=sys.stderr)
    return 0


def _head_rows(table: HeadTable) -> list[dict[str, Any]]:
    """One row for each measure and head."""
    rows = []
    for measure in table.measures:
        rank = {head: number for number, head in enumerate(table.ranked(measure), 1)}
        for head, interval in zip(table.heads, table.intervals[measure], strict=True):
            told = interval.as_json()
            rows.append({"measure": measure, "layer": head[0], "head": head[1], "mean": told["mean"],
                         "low": told["low"], "high": told["high"], "rank": rank[head],
                         "episodes": table.episodes})  # fmt: skip
    return rows


def _heads(arguments: list[str]) -> int:
    options = parse(HeadsFlags, "mllm heads", arguments)
    from miclab.mllm.errors import require

    require()
    production = options.production()
    task = options.load(production.view)
    from miclab.mllm.heads import INDUCTION, PREVIOUS_TOKEN, measure_batch, measure_heads
    from miclab.mllm.layers import head_text
    from miclab.mllm.page import heads_page, write_page

    results = options.results("heads")
    with bar("heads", len(task.episodes)) as tell:
        table = measure_heads(production, task, options.batch, tell)
    results.table("heads.parquet", _head_rows(table))
    keep = list(dict.fromkeys(h for m in (PREVIOUS_TOKEN, INDUCTION) for h in table.ranked(m)[: options.maps]))
    usable = [episode for episode in task.episodes if episode.in_context]
    maps = measure_batch(production, usable[:1], task, keep)[1] if keep else []
    body, figures = heads_page(replace(table, maps=tuple(maps)), options.top)
    command = shlex.join(["miclab", "mllm", "heads", *arguments])
    page = results.folder / "heads.html"
    results.note(left_out=table.left_out, episodes=table.episodes)
    results.body["files"]["heads.html"] = write_page(
        page, f"Heads of {options.model_name} on {task.name}", command, body, figures, table.problem
    )
    ranked = {
        measure: [
            {"head": head_text(head), **table.intervals[measure][table.heads.index(head)].as_json()}
            for head in table.ranked(measure)[: options.top]
        ]
        for measure in table.measures
    }
    if options.json:
        print_json({"model": options.model_name, "task": task.name, "episodes": table.episodes,
                    "left_out": table.left_out, "top": ranked, "folder": str(results.folder)})  # fmt: skip
    else:
        cells = [
            [m.replace("_", " "), ", ".join(f"{h['head']} {h['mean']:.3f}" for h in heads)]
            for m, heads in ranked.items()
        ]
        title = f"{options.model_name} on {table.episodes} episodes of {task.name}"
        print_table(f"{title}: strongest heads (layer.head from 0)", ["measure", "heads"], cells)
        if table.left_out:
            print(f"{table.left_out} episodes whose answer is not in the context were left out.")
    return _close(results, table.problem)


def _ranking(options: KnockoutFlags, production: Any, task: Any) -> tuple[HeadTable, Any, Any]:
    """Strengths that rank the heads, the episodes that they are of, and those that are left to ask."""
    import numpy as np

    from miclab.mllm.heads import HeadTable, measure_heads
    from miclab.mllm.layers import all_heads
    from miclab.mllm.results import read_table

    if options.heads != Path():
        rows = read_table(options.heads, "heads.parquet")
        heads = tuple(all_heads(production.layers))
        values = {}
        for (measure,), of in rows.group_by(["measure"], maintain_order=True):
            means = dict(zip(zip(of["layer"], of["head"], strict=True), of["mean"], strict=True))
            if set(means) != set(heads):
                raise MiclabError(f"{options.heads} is of a model with other heads than {options.model_name}.")
            values[str(measure)] = np.array([[means[head] for head in heads]])
        return HeadTable(options.model_name, task.name, heads, values), task, task
    if not 1 <= options.rank < len(task.episodes):
        raise MiclabError(
            f"rank = {options.rank} is not possible. Allowed: 1 to {len(task.episodes) - 1}, since the task has "
            f"{len(task.episodes)} episodes and those that rank heads are not asked. Or give --heads FOLDER."
        )
    first = task.part(0, options.rank)
    with bar("ranking heads", options.rank) as tell:
        return measure_heads(production, first, options.batch, tell), first, task.part(options.rank)


def _knockout(arguments: list[str]) -> int:
    options = parse(KnockoutFlags, "mllm knockout", arguments)
    from miclab.mllm.errors import require

    require()
    from miclab.mllm.knockout import KnockoutOptions, knock_out

    asked = KnockoutOptions(top=options.top, previous_token=options.previous_token, induction=options.induction,
                            baseline=options.baseline, draws=options.draws, layers=options.layers,
                            seed=options.seed)  # fmt: skip
    production = options.production()
    task = options.load(production.view)
    table, ranked_on, left = _ranking(options, production, task)
    from miclab.mllm.page import EFFECT_COLUMNS, effect_cells, knockout_page, write_page

    results = options.results("knockout")
    with bar("knockout", len(left.episodes)) as tell:
        found = knock_out(production, table, left, asked, ranked_on=ranked_on, batch=options.batch, tell=tell)
    results.table("answers.parquet", found.rows)
    body, figures = knockout_page(found)
    title, command = (
        f"Knockouts of {options.model_name} on {task.name}",
        shlex.join(["miclab", "mllm", "knockout", *arguments]),
    )
    page = results.folder / "knockout.html"
    results.body["files"][page.name] = write_page(page, title, command, body, figures, found.problem)
    if options.json:
        print_json({"model": options.model_name, "task": task.name, "episodes": found.episodes, "notes": found.notes,
                    "folder": str(results.folder), "effects": [_effect_json(e) for e in found.effects]})  # fmt: skip
    else:
        print_table(
            f"{title}: {found.episodes} episodes [95 % interval]",
            EFFECT_COLUMNS,
            list(map(effect_cells, found.effects)),
        )
        for name, note in found.notes.items():
            print(f"{name}: {note}")
    return _close(results, found.problem)


def _effect_json(effect: Any) -> dict[str, Any]:
    from miclab.mllm.layers import head_text
    from miclab.mllm.scoring import MEASURES

    beyond = effect.beyond_control("correct")
    return {
        "name": effect.name,
        "heads": [[head_text(head) for head in heads] for heads in effect.heads],
        **{measure: effect.interval(measure).as_json() for measure in MEASURES},
        "change": effect.change("correct").as_json(),
        "beyond_control": beyond.as_json() if beyond else None,
        "draws": list(effect.draws),
    }


def _finetune(arguments: list[str]) -> int:
    options = parse(FinetuneFlags, "mllm finetune", arguments)
    from miclab.mllm.errors import require

    require()
    from miclab.mllm.finetune import FinetuneOptions, Finetuning

    asked = FinetuneOptions(steps=options.steps, every=options.every, batch=options.train_batch, rank=options.rank,
                            alpha=options.alpha, dropout=options.dropout, learning_rate=options.learning_rate,
                            top=options.top, seed=options.seed)  # fmt: skip
    production = options.production()
    task = options.load(production.view)
    if len(task.episodes) < 4:
        raise MiclabError(f"{task.name} has {len(task.episodes)} episodes; fine-tuning takes 4 and more.")
    cut = 3 * len(task.episodes) // 4
    from miclab.mllm.page import finetune_page, write_page

    results = options.results("finetune")
    work = Finetuning(production, task.part(0, cut), task.part(cut), results.folder / "run", asked, options.batch)
    problem = ""
    with bar("finetune", asked.steps, work.step) as tell:
        try:
            rows = work.run(tell)
        except MiclabError as error:
            rows, problem = work.rows, str(error)
    if not rows:
        return _close(results, problem)
    body, figures = finetune_page(rows)
    page, title = results.folder / "finetune.html", f"Fine-tuning of {options.model_name} on {task.name}"
    command = shlex.join(["miclab", "mllm", "finetune", *arguments])
    results.body["files"][page.name] = write_page(page, title, command, body, figures, problem)
    if options.json:
        print_json({"model": options.model_name, "task": task.name, "folder": str(results.folder), "rows": rows})
    else:
        measures = list(rows[0]["strengths"])
        cells = [
            [row["step"], *(f"{row[m]['mean']:.3f}" for m in ("correct", "choice", "copied")),
             *(f"{row['strengths'][m]['top_mean']:.3f}" for m in measures)]
            for row in rows
        ]  # fmt: skip
        columns = ["step", "accuracy", "forced choice", "CLA", *(m.replace("_", " ") for m in measures)]
        told = f"{len(work.held_out.episodes)} held-out episodes; strengths of the top heads at step 0"
        print_table(f"{title}: {told}", columns, cells)
    return _close(results, problem)


def _compare(arguments: list[str]) -> int:
    options = parse(CompareFlags, "mllm compare", arguments)
    from miclab.mllm.errors import require

    require()
    from miclab.mllm.compare import compare
    from miclab.mllm.layers import head_text

    found = compare(options.a, options.b, options.top, options.among, options.measures)
    if options.json:
        print_json([{"measure": o.measure, "top": o.top, "among": o.among, "shared": list(map(head_text, o.shared)),
                     "expected": o.expected, "chance": o.chance, "correlation": o.correlation,
                     "correlation_chance": o.correlation_chance} for o in found])  # fmt: skip
        return 0
    cells = [
        [o.measure.replace("_", " "), f"{len(o.shared)} of {o.top}", " ".join(map(head_text, o.shared)),
         f"{o.expected:.2f}", f"{o.chance:.2g}",
         "" if o.correlation is None else f"{o.correlation:.2f} (p {o.correlation_chance:.2g})"]
        for o in found
    ]  # fmt: skip
    print_table(f"top {options.top} heads of {options.a} among the top {options.among} of {options.b}",
                ["measure", "shared", "heads", "chance shares", "p (hypergeometric)", "rank correlation"],
                cells)  # fmt: skip
    return 0


def _scale(arguments: list[str]) -> int:
    options = parse(ScaleFlags, "mllm scale", arguments)
    from miclab.mllm.errors import TaskError, require

    require()
    from miclab.mllm.results import Results
    from miclab.mllm.scale import Size, scale
    from miclab.mllm.scoring import MEASURES

    if len(options.models) < 2:
        raise MiclabError("Name two or more models, the smallest first.")
    tasks = {}
    for view in ("image", "text"):
        try:
            tasks[view] = options.load(view)
        except TaskError:
            # A task need not have both views; whether it has the one that a model needs is seen when that is known.
            continue
    if not tasks:
        options.load("image")
    results = Results(options.output, "scale", {"models": list(options.models), "task": str(options.task)})
    rows: list[dict[str, Any]] = []

    def keep(size: Size) -> None:
        for number in range(len(size.values["correct"])):
            rows.append({"model": size.model, "episode": number} | {m: float(size.values[m][number]) for m in MEASURES})
        results.table("answers.parquet", rows)

    episodes = len(next(iter(tasks.values())).episodes)
    with bar("scale", episodes * len(options.models)) as tell:
        found, problem = scale(options.models, tasks, options.options(), options.batch, tell, keep)
    gains = ["", *(str(size.gain(smaller, "correct")) for smaller, size in pairwise(found))]
    if options.json:
        print_json([{"model": s.model, "parameters": s.parameters, "layers": s.layers, "heads": s.heads,
                     **{m: s.interval(m).as_json() for m in MEASURES},
                     "gain": s.gain(found[i - 1], "correct").as_json() if i else None}
                    for i, s in enumerate(found)])  # fmt: skip
    else:
        cells = [[s.model, f"{s.parameters:,}", f"{s.layers} x {s.heads}",
                  *(str(s.interval(m)) for m in ("correct", "choice", "copied")), gain]
                 for s, gain in zip(found, gains, strict=True)]  # fmt: skip
        columns = [
            "model",
            "parameters",
            "layers x heads",
            "accuracy",
            "forced choice",
            "CLA",
            "gain on the one before",
        ]
        print_table(f"{options.task.name}, {options.shots}-shot, {episodes} episodes [95 % interval]", columns, cells)
    return _close(results, problem)


def _make_episodes(arguments: list[str]) -> int:
    options = parse(EpisodesFlags, "mllm make-episodes", arguments)
    from miclab.mllm.episodes import EpisodeOptions, make_episodes
    from miclab.mllm.task import TEMPLATE

    asked = EpisodeOptions(data=options.data, part=options.part, words=options.words, ways=options.ways,
                           shots=options.shots, episodes=options.episodes, side=options.side, seed=options.seed,
                           instruction=options.instruction,
                           template=options.template.replace("\\n", "\n") or TEMPLATE)  # fmt: skip
    with bar("episodes", asked.episodes) as tell:
        folder = make_episodes(options.folder, asked, tell)
    if options.json:
        print_json({"folder": str(folder), "episodes": asked.episodes, "ways": asked.ways, "shots": asked.shots})
        return 0
    print(f"wrote {folder}: {asked.episodes} episodes, {asked.ways} classes, {asked.shots} examples of each")
    return 0


def _memory(arguments: list[str]) -> int:
    options = parse(MemoryFlags, "mllm memory", arguments)
    from miclab.mllm.errors import require

    require()
    from miclab.mllm.memory import GIB, memory

    found = memory(options.name, options.tokens)
    if options.json:
        needs = {k: {"weights": n.weights, "plain": n.plain, "measured": n.measured} for k, n in found.needs.items()}
        print_json({k: v for k, v in vars(found).items() if k != "needs"} | {"bytes": needs})
        return 0
    cells = [
        [held, *(f"{size / GIB:.2f}" for size in (n.weights, n.plain, n.measured, n.weights + n.measured))]
        for held, n in found.needs.items()
    ]
    print(
        f"{found.model}: {found.parameters:,} parameters ({found.vision:,} outside the decoder), {found.layers} layers "
        f"of {found.heads} heads of {found.head_size}, {found.key_value_heads} for keys and values"
    )
    print_table(f"GiB, one sequence of {found.tokens} tokens",
                ["weights as", "weights", "a plain pass", "a pass of `heads`", "weights and `heads`"],
                cells)  # fmt: skip
    return 0


SUBCOMMANDS: dict[str, Callable[[list[str]], int]] = {
    "heads": _heads, "knockout": _knockout, "finetune": _finetune, "compare": _compare, "scale": _scale,
    "make-episodes": _make_episodes, "memory": _memory,
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
