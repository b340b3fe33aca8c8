"""`miclab demo`: the study `demo` with its claims and its report."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from miclab.cli.options import Directory, File, output_file
from miclab.cli.terminal import bar, parse, print_json, say
from miclab.config.extensions import as_options
from miclab.errors import ConfigError, MiclabError, visible


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """In a few minutes: train three unimodal decoders and a multimodal one, knock out their circuit and zero their
    modalities. Each result is compared with the paper. It is the study `demo`, with its claims and its report."""

    runs: Directory = "runs"
    """Directory of runs. Existing runs are not trained again."""
    output: File = "demo.html"
    """Report to write; that of an earlier `miclab demo` is replaced."""
    overwrite: bool = False
    """Replace any other file that is there, and a picture."""
    picture: File = ""
    """Also draw the results as one figure: a file that ends in .svg, .pdf or .png."""
    workers: int = 0
    """Processes at once, each of one thread; 0: one for each core."""
    json: bool = False
    """Print the results as JSON."""
    short: bool = False
    """Train for a few steps only, as a trial. Its results mean nothing."""


def run_demo(arguments: list[str]) -> int:
    """`miclab demo`."""
    options = parse(DemoOptions, "demo", arguments)
    if options.picture and Path(options.picture).suffix not in (".svg", ".pdf", ".png"):
        raise ConfigError("picture", options.picture, "a file that ends in .svg, .pdf or .png")
    if options.workers < 0:
        raise ConfigError("workers", options.workers, "0 or more")
    output = output_file(options.output)
    picture = output_file(options.picture, "picture") if options.picture else None
    if picture is not None and picture.exists() and not options.overwrite:
        raise MiclabError(f"--picture {picture} is there already. Name another file, or add --overwrite.")
    from miclab.api.reproduce import write_results
    from miclab.claims.demonstration import Demonstration
    from miclab.cli.progress import Watch, announce_study
    from miclab.report.existing import check_replaceable
    from miclab.report.study.page import STAGES, subject_of
    from miclab.runs.find import root_directory
    from miclab.studies.launchers.local import cores

    root = root_directory(options.runs)
    root.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    found = Demonstration.open(root, options.short)
    check_replaceable(output, subject_of(found.study), options.overwrite)
    left = found.left()
    if not left:
        say(f"demo: its {len(found.plan.runs)} runs are there already, nothing is trained")
    announce_study(left, root, options.workers or cores(), "demo")
    with Watch(found.plan, root) as watch:
        found.train(watch, options.workers)
    with bar("report", len(STAGES)) as on_progress:
        write_results(found, output, picture, command=shlex.join(["miclab", "demo", *arguments, *as_options()]),
                      on_progress=on_progress)  # fmt: skip
    seconds = time.monotonic() - start
    if options.json:
        print_json({**found.as_json(), "report": str(output), "seconds": round(seconds, 1)})
        return 0
    found.show()
    print(visible(f"\nreport: {output.resolve()}   ({seconds:.0f} s)"))
    return 0
