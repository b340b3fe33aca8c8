"""`miclab mllm edges`, `lens`, `patch` and `vectors`: the circuit of a production model, by what flows through it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miclab.cli.mllm_heads import ranking
from miclab.cli.mllm_options import ModelFlags, RankedFlags, close, only_exact, remark, save_page
from miclab.cli.terminal import bar, parse, print_json
from miclab.errors import ConfigError
from miclab.mllm.options import EdgeOptions, PatchOptions, VectorOptions, at_least, chosen

if TYPE_CHECKING:
    from miclab.mllm.effects import Effect


@dataclass(frozen=True, kw_only=True)
class VectorsFlags(VectorOptions, RankedFlags):
    """Answers without examples, with the mean output of the top induction heads added (function vector). The control
    is as many random heads; writes answers.parquet, vectors.html."""

    def __post_init__(self) -> None:
        ModelFlags.__post_init__(self)
        VectorOptions.__post_init__(self)
        only_exact(self, "only whole answers are judged")


@dataclass(frozen=True, kw_only=True)
class EdgesFlags(EdgeOptions, ModelFlags):
    """Accuracy and probability of the answer without attention between kinds of position, by layers. Controls are as
    many random edges. Kinds are SOURCE:TARGET, where TARGET attends to SOURCE; writes answers.parquet, edges.html."""

    def __post_init__(self) -> None:
        ModelFlags.__post_init__(self)
        EdgeOptions.__post_init__(self)
        only_exact(self, "edges are those of an answer that is there")


@dataclass(frozen=True, kw_only=True)
class LensFlags(ModelFlags):
    """Logit lens by layer and kind of position, and direct logit attribution. The latter is what each head adds to the
    logit of the answer over other answers. Writes lens.parquet, attribution.parquet, lens.html."""

    top: int = 5
    """Heads listed that add most, and that take most."""

    def __post_init__(self) -> None:
        ModelFlags.__post_init__(self)
        at_least(self, top=1)
        only_exact(self, "logits are judged, and nothing is written")


@dataclass(frozen=True, kw_only=True)
class PatchFlags(PatchOptions, ModelFlags):
    """Causal tracing: activations of a clean prompt put into a corrupted one, or the other way round. By part, layer
    and kind of position it gives the share of the corruption's effect. Writes patches.parquet, patch.html."""

    top: int = 10
    """Heads listed of each part by head; 0: all."""

    def __post_init__(self) -> None:
        ModelFlags.__post_init__(self)
        PatchOptions.__post_init__(self)
        at_least(self, top=0)
        only_exact(self, "logits are judged, and nothing is written")


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


def lens(arguments: list[str]) -> int:
    """`miclab mllm lens`."""
    options = parse(LensFlags, "mllm lens", arguments)
    from miclab.mllm.errors import require

    require()
    from miclab.circuits.find import head_name
    from miclab.mllm.lens import LENSES, head_rows, lens_rows, look
    from miclab.report.model_circuits import lens_page
    from miclab.statistics.intervals import episode_interval

    opened = options.results("lens")
    production = options.production()
    task = options.load(production.view)
    with opened as results:
        with bar("lens", len(task.episodes)) as on_progress:
            found = look(production, task, options.batch, on_progress)
        results.table("lens.parquet", lens_rows(found))
        if not found.no_attribution:
            results.table("attribution.parquet", head_rows(found))
        results.note(left_out=found.left_out)
        title = f"Logits of {options.model_name} on {task.name}"
        save_page(results, arguments, title, lens_page(found, options.top), found.problem)
        remark(results, production.remarks)
    if options.json:
        print_json({
            "model": options.model_name, "task": task.name, "episodes": len(found.names), "left_out": found.left_out,
            "folder": str(results.folder), "stages": list(found.stages), "no_attribution": found.no_attribution,
            "lens": {name: {role: [found.at(name, stage, role).as_json() for stage in range(len(found.stages))]
                            for role in found.roles} for name in LENSES},
            "parts": {name: episode_interval(values).as_json() for name, values in found.parts.items()},
            "heads": [{"head": head_name(head), **found.of(head).as_json()} for head in found.ranked()],
        })  # fmt: skip
    else:
        for made in (*found.tables(), *found.strongest(options.top)):
            made.show()
    return close(results, found.problem)


