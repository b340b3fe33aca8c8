"""The decoder once more, in NumPy and float64, one sequence and one position at a time: slow, plain, and written from
the definitions of the study rather than from `miclab.model.decoder`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from oracle_attention import MECHANISMS, Given

from miclab.config.options import AttentionOptions
from miclab.config.positions import position_options
from miclab.config.run import RunConfig

Array = NDArray[np.floating]


@dataclass
class Result:
    """Logits [batch, label] and, for each layer, attention [batch, head, query, key] (None: it is not given) and
    residual [batch, position, width]."""

    logits: Array
    patterns: list[Array | None] = field(default_factory=list)
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


def rotated(code: str, x: Array, position: int, theta: float, options: Any = None) -> Array:
    """A query or key of one head at one position."""
    d = len(x)
    angle = position * theta ** (-2 * np.arange(d // 2) / d)
    if code == "partial_rope":
        turned = 2 * int(options.fraction * d / 2)
        return np.concatenate([rotated("rope", x[:turned], position, theta), x[turned:]])
    if code == "yarn":
        turns = options.original * theta ** (-2 * np.arange(d // 2) / d) / (2 * math.pi)
        kept = np.array([min(max((r - options.slow) / (options.fast - options.slow), 0), 1) for r in turns])
        angle = (1 - kept) * angle / options.factor + kept * angle
    if code in ("rope", "hybrid", "yarn"):
        turned = (x[: d // 2] + 1j * x[d // 2 :]) * np.exp(1j * angle)
        scale = 0.1 * math.log(options.factor) + 1 if code == "yarn" else 1
        return np.concatenate([turned.real, turned.imag]) * scale
    if code == "rope_released":
        both = np.concatenate([angle, angle])
        return x * np.cos(both) + np.concatenate([-x[1::2], x[0::2]]) * np.sin(both)
    return x


def coded(config: RunConfig, p: Mapping[str, Array], x: Array, position: int, head: int, is_key: bool) -> Array:
    """A query or key with its position; a product of both is the score."""
    options = config.decoder
    if options.position_name != "pope":
        return rotated(options.position_name, x, position, options.rope_theta, position_options(options.positions))
    # A sum of cosines is the real part of a product of complex numbers.
    magnitude = np.log1p(np.exp(x))
    angle = position * options.rope_theta ** (-np.arange(len(x)) / len(x))
    if is_key:
        angle = angle + np.clip(p["decoder.positions.phase"][head][: len(x)], -2 * math.pi, 0)
    turned = magnitude * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag])


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


def score_bias(config: RunConfig, p: Mapping[str, Array], head: int, query: int, key: int) -> float:
    """What a position code adds to the score of a key."""
    options, distance = config.decoder, query - key
    if options.positions == "alibi":
        return -(2 ** (-8 * (head + 1) / options.heads)) * distance
    if options.positions == "t5_bias":
        far = 16 + int(math.log(max(distance, 16) / 16) / math.log(128 / 16) * 16)
        return float(p["decoder.positions.table"][head, distance if distance < 16 else min(far, 31)])
    if options.position_name == "fire":
        own = {name: p[f"decoder.positions.{name}"] for name in ("slope", "threshold", "in_weight", "in_bias",
                                                                  "out_weight", "out_bias")}  # fmt: skip
        slope, threshold = abs(float(own["slope"])), abs(float(own["threshold"]))
        relative = math.log(slope * distance + 1) / math.log(slope * max(query, threshold) + 1)
        hidden = np.maximum(relative * own["in_weight"][0] + own["in_bias"], 0)
        return float(hidden @ own["out_weight"][:, head] + own["out_bias"][head])
    return 0.0


def attend(config: RunConfig, p: Mapping[str, Array], layer: int, x: Array) -> tuple[Array, Array | None]:
    """Causal attention over normalised tokens [position, width]: its output and its weights [head, query, key]."""
    decoder, name = config.decoder, f"decoder.blocks.{layer}.attention"
    options = decoder.attention if decoder.attention.uses(layer) else AttentionOptions()
    if getattr(options, "each", ()):
        options = AttentionOptions.read(options.each[layer], "", None)
    own = {key.removeprefix(f"{name}."): value for key, value in p.items() if key.startswith(f"{name}.")}
    given = Given(
        own, x, layer, decoder.heads, options,
        lambda vector, position, head, is_key: coded(config, p, vector, position, head, is_key),
        lambda head, query, key: score_bias(config, p, head, query, key),
    )  # fmt: skip
    output, pattern = MECHANISMS[options.name](given)
    is_projected = decoder.output_projection == "on" or (decoder.output_projection == "auto" and decoder.heads > 1)
    return (output @ own["output"] if is_projected or options.name == "linear_example" else output), pattern


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
    patterns: list[list[Any]] = [[] for _ in range(options.layers)]
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
    result.patterns = [None if layer[0] is None else np.array(layer) for layer in patterns]
    result.residuals = [np.array(layer) for layer in residuals]
    return result
