"""A run made of weights that were trained elsewhere."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from miclab import storage
from miclab.config import memory, presets
from miclab.config.request import SplitSizes
from miclab.config.run import RunConfig
from miclab.errors import ConfigError, RunError
from miclab.interop.released import (
    check_importable,
    check_state,
    drawn_world,
    from_released,
    read_checkpoint,
)
from miclab.measures.evaluate import metric_row
from miclab.runs.find import create
from miclab.runs.run import Run
from miclab.training import numerics
from miclab.training.lineage import Lineage
from miclab.worlds.world import world_from_tensors


def usual_config(state: dict[str, Tensor]) -> RunConfig:
    """The paper's configuration of as many modalities as a checkpoint has, with the released code's rotary code."""
    kind = "early_fusion" if any(name.startswith("projector.") for name in state) else "unimodal"
    config = presets.run_config(kind, "paper")
    return replace(config, decoder=replace(config.decoder, positions="rope_released"))


def imported(
    file: Path,
    state: dict[str, Tensor],
    config: RunConfig,
    root: Path | str = "runs",
    *,
    step: int = 0,
    world: Path | None = None,
    world_seed: int = 0,
    sizes: SplitSizes | None = None,
) -> Run:
    """The run of a checkpoint of the released code, with one checkpoint and a metric row. One that is there already is
    returned as it is.

    Arguments:
        file: the checkpoint, for messages.
        state: its tensors (see `miclab.interop.released.read_checkpoint`).
        config: with which it was trained.
        root: directory of runs.
        step: training steps that it had.
        world: safetensors file with `label_embeddings` and, for each modality, `prototypes.NAME`; None: drawn as the
            released code does.
        world_seed: NumPy's seed of that draw.
        sizes: of the splits in the metric row.

    Raises:
        ConfigError: the configuration is none of the released code.
        ContentError: the checkpoint or the world does not fit it.
        RunError: an earlier run is missing, the world has other shapes, or the run cannot be written.
    """
    if type(step) is not int or not 0 <= step < 10**9:
        raise ConfigError("step", step, "a whole number of training steps from 0 to 999,999,999")
    config = numerics.resolved(Lineage.resolve(config, root).config, 0)[0]
    check_importable(config)
    check_state(config, state, file)
    memory.check_world(config)
    parameters = from_released(config, state)
    tensors = drawn_world(config, world_seed) if world is None else read_checkpoint(world)
    whole = world_from_tensors(config, tensors)
    tensors = whole.tensors()
    content = storage.digest(storage.tensor_bytes({**parameters, **{f"world.{n}": v for n, v in tensors.items()}}))
    config = replace(config, parent=replace(config.parent, imported=content))
    run = create(root, config, tensors)
    if run.checkpoints:
        if run.checkpoints[-1] != step:
            raise RunError(
                f"{run.path} is this checkpoint already, imported with {run.checkpoints[-1]} training steps. Give the"
                " same --step, or delete it."
            )
        if run.status != "finished":
            with run.locked():
                run.note("finished", f"imported from {file.name}", environment=numerics.environment(config))
        return run
    row = {"step": step, "loss": None, **metric_row(config, whole, parameters, sizes or SplitSizes())}
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with run.locked():
        run.save_checkpoint(step, parameters, {}, [row], {"seconds": 0.0, "time": now}, {step})
        run.note("finished", f"imported from {file.name}", environment=numerics.environment(config))
    return run
