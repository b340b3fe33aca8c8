"""Run-steps a second against the number of lanes, on one device, and what share of its roofs that is.

    python -m benchmarks.lanes --device cpu --lanes 1 8 --seconds 2
    python -m benchmarks.lanes --device cpu --decoder rope --lanes 8 --step eager --rows 8
    make gpu

For each decoder, number of lanes and kind of step it measures the step alone and with the drawing of batches, on
batches of the paper's size. On a GPU the group draws its batches there; on a CPU each run draws its own. On a CPU the
time is that of the processor. A compiled step is called before it is timed.

The same call measures the roofs of the device: operations a second of a large product, and bytes a second of a large
copy. Each cell says which shares of both its steps reach. What a step needs is counted by the formulas of
`benchmarks.roofs`. Shares of bytes can be above 1, since the formula knows of no cache. What is measured is written
after every cell, and a second call goes on where the first one ended. It ends by itself after `--limit` seconds. It
needs a Python with PyTorch, NumPy, safetensors and jaxtyping.

With `--rows N` it also measures the metric rows of a group of N lanes, of 100 sequences and 8 sets of novel classes. It
computes them run after run on the CPU, and all at once on the device: the first ones, for which sequences are drawn,
and later ones, for which they are kept.
"""

from __future__ import annotations

import itertools
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import program
from benchmarks.program import FailedError, Line, Lines
from benchmarks.roofs import Roofs, roofs, step_bytes, step_flops
from miclab.config import memory, presets
from miclab.config.parts import NumericsConfig
from miclab.config.request import SplitSizes
from miclab.config.run import RunConfig
from miclab.errors import ConfigError
from miclab.model.classifier import model_of
from miclab.storage import read_file, replace_bytes
from miclab.training import numerics, optimiser
from miclab.training.flat_parameters import TrainedParameters
from miclab.training.lane_rows import LaneRows
from miclab.training.lanes import Lanes, Update
from miclab.worlds.sequences import RawBatch, raw_training_batch
from miclab.worlds.world import draw_world

DECODERS = ("rope", "onehot")
LANES = (1, 8, 64, 256, 512)
STEPS = ("eager", "compiled")
ROWS = SplitSizes(sequences=100)
"""What a metric row of the shipped studies evaluates."""
ROUNDS = 3


def lane_config(decoder: str, lanes: int, device: str, step: str = "eager") -> RunConfig:
    """The paper's decoder as one of so many lanes."""
    config = presets.run_config("unimodal", "paper")
    sampler = "host" if device == "mps" else "device"
    own = NumericsConfig(mode="lanes", lanes=lanes, device=device, sampler=sampler, lane_step=step)  # type: ignore[arg-type]
    return replace(config, numerics=own, decoder=replace(config.decoder, positions=decoder))


def per_second(step: Callable[[], object], seconds: float, device: str) -> float:
    """Calls a second of a step, after three calls that warm up: a CUDA graph is recorded in the second one."""
    clock = time.process_time if device == "cpu" else time.perf_counter

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    for _ in range(1 if device == "cpu" else 3):
        step()
    wait()
    start, until, calls = clock(), time.perf_counter() + seconds, 0
    while time.perf_counter() < until or not calls:
        step()
        calls += 1
        wait()
    return calls / (clock() - start)


