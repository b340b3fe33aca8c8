"""One training step against the bare matrix products of the same step, in alternation, one thread.

`bare` are the products of the plain formulation: every projection, score and mixture, forward and backward, with only
the query's position in the last block's queries, mixture and MLP. Our step may do fewer of them (see
`Decoder._attend_query`).
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from miclab import numerics, optimiser
from miclab.decoder import Decoder
from miclab.gradients import TrainedParameters, gradient_function
from miclab.profiles import run_config
from miclab.sequences import training_batch
from miclab.world import draw_world

ROUNDS, REPEATS = 9, 40


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


def measure(positions: str) -> dict[str, float]:
    """Milliseconds and ratios of one position code."""
    config = run_config("unimodal", "quick")
    config = replace(config, decoder=replace(config.decoder, positions=positions, output_projection="off"))
    config, line = numerics.resolved(config)
    if line:
        print(line)
    world, decoder = draw_world(config), Decoder(config)
    trained = TrainedParameters(config, decoder.initial_parameters(0))
    flat = {"trained": trained.flat}
    state = optimiser.initial_state(config.optimiser, flat)
    gradients = gradient_function(config, trained)
    batches = [training_batch(config, world, i) for i in range(REPEATS)]
    start = time.perf_counter()
    _, slope = gradients(trained.flat, batches[0])
    compile_seconds = time.perf_counter() - start
    length = config.sequence_length
    bare = bare_products(decoder.width, length, config.optimiser.batch_size, config.label_count, False)

    def whole(i: int) -> None:
        _, slope = gradients(trained.flat, training_batch(config, world, i))
        optimiser.update(config.optimiser, flat, {"trained": slope}, state, 1e-3)

    parts: dict[str, Callable[[int], object]] = {
        "bare": lambda i: bare(),
        "step": whole,
        "sampling": lambda i: training_batch(config, world, i),
        "forward_backward": lambda i: gradients(trained.flat, batches[i]),
        "update": lambda i: optimiser.update(config.optimiser, flat, {"trained": slope}, state, 1e-3),
    }
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(ROUNDS):
        for name, part in parts.items():
            start = time.perf_counter()
            for i in range(REPEATS):
                part(i)
            times[name].append((time.perf_counter() - start) / REPEATS * 1e3)
    found = {name: statistics.median(values) for name, values in times.items()}
    ratios = [s / b for s, b in zip(times["step"], times["bare"], strict=True)]
    quiet = min(times["step"]) / min(times["bare"])
    return found | {
        "ratio": statistics.median(ratios),
        "ratio_of_minima": quiet,
        "compile_seconds": compile_seconds,
    }


def main() -> None:
    """Prints a line for `rope` and one for one-hot positions (APE)."""
    torch.set_num_threads(1)
    numerics.keep_freed_memory()
    print("One training step, one thread, milliseconds; ratio = step / bare matrix products (aim: at most 1.5)")
    for positions in sys.argv[1:] or ("rope", "onehot"):
        found = measure(positions)
        told = "  ".join(f"{name} {value:.2f}" for name, value in found.items())
        print(f"{positions:<8} {told}", flush=True)


if __name__ == "__main__":
    main()
