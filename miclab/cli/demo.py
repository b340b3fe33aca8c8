"""`miclab demo`."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from miclab.cli.options import Directory, File, output_file
from miclab.cli.terminal import parse, print_json
from miclab.errors import ConfigError

if TYPE_CHECKING:
    from miclab.claims.demo import Scale
    from miclab.config.run import RunConfig

SUBJECT = "demo"
"""What the demonstration's report is about, whichever runs it has."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """In a few minutes: train three unimodal decoders and a multimodal one, knock out their circuit and zero their
    modalities. Each result is compared with the paper."""

    runs: Directory = "runs"
    """Directory of runs; what stands there already is not trained again."""
    output: File = "demo.html"
    """Report to write; that of an earlier `miclab demo` is replaced."""
    overwrite: bool = False
    """Replace any other file that is there."""
    picture: File = ""
    """Also draw the results as one figure: a file that ends in .svg, .pdf or .png."""
    json: bool = False
    """Print the results as JSON."""
    short: bool = False
    """Train for a few steps only: shows that everything runs; its results mean nothing."""


def _announce(scale: Scale, root: str) -> None:
    """Says how long the demonstration takes on two cores, if nothing is trained yet."""
    from miclab.claims.demo import UNIMODAL, unimodal_config
    from miclab.cli.duration import COMPILING, announce, training
    from miclab.config.presets import request, run_config

    def work(kind: Literal["unimodal", "multimodal"], config: RunConfig, steps: int) -> float:
        return training(config, replace(request(kind, "quick"), steps=steps, evaluate_every=scale.every,
                                        checkpoint_every=2 * scale.every))  # fmt: skip

    first = sum(work("unimodal", unimodal_config(name), scale.unimodal_steps) for name in UNIMODAL)
    stages = work("unimodal", run_config("unimodal", "quick"), scale.stage_one_steps)
    stages += work("multimodal", run_config("multimodal", "quick"), scale.stage_two_steps)
    # Two processes share the trainings; each compiles, and the report follows.
    announce("demo, if nothing of it is trained yet", max(first, stages), root, more=3 * COMPILING)


def run_demo(arguments: list[str]) -> int:
    """`miclab demo`."""
    options = parse(DemoOptions, "demo", arguments)
    if options.picture and Path(options.picture).suffix not in (".svg", ".pdf", ".png"):
        raise ConfigError("picture", options.picture, "a file that ends in .svg, .pdf or .png")
    output = output_file(options.output)
    picture = output_file(options.picture, "picture") if options.picture else None
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from miclab.claims.demo import Scale, demonstrate
    from miclab.report import write_report
    from miclab.report.existing import check_replaceable

    check_replaceable(output, SUBJECT, options.overwrite)
    start = time.monotonic()
    scale = Scale(unimodal_steps=40, stage_one_steps=40, stage_two_steps=40, every=20) if options.short else Scale()
    _announce(scale, options.runs)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<14}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("{task.fields[text]}"))  # fmt: skip
    printed: dict[str, int] = {}
    trained: set[str] = set()
    with Progress(*columns, console=console, refresh_per_second=4, disable=not console.is_terminal) as progress:
        tasks: dict[str, object] = {}

        def on_progress(name: str, step: int, steps: int, text: str) -> None:
            if step < 0:
                console.print(f"miclab: {text}")
                return
            trained.add(name)
            if not console.is_terminal:
                if text and (step == steps or step - printed.get(name, -(10**9)) >= steps // 4):
                    printed[name] = step
                    print(f"{name}: {step}/{steps} {text}", file=sys.stderr, flush=True)
                return
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=steps, text="")
            task = tasks[name]
            progress.update(task, completed=step)  # type: ignore[arg-type]
            if text:
                progress.update(task, text=text)  # type: ignore[arg-type]

        done = demonstrate(options.runs, scale, on_progress)
    for name in done.runs.keys() - trained:
        print(f"miclab: {name}: {done.runs[name].path} is there already, nothing trained", file=sys.stderr)
    rows = [judgement.row() for judgement in done.judgements]
    command = "miclab demo" + "".join(f" {argument}" for argument in arguments)
    path = write_report(list(done.runs.values()), output, command=command, verdicts=done.tables()[0], subject=SUBJECT)
    if picture is not None:
        from miclab.claims.plots.demonstration import draw

        draw(done.runs, done.effects, picture)
    seconds = time.monotonic() - start
    if options.json:
        runs = {name: str(run.path) for name, run in done.runs.items()}
        print_json({"results": rows, "runs": runs, "emergence": done.emergence, "report": str(path),
                    "seconds": round(seconds, 1)})  # fmt: skip
        return 0
    for name, step in done.emergence.items():
        when = "not reached" if step is None else f"reached at step {step}"
        print(f"{name:<14} ICL 0.9 {when}; {done.runs[name].path}")
    print()
    done.show()
    print(f"\nreport: {path.resolve()}   ({seconds:.0f} s)")
    return 0
