"""`miclab mllm paths` and `attribute`: what flows along single edges of a production model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from miclab.cli.mllm_heads import ranking_in
from miclab.cli.mllm_options import ModelFlags, close, only_exact, remark, save_page
from miclab.cli.terminal import bar, parse, print_json
from miclab.errors import ConfigError
from miclab.mllm.options import INDUCTION, PREVIOUS_TOKEN, AttributeOptions, PathOptions, at_least, chosen

if TYPE_CHECKING:
    from miclab.mllm.heads import HeadTable

HEADS = 5
"""Heads of each measure that send, where a ranking is given."""


@dataclass(frozen=True, kw_only=True)
class PathsFlags(PathOptions, ModelFlags):
    """Exact path patching: what one sender adds changes for one receiver alone, and all after it is computed again.
    Effects are shares of what the corruption changes: 0 none, 1 all of it. Where there are more edges than --top,
    EAP-IG picks them. Writes edges.parquet, paths.html."""

    heads: Path = Path()
    """Folder that `mllm heads` wrote: its five strongest previous-token and induction heads are the senders."""
    shown: int = 24
    """Edges listed; 0: all."""

    def __post_init__(self) -> None:
        ModelFlags.__post_init__(self)
        PathOptions.__post_init__(self)
        at_least(self, shown=0)
        if self.heads != Path() and (self.sender or self.layers):
            raise ConfigError("heads", str(self.heads), "none with --sender or --layers: each names the senders")
        only_exact(self, "logits are judged, and nothing is written")


@dataclass(frozen=True, kw_only=True)
class AttributeFlags(AttributeOptions, ModelFlags):
    """Edge attribution: the effect of every edge between heads, feed-forward parts and logits, by EAP and EAP-IG.
    Effects are shares of what the corruption changes: 0 none, 1 all of it. Some edges are also patched exactly; below
    0.8 agreement there is a warning. Writes edges.parquet, exact.parquet, attribute.html."""

    top: int = 24
    """Edges listed."""

    def __post_init__(self) -> None:
        ModelFlags.__post_init__(self)
        AttributeOptions.__post_init__(self)
        at_least(self, top=1)
        only_exact(self, "logits are judged, and nothing is written")


def _strongest(table: HeadTable) -> tuple[str, ...]:
    """Names of the strongest previous-token and induction heads."""
    from miclab.circuits.find import head_name

    heads = [head for measure in (PREVIOUS_TOKEN, INDUCTION) for head in table.ranked(measure)[:HEADS]]
    return tuple(dict.fromkeys(map(head_name, heads)))


def paths(arguments: list[str]) -> int:
    """`miclab mllm paths`."""
    options = parse(PathsFlags, "mllm paths", arguments)
    from miclab.mllm.errors import require

    require()
    from miclab.mllm.edge_attribution import exact_rows
    from miclab.mllm.episode_pairs import corruption_named
    from miclab.mllm.paths import patch_paths, steps_of
    from miclab.mllm.residual_graph import ResidualGraph
    from miclab.report.model_edges import paths_page

    corruption_named(options.corruption)
    requested = chosen(PathOptions, options)
    opened = options.results("paths")
    production = options.production()
    task = options.load(production.view)
    if options.heads != Path():
        table, task = ranking_in(options.heads, production, task, "leave out --heads")
        requested = replace(requested, sender=_strongest(table))
    steps = steps_of(ResidualGraph(production), requested)
    with opened as results:
        with bar("edges", len(task.episodes) * steps) as on_progress:
            found = patch_paths(production, task, requested, batch=options.batch, on_progress=on_progress)
        results.table("edges.parquet", exact_rows(found))
        results.note(left_out=list(found.remarks), senders=list(requested.sender))
        title = f"Path patching of {options.model_name} on {task.name}"
        save_page(results, arguments, title, paths_page(found, options.shown), found.problem)
        remark(results, production.remarks)
    if options.json:
        print_json(found.as_json() | {"model": options.model_name, "folder": str(results.folder)})
    else:
        for made in found.listed(options.shown):
            made.show()
    return close(results, found.problem)


def attribute(arguments: list[str]) -> int:
    """`miclab mllm attribute`."""
    options = parse(AttributeFlags, "mllm attribute", arguments)
    from miclab.mllm.errors import require

    require()
    import io

    from miclab.mllm.edge_attribution import attribute, exact_rows, steps_of
    from miclab.mllm.episode_pairs import corruption_named
    from miclab.mllm.residual_graph import ResidualGraph
    from miclab.report.model_edges import attribution_page

    corruption_named(options.corruption)
    opened = options.results("attribute")
    production = options.production()
    task = options.load(production.view)
    requested = chosen(AttributeOptions, options)
    steps = steps_of(ResidualGraph(production), requested)
    with opened as results:
        with bar("edges", len(task.episodes) * steps) as on_progress:
            found = attribute(production, task, requested, batch=options.batch, on_progress=on_progress)
        content = io.BytesIO()
        found.frame().write_parquet(content)
        results.file("edges.parquet", content.getvalue())
        results.table("exact.parquet", exact_rows(found))
        results.note(left_out=list(found.remarks))
        title = f"Edges of {options.model_name} on {task.name}"
        save_page(results, arguments, title, attribution_page(found, options.top), found.problem)
        remark(results, production.remarks)
    if options.json:
        print_json(found.json_of(options.top) | {"model": options.model_name, "folder": str(results.folder)})
    else:
        for made in found.listed(options.top):
            made.show()
    return close(results, found.problem)