def measured(decoder: str, lanes: int, device: str, seconds: float, step: str, roof: Roofs) -> dict[str, Any]:
    """One cell: run-steps a second of the step alone, and with the drawing of each batch; and shares of the roofs.

    Raises:
        TooLargeError: so many lanes do not fit into the device.
        ConfigError: the step cannot be compiled here.
    """
    base, _ = numerics.resolved(lane_config(decoder, lanes, device, step))
    memory.check_lanes(base, torch.cuda.get_device_properties(device).total_memory if "cuda" in device else 0)
    if "cuda" in device:
        # Otherwise the bytes of a smaller cell would be those of the largest one before it.
        torch.cuda.reset_peak_memory_stats(device)
    configs = [replace(base, seed=seed) for seed in range(lanes)]
    world = draw_world(base)
    trained = []
    for config in configs:
        parameters = model_of(config).initial_parameters(config.weights_seed)
        trained.append(TrainedParameters(config, {name: value.to(device) for name, value in parameters.items()}))
    states = [optimiser.initial_state(base.optimiser, {"trained": own.flat}) for own in trained]
    reasons: list[str] = []
    group = Lanes(configs, trained, states, worlds=[world] * lanes, on_eager=reasons.append)
    given = [raw_training_batch(config, world, 0).to(device) for config in configs]

    def make(raws: Sequence[RawBatch | None]) -> None:
        group.step({lane: Update(raw, 1e-3, 0) for lane, raw in enumerate(raws)})

    def draws_and_steps() -> None:
        if group.sampler:
            make([None] * lanes)
        else:
            make([raw_training_batch(config, world, 0).to(device) for config in configs])

    drawn = per_second(draws_and_steps, seconds, device) * lanes
    # From here on the group is given its batches.
    group.sampler = None
    group.programs.clear()
    alone = per_second(lambda: make(given), seconds, device) * lanes
    if reasons:
        raise ConfigError("--step", step, f"'eager' here: {reasons[0]}")
    held = torch.cuda.max_memory_allocated(device) if "cuda" in device else lanes * memory.lane_size(base)
    return {
        "decoder": decoder,
        "lanes": lanes,
        "step": step,
        "lanes at once": group.in_parts.at_once,
        "run-steps per second": alone,
        "with drawing": drawn,
        "bytes": held,
        "share of arithmetic": alone * step_flops(base) / roof.flops,
        "share of memory": alone * step_bytes(base) / roof.bytes,
    }


def metric_rows(decoder: str, lanes: int, device: str) -> dict[str, Any]:
    """Seconds for each lane's metric row: one by one on the CPU, and all lanes at once; medians of `ROUNDS` rounds.

    Raises:
        FailedError: they cannot be computed at once.
    """
    base, _ = numerics.resolved(lane_config(decoder, lanes, device))
    configs = [replace(base, seed=seed) for seed in range(lanes)]
    worlds = [draw_world(config) for config in configs]
    own = [model_of(config).initial_parameters(config.weights_seed) for config in configs]
    parameters = {name: torch.stack([one[name] for one in own]).to(device) for name in own[0]}
    clock, times, texts = time.process_time if device == "cpu" else time.perf_counter, [], list[str]()
    for _ in range(ROUNDS):
        group = LaneRows(configs, worlds, [ROWS] * lanes, torch.device(device), texts.append)
        marks = [clock()]
        for lane in range(lanes):
            group.alone(parameters, lane)
        marks.append(clock())
        # Rows are read on the CPU, so each call waits for the device.
        for _ in range(2):
            group.rows(parameters, range(lanes))
            marks.append(clock())
        times.append([(end - start) / lanes for start, end in itertools.pairwise(marks)])
    if texts:
        raise FailedError(texts[0])
    alone, first, later = (statistics.median(column) for column in zip(*times, strict=True))
    return {
        "decoder": decoder,
        "lanes": lanes,
        "one by one": alone,
        "at once, first": first,
        "at once": later,
        "ratio, first": alone / first,
        "ratio": alone / later,
    }


def _place(cell: dict[str, Any]) -> tuple[Any, ...]:
    """What a cell is of. One without a step was measured before there was a compiled one."""
    return cell["decoder"], cell["lanes"], cell.get("step", "eager")


def cells_before(file: Path, machine: dict[str, str]) -> list[dict[str, Any]]:
    """Cells that an earlier call measured on the same machine.

    Raises:
        ConfigError: the file is damaged, or not one of these.
    """
    try:
        before = json.loads(read_file(file))
        cells = list(before["cells"])
        return cells if before["machine"] == machine else []
    except (ValueError, KeyError, TypeError) as error:
        allowed = "a file of this benchmark, or a new one: this one is damaged, or something else"
        raise ConfigError("--output", str(file), allowed) from error