def patch(arguments: list[str]) -> int:
    """`miclab mllm patch`."""
    options = parse(PatchFlags, "mllm patch", arguments)
    from miclab.mllm.errors import require

    require()
    from miclab.mllm.episode_pairs import corruption_named
    from miclab.mllm.patching import parts_named, plan, trace
    from miclab.mllm.patching_result import patch_rows
    from miclab.report.model_patching import patch_page

    corruption_named(options.corruption)
    parts_named(options.parts)
    requested = chosen(PatchOptions, options)
    opened = options.results("patch")
    production = options.production()
    patches = plan(production, requested).patches
    task = options.load(production.view)
    with opened as results:
        with bar("patches", len(task.episodes) * patches) as on_progress:
            found = trace(production, task, requested, batch=options.batch, on_progress=on_progress)
        results.table("patches.parquet", patch_rows(found))
        results.note(left_out=list(found.remarks))
        title = f"Causal tracing of {options.model_name} on {task.name}"
        save_page(results, arguments, title, patch_page(found, options.top), found.problem)
        remark(results, production.remarks)
    if options.json:
        print_json(found.as_json() | {"model": options.model_name, "folder": str(results.folder)})
    else:
        for made in found.listed(options.top):
            made.show()
    return close(results, found.problem)


def vectors(arguments: list[str]) -> int:
    """`miclab mllm vectors`."""
    options = parse(VectorsFlags, "mllm vectors", arguments)
    from miclab.mllm.errors import require

    require()
    from miclab.circuits.find import head_name
    from miclab.mllm.vectors import SHOWN, add_vectors
    from miclab.report.model_circuits import vectors_page

    opened = options.results("vectors")
    production = options.production()
    task = options.load(production.view)
    table, ranked_on, left = ranking(options, production, task)
    if options.heads != Path():
        # The heads are ranked already; the vector still needs episodes that are not answered.
        if not 1 <= options.rank < len(left.episodes):
            raise ConfigError("rank", options.rank, f"1 to {len(left.episodes) - 1}: they give the vector and are not "
                                                    "answered")  # fmt: skip
        ranked_on, left = left.part(0, options.rank), left.part(options.rank)
    title = f"Function vectors of {options.model_name} on {task.name}"
    with opened as results:
        with bar("vectors", 2 * len(left.episodes)) as on_progress:
            found = add_vectors(production, table, left, ranked_on, chosen(VectorOptions, options),
                                batch=options.batch, on_progress=on_progress)  # fmt: skip
        results.table("answers.parquet", found.rows)
        problem = "; ".join(text for text in (table.why_partial, found.problem) if text)
        save_page(results, arguments, title, vectors_page(found), problem)
        remark(results, production.remarks)
    if options.json:

        def plain(effect: Effect) -> dict[str, Any]:
            beyond = {measure: effect.beyond_control(measure) for measure in SHOWN}
            return {measure: effect.interval(measure).as_json() for measure in SHOWN} | {
                "change": {measure: effect.change(measure).as_json() for measure in SHOWN},
                "beyond_control": {measure: one.as_json() if one else None for measure, one in beyond.items()},
                "draws": list(effect.draws),
            }

        print_json({
            "model": options.model_name, "task": task.name, "episodes": found.episodes,
            "unpaired": found.unpaired,
            "heads": list(map(head_name, found.heads)), "norm": round(found.norm, 6), "note": found.note,
            "folder": str(results.folder), "few_shot": plain(found.few_shot), "zero_shot": plain(found.zero_shot),
            "layers": {str(layer): plain(effect) for layer, effect in found.effects.items()},
        })  # fmt: skip
    else:
        found.show()
    return close(results, problem)
