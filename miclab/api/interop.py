"""A run from a checkpoint that was trained elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from miclab.api.fields import changed
from miclab.api.run import Run
from miclab.config.request import Request, SplitSizes
from miclab.runs.label import Label


def import_checkpoint(
    checkpoint: str | Path,
    *,
    step: int = 0,
    world: str | Path | None = None,
    world_seed: int = 0,
    runs: str | Path = "runs",
    sequences: int = 1000,
    novel_sets: int = 8,
    name: str = "",
    tags: Sequence[str] = (),
    fields: Mapping[str, Any] | None = None,
    **short: Any,
) -> Run:
    """A run of a checkpoint of the code that the paper's authors released, as `miclab import` makes it.

        run = miclab.import_checkpoint("ckpt.safetensors", step=300_000, classes=8192, positions="onehot")

    Arguments:
        checkpoint: the state dict, as safetensors.
        step: training steps that it had.
        world: safetensors file with `label_embeddings`, and `prototypes.NAME` for each modality; None: the world is
            drawn as the released code does.
        world_seed: NumPy's seed of that draw.
        runs: directory of runs.
        sequences: sequences of each split in the metric row; of `icl`, for each set of novel classes.
        novel_sets: independent sets of novel classes in the metric row.
        name: of the run in lists and reports.
        tags: words by which runs are grouped.
        fields: values by dotted name of the configuration that it was trained with. The others are the paper's, with
            `rope_released`.
        short: values by a field's last name, as in `train`.

    Raises:
        ConfigError: an unknown field, or a configuration that is none of the released code.
        MiclabError: the file is a pickle, cannot be read, or does not fit the configuration.
    """
    from miclab.interop.imported import imported, usual_config
    from miclab.interop.released import read_checkpoint

    file = Path(checkpoint)
    state = read_checkpoint(file)
    config, _ = changed(usual_config(state), Request(), short, fields)
    found = imported(
        file, state, config, runs, step=step, world=Path(world) if world else None, world_seed=world_seed,
        sizes=SplitSizes(sequences=sequences, novel_sets=novel_sets),
    )  # fmt: skip
    if name or tags:
        found.label = Label(name, tuple(tags))
    return Run(found)
