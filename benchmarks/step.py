"""One training step against the bare matrix products of the same step, in alternation, one thread; and where the
rest goes.

`bare` are the products of the plain formulation, each a call of PyTorch on matrices of the step's shapes: every
projection, score and mixture, forward and backward, with only the query's position in the last block's queries,
mixture and MLP. The step's own products differ: it joins some and needs fewer (see `Decoder._attend_query`).

`step` is all that training does between two steps: drawing (`draft`), the graph (noise, tokens, forward, backward,
update) and reading the loss. The profile is taken from the same graph compiled with a timer around every kernel.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch.profiler import ProfilerActivity, profile

from miclab import numerics, optimiser
from miclab.config import RunConfig
from miclab.decoder import Decoder
from miclab.gradients import TrainedParameters
from miclab.profiles import run_config
from miclab.sequences import training_draft
from miclab.step import step_function, training_step
from miclab.world import draw_world

CALLS, PROFILED = 400, 50
KINDS = {
    "matrix products": ("mm_out",),
    "noise and tokens": ("rshift",),
    "update": ("lerp",),
    "other generated kernels": ("cpp_fused",),
}
"""Kinds of kernels by a part of their name; the first that fits counts."""


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


class _Run:
    """A training process without a disk."""

    def __init__(self, config: RunConfig):
        self.config, self.world = config, draw_world(config)
        self.trained = TrainedParameters(config, Decoder(config).initial_parameters(0))
        self.state = optimiser.initial_state(config.optimiser, {"trained": self.trained.flat})
        self.one = training_step(config, self.trained, self.state)

    def draft(self, i: int):
        return training_draft(self.config, self.world, i)

    def step(self, i: int) -> float:
        return float(self.one(self.draft(i), 1e-3))


def lowest(parts: dict[str, Callable[[int], object]], calls: int = CALLS) -> dict[str, tuple[float, float]]:
    """Milliseconds of the processor for one call of each part, called in turn: lowest twentieth, and median."""
    times: dict[str, list[float]] = {name: [] for name in parts}
    for i in range(calls):
        for name, part in parts.items():
            start = time.thread_time()
            part(i)
            times[name].append((time.thread_time() - start) * 1e3)
    return {name: (statistics.quantiles(values, n=20)[0], statistics.median(values)) for name, values in times.items()}


def kernels(run: _Run) -> dict[str, float]:
    """Milliseconds of one step's kernels by kind."""
    config, state = run.config, run.state
    options = {**numerics.COMPILER_OPTIONS, "cpp.enable_kernel_profile": True}
    graph = torch.compile(step_function(config, run.trained), dynamic=False, fullgraph=True, options=options)
    numbers = optimiser.coefficients(config.optimiser, 1, 1e-3)
    tensors = (run.trained.flat.clone(), state["mean.trained"].clone(), state["square.trained"].clone(), numbers)

    def call(i: int) -> None:
        graph(*tensors, run.trained.fixed, run.draft(i))

    call(0)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for i in range(PROFILED):
            call(i)
    times = dict.fromkeys(KINDS, 0.0)
    for event in found.key_averages():
        kind = next((k for k, parts in KINDS.items() if any(part in event.key for part in parts)), None)
        if kind:
            times[kind] += event.self_cpu_time_total / PROFILED / 1e3
    return times


def measure(positions: str) -> None:
    """Prints ratios and profile of one position code."""
    config = run_config("unimodal", "quick")
    config = replace(config, decoder=replace(config.decoder, positions=positions, output_projection="off"))
    config, line = numerics.resolved(config)
    if line:
        print(line)
    run = _Run(config)
    start = time.perf_counter()
    run.step(0)
    seconds = time.perf_counter() - start
    batch, labels = config.optimiser.batch_size, config.label_count
    bare = bare_products(Decoder(config).width, config.sequence_length, batch, labels, False)
    found = lowest({"bare": lambda i: bare(), "step": run.step})
    drawn = run.draft(0)
    found |= lowest({"drawing": run.draft, "graph": lambda i: float(run.one(drawn, 1e-3))})
    ratios = [step / products for step, products in zip(found["step"], found["bare"], strict=True)]
    print(f"{positions}: first step {seconds:.1f} s; step / bare {ratios[0]:.2f} (medians {ratios[1]:.2f})")
    for name, (low, middle) in found.items():
        print(f"  {name:<26}{low:8.2f} ms   (median {middle:.2f})")
    if config.numerics.mode == "compiled":
        times = kernels(run)
        for name, value in times.items():
            print(f"    {name:<24}{value:8.2f} ms   {value / sum(times.values()):5.0%} of all kernels")
    eager = _Run(replace(config, numerics=replace(config.numerics, mode="eager")))
    modes = lowest({config.numerics.mode: run.step, "eager": eager.step}, calls=60)
    print("  " + ", ".join(f"{mode} {low:.1f} ms" for mode, (low, _) in modes.items()) + " a step", flush=True)


def main() -> None:
    """Tells of `rope` and of one-hot positions (APE)."""
    torch.set_num_threads(1)
    numerics.keep_freed_memory()
    print("One training step, one thread; the lowest twentieth of calls in alternation (aim: step / bare at most 1.5)")
    for positions in sys.argv[1:] or ("rope", "onehot"):
        measure(positions)


if __name__ == "__main__":
    main()
