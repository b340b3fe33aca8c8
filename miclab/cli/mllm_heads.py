"""`miclab mllm heads` and `compare`: strengths of heads, and which of them two models share."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from miclab.cli.mllm_flags import CompareFlags, HeadsFlags
from miclab.cli.mllm_output import close, remark, save_page
from miclab.cli.terminal import bar, parse, print_json, print_table
from miclab.mllm.options import INDUCTION, PREVIOUS_TOKEN
from miclab.tables import Number

if TYPE_CHECKING:
    from miclab.mllm.heads import HeadTable


def head_rows(table: HeadTable) -> list[dict[str, Any]]:
    """One row for each measure and head."""
    rows = []
    for measure in table.measures:
        rank = {head: number for number, head in enumerate(table.ranked(measure), 1)}
        for head, interval in zip(table.heads, table.intervals[measure], strict=True):
            measured = interval.as_json()
            rows.append({"measure": measure, "layer": head[0], "head": head[1], "mean": measured["mean"],
                         "low": measured["low"], "high": measured["high"], "rank": rank[head],
                         "episodes": table.episodes})  # fmt: skip
    return rows


def heads(arguments: list[str]) -> int:
    """`miclab mllm heads`."""
    options = parse(HeadsFlags, "mllm heads", arguments)
    from miclab.mllm.errors import require

    require()
    opened = options.results("heads")
    production = options.production()
    task = options.load(production.view)
    from miclab.circuits.find import head_name
    from miclab.mllm.heads import measure_batch, measure_heads
    from miclab.report.models import heads_page

    with opened as results:
        with bar("heads", len(task.episodes)) as on_progress:
            table = measure_heads(production, task, options.batch, on_progress)
        results.table("heads.parquet", head_rows(table))
        names = {episode.name for episode in table.measured}
        used = [sha256 for e, sha256 in zip(task.episodes, task.digests, strict=True) if e.name in names]
        results.note(left_out=table.left_out, episodes=table.episodes, episodes_sha256=used)
        keep = list(dict.fromkeys(h for m in (PREVIOUS_TOKEN, INDUCTION) for h in table.ranked(m)[: options.maps]))
        maps = measure_batch(production, table.measured[:1], task, keep)[1] if keep else []
        page = heads_page(replace(table, maps=tuple(maps)), options.top)
        save_page(results, arguments, f"Heads of {options.model_name} on {task.name}", page, table.why_partial)
        remark(results, production.remarks)
    ranked = {
        measure: [
            {"head": head_name(head), **table.intervals[measure][table.heads.index(head)].as_json()}
            for head in table.ranked(measure)[: options.top]
        ]
        for measure in table.measures
    }
    if options.json:
        print_json({"model": options.model_name, "task": task.name, "episodes": table.episodes,
                    "left_out": table.left_out, "top": ranked, "folder": str(results.folder)})  # fmt: skip
    else:
        table.strongest(options.top).show()
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
