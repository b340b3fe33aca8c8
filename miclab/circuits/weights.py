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

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from miclab.circuits.find import Head
from miclab.circuits.logit_lens import direct_logits, lens_intervals, lens_values
from miclab.circuits.weights_result import KINDS, LEADING, PRODUCTS, Kind, Product, Weights, leading_share
from miclab.config.request import SplitSizes
from miclab.config.run import RunConfig
from miclab.errors import ConfigError, RunError
from miclab.model.attention.mechanism import Mechanism
from miclab.model.attention.softmax import Softmax
from miclab.model.decoder import Decoder, Parameters
from miclab.model.projector import project
from miclab.runs.run import Run
from miclab.statistics.intervals import clustered_interval
from miclab.worlds.splits import split_batches
from miclab.worlds.world import World, world_from_tensors

Matrix = Float[Tensor, "row column"]
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


def spectrum(matrix: Matrix) -> tuple[float, ...]:
    """Singular values, the largest first, as shares of the square root of their sum of squares."""
    values = torch.linalg.svdvals(matrix.double())
    return tuple((values / values.square().sum().sqrt().clamp(min=1e-300)).tolist())


def spectra(matrices: Mapping[Head, HeadMatrices]) -> dict[tuple[Head, Product], tuple[float, ...]]:
    """`spectrum` of QK and of OV of every head; as many values as a head has dimensions."""
    found = {}
    for head, own in matrices.items():
        size = len(own.qk) // (1 + max(number for _, number in matrices))
        found |= {(head, name): spectrum(m)[:size] for name, m in (("QK", own.qk), ("OV", own.ov))}
    return found


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


def copied_logits(config: RunConfig, parameters: Parameters, vectors: Tensor, ov: Tensor) -> Matrix:
    """What attending to each vector adds to each logit [vector, logit], up to the scale of the last norm."""
    gain = parameters.get("decoder.norm.gain")
    readout = parameters["decoder.readout"]
    return vectors @ ov @ (readout if gain is None else gain[:, None] * readout)


# -- of a run -----------------------------------------------------------------------------------------------------
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


def weight_matrices(run: Run, *, step: int | None = None, vectors: int = 32) -> dict[str, Tensor]:
    """QK and OV of every head in the basis of items and labels.

    Arguments:
        run: with a decoder.
        step: training step of the checkpoint; None: the last good one.
        vectors: how many of each kind at most: the first labels, and the most frequent classes.

    Returns:
        `basis.KIND` [vector, width] of each KIND, which is `labels` or `items.NAME`. For each head
        `QK.LAYER.HEAD` [width, width], and `QK.LAYER.HEAD.KIND.KIND` [query's vector, key's vector], the score before
        positions. `OV.LAYER.HEAD` [width, width], and `OV.LAYER.HEAD.KIND` [vector, logit], what attending to it adds
        to each logit. All are up to the scale inside norms.

    Raises:
        ConfigError: `vectors` is below 1, or there is no such checkpoint.
        RunError: the run has no decoder, or attention without square matrices.
    """
    if vectors < 1:
        raise ConfigError("vectors", vectors, "1 and more")
    config = run.config
    Decoder(config)
    _, parameters = run.parameters(step)
    matrices = head_matrices(config, parameters)
    every = basis(config, parameters, world_from_tensors(config, run.world_tensors()))
    shown = {kind: some[:vectors] for kind, some in every.items()}
    found = {f"basis.{kind}": some for kind, some in shown.items()}
    for (layer, head), own in matrices.items():
        found |= {f"QK.{layer}.{head}": own.qk, f"OV.{layer}.{head}": own.ov}
        for kind, some in shown.items():
            found[f"OV.{layer}.{head}.{kind}"] = copied_logits(config, parameters, some, own.ov)
            for other, keys in shown.items():
                found[f"QK.{layer}.{head}.{kind}.{other}"] = some @ own.qk @ keys.T
    return found


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
    matrices = head_matrices(config, parameters)
    seen: dict[str, list[float]] = {}
    shares: dict[Product, list[list[float]]] = {name: [] for name in PRODUCTS}
    for draw in range(DRAWS):
        fresh = decoder.initial_parameters(draw)
        drawn = head_matrices(config, fresh)
        for one in head_scores(config, fresh, world).values():
            for name, value in one.items():
                seen.setdefault(name, []).append(value)
        for one in path_matching(config, fresh, world).values():
            for name, value in one.items():
                seen.setdefault(f"path {name}", []).append(value)
        for (_, _, kind), value in compositions(drawn).items():
            seen.setdefault(kind, []).append(value)
        for (_, name), values in spectra(drawn).items():
            shares[name].append([leading_share(values, count) for count in LEADING])
    random = {name: _mean_and_spread(values) for name, values in seen.items()}
    random_spectra: dict[Product, tuple[float, ...]] = {
        name: tuple(torch.tensor(some).mean(0).tolist()) for name, some in shares.items()
    }
    batches = [batch for _, batch in split_batches(config, world, "icl", sizes or SplitSizes(sequences=100))]
    sets: dict[str, list[Tensor]] = {}
    for batch in batches if config.decoder.norm != "layernorm" else ():
        for name, logits in direct_logits(config, parameters, batch).items():
            effect = logits.gather(1, batch.target[:, None])[:, 0] - logits.mean(1)
            sets.setdefault(name, []).append(effect)
    direct = {name: clustered_interval([torch.stack(effects).numpy()]) for name, effects in sets.items()}
    lens, fresh_lens = (
        lens_intervals([lens_values(config, which, batch) for batch in batches])
        for which in (parameters, decoder.initial_parameters(0))
    )
    last = str(config.decoder.layers - 1)
    return Weights(
        run.path.name, found, head_scores(config, parameters, world), compositions(matrices),
        path_matching(config, parameters, world), random, direct, spectra(matrices), lens, random_spectra,
        {role: one.mean for (place, role), one in fresh_lens.items() if place == last},
    )  # fmt: skip


def _mean_and_spread(values: list[float]) -> tuple[float, float]:
    found = torch.tensor(values, dtype=torch.double)
    return float(found.mean()), float(found.std(correction=0))
