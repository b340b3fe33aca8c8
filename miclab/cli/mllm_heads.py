"""`miclab mllm heads`, `compare` and `knockout`: heads that are strong, shared by two models, or needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miclab.cli.mllm_options import (
    CompareFlags,
    HeadsFlags,
    KnockoutFlags,
    RankedFlags,
    close,
    made_by,
    remark,
    save_page,
)
from miclab.cli.terminal import bar, parse, print_json, print_table, refuse_ignored, say
from miclab.errors import MiclabError
from miclab.mllm.options import INDUCTION, PREVIOUS_TOKEN, KnockoutOptions, chosen
from miclab.tables import Number

if TYPE_CHECKING:
    from miclab.mllm.heads import HeadTable
    from miclab.statistics.intervals import Interval


def head_rows(table: HeadTable) -> list[dict[str, Any]]:
    """One row for each measure and head."""
    rows = []
    for measure in table.measures:
        rank = {head: number for number, head in enumerate(table.ranked(measure), 1)}
        for head, interval in zip(table.heads, table.intervals[measure], strict=True):
            measured = interval.as_json()
            rows.append({"measure": measure, "layer": head[0], "head": head[1], "mean": measured["mean"],
                         "low": measured["low"], "high": measured["high"], "rank": rank[head],
                         "episodes": table.episodes, "uniform": table.uniform.get(measure)})  # fmt: skip
    return rows


def heads(arguments: list[str]) -> int:
    """`miclab mllm heads`."""
    options = parse(HeadsFlags, "mllm heads", arguments)
    if options.save_attention == Path():
        refuse_ignored(arguments, ("save_episodes", "save_limit"), "no maps are saved without --save-attention")
    from miclab.mllm.errors import require

    require()
    if options.save_attention != Path():
        from miclab.mllm.maps import check_file

        check_file(options.save_attention)
    opened = options.results("heads")
    production = options.production()
    task = options.load(production.view)
    from miclab.circuits.find import head_name
    from miclab.mllm.head_names import PLACES, names_table
    from miclab.mllm.heads import measure_batch, measure_heads, with_random_weights
    from miclab.mllm.keys import recording_keys
    from miclab.mllm.maps import plan_maps, save_maps
    from miclab.mllm.overlays import overlay, strongest_heads
    from miclab.report.models import heads_page
    from miclab.report.overlays import overlays_page

    file, planned = options.save_attention, None
    usable = replace(task, episodes=tuple(episode for episode in task.episodes if episode.in_context))
    if file != Path() and usable.episodes:
        planned = plan_maps(production, usable, file, options.save_episodes, options.save_limit)
    with opened as results:
        with bar("heads", len(task.episodes)) as on_progress, recording_keys(production.layers) as keys:
            table = measure_heads(production, task, options.batch, on_progress)
        if options.baseline == "random":
            drawn = with_random_weights(production)
            with bar("heads of random weights", table.episodes) as on_progress:
                again = measure_heads(drawn, replace(task, episodes=table.measured), options.batch, on_progress)
            table = replace(table, random=again)
            results.table("random.parquet", head_rows(again))
        results.table("heads.parquet", head_rows(table))
        results.table("keys.parquet", keys.rows())
        names = {episode.name for episode in table.measured}
        used = [sha256 for e, sha256 in zip(task.episodes, task.digests, strict=True) if e.name in names]
        results.note(left_out=table.left_out, episodes=table.episodes, episodes_sha256=used)
        keep = list(dict.fromkeys(h for m in (PREVIOUS_TOKEN, INDUCTION) for h in table.ranked(m)[: options.maps]))
        maps = measure_batch(production, table.measured[:1], task, keep)[1] if keep else []
        page = heads_page(replace(table, maps=tuple(maps)), options.top)
        save_page(results, arguments, f"Heads of {options.model_name} on {task.name}", page, table.why_partial)
        if options.shown:
            strongest = strongest_heads(table)
            over = [overlay(production, task, one, strongest) for one in table.measured[: options.shown]]
            title = f"Strongest heads of {options.model_name} on {task.name}"
            results.file("attention.html", overlays_page(title, made_by(results, arguments), table, strongest, over))
        remark(results, production.remarks)
        if planned:
            save_maps(production, usable, planned, file)
            say(f"wrote {file}: {planned.bytes / 2**20:.1f} MiB of attention maps")
    ranked = {
        measure: [
            {"head": head_name(head), **table.intervals[measure][table.heads.index(head)].as_json()}
            for head in table.ranked(measure)[: options.top]
        ]
        for measure in table.measures
    }
    called = table.called(PLACES, options.top)
    if options.json:
        print_json({"model": options.model_name, "task": task.name, "episodes": table.episodes,
                    "left_out": table.left_out, "top": ranked, "uniform": dict(table.uniform),
                    "called": [one.as_json() for one in called], "key_constant": keys.rows(),
                    "random": {m: table.random.most(m).as_json() for m in table.measures} if table.random else None,
                    "folder": str(results.folder)})  # fmt: skip
    else:
        table.strongest(options.top).show()
        names_table(called).show()
        keys.table().show()
    return close(results, table.why_partial)


def compare_models(arguments: list[str]) -> int:
    """`miclab mllm compare`."""
    options = parse(CompareFlags, "mllm compare", arguments)
    from miclab.mllm.errors import require

    require()
    from miclab.circuits.find import head_name
    from miclab.mllm.compare import compare

    found = compare(options.a, options.b, options.top, options.among, options.measures)
    if options.json:
        print_json([{"measure": o.measure, "top": o.top, "among": o.among, "shared": list(map(head_name, o.shared)),
                     "expected": o.expected, "chance": o.chance, "correlation": o.correlation,
                     "correlation_chance": o.correlation_chance} for o in found])  # fmt: skip
        return 0
    cells = [
        [o.measure.replace("_", " "), f"{len(o.shared)} of {o.top}", " ".join(map(head_name, o.shared)),
         Number(o.expected, 2), Number(o.chance, 2, "g"), Number(o.correlation, 2),
         Number(o.correlation_chance, 2, "g")]
        for o in found
    ]  # fmt: skip
    print_table(f"top {options.top} heads of {options.a} among the top {options.among} of {options.b}",
                ["measure", "shared", "heads", "chance shares", "p (hypergeometric)", "rank correlation", "p"],
                cells)  # fmt: skip
    return 0


def interval_of(row: Mapping[str, Any]) -> Interval:
    """The interval of a row of `head_rows`."""
    from miclab.statistics.intervals import Interval

    return Interval.from_json(row, "sequence", row["episodes"])


def ranking_in(folder: Path, production: Any, task: Any, other: str) -> tuple[HeadTable, Any]:
    """Strengths of heads that `mllm heads` wrote, and the episodes of a task that did not rank them.

    Arguments:
        other: what a user can do instead of giving the folder, for messages.

    Raises:
        MiclabError: they are of a model with other heads, or no episode is left.
    """
    import numpy as np

    from miclab.mllm.heads import HeadTable
    from miclab.mllm.layers import all_heads
    from miclab.mllm.results import REMEDY, read_manifest, read_table

    rows = read_table(folder, "heads.parquet")
    heads = all_heads(production.layers)
    values, uniform, kept = {}, {}, {}
    for (measure,), of in rows.group_by(["measure"], maintain_order=True):
        found = {(row["layer"], row["head"]): interval_of(row) for row in of.iter_rows(named=True)}
        if set(found) != set(heads):
            raise MiclabError(f"{folder} is of a model with other heads than {production.name}.")
        kept[str(measure)] = [found[head] for head in heads]
        values[str(measure)] = np.array([[found[head].mean for head in heads]])
        # Results of earlier versions do not say what uniform attention gives.
        if "uniform" in of.columns:
            uniform[str(measure)] = float(of["uniform"][0])
    used = read_manifest(folder).get("episodes_sha256")
    if used is None:
        raise MiclabError(f"{folder} does not say which episodes ranked its heads. {REMEDY}")
    left = tuple(e for e, sha256 in zip(task.episodes, task.digests, strict=True) if sha256 not in set(used))
    if not left:
        raise MiclabError(
            f"All {len(task.episodes)} episodes of {task.name} ranked the heads of {folder}, and those are left out. "
            f"Take more --episodes, another --task, or {other}."
        )
    table = HeadTable(production.name, task.name, heads, values, uniform=uniform, kept=kept)
    return table, replace(task, episodes=left)


def ranking(options: RankedFlags, production: Any, task: Any) -> tuple[HeadTable, Any, Any]:
    """Strengths that rank the heads, episodes for mean outputs, and episodes to answer: none that ranked."""
    from miclab.mllm.heads import measure_heads

    if options.heads != Path():
        table, rest = ranking_in(options.heads, production, task, "--rank in the place of --heads")
        return table, rest, rest
    if not 1 <= options.rank < len(task.episodes):
        raise MiclabError(
            f"rank = {options.rank} is not possible. Allowed: 1 to {len(task.episodes) - 1}, since the task has "
            f"{len(task.episodes)} episodes and those that rank heads are left out. Or give --heads FOLDER."
        )
    first = task.part(0, options.rank)
    with bar("ranking heads", options.rank) as on_progress:
        return measure_heads(production, first, options.batch, on_progress).whole(), first, task.part(options.rank)


def knockout(arguments: list[str]) -> int:
    """`miclab mllm knockout`."""
    options = parse(KnockoutFlags, "mllm knockout", arguments)
    if options.heads != Path():
        refuse_ignored(arguments, ("rank",), "the heads of --heads are ranked already")
    from miclab.mllm.errors import require

    require()
    from miclab.mllm.knockout import knock_out
    from miclab.report.models import knockout_page

    opened = options.results("knockout")
    production = options.production()
    task = options.load(production.view)
    table, ranked_on, left = ranking(options, production, task)
    left_out = len(task.episodes) - len(left.episodes)
    title = f"Knockouts of {options.model_name} on {task.name}"
    with opened as results:
        with bar("knockout", len(left.episodes)) as on_progress:
            found = knock_out(production, table, left, chosen(KnockoutOptions, options), ranked_on=ranked_on,
                              batch=options.batch, benchmark=options.judge == "benchmark",
                              on_progress=on_progress)  # fmt: skip
        results.table("answers.parquet", found.rows)
        results.note(left_out=left_out)
        problem = "; ".join(text for text in (table.why_partial, found.problem) if text)
        save_page(results, arguments, title, knockout_page(found), problem)
        remark(results, production.remarks)
    if options.json:
        print_json({"model": options.model_name, "task": task.name, "episodes": found.episodes, "left_out": left_out,
                    "notes": found.notes, "folder": str(results.folder),
                    "called": [one.as_json() for one in found.called],
                    "effects": [_effect_json(e, found.of_patterns) for e in found.effects]})  # fmt: skip
    else:
        made, *others = found.tables()
        left = [f"{left_out} episodes that ranked the heads were left out."] if left_out else []
        replace(made, title=f"{title}: {made.title}", notes=(*left, *made.notes)).show()
        for other in others:
            other.show()
    return close(results, problem)


def _effect_json(effect: Any, of_patterns: bool) -> dict[str, Any]:
    from miclab.circuits.find import head_name

    beyond = effect.beyond_control("correct")
    return {
        "name": effect.name,
        "heads": [[head_name(head) for head in heads] for heads in effect.heads],
        **{measure: effect.interval(measure).as_json() for measure in effect.values},
        "change": effect.change("correct").as_json(),
        "beyond_control": beyond.as_json() if beyond else None,
        "draws": list(effect.draws),
        "need": effect.need if of_patterns and beyond else None,
    }