@dataclass(frozen=True, kw_only=True)
class Options(program.Options):
    """Where lanes are measured, and for how long."""

    device: str = "auto"
    """Device: cpu, cuda, cuda:1, mps or auto."""
    decoder: tuple[str, ...] = DECODERS
    """Position codes of the decoders."""
    lanes: tuple[int, ...] = LANES
    """Numbers of lanes."""
    step: tuple[str, ...] = STEPS
    """Kinds of step: eager, compiled."""
    seconds: float = 3.0
    """Seconds for each cell."""
    limit: float = 540.0
    """Seconds after which no cell is begun; nor is one that would take longer."""
    rows: int = 0
    """Lanes of the group whose metric rows are measured as well; 0: none."""
    output: Path = Path("build/lanes.json")
    """File of what is measured; a second call goes on there."""


def measure(options: Options) -> Lines:
    """A line for each new cell, and for the metric rows of each decoder."""
    start = time.monotonic()
    yield from _steps(options, start)
    device = numerics.device_here(options.device)
    for decoder in options.decoder if options.rows else ():
        if time.monotonic() - start > options.limit:
            yield Line("the time is up; no metric rows")
            return
        numerics.prepare(lane_config(decoder, options.rows, device))
        try:
            found = metric_rows(decoder, options.rows, device)
        except FailedError as error:
            yield Line(f"{decoder:8} {options.rows:4} lanes  metric rows left out: {error}")
            continue
        one, first, later = (1000 * found[name] for name in ("one by one", "at once, first", "at once"))
        yield Line(
            f"{decoder:8} {options.rows:4} lanes  metric rows: {one:.0f} ms for each lane one by one,"
            f" {first:.0f} at once with drawing (ratio {found['ratio, first']:.2f}),"
            f" {later:.0f} at once (ratio {found['ratio']:.2f})",
            found,
        )


def _steps(options: Options, start: float) -> Lines:
    """A line for each new cell."""
    torch_version = torch.__version__
    device = numerics.device_here(options.device)
    name = torch.cuda.get_device_name(device) if "cuda" in device else platform.processor() or platform.machine()
    machine = {"device": device, "name": name, "torch": torch_version}
    cells: list[dict[str, Any]] = []
    if options.output.is_file():
        cells = cells_before(options.output, machine)
    wanted = itertools.product(options.decoder, options.lanes, options.step)
    missing = [place for place in wanted if all(_place(cell) != place for cell in cells)]
    if not missing:
        yield Line(f"{options.output}: {len(cells)} cells on {name}")
        return
    numerics.prepare(lane_config("rope", 1, device))
    roof = roofs(device, options.seconds)
    yield Line(
        f"roofs of {name}: {roof.flops / 1e9:,.0f} GFLOP/s in a product, {roof.bytes / 1e9:,.0f} GB/s in a copy",
        {"flops per second": roof.flops, "bytes per second": roof.bytes},
    )
    each = 0.0
    for decoder, lanes, step in missing:
        # On a CPU the steps of so many lanes may take minutes. A lane takes about as long as in the cell before.
        if time.monotonic() - start + 2 * options.seconds + 8 * lanes * each > options.limit:
            yield Line("the time is up; a second call goes on here")
            return
        try:
            cell = measured(decoder, lanes, device, options.seconds, step, roof)
        except (memory.TooLargeError, torch.OutOfMemoryError, ConfigError) as error:
            reason = str(error).partition("\n")[0]
            yield Line(f"{decoder:8} {lanes:4} lanes  {step:8}  left out: {reason}")
            torch.cuda.empty_cache()
            continue
        each = 1 / min(cell["run-steps per second"], cell["with drawing"])
        cells.append(cell)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        made = json.dumps({"machine": machine, "cells": cells}, indent=1) + "\n"
        replace_bytes(options.output, made.encode())
        yield Line(
            f"{decoder:8} {lanes:4} lanes  {step:8}  {cell['run-steps per second']:10,.0f} run-steps/s"
            f"  ({cell['with drawing']:,.0f}/s with drawing)  {memory.in_words(cell['bytes'])}"
            f"  roofs: arithmetic {cell['share of arithmetic']:.1%}, memory {cell['share of memory']:.1%}",
            cell,
        )
    yield Line(f"{options.output}: {len(cells)} cells on {name}")


main = program.program("lanes", Options, measure, __doc__)

if __name__ == "__main__":
    sys.exit(main(None))
