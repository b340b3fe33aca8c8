"""A run as a Python object: its rows, weights, world, sequences and attention."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miclab.api.rows import flat_row
from miclab.circuits.find import head_named
from miclab.config import schema
from miclab.config.request import SplitSizes
from miclab.config.run import RunConfig
from miclab.errors import ConfigError
from miclab.runs import find as directory
from miclab.runs.label import Label
from miclab.runs.run import Run as Disk
from miclab.runs.status import status_mark
from miclab.tables import Table, Tabled, table

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes
    from torch import Tensor

    from miclab.api.attention import Attention
    from miclab.api.module import Model
    from miclab.interop.export import Exported
    from miclab.model.cost import Cost
    from miclab.model.decoder import Edits
    from miclab.worlds.sequences import Batch
    from miclab.worlds.world import World

DRAWN = 32
"""Sequences that are drawn unless said otherwise; a report shows attention on the same ones."""


class Run(Tabled):
    """A run on disk. Make it with `miclab.train`, `miclab.load` or `miclab.find`.

    Arguments:
        disk: the run's directory (see `miclab.runs.run.Run`).
    """

    def __init__(self, disk: Disk):
        self.disk = disk

    # -- what it is ---------------------------------------------------------------------------------------------
    @property
    def path(self) -> Path:
        """The run's directory."""
        return self.disk.path

    @property
    def name(self) -> str:
        """Name of the directory: stage, position code and the start of the hash."""
        return self.disk.path.name

    @property
    def label(self) -> Label:
        """Name and tags that its owner gave it."""
        return self.disk.label

    @property
    def hash(self) -> str:
        """SHA-256 of everything that determines its trajectory, in hexadecimal."""
        return self.disk.hash

    @property
    def config(self) -> RunConfig:
        """Its configuration."""
        return self.disk.config

    @property
    def status(self) -> str:
        """`new`, `running`, `stopped`, `finished` or `diverged`."""
        return self.disk.status

    @property
    def reason(self) -> str:
        """Why it has this status, in words."""
        return self.disk.reason

    @property
    def step(self) -> int:
        """Training step of the last checkpoint; -1 before the first."""
        return self.disk.step

    @property
    def checkpoints(self) -> list[int]:
        """Training steps whose parameters are kept, in order."""
        return self.disk.checkpoints

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of its heads, LAYER.HEAD, both from 0."""
        decoder = self.config.decoder
        return tuple(f"{layer}.{head}" for layer in range(decoder.layers) for head in range(decoder.heads))

    @property
    def parent(self) -> Run | None:
        """The run of the earlier stage, from the same directory of runs; None if there is none.

        Raises:
            RunError: it does not exist.
        """
        before = self.config.parent.run
        return Run(directory.find(before, self.path.parent)) if before else None

    def verify(self) -> list[str]:
        """Reads every file of the run and returns a message for each damaged one."""
        return self.disk.verify()

    # -- rows ---------------------------------------------------------------------------------------------------
    def metrics(self) -> pl.DataFrame:
        """The metric rows as a frame of polars, one row per evaluated step.

        Columns are `step`, `loss` and accuracy, 0 to 1, by split (`train`, `icl`, `swapped`, `iwl`). A loss is the mean
        since the row before, with a column per term. `icl_sets` lists the accuracy of each set of novel classes.
        `in_context.SPLIT` is the share of answers that are labels of the context. Measures are `MEASURE@LAYER.HEAD`,
        heads from 0, and `alignment.MODALITY.NAME`. A run of an encoder has accuracies of a classifier.
        """
        import polars as pl

        rows = [flat_row(row) for row in self.disk.rows()]
        names = list(dict.fromkeys(name for row in rows for name in row))
        return pl.DataFrame([{name: row.get(name) for name in names} for row in rows], infer_schema_length=None)

    # -- weights, world, sequences ------------------------------------------------------------------------------
    def parameters(self, step: int | None = None) -> dict[str, Tensor]:
        """Parameters by name; a weight is [input, output].

        Arguments:
            step: training step of a checkpoint; None: the last good one.

        Raises:
            ConfigError: there is no such checkpoint; the message lists them.
            DamagedError: its file is damaged.
        """
        return self.disk.parameters(step)[1]

    def model(self, step: int | None = None) -> Model:
        """The network of a checkpoint as a `torch.nn.Module`.

        Its `state_dict` holds the parameters under their names. `forward` takes a batch (see `batch`) and gives logits
        at the query [sequence, label].

        Arguments:
            step: training step of a checkpoint; None: the last good one.

        Raises:
            ConfigError: there is no such checkpoint.
        """
        from miclab.api.module import Model

        return Model(self.config, self.parameters(step))

    def export(self, to: str, output: str | Path, step: int | None = None) -> Exported:
        """Writes a checkpoint as a folder that other tools load (see `miclab.interop.export`).

        Arguments:
            to: `torch`, `huggingface` or `transformer-lens`.
            output: a new or empty folder in an existing one.
            step: training step of a checkpoint; None: the last good one.

        Raises:
            ConfigError: there is no such target or checkpoint, or the decoder has a part that is not exported.
            RunError: the run has no decoder, or the folder cannot be written.
            MiclabError: the folder holds something.
        """
        from miclab.interop.export import export

        return export(self.disk, to, output, step)

    def cost(self) -> Cost:
        """Weights and operations of its decoder, and of attention alone.

        Raises:
            RunError: the run pretrains an encoder and has no decoder.
        """
        from miclab.model.cost import cost

        return cost(self.config)

    def world(self) -> World:
        """Classes, labels and sources of items that the run was trained on.

        Raises:
            DamagedError: its file is damaged.
        """
        from miclab.worlds.world import world_from_tensors

        return world_from_tensors(self.config, self.disk.world_tensors())

    def batch(self, split: str = "icl", sequences: int = DRAWN, *, novel_set: int = 0, seed: int = -1) -> Batch:
        """Sequences of an evaluation split, the same on every call.

        Items are [sequence, exemplar, dimension] for each modality, labels [sequence, context], the target [sequence].

        Arguments:
            split: `train`, `icl` (novel classes), `swapped` or `iwl`.
            sequences: how many. Another number gives other sequences.
            novel_set: of `icl`, which set of novel classes, from 0.
            seed: seed of the evaluation; -1: the run's `seed`.

        Raises:
            ConfigError: there is no such split or set.
        """
        from miclab.worlds.splits import split_batches

        if novel_set < 0 or (novel_set and split != "icl"):
            raise ConfigError("novel_set", novel_set, "0 or more with the split 'icl', else 0")
        sizes = SplitSizes(sequences=sequences, novel_sets=novel_set + 1, evaluation_seed=seed)
        *_, (_, found) = split_batches(self.config, self.world(), split, sizes)
        return found

    def activations(
        self,
        names: str | Sequence[str] = "*",
        step: int | None = None,
        *,
        batch: Batch | None = None,
        edits: Edits | None = None,
    ) -> dict[str, Tensor]:
        """Activations by name, and the logits at the query as `logits` [sequence, label].

        Arguments:
            names: names of activations; one may end in `*`. `miclab.model.decoder.Decoder.activations` lists them with
                their axes.
            step: training step of a checkpoint; None: the last good one.
            batch: the sequences; None: those of `batch()`.
            edits: for the name of an activation, a function from it to its replacement (`miclab.circuits.interventions`
                has some, such as `patch`).

        Raises:
            ConfigError: there is no such checkpoint.
            MiclabError: there is no activation of such a name; the message names the nearest.
        """
        import torch

        from miclab.model.decoder import Decoder

        wanted = (names,) if isinstance(names, str) else tuple(names)
        with torch.no_grad():
            trace = Decoder(self.config).trace(
                self.parameters(step), self.batch() if batch is None else batch, capture=wanted, edits=edits
            )
        return {**trace.activations, "logits": trace.logits}

    def attention(
        self,
        step: int | None = None,
        head: str = "1.0",
        sequence: int | Sequence[int] | None = 0,
        *,
        split: str = "icl",
        sequences: int = DRAWN,
        batch: Batch | None = None,
    ) -> Attention:
        """Attention weights of a head on sequences of a split.

        Arguments:
            step: training step of a checkpoint; None: the last good one.
            head: LAYER.HEAD, both from 0.
            sequence: the number of a sequence, from 0; several; None: all.
            split: the split, as in `batch`.
            sequences: how many are drawn, as in `batch`.
            batch: other sequences than those.

        Returns:
            Weights as NumPy array [query, key], or [sequence, query, key] of several, with the names of positions.

        Raises:
            ConfigError: there is no such checkpoint, head, sequence or split.
            MiclabError: the attention mechanism gives no pattern.
        """
        from miclab.api.attention import attention

        found, parameters = self.disk.parameters(step)
        chosen = self.batch(split, sequences) if batch is None else batch
        return attention(self.config, parameters, chosen, self.head(head), sequence, found)

    def head(self, name: str) -> tuple[int, int]:
        """Layer and head, both from 0, of a name LAYER.HEAD.

        Raises:
            ConfigError: the run has no such head; the message lists them.
        """
        options = self.config.decoder
        return head_named(str(name), product(range(options.layers), range(options.heads)), "head")

    # -- how it is shown ----------------------------------------------------------------------------------------
    def tables(self) -> tuple[Table, ...]:
        """The run's identity, and its last metric row."""
        rows = self.disk.rows()
        accuracy = rows[-1]["accuracy"] if rows else {}
        label = {"name": self.label.name, "tags": ", ".join(self.label.tags)}
        label = {key: text for key, text in label.items() if text}
        columns = ["run", *label, "status", "step", *accuracy]
        row = [self.name, *label.values(), status_mark(self.status), self.step, *accuracy.values()]
        return (table("", columns, [row], [self.reason]),)

    def as_json(self) -> dict[str, Any]:
        """State, configuration and metric rows as plain data, as in `miclab show --json`, without damaged files (see
        `verify`)."""
        return {
            "run": str(self.path),
            "name": self.label.name,
            "tags": list(self.label.tags),
            "hash": self.hash,
            "status": self.status,
            "reason": self.reason,
            "checkpoints": self.checkpoints,
            "request": self.disk.request,
            "environment": self.disk.environment,
            "seconds": round(sum(entry.get("seconds", 0.0) for entry in self.disk.timing), 1),
            "config": schema.to_mapping(self.config),
            "rows": self.disk.rows(),
        }

    def plot(self, axes: Axes | None = None) -> Axes:
        """Accuracy of each split by training step.

        Arguments:
            axes: where to draw; None: new axes.
        """
        from miclab.statistics.palette import SPLITS
        from miclab.statistics.style import draw_curves, new_axes

        rows = self.disk.rows()
        steps = [row["step"] for row in rows]
        splits = rows[-1]["accuracy"] if rows else {}
        curves = {split: (steps, [row["accuracy"][split] for row in rows]) for split in splits}
        axes = draw_curves(axes or new_axes(), curves, SPLITS)
        axes.set_ylabel("accuracy")
        axes.set_title(self.disk.title, fontsize="small")
        return axes

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.status} at step {self.step})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self.path == other.path

    def __hash__(self) -> int:
        return hash(self.path)
