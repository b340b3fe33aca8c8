"""What the weights of heads say without attention patterns (Elhage et al. 2021, "A Mathematical Framework for
Transformer Circuits").

With the gain g of the norm before attention, W_Q and W_K of a head of dimension d, its W_V and its share of W_O:

    QK = diag(g) W_Q W_K' diag(g) / sqrt(d)     x_query QK x_key' is the score, before positions
    OV = diag(g) W_V W_O                        x OV is what a head that attends to x writes

Position codes, biases, and the scale inside norms are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from miclab.circuits.find import Head, head_name
from miclab.config.request import SplitSizes
from miclab.config.run import RunConfig
from miclab.errors import RunError
from miclab.model.attention.mechanism import Mechanism
from miclab.model.attention.softmax import Softmax
from miclab.model.decoder import EPSILON, Decoder, Parameters
from miclab.model.projector import project
from miclab.runs.run import Run
from miclab.statistics.intervals import DECIMALS, Interval, clustered_interval
from miclab.tables import HeadName, Number, Table, Tabled, table
from miclab.worlds.sequences import Batch
from miclab.worlds.splits import split_batches
from miclab.worlds.world import World, world_from_tensors

Matrix = Float[Tensor, "row column"]
Kind = Literal["Q", "K", "V"]
KINDS: tuple[Kind, ...] = ("Q", "K", "V")
CLASSES = 256
"""Classes of each modality that stand for its items, at most: the most frequent ones."""
DRAWS = 8
"""Decoders with fresh random weights, for the baselines."""


@dataclass(frozen=True)
class HeadMatrices:
    """Matrices of one head [width, width]."""

    qk: Matrix
    ov: Matrix


def _is_plain(mechanism: Mechanism) -> bool:
    """Whether heads attend by a softmax of queries and keys, which nothing else changes."""
    if not isinstance(mechanism, Softmax):
        return False
    kind = type(mechanism)
    own = (kind.everywhere, kind.project, kind.mix)
    return own == (Softmax.everywhere, Softmax.project, Softmax.mix)


def head_matrices(config: RunConfig, parameters: Parameters) -> dict[Head, HeadMatrices]:
    """QK and OV of every head.

    Raises:
        RunError: a layer's attention is no plain softmax of queries and keys, each one matrix of its input.
    """
    decoder, found = config.decoder, {}
    mechanisms = Decoder(config).attention
    width = decoder.residual_width(config.item_width)
    for layer in range(decoder.layers):
        start = f"decoder.blocks.{layer}.attention"
        parts = [parameters.get(f"{start}.{part}") for part in ("query", "key", "value")]
        if not _is_plain(mechanisms[layer]) or any(part is None or part.shape != (width, width) for part in parts):
            raise RunError(
                f"Scores of layer {layer} are not queries times keys alone, each one square matrix of the layer's input"
                f" (decoder.attention = {decoder.attention.name}): there is no QK and OV to show."
            )
        query, key, value = (part for part in parts if part is not None)
        gain = parameters.get(f"decoder.blocks.{layer}.norm1.gain", torch.ones(width))
        output = parameters.get(f"{start}.output", torch.eye(width))
        size = width // decoder.heads
        for head in range(decoder.heads):
            own = slice(head * size, (head + 1) * size)
            qk = (gain[:, None] * query[:, own]) @ (gain[:, None] * key[:, own]).T / math.sqrt(size)
            found[layer, head] = HeadMatrices(qk, (gain[:, None] * value[:, own]) @ output[own])
    return found


# -- numbers of matrices ------------------------------------------------------------------------------------------
def copying_score(matrix: Matrix) -> float:
    """Sum of the eigenvalues over the sum of their absolute values, -1 to 1: 1 if a label raises its own logit."""
    values = torch.linalg.eigvals(matrix.double())
    return float(values.real.sum() / values.abs().sum().clamp(min=1e-300))


def positive_share(matrix: Matrix) -> float:
    """Share of the eigenvalues whose real part is positive."""
    return float((torch.linalg.eigvals(matrix.double()).real > 0).double().mean())


def matching_score(matrix: Matrix) -> float:
    """Mean of the diagonal minus that of all other entries, in standard deviations of these: how much an item's query
    prefers its own class."""
    others = matrix[~torch.eye(len(matrix), dtype=torch.bool)]
    return float((matrix.diagonal().mean() - others.mean()) / others.std().clamp(min=1e-30))


def effective_rank(matrix: Matrix) -> float:
    """(sum s^2)^2 / sum s^4 of the singular values s: the number of directions if all were equal."""
    squares = torch.linalg.svdvals(matrix.double()).square()
    return float(squares.sum().square() / squares.square().sum().clamp(min=1e-300))


def composition(earlier: HeadMatrices, later: HeadMatrices, kind: Kind) -> float:
    """Frobenius norm of the product over the product of the norms. The earlier head writes into the queries (Q), keys
    (K) or values (V) of the later one."""
    one, other = (
        (earlier.ov, later.qk) if kind == "Q" else (later.qk, earlier.ov.T) if kind == "K" else (earlier.ov, later.ov)
    )
    return float((one @ other).norm() / (one.norm() * other.norm()).clamp(min=1e-30))


# -- the basis ----------------------------------------------------------------------------------------------------
def basis(config: RunConfig, parameters: Parameters, world: World) -> dict[str, Float[Tensor, "vector width"]]:
    """Labels and the classes of each modality as vectors of the residual stream, without positions: `labels`,
    `items.NAME`."""
    found = {"labels": world.label_embeddings}
    for name in config.order:
        source = world.sources[name]
        count = min(CLASSES, config.modalities[name].classes)
        generator = torch.Generator().manual_seed(0)
        found[f"items.{name}"] = project(config, parameters, name, source.centres(torch.arange(count), generator))
    given = config.decoder.input_width(config.item_width)
    width = config.decoder.residual_width(config.item_width)
    placed = {name: F.pad(vectors, (0, given - vectors.shape[1])) for name, vectors in found.items()}
    if config.decoder.input_map == "linear":
        return {name: vectors @ parameters["decoder.input"] for name, vectors in placed.items()}
    return {name: F.pad(vectors, (0, width - vectors.shape[1])) for name, vectors in placed.items()}


def copied_logits(config: RunConfig, parameters: Parameters, labels: Tensor, ov: Tensor) -> Matrix:
    """What attending to each label adds to each logit [label, logit], up to the scale of the last norm."""
    gain = parameters.get("decoder.norm.gain")
    readout = parameters["decoder.readout"]
    return labels @ ov @ (readout if gain is None else gain[:, None] * readout)


# -- direct logit attribution -------------------------------------------------------------------------------------
@torch.no_grad()
def direct_logits(config: RunConfig, parameters: Parameters, batch: Batch) -> dict[str, Float[Tensor, "batch label"]]:
    """What each part of the decoder writes at the query directly into the logits: `embedding`, `head LAYER.HEAD`,
    `mlp LAYER`. The scale of the last norm is that of the sequence, so that the parts add up to the logits.

    Raises:
        RunError: the last norm subtracts a mean and adds a bias.
    """
    if config.decoder.norm == "layernorm":
        raise RunError("Direct logits are given for rmsnorm and for no norm: layernorm adds a bias of its own.")
    decoder = Decoder(config)
    layers = range(config.decoder.layers)
    names = ["embedding", *(f"blocks.{i}.attention.heads" for i in layers), f"blocks.{layers[-1]}.residual"]
    if config.decoder.mlp != "none":
        names += [f"blocks.{i}.mlp.output" for i in layers]
    kept = decoder.trace(parameters, batch, capture=tuple(names)).activations
    written = {"embedding": kept["embedding"][:, -1]}
    for i in layers:
        heads = kept[f"blocks.{i}.attention.heads"][:, :, -1]
        output = parameters.get(f"decoder.blocks.{i}.attention.output", torch.eye(decoder.width))
        for j, own in enumerate(output.split(heads.shape[-1])):
            written[f"head {head_name((i, j))}"] = heads[:, j] @ own
        if config.decoder.mlp != "none":
            written[f"mlp {i}"] = kept[f"blocks.{i}.mlp.output"][:, -1]
    last = kept[f"blocks.{layers[-1]}.residual"][:, -1]
    readout = parameters["decoder.readout"]
    if config.decoder.norm == "rmsnorm":
        scale = torch.rsqrt(last.square().mean(-1, keepdim=True) + EPSILON)
        return {name: x * scale * parameters["decoder.norm.gain"] @ readout for name, x in written.items()}
    return {name: x @ readout for name, x in written.items()}


# -- of a run -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Weights(Tabled):
    """Numbers of every head's weights.

    Arguments:
        run: name of the run.
        step: training step of the checkpoint.
        scores: by head and name.
        compositions: by earlier head, later head and kind.
        paths: by earlier head and later head (see `path_matching`).
        random: mean and standard deviation with random weights, by the names of scores and kinds. A name of a path has
            the word "path" before it.
        direct: direct effect on the target's logit minus the mean logit, by part; with intervals by set of classes.
    """

    run: str
    step: int
    scores: dict[Head, dict[str, float]]
    compositions: dict[tuple[Head, Head, Kind], float]
    paths: dict[tuple[Head, Head], dict[str, float]]
    random: dict[str, tuple[float, float]]
    direct: dict[str, Interval]

    def tables(self) -> tuple[Table, ...]:
        """Heads, compositions, and direct effects on the logits."""
        names = list(next(iter(self.scores.values())))
        rows = [[HeadName(*head), *(Number(scores[name], 3) for name in names)] for head, scores in self.scores.items()]
        rows.append(["random weights", *(Number(self.random[name][0], 3) for name in names)])
        pairs = []
        for pair in self.paths:
            kinds = (self._beside(self.compositions[*pair, kind], kind) for kind in KINDS)
            pairs.append([*map(_named, pair), *kinds, *self._path(pair)])
        direct = [[name, value] for name, value in self.direct.items()]
        title = f"{self.run} at step {self.step:,}"
        found = [table(f"{title}: weights of heads", ["head", *names], rows)]
        if pairs:
            columns = ["earlier", "later", *KINDS, *next(iter(self.paths.values()))]
            found.append(table("composition, and matching by both heads [random weights]", columns, pairs))
        if direct:
            found.append(table("direct effect on the target's logit minus the mean logit", ["part", "icl"], direct))
        return tuple(found)

    def _path(self, pair: tuple[Head, Head]) -> list[str]:
        return [f"{value:.2f} [{self.random[f'path {name}'][0]:.2f}]" for name, value in self.paths[pair].items()]

    def _beside(self, value: float, kind: Kind) -> str:
        return f"{value:.3f} [{self.random[kind][0]:.3f}]"

    def as_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "run": self.run,
            "step": self.step,
            "heads": {head_name(head): scores for head, scores in self.scores.items()},
            "composition": [
                {"earlier": head_name(one), "later": head_name(other), "kind": kind, "score": value}
                for (one, other, kind), value in self.compositions.items()
            ],
            "paths": [
                {"earlier": head_name(one), "later": head_name(other), **scores}
                for (one, other), scores in self.paths.items()
            ],
            "random": {name: {"mean": mean, "sd": spread} for name, (mean, spread) in self.random.items()},
            "direct": {
                name: {end: value.as_json(DECIMALS)[end] for end in ("low", "mean", "high")}
                for name, value in self.direct.items()
            },
        }


def head_scores(config: RunConfig, parameters: Parameters, world: World) -> dict[Head, dict[str, float]]:
    """Copying of labels, matching of items, and effective ranks of every head."""
    vectors = basis(config, parameters, world)
    found = {}
    for head, own in head_matrices(config, parameters).items():
        copied = copied_logits(config, parameters, vectors["labels"], own.ov)
        scores = {"copying": copying_score(copied), "positive eigenvalues": positive_share(copied)}
        for name, items in vectors.items():
            if name != "labels":
                scores[f"matching {name.partition('.')[2]}"] = matching_score(items @ own.qk @ items.T)
        found[head] = scores | {"rank of QK": effective_rank(own.qk), "rank of OV": effective_rank(own.ov)}
    return found


def path_matching(config: RunConfig, parameters: Parameters, world: World) -> dict[tuple[Head, Head], dict[str, float]]:
    """`matching_score` through two heads of different layers, by modality. The later head's queries hold items, and its
    keys what the earlier head writes of them. It is high in an induction circuit. MLPs and the norm between are left
    out."""
    vectors, matrices = basis(config, parameters, world), head_matrices(config, parameters)
    items = {name.partition(".")[2]: value for name, value in vectors.items() if name != "labels"}
    return {
        (one, other): {
            f"matching {name}": matching_score(x @ matrices[other].qk @ (x @ matrices[one].ov).T)
            for name, x in items.items()
        }
        for one in matrices
        for other in matrices
        if one[0] < other[0]
    }


def compositions(matrices: Mapping[Head, HeadMatrices]) -> dict[tuple[Head, Head, Kind], float]:
    """Scores of every pair of heads in different layers."""
    return {
        (one, other, kind): composition(matrices[one], matrices[other], kind)
        for one in matrices for other in matrices if one[0] < other[0] for kind in KINDS
    }  # fmt: skip


def weights(run: Run, *, step: int | None = None, sizes: SplitSizes | None = None) -> Weights:
    """The numbers of a checkpoint, beside those of decoders with random weights.

    Raises:
        ConfigError: there is no such checkpoint.
        RunError: the run has no decoder, or attention without square matrices.
    """
    config = run.config
    decoder = Decoder(config)
    found, parameters = run.parameters(step)
    world = world_from_tensors(config, run.world_tensors())
    scores, pairs = head_scores(config, parameters, world), compositions(head_matrices(config, parameters))
    seen: dict[str, list[float]] = {}
    for draw in range(DRAWS):
        fresh = decoder.initial_parameters(draw)
        for one in head_scores(config, fresh, world).values():
            for name, value in one.items():
                seen.setdefault(name, []).append(value)
        for one in path_matching(config, fresh, world).values():
            for name, value in one.items():
                seen.setdefault(f"path {name}", []).append(value)
        for (_, _, kind), value in compositions(head_matrices(config, fresh)).items():
            seen.setdefault(kind, []).append(value)
    random = {name: _mean_and_spread(values) for name, values in seen.items()}
    direct: dict[str, Interval] = {}
    if config.decoder.norm != "layernorm":
        sets: dict[str, list[Tensor]] = {}
        for _, batch in split_batches(config, world, "icl", sizes or SplitSizes(sequences=100)):
            for name, logits in direct_logits(config, parameters, batch).items():
                effect = logits.gather(1, batch.target[:, None])[:, 0] - logits.mean(1)
                sets.setdefault(name, []).append(effect)
        direct = {name: clustered_interval([torch.stack(effects).numpy()]) for name, effects in sets.items()}
    return Weights(run.path.name, found, scores, pairs, path_matching(config, parameters, world), random, direct)


def _named(head: Head) -> HeadName:
    return HeadName(*head)


def _mean_and_spread(values: list[float]) -> tuple[float, float]:
    found = torch.tensor(values, dtype=torch.double)
    return float(found.mean()), float(found.std(correction=0))
