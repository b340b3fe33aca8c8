"""One training step against the bare matrix products of the same step, in alternation, one thread; and where the
rest goes.

    python -m benchmarks.step                            `rope` and one-hot positions: two minutes on an idle core
    python -m benchmarks.step rope --rounds 5 --json

`bare` are the products of the plain formulation, each a call of PyTorch on matrices of the step's shapes: every
projection, score and mixture, forward and backward, with only the query's position in the last block's queries,
mixture and MLP. The step's own products differ: it joins some and needs fewer (see `Softmax.last`).

`step` is all that training does for a step: `drawing`, the `graph` (noise, tokens, forward, backward, update) and
reading the loss. `plain` is a loop as one writes it with PyTorch alone (see `benchmarks.plain_loop`). Each is timed
over a block of steps, blocks of all parts in turn, by the time of the processor. The profile is taken from the same
graph compiled with a timer around every kernel.
"""

from __future__ import annotations

import collections
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import tyro
from torch.profiler import ProfilerActivity, profile

from benchmarks import program
from benchmarks.plain_loop import PlainLoop
from benchmarks.program import Line, Lines
from miclab.config.presets import run_config
from miclab.config.run import RunConfig
from miclab.model.decoder import Decoder
from miclab.training import numerics, optimiser
from miclab.training.flat_parameters import TrainedParameters
from miclab.training.step import step_function, training_step
from miclab.worlds.sequences import raw_training_batch, raw_training_batches
from miclab.worlds.world import draw_world

KINDS = {
    "matrix products": ("mm_out",),
    "noise and tokens": ("rshift",),
    "update": ("lerp",),
    "attention's softmax": ("softmax",),
    "normalisation": ("rsqrt",),
    "activation": ("silu", "sigmoid", "gelu", "relu"),
    "rotation": ("flip",),
    "other generated kernels": ("cpp_fused",),
}
"""Kinds of kernels by a part of their name; the first that fits counts. The compiler fuses neighbours, so that a kernel
of one kind does some work of others."""


def bare_products(width: int, length: int, batch: int, labels: int, projected: bool) -> Callable[[], None]:
    """A function that runs the matrix products of one step of a two-layer, one-head decoder."""
    rows = batch * length
    x, g = torch.randn(rows, width), torch.randn(rows, width)
    w = torch.randn(width, width)
    q, a = torch.randn(batch, length, width), torch.randn(batch, length, length)
    one, last = torch.randn(batch, 1, width), torch.randn(batch, 1, length)
    y, readout, slope = torch.randn(batch, width), torch.randn(width, labels), torch.randn(batch, labels)

    def project(times: int, with_input: bool) -> None:
        for _ in range(times):
            x @ w
            x.T @ g
            if with_input:
                g @ w.T

    def run() -> None:
        project(3, False)  # queries, keys, values of block 1: the input needs no gradient
        for _ in range(2):
            q @ q.transpose(1, 2)
            a @ q
            a.transpose(1, 2) @ q
        project(3 + projected, True)  # MLP of block 1, and its output projection
        project(2, True)  # keys, values of block 2
        for _ in range(2):
            one @ q.transpose(1, 2)
            last @ q
            last.transpose(1, 2) @ one
        for _ in range(4 + projected):  # query, MLP and output projection of block 2
            y @ w, y.T @ y, y @ w.T
        y @ readout, y.T @ slope, slope @ readout.T

    return run


class TrainingProcess:
    """A training process without a disk."""

    def __init__(self, config: RunConfig):
        self.config, self.world = config, draw_world(config)
        self.trained = TrainedParameters(config, Decoder(config).initial_parameters(0))
        self.state = optimiser.initial_state(config.optimiser, {"trained": self.trained.flat})
        self.one = training_step(config, self.trained, self.state)

    def drawing(self, steps: int) -> None:
        collections.deque(raw_training_batches(self.config, self.world, 0, steps), maxlen=0)

    def step(self, steps: int) -> None:
        for raw in raw_training_batches(self.config, self.world, 0, steps):
            float(self.one(raw, 1e-3, 0)["loss"])


def timed(parts: dict[str, Callable[[int], object]], rounds: int, steps: int) -> dict[str, list[float]]:
    """Milliseconds of the processor for one step of each part, for each round."""
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(rounds):
        for name, part in parts.items():
            start = time.thread_time()
            part(steps)
            times[name].append((time.thread_time() - start) / steps * 1e3)
    return times


