"""How the cost of a training step grows with layers, context N, classes K and width; and a plain loop beside it.

    python -m benchmarks.growth                        about a minute on an idle core
    python -m benchmarks.growth --steps 40 --rounds 5  steadier figures
    python -m benchmarks.growth --json

One size changes at a time; the others are those of the paper's decoder with `rope`. `step` is all that training does
for a step: drawing, forward, backward, update. `plain` is a loop as one writes it with PyTorch alone (see
`benchmarks.plain_loop`). Both have one thread and take turns. Milliseconds are of the processor, the least of all
rounds. The exponent is the slope of log milliseconds on log size over the upper half of the sizes. `--mode compiled`
compiles every size first, which takes half a minute each. The figure is `build/growth.svg`.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks import program
from benchmarks.plain_loop import PlainLoop
from benchmarks.program import Line, Lines
from benchmarks.step import TrainingProcess
from miclab.config.presets import run_config
from miclab.config.run import RunConfig
from miclab.statistics.palette import series
from miclab.statistics.style import figure_bytes, marker, new_axes
from miclab.training import numerics

Kind = Literal["layers", "context N", "classes K", "width"]
SIZES: dict[Kind, tuple[int, ...]] = {
    "layers": (1, 2, 4, 8),
    "context N": (8, 16, 32, 64),
    "classes K": (64, 4096, 65_536, 1_000_000),
    "width": (64, 128, 256, 512),
}
LABELS = 32


def sized(kind: Kind, size: int, mode: Literal["eager", "compiled"] = "eager") -> RunConfig:
    """The configuration in which one of `SIZES` has a value."""
    config = run_config("unimodal", "quick")
    config = replace(config, numerics=replace(config.numerics, mode=mode))
    if kind == "layers":
        return replace(config, decoder=replace(config.decoder, layers=size))
    if kind == "context N":
        return replace(config, sequence=replace(config.sequence, context=size))
    if kind == "width":
        return replace(config, decoder=replace(config.decoder, width=size))
    modalities = {"m1": replace(config.modalities["m1"], classes=size, labels=LABELS)}
    return replace(config, modalities=modalities)


def least(parts: dict[str, Callable[[int], Any]], steps: int, rounds: int) -> dict[str, float]:
    """The least milliseconds of the processor for a step of each part, in turn, after a step that warms up."""
    found = dict.fromkeys(parts, math.inf)
    for part in parts.values():
        part(1)
    for _ in range(rounds):
        for name, part in parts.items():
            start = time.thread_time()
            part(steps)
            found[name] = min(found[name], (time.thread_time() - start) / steps * 1e3)
    return found


def exponent(sizes: tuple[int, ...], milliseconds: list[float]) -> float:
    """Slope of log cost on log size between the middle and the last size."""
    middle = (len(sizes) - 1) // 2
    return math.log(milliseconds[-1] / milliseconds[middle]) / math.log(sizes[-1] / sizes[middle])


def measured(kind: Kind, size: int, steps: int, rounds: int, mode: Literal["eager", "compiled"]) -> dict[str, Any]:
    """Milliseconds of a step at a size of a kind."""
    config = sized(kind, size, mode)
    # The backward pass is this thread's, so its time counts.
    with torch.autograd.set_multithreading_enabled(False):
        found = least({"step": TrainingProcess(config).step, "plain": PlainLoop(config).step}, steps, rounds)
    return {"size": size, **found}


def draw(found: dict[Kind, list[dict[str, Any]]], file: Path) -> None:
    """Cost against size over the first size, both on a logarithmic scale."""
    axes = new_axes()
    for number, (kind, rows) in enumerate(found.items()):
        sizes = [row["size"] / rows[0]["size"] for row in rows]
        axes.loglog(sizes, [row["step"] for row in rows], color=series(number), marker=marker(number), label=kind)
    axes.set(xlabel="size / smallest size", ylabel="ms of the processor a step")
    axes.legend(frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(figure_bytes(axes.figure, "svg", metadata={"Date": None}))


@dataclass(frozen=True, kw_only=True)
class Options(program.Options):
    """What grows, and how it is timed."""

    steps: int = 4
    """Training steps of a block."""
    rounds: int = 3
    """Blocks of each loop, in turn."""
    kinds: tuple[Kind, ...] = tuple(SIZES)
    """What grows."""
    mode: Literal["eager", "compiled"] = "eager"
    """Numeric mode of `step`."""
    output: Path = Path("build/growth.svg")
    """File of the figure."""


def measure(options: Options) -> Lines:
    """A line for each size, the exponent of each kind, and the figure."""
    torch.set_num_threads(1)
    numerics.keep_freed_memory()
    blocks = sum(len(SIZES[kind]) for kind in options.kinds) * options.rounds * options.steps
    program.say(f"{blocks} steps of each of two loops: about {1 + blocks // 200} min on an idle core")
    found: dict[Kind, list[dict[str, Any]]] = {}
    for kind in options.kinds:
        found[kind] = []
        for size in SIZES[kind]:
            row = measured(kind, size, options.steps, options.rounds, options.mode)
            found[kind].append(row)
            ratio = row["plain"] / row["step"]
            yield Line(
                f"{kind:<10}{size:>9,}  step {row['step']:8.1f} ms  plain {row['plain']:8.1f} ms"
                f"  plain / step {ratio:.2f}",
                {"kind": kind, "size": size, "step, ms": row["step"], "plain, ms": row["plain"]},
            )
        slope = exponent(SIZES[kind], [row["step"] for row in found[kind]])
        yield Line(f"{kind:<10}exponent {slope:.2f}", {"kind": kind, "exponent": slope})
    draw(found, options.output)
    yield Line(str(options.output))


main = program.program("growth", Options, measure, __doc__)

if __name__ == "__main__":
    sys.exit(main(None))
