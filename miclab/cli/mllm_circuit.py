"""`miclab mllm edges`: the circuit of a production model, by the attention between kinds of position."""

from __future__ import annotations

from miclab.cli.mllm_options import EdgesFlags, close, remark, save_page
from miclab.cli.terminal import bar, parse, print_json
from miclab.mllm.options import EdgeOptions, chosen


def cut_edges(arguments: list[str]) -> int:
    """`miclab mllm edges`."""
    options = parse(EdgesFlags, "mllm edges", arguments)
    from miclab.mllm.errors import require

    require()
    from miclab.mllm.edge_knockout import cut_edges
    from miclab.mllm.edges import kinds_named
    from miclab.report.model_circuits import edges_page

    kinds_named(options.edges)
    opened = options.results("edges")
    production = options.production()
    task = options.load(production.view)
    title = f"Edges of {options.model_name} on {task.name}"
    with opened as results:
        with bar("edges", len(task.episodes)) as on_progress:
            found = cut_edges(production, task, chosen(EdgeOptions, options), batch=options.batch,
                              on_progress=on_progress)  # fmt: skip
        results.table("answers.parquet", found.rows)
        save_page(results, arguments, title, edges_page(found), found.problem)
        remark(results, production.remarks)
    if options.json:
        measures = ("correct", "probability", "choice", "copied", "log_probability")
        print_json({
            "model": options.model_name, "task": task.name, "episodes": found.episodes, "draws": found.draws,
            "folder": str(results.folder), "absent": [kind.short for kind in found.absent],
            "untouched": {measure: found.untouched.interval(measure).as_json() for measure in measures},
            "effects": [
                {"edges": one.kind.short, "layers": list(one.window.layers), "count": round(one.edges, 6)}
                | {measure: one.effect.interval(measure).as_json() for measure in measures}
                | {name: {m: None if (i := of(m)) is None else i.as_json() for m in ("correct", "probability")}
                   for name, of in (("change", one.effect.change), ("beyond_control", one.effect.beyond_control))}
                for one in found.effects
            ],
        })  # fmt: skip
    else:
        for made in found.tables():
            made.show()
    return close(results, found.problem)