def kernels(run: TrainingProcess, steps: int) -> dict[str, float]:
    """Milliseconds of one step's kernels by kind."""
    config, state = run.config, run.state
    options = {**numerics.COMPILER_OPTIONS, "cpp.enable_kernel_profile": True}
    graph = torch.compile(step_function(config, run.trained), dynamic=False, fullgraph=True, options=options)
    numbers = optimiser.coefficients(config.optimiser, 1, 1e-3)
    tensors = (run.trained.flat.clone(), state["mean.trained"].clone(), state["square.trained"].clone(), numbers)

    def call(steps: int) -> None:
        for raw in raw_training_batches(config, run.world, 0, steps):
            graph(*tensors, run.trained.fixed, raw)

    call(1)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        call(steps)
    times = dict.fromkeys(KINDS, 0.0)
    for event in found.key_averages():
        kind = next((k for k, parts in KINDS.items() if any(part in event.key for part in parts)), None)
        if kind:
            times[kind] += event.self_cpu_time_total / steps / 1e3
    return times


@dataclass(frozen=True, kw_only=True)
class Options(program.Options):
    """What is timed, and how often."""

    positions: tyro.conf.Positional[tuple[str, ...]] = ("rope", "onehot")
    """Position codes of the decoder."""
    rounds: int = 15
    """Blocks of each part, in turn."""
    steps: int = 40
    """Training steps of a block."""


def of_positions(positions: str, options: Options) -> Lines:
    """Ratios and profile of one position code."""
    config = run_config("unimodal", "quick")
    config = replace(config, decoder=replace(config.decoder, positions=positions, output_projection="off"))
    config, line = numerics.resolved(config)
    yield Line(line)
    run = TrainingProcess(config)
    start = time.perf_counter()
    run.step(1)
    seconds = time.perf_counter() - start
    batch, labels = config.optimiser.batch_size, config.label_count
    bare = bare_products(Decoder(config).width, config.sequence_length, batch, labels, False)
    drawn = raw_training_batch(config, run.world, 0)

    def repeated(part: Callable[[], object]) -> Callable[[int], object]:
        return lambda steps: collections.deque((part() for _ in range(steps)), maxlen=0)

    parts: dict[str, Callable[[int], object]] = {"bare": repeated(bare), "step": run.step, "drawing": run.drawing}
    parts["graph"] = repeated(lambda: float(run.one(drawn, 1e-3, 0)["loss"]))
    # The backward pass of the plain loop is this thread's, so that its time counts.
    with torch.autograd.set_multithreading_enabled(False):
        found = timed(parts | {"plain": PlainLoop(config).step}, options.rounds, options.steps)
    ratio = statistics.median(step / products for step, products in zip(found["step"], found["bare"], strict=True))
    low = min(found["step"]) / min(found["bare"])
    mode = config.numerics.mode
    yield Line(
        f"{positions}, {mode}: first step {seconds:.1f} s; step / bare {ratio:.2f} (of minima {low:.2f})",
        {"positions": positions, "mode": mode, "first step, s": seconds, "step / bare": ratio, "of minima": low},
    )
    for name, values in found.items():
        least, middle = min(values), statistics.median(values)
        yield Line(
            f"  {name:<26}{least:8.2f} ms   (median {middle:.2f})",
            {"positions": positions, "part": name, "least ms": least, "median ms": middle},
        )
    if mode == "compiled":
        times = kernels(run, options.steps)
        for name, value in times.items():
            share = value / sum(times.values())
            yield Line(
                f"    {name:<24}{value:8.2f} ms   {share:5.0%} of all kernels",
                {"positions": positions, "kernel": name, "ms": value, "share": share},
            )
    eager = TrainingProcess(replace(config, numerics=replace(config.numerics, mode="eager")))
    modes = timed({mode: run.step, "eager": eager.step}, min(3, options.rounds), options.steps)
    found = {name: min(values) for name, values in modes.items()}
    text = ", ".join(f"{name} {value:.1f} ms" for name, value in found.items())
    yield Line(f"  {text} a step", {"positions": positions, "least ms by mode": found})


def measure(options: Options) -> Lines:
    """Each position code."""
    torch.set_num_threads(1)
    numerics.keep_freed_memory()
    program.say("one training step, one thread; lowest and median of blocks in turn (aim: step / bare at most 1.35)")
    for positions in options.positions:
        yield from of_positions(positions, options)


main = program.program("step", Options, measure, __doc__)

if __name__ == "__main__":
    sys.exit(main(None))
