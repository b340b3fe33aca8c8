"""How the cost of a training step grows with layers, context N, classes K and width; and a plain loop beside it.

    python -m benchmarks.growth                        about a minute on an idle core
    python -m benchmarks.growth --steps 40 --rounds 5  steadier figures
    python -m benchmarks.growth --json

One size changes at a time; the others are those of the paper's decoder with `rope`. `step` is all that training does
for a step: drawing, forward, backward, update. `plain` is a loop as one writes it with PyTorch alone. It has the same
decoder and sequences, computes every position of every layer, calls `loss.backward()` and `torch.optim.AdamW`, and is
never compiled. Both have one thread and take turns. Milliseconds are of the processor, the least of all rounds. The
exponent is the slope of log milliseconds on log size over the upper half of the sizes. `--mode compiled` compiles
every size first, which takes half a minute each. The figure is `build/growth.svg`.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from benchmarks.step import TrainingProcess
from miclab.config.presets import run_config
from miclab.config.run import RunConfig
from miclab.model.decoder import Decoder
from miclab.statistics.palette import series
from miclab.statistics.style import figure_bytes, marker, new_axes
from miclab.training import numerics
from miclab.worlds.sequences import training_batch
from miclab.worlds.world import draw_world

SIZES: dict[str, tuple[int, ...]] = {
    "layers": (1, 2, 4, 8),
    "context N": (8, 16, 32, 64),
    "classes K": (64, 4096, 65_536, 1_000_000),
    "width": (64, 128, 256, 512),
}
LABELS = 32


def sized(kind: str, size: int, mode: Literal["eager", "compiled"] = "eager") -> RunConfig:
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


class PlainLoop:
    """Training as a script with PyTorch alone does it."""

    def __init__(self, config: RunConfig):
        self.config, self.world, self.decoder = config, draw_world(config), Decoder(config)
        start = self.decoder.initial_parameters(config.weights_seed)
        self.parameters = {name: value.clone().requires_grad_() for name, value in start.items()}
        own = config.optimiser
        self.optimiser = torch.optim.AdamW(
            self.parameters.values(), lr=1e-3, betas=(own.beta1, own.beta2), weight_decay=own.weight_decay
        )

    def step(self, steps: int) -> float:
        """Trains; returns the loss before the last update."""
        loss = torch.zeros(())
        for number in range(steps):
            batch = training_batch(self.config, self.world, number)
            loss = torch.nn.functional.cross_entropy(self.decoder.trace(self.parameters, batch).logits, batch.target)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
        return float(loss.detach())


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


def measured(kind: str, steps: int, rounds: int, mode: Literal["eager", "compiled"]) -> list[dict[str, Any]]:
    """Milliseconds of a step at every size of a kind."""
    rows = []
    for size in SIZES[kind]:
        config = sized(kind, size, mode)
        # The backward pass is this thread's, so its time counts.
        with torch.autograd.set_multithreading_enabled(False):
            found = least({"step": TrainingProcess(config).step, "plain": PlainLoop(config).step}, steps, rounds)
        rows.append({"size": size, **found})
    return rows


def draw(found: dict[str, list[dict[str, Any]]], file: Path) -> None:
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
class Options:
    """How the cost of a training step grows with layers, context, classes and width."""

    steps: int = 4
    """Steps of a block."""
    rounds: int = 3
    """Blocks of each loop, in turn."""
    kinds: tuple[str, ...] = tuple(SIZES)
    """What grows."""
    mode: Literal["eager", "compiled"] = "eager"
    """Numeric mode of `step`."""
    output: Path = Path("build/growth.svg")
    """File of the figure."""
    json: bool = False
    """Print the table as JSON."""


def main() -> int:
    """Prints a table and draws the figure; returns the exit status."""
    options = tyro.cli(Options)
    if unknown := set(options.kinds) - set(SIZES):
        print(f"growth: --kinds {' '.join(sorted(unknown))}: known are {', '.join(SIZES)}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    numerics.keep_freed_memory()
    blocks = sum(len(SIZES[kind]) for kind in options.kinds) * options.rounds * options.steps
    print(f"{blocks} steps of each of two loops: about {1 + blocks // 200} min on an idle core", file=sys.stderr)
    found: dict[str, list[dict[str, Any]]] = {}
    for kind in options.kinds:
        found[kind] = measured(kind, options.steps, options.rounds, options.mode)
        slope = exponent(SIZES[kind], [row["step"] for row in found[kind]])
        for row in () if options.json else found[kind]:
            ratio = row["plain"] / row["step"]
            print(f"{kind:<10}{row['size']:>9,}  step {row['step']:8.1f} ms  plain {row['plain']:8.1f} ms"
                  f"  plain / step {ratio:.2f}")  # fmt: skip
        if not options.json:
            print(f"{kind:<10}exponent {slope:.2f}", flush=True)
    draw(found, options.output)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        print(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
