"""The decoder once more, in NumPy and float64, one sequence and one position at a time: slow, plain, and written from
the definitions of the study rather than from `miclab.model.decoder`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miclab.config.run import RunConfig

Array = NDArray[np.floating]


@dataclass
class Result:
    """Logits [batch, label] and, for each layer, attention [batch, head, query, key] and residual [batch, position,
    width]."""

    logits: Array
    patterns: list[Array] = field(default_factory=list)
    residuals: list[Array] = field(default_factory=list)


def sigmoid_weighted(x: Array) -> Array:
    """SiLU."""
    return x / (1 + np.exp(-x))


def gaussian_error_linear(x: Array) -> Array:
    """GELU with the exact distribution function."""
    return np.array([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x.ravel()]).reshape(x.shape)


def normalise(kind: str, x: Array, parameters: Mapping[str, Array], name: str) -> Array:
    """RMSNorm, LayerNorm or nothing, of one vector."""
    if kind == "none":
        return x
    if kind == "rmsnorm":
        return x / np.sqrt((x**2).mean() + 1e-5) * parameters[f"{name}.gain"]
    centred = x - x.mean()
    return centred / np.sqrt((centred**2).mean() + 1e-5) * parameters[f"{name}.gain"] + parameters[f"{name}.bias"]


def rotated(code: str, x: Array, position: int, theta: float) -> Array:
    """A query or key of one head at one position."""
    d = len(x)
    angle = position * theta ** (-2 * np.arange(d // 2) / d)
    if code in ("rope", "hybrid"):
        turned = (x[: d // 2] + 1j * x[d // 2 :]) * np.exp(1j * angle)
        return np.concatenate([turned.real, turned.imag])
    if code == "rope_released":
        both = np.concatenate([angle, angle])
        return x * np.cos(both) + np.concatenate([-x[1::2], x[0::2]]) * np.sin(both)
    return x


def embed(config: RunConfig, p: Mapping[str, Array], items: Mapping[str, Array], labels: Array, placement: float):
    """Tokens of one sequence: items through the bridge, labels, positions, width, constants."""
    jitter = placement
    options, length = config.decoder, config.sequence_length
    slots = options.position_slots or (66 if options.positions == "hybrid" else 65)
    host = config.host or next(iter(config.modalities))
    order = config.sequence.order or tuple(config.modalities)
    tokens = []
    for exemplar in range(config.sequence.context + 1):
        for name in order:
            x = items[name][exemplar]
            if name != host:
                layers = {"linear": 1, "small": 2, "large": 3}[config.bridge.projector]
                for layer in range(layers):
                    x = x @ p[f"bridge.{name}.{layer}"]
                    x = gaussian_error_linear(x) if layer < layers - 1 else x
            tokens.append(x)
        if exemplar < config.sequence.context:
            tokens.append(labels[exemplar])
    kinds = ["item" if i % (len(order) + 1) < len(order) else "label" for i in range(len(tokens))]
    if config.sequence.first_token == "learnt":
        tokens, kinds = [p["decoder.first_token"], *tokens], ["first", *kinds]
    assert len(tokens) == length
    if options.placement == "fixed":
        placement = 0.0
    first = int(np.float32(placement) * np.float32(slots - length + 1))
    if options.positions in ("onehot", "hybrid"):
        tokens = [np.concatenate([x, np.eye(slots)[first + i]]) for i, x in enumerate(tokens)]
    width = options.width or len(tokens[0])
    if options.input_map == "linear":
        tokens = [x @ p["decoder.input"] for x in tokens]
    tokens = [np.concatenate([x, np.zeros(width - len(x))]) for x in tokens]
    if options.positions == "learned":
        tokens = [x + p["decoder.positions.table"][first + i] for i, x in enumerate(tokens)]
    if options.positions == "sinusoidal":
        frequency = 10000.0 ** (-np.arange(0, width, 2) / width)
        for i, x in enumerate(tokens):
            code = np.concatenate([np.sin((first + i) * frequency), np.cos((first + i) * frequency)])
            tokens[i] = x + code / np.linalg.norm(code)
    for i in range(len(tokens)):
        if options.token_constant and options.token_constant_on in ("all", f"{kinds[i]}s"):
            tokens[i] = tokens[i] + p["decoder.constant"]
        if config.sequence.jitter:
            tokens[i] = tokens[i] + p["decoder.jitter"][int(jitter * config.sequence.jitter)]
    return np.array(tokens)


def score_bias(config: RunConfig, p: Mapping[str, Array], head: int, distance: int) -> float:
    """What a position code adds to the score of a key so many positions before the query."""
    options = config.decoder
    if options.positions == "alibi":
        return -(2 ** (-8 * (head + 1) / options.heads)) * distance
    if options.positions == "t5_bias":
        far = 16 + int(math.log(max(distance, 16) / 16) / math.log(128 / 16) * 16)
        return float(p["decoder.positions.table"][head, distance if distance < 16 else min(far, 31)])
    return 0.0


def softmax_mixing(query: Array, keys: list[Array], biases: list[float], options: Any) -> Array:
    """Shares of attention of one query in one head, over the keys up to its own."""
    scores = np.array([query @ key / math.sqrt(len(query)) + bias for key, bias in zip(keys, biases, strict=True)])
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def windowed_mixing(query: Array, keys: list[Array], biases: list[float], options: Any) -> Array:
    """`softmax_mixing` over the last few keys."""
    first = max(0, len(keys) - options.window)
    return np.concatenate([np.zeros(first), softmax_mixing(query, keys[first:], biases[first:], options)])


def linear_mixing(query: Array, keys: list[Array], biases: list[float], options: Any) -> Array:
    """Products of the query with its keys, over their number."""
    return np.array([query @ key for key in keys]) / len(keys)


MIXING = {"softmax": softmax_mixing, "sliding_window": windowed_mixing, "linear_example": linear_mixing}
"""By mechanism, the weights of the values that one query sees."""


def attend(config: RunConfig, p: Mapping[str, Array], layer: int, x: Array) -> tuple[Array, Array]:
    """Causal attention over normalised tokens [position, width]: its output and its weights [head, query, key]."""
    options, name = config.decoder, f"decoder.blocks.{layer}.attention"
    length, width = x.shape
    bias = {part: p.get(f"{name}.{part}_bias", np.zeros(width)) for part in ("query", "key")}
    heads, size = options.heads, width // options.heads
    mixing = MIXING[options.attention.name if options.attention.uses(layer) else "softmax"]
    pattern, output = np.zeros((heads, length, length)), np.zeros((length, width))
    for head in range(heads):
        columns = slice(head * size, (head + 1) * size)
        queries, keys = (
            [
                rotated(options.positions, (x[i] @ p[f"{name}.{part}"] + bias[part])[columns], i, options.rope_theta)
                for i in range(length)
            ]
            for part in ("query", "key")
        )
        for i in range(length):
            added = [score_bias(config, p, head, i - j) for j in range(i + 1)]
            pattern[head, i, : i + 1] = mixing(queries[i], keys[: i + 1], added, options.attention)
            output[i, columns] = pattern[head, i] @ (x @ p[f"{name}.value"][:, columns])
    is_projected = options.output_projection == "on" or (options.output_projection == "auto" and heads > 1)
    if is_projected or mixing is linear_mixing:
        output = output @ p[f"{name}.output"]
    return output, pattern


def feed_forward(config: RunConfig, p: Mapping[str, Array], name: str, x: Array) -> Array:
    """The MLP at one position."""
    if config.decoder.mlp == "swiglu":
        hidden = sigmoid_weighted(x @ p[f"{name}.gate.weight"]) * (x @ p[f"{name}.value.weight"])
        return hidden @ p[f"{name}.out.weight"]
    if config.decoder.mlp_bias == "off":
        gate, value = x @ p[f"{name}.gate.weight"], x @ p[f"{name}.value.weight"]
        return sigmoid_weighted(gate * value) @ p[f"{name}.out.weight"]
    gate = x @ p[f"{name}.gate.weight"] + p[f"{name}.gate.bias"]
    value = x @ p[f"{name}.value.weight"] + p[f"{name}.value.bias"]
    return sigmoid_weighted(gate * value) @ p[f"{name}.out.weight"] + p[f"{name}.out.bias"]


def forward(
    config: RunConfig,
    parameters: Mapping[str, Array],
    items: Mapping[str, Array],
    labels: Array,
    placement: Array,
    *,
    attention: bool = True,
) -> Result:
    """The whole decoder; without attention only the embedding, the MLPs and the readout are left."""
    p = {name: np.asarray(value, dtype=np.float64) for name, value in parameters.items()}
    options = config.decoder
    result = Result(np.zeros((len(labels), p["decoder.readout"].shape[1])))
    patterns: list[list[Array]] = [[] for _ in range(options.layers)]
    residuals: list[list[Array]] = [[] for _ in range(options.layers)]
    for row in range(len(labels)):
        mine = {name: np.asarray(value[row], dtype=np.float64) for name, value in items.items()}
        x = embed(config, p, mine, np.asarray(labels[row], dtype=np.float64), placement[row])
        for layer in range(options.layers):
            block = f"decoder.blocks.{layer}"
            normed = np.array([normalise(options.norm, v, p, f"{block}.norm1") for v in x])
            output, pattern = attend(config, p, layer, normed)
            if attention:
                x = x + output
            if options.mlp != "none":
                normed = np.array([normalise(options.norm, v, p, f"{block}.norm2") for v in x])
                x = x + np.array([feed_forward(config, p, f"{block}.mlp", v) for v in normed])
            patterns[layer].append(pattern)
            residuals[layer].append(x)
        result.logits[row] = normalise(options.norm, x[-1], p, "decoder.norm") @ p["decoder.readout"]
    result.patterns = [np.array(layer) for layer in patterns]
    result.residuals = [np.array(layer) for layer in residuals]
    return result
