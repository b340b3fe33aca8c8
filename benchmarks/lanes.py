"""Run-steps a second against the number of lanes, on one device.

    python -m benchmarks.lanes --device cpu --lanes 1 8 --seconds 2
    make gpu

For each decoder and number of lanes it measures the step alone and with the drawing of batches, on batches of the
paper's size. On a GPU the group draws its batches there; on a CPU each run draws its own. What is measured is written
after every cell, and a second call goes on where the first one ended. It ends by itself after `--limit` seconds. It
needs a Python that holds torch and NumPy, nothing else.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import program
from benchmarks.program import Line, Lines
from miclab.config import memory, presets
from miclab.config.parts import NumericsConfig
from miclab.config.run import RunConfig
from miclab.errors import ConfigError
from miclab.model.classifier import model_of
from miclab.storage import read_file, replace_bytes
from miclab.training import numerics, optimiser
from miclab.training.flat_parameters import TrainedParameters
from miclab.training.lanes import Lanes, Update
from miclab.worlds.sequences import RawBatch, raw_training_batch
from miclab.worlds.world import draw_world

DECODERS = ("rope", "onehot")
LANES = (1, 8, 64, 256, 512)


def lane_config(decoder: str, lanes: int, device: str) -> RunConfig:
    """The paper's decoder as one of so many lanes."""
    config = presets.run_config("unimodal", "paper")
    own = NumericsConfig(mode="lanes", lanes=lanes, device=device, sampler="host" if device == "mps" else "device")
    return replace(config, numerics=own, decoder=replace(config.decoder, positions=decoder))


def per_second(step: Callable[[], object], seconds: float, device: str) -> float:
    """Calls a second of a step, after two calls that warm up."""

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    for _ in range(2):
        step()
    wait()
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < seconds or not calls:
        step()
        calls += 1
        wait()
    return calls / (time.perf_counter() - start)


def measured(decoder: str, lanes: int, device: str, seconds: float) -> dict[str, Any]:
    """One cell: run-steps a second of the step alone, and with the drawing of each batch."""
    base = lane_config(decoder, lanes, device)
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
    group = Lanes(configs, trained, states, worlds=[world] * lanes)
    given = [raw_training_batch(config, world, 0).to(device) for config in configs]

    def step(raws: Sequence[RawBatch | None]) -> None:
        group.step({lane: Update(raw, 1e-3, 0) for lane, raw in enumerate(raws)})

    def draws_and_steps() -> None:
        if group.sampler:
            step([None] * lanes)
        else:
            step([raw_training_batch(config, world, 0).to(device) for config in configs])

    drawn = per_second(draws_and_steps, seconds, device) * lanes
    # From here on the group is given its batches.
    group.sampler = None
    alone = per_second(lambda: step(given), seconds, device) * lanes
    held = torch.cuda.max_memory_allocated(device) if "cuda" in device else lanes * memory.lane_size(base)
    return {
        "decoder": decoder,
        "lanes": lanes,
        "lanes at once": group.at_once,
        "run-steps per second": alone,
        "with drawing": drawn,
        "bytes": held,
    }


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
    lanes: tuple[int, ...] = LANES
    """Numbers of lanes."""
    seconds: float = 3.0
    """Seconds for each cell."""
    limit: float = 540.0
    """Seconds after which no cell is begun."""
    output: Path = Path("build/lanes.json")
    """File of what is measured; a second call goes on there."""


def measure(options: Options) -> Lines:
    """A line for each new cell."""
    start, torch_version = time.monotonic(), torch.__version__
    device = numerics.device_here(options.device)
    name = torch.cuda.get_device_name(device) if "cuda" in device else platform.processor() or platform.machine()
    machine = {"device": device, "name": name, "torch": torch_version}
    cells: list[dict[str, Any]] = []
    if options.output.is_file():
        cells = cells_before(options.output, machine)
    numerics.prepare(lane_config("rope", 1, device))
    for decoder in DECODERS:
        for lanes in options.lanes:
            if any((cell["decoder"], cell["lanes"]) == (decoder, lanes) for cell in cells):
                continue
            if time.monotonic() - start > options.limit:
                yield Line("the time is up; a second call goes on here")
                return
            cell = measured(decoder, lanes, device, options.seconds)
            cells.append(cell)
            options.output.parent.mkdir(parents=True, exist_ok=True)
            made = json.dumps({"machine": machine, "cells": cells}, indent=1) + "\n"
            replace_bytes(options.output, made.encode())
            yield Line(
                f"{decoder:8} {lanes:4} lanes  {cell['run-steps per second']:10,.0f} run-steps/s"
                f"  ({cell['with drawing']:,.0f}/s with drawing)  {memory.in_words(cell['bytes'])}",
                cell,
            )
    yield Line(f"{options.output}: {len(cells)} cells on {name}")


main = program.program("lanes", Options, measure, __doc__)

if __name__ == "__main__":
    sys.exit(main(None))
