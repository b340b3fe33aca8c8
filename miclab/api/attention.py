"""Attention weights of a head as a result: numbers, names of positions, a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from miclab.config.run import RunConfig
from miclab.errors import ConfigError, MiclabError
from miclab.model.decoder import Decoder, Parameters
from miclab.statistics.palette import WEIGHTS
from miclab.statistics.style import colour_map, new_axes
from miclab.tables import HeadName, Table, Tabled, table
from miclab.worlds.sequences import Batch, config_roles

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Attention(Tabled):
    """Attention weights of one head.

    Arguments:
        weights: [query, key], or [sequence, query, key] of several; each row sums to 1 under softmax.
        roles: name of each position: `x1` an item, `x'1` one of the second modality, `l1` a label, `xq` the query.
        head: LAYER.HEAD, both from 0.
        step: training step of the checkpoint.
        labels: labels of the context [context], or [sequence, context].
        target: label of the query, or [sequence].
    """

    weights: NDArray[np.floating]
    roles: tuple[str, ...]
    head: str
    step: int
    labels: NDArray[np.integer]
    target: NDArray[np.integer]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray:
        return np.array(self.weights, dtype=dtype, copy=copy)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weights."""
        return self.weights.shape

    def tables(self) -> tuple[Table, ...]:
        """A row for each sequence, query and key, weights of 0 beyond the query left out."""
        weights = self.weights.reshape(-1, *self.weights.shape[-2:])
        rows = [
            [number, self.roles[query], self.roles[key], float(one[query, key])]
            for number, one in enumerate(weights)
            for query in range(one.shape[0])
            for key in range(one.shape[1])
            if key <= query or one[query, key]
        ]
        return (table(f"head {self.head} at step {self.step}", ["sequence", "query", "key", "weight"], rows),)

    def as_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "head": self.head,
            "step": self.step,
            "roles": list(self.roles),
            "weights": self.weights.tolist(),
            "labels": self.labels.tolist(),
            "target": self.target.tolist(),
        }

    def plot(self, axes: Axes | None = None) -> Axes:
        """The weights as a picture, queries downwards; of several sequences their mean.

        Arguments:
            axes: where to draw; None: new axes.
        """
        axes = axes or new_axes(4.4, 3.8)
        weights = self.weights if self.weights.ndim == 2 else self.weights.mean(0)
        image = axes.imshow(weights, vmin=0, vmax=1, cmap=colour_map(WEIGHTS))
        places = range(len(self.roles))
        axes.set_xticks(places, self.roles, rotation=90)
        axes.set_yticks(places, self.roles)
        axes.set(xlabel="key", ylabel="query", title=f"head {self.head} at step {self.step}")
        axes.figure.colorbar(image, ax=axes, label="attention weight")
        return axes

    def _repr_html_(self) -> str:
        """The picture, as SVG."""
        import io

        axes = self.plot()
        text = io.StringIO()
        axes.figure.savefig(text, format="svg", bbox_inches="tight")  # type: ignore[union-attr]
        return text.getvalue()[text.getvalue().index("<svg") :]


@torch.no_grad()
def attention(
    config: RunConfig,
    parameters: Parameters,
    batch: Batch,
    head: tuple[int, int],
    sequence: int | Sequence[int] | None,
    step: int,
) -> Attention:
    """Attention of a head on sequences of a batch.

    Arguments:
        head: layer and head, both from 0.
        sequence: the number of a sequence in the batch, several, or None for all.
        step: training step of the parameters.

    Raises:
        ConfigError: there is no such sequence.
        MiclabError: the attention mechanism gives no pattern.
    """
    wanted = list(range(len(batch))) if sequence is None else [sequence] if isinstance(sequence, int) else [*sequence]
    wrong = [one for one in wanted if not 0 <= one < len(batch)]
    if wrong or not wanted:
        raise ConfigError("sequence", sequence, f"0 to {len(batch) - 1}, for the {len(batch)} sequences drawn")
    decoder, name = Decoder(config), f"blocks.{head[0]}.attention.pattern"
    if name not in decoder.activations():
        raise MiclabError(f"The attention of layer {head[0]} gives no pattern: {config.decoder.attention.name}.")
    chosen = batch.rows(torch.tensor(wanted))
    weights = decoder.trace(parameters, chosen, capture=(name,)).activations[name][:, head[1]]
    found = (weights.numpy(), chosen.labels.numpy(), chosen.target.numpy())
    if isinstance(sequence, int):
        found = tuple(one[0] for one in found)
    roles = tuple(config_roles(config).axis_names())
    return Attention(found[0], roles, str(HeadName(*head)), step, np.asarray(found[1]), np.asarray(found[2]))
