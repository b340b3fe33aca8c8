"""Every mechanism of attention once more, in NumPy and float64, one head, one query and one key at a time, written from
the formulas of the papers that the modules in `miclab/model/attention` name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


@dataclass
class Given:
    """What a mechanism is given.

    Arguments:
        p: parameters of the layer's attention, by their names within it.
        x: normalised tokens [position, width].
        layer: from 0.
        heads: number of heads.
        options: of the mechanism.
        code: a query's (False) or key's (True) vector with its position: (vector, position, head, whether a key).
        bias: what the position code adds to a score: (head, query, key).
    """

    p: Mapping[str, Array]
    x: Array
    layer: int
    heads: int
    options: Any
    code: Callable[[Array, int, int, bool], Array]
    bias: Callable[[int, int, int], float]

    @property
    def size(self) -> int:
        return self.x.shape[1] // self.heads

    def part(self, name: str, head: int, at: int, x: Array | None = None) -> Array:
        """A head's share of a projection at one position."""
        row = (self.x if x is None else x)[at] @ self.p[name]
        row = row + self.p.get(f"{name}_bias", 0)
        return row[head * self.size : (head + 1) * self.size]


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def softmax(scores: list[float]) -> Array:
    weights = np.exp(np.array(scores) - max(scores))
    return weights / weights.sum()


def share(given: Given, *place: int) -> float:
    """An initial weight, learnt or not."""
    if given.options.share == "frozen":
        return given.options.start
    value = float(given.p["share"][place])
    return sigmoid(value) if given.options.share == "bounded" else value


def score(given: Given, head: int, i: int, j: int, q: Array, k: Array, scale: float = 0.0) -> float:
    """Scaled product of a query at i and a key at j, with their positions."""
    product = given.code(q, i, head, False) @ given.code(k, j, head, True)
    return float(product) / math.sqrt(scale or given.size) + given.bias(head, i, j)


def weighted(given: Given, weights: Array, values: list[list[Array]]) -> Array:
    """Outputs of all heads beside each other [position, width], from weights [head, query, key]."""
    length = len(given.x)
    rows = [
        np.concatenate([sum(weights[h, i, j] * values[h][j] for j in range(i + 1)) for h in range(given.heads)])
        for i in range(length)
    ]
    return np.array(rows)


def usual(given: Given, q: Any, k: Any, v: Any, weigh: Callable[[list[float], int], Array] | None = None):
    """Softmax attention over vectors [head][position]; `weigh` puts another function in the place of the softmax."""
    length = len(given.x)
    pattern = np.zeros((given.heads, length, length))
    for h in range(given.heads):
        for i in range(length):
            scores = [score(given, h, i, j, q[h][i], k[h][j]) for j in range(i + 1)]
            pattern[h, i, : i + 1] = weigh(scores, h) if weigh else softmax(scores)
    return weighted(given, pattern, v), pattern


def projected(given: Given, name: str) -> list[list[Array]]:
    """A projection [head][position]."""
    return [[given.part(name, h, i) for i in range(len(given.x))] for h in range(given.heads)]


def all_parts(given: Given) -> tuple[list[list[Array]], list[list[Array]], list[list[Array]]]:
    return projected(given, "query"), projected(given, "key"), projected(given, "value")


def plain(given: Given):
    return usual(given, *all_parts(given))


def smeared(given: Given):
    q, k, v = all_parts(given)
    on = {"keys": (k,), "values": (v,), "both": (k, v), "all": (q, k, v)}[given.options.on]
    for part in on:
        for h in range(given.heads):
            s, old = share(given, h), list(part[h])
            for i in range(given.options.back, len(given.x)):
                part[h][i] = (1 - s) * old[i] + s * old[i - given.options.back]
    return usual(given, q, k, v)


def short_convolution(given: Given):
    parts = dict(zip(("queries", "keys", "values"), all_parts(given), strict=True))
    chosen = [name for name in parts if given.options.on in ("all", name)]
    for place, name in enumerate(chosen):
        for h in range(given.heads):
            old = parts[name][h]
            new = []
            for i in range(len(given.x)):
                row = np.zeros(given.size)
                for c in range(given.size):
                    channel = h * given.size + c
                    s = share(given, place, channel)
                    row[c] = (1 - s) * old[i][c]
                    if i >= 1:
                        row[c] += s * old[i - 1][c]
                    for back in range(2, given.options.width):
                        if i >= back and "taps" in given.p:
                            row[c] += given.p["taps"][back - 2, place, channel] * old[i - back][c]
                new.append(row)
            parts[name][h] = new
    return usual(given, *parts.values())


def sliding_window(given: Given):
    def weigh(scores, h):
        first = max(0, len(scores) - given.options.window)
        return np.concatenate([np.zeros(first), softmax(scores[first:])])

    return usual(given, *all_parts(given), weigh)


def dilated(given: Given):
    def weigh(scores, h):
        kept = [j for j in range(len(scores)) if (len(scores) - 1 - j) % given.options.stride == 0]
        row = np.zeros(len(scores))
        row[kept] = softmax([scores[j] for j in kept])
        return row

    return usual(given, *all_parts(given), weigh)


def qk_norm(given: Given):
    q, k, v = all_parts(given)
    for name, part in (("query", q), ("key", k)):
        gain = given.p.get(f"{name}_gain", given.options.start)
        for h in range(given.heads):
            part[h] = [row / math.sqrt((row**2).mean() + 1e-5) * gain for row in part[h]]
    return usual(given, q, k, v)


def sink(given: Given):
    def weigh(scores, h):
        logit = float(given.p["sink"][h]) if "sink" in given.p else given.options.start
        return softmax([*scores, logit])[:-1]

    return usual(given, *all_parts(given), weigh)


def grouped_query(given: Given):
    groups = getattr(given.options, "groups", 1)
    q = projected(given, "query")
    rows = {name: given.x @ given.p[name] + given.p.get(f"{name}_bias", 0) for name in ("key", "value")}
    k, v = (
        [
            [row[g * given.size : (g + 1) * given.size] for row in rows[name]]
            for g in (h // (given.heads // groups) for h in range(given.heads))
        ]
        for name in ("key", "value")
    )
    return usual(given, q, k, v)


def previous_token(given: Given):
    length = len(given.x)
    pattern = np.zeros((given.heads, length, length))
    for i in range(length):
        pattern[:, i, max(i - 1, 0)] = 1
    return weighted(given, pattern, projected(given, "value")), pattern


def latent(given: Given):
    length, d = len(given.x), given.size
    narrow = given.x @ given.p["compress"]
    rotates = "query_rotary" in given.p
    pattern = np.zeros((given.heads, length, length))
    values = []
    for h in range(given.heads):
        own = slice(h * d, (h + 1) * d)
        q, k = given.x @ given.p["query"][:, own], narrow @ given.p["key"][:, own]
        values.append(list(narrow @ given.p["value"][:, own]))
        for i in range(length):
            scores = []
            for j in range(i + 1):
                total = q[i] @ k[j]
                if rotates:
                    turned = given.code(given.x[i] @ given.p["query_rotary"][:, own], i, h, False)
                    total += turned @ given.code(given.x[j] @ given.p["key_rotary"], j, h, True)
                scores.append(total / math.sqrt(2 * d if rotates else d) + given.bias(h, i, j))
            pattern[h, i, : i + 1] = softmax(scores)
    return weighted(given, pattern, values), pattern


def normed(given: Given, output: Array) -> Array:
    """Each head's output over its root mean square, times the gains that heads share."""
    rows = [
        [row[h * given.size : (h + 1) * given.size] for h in range(given.heads)]
        for row in output
    ]  # fmt: skip
    return np.array(
        [np.concatenate([v / math.sqrt((v**2).mean() + 1e-5) * given.p["head_gain"] for v in row]) for row in rows]
    )


def differential(given: Given):
    q, k, v = all_parts(given)
    length, half = len(given.x), given.size // 2
    start = given.options.start
    if start == -1:
        start = 0.8 - 0.6 * math.exp(-0.3 * given.layer)
    pattern = np.zeros((given.heads, length, length))
    for h in range(given.heads):
        if given.options.share == "vectors":
            first, second = (given.p[f"lambda_q{n}"] @ given.p[f"lambda_k{n}"] for n in (1, 2))
            factor = math.exp(first) - math.exp(second) + start
        else:
            factor = start if given.options.share == "frozen" else share(given, h)
        for i in range(length):
            maps = []
            for part in (slice(0, half), slice(half, None)):
                maps.append(softmax([score(given, h, i, j, q[h][i][part], k[h][j][part], half) for j in range(i + 1)]))
            pattern[h, i, : i + 1] = maps[0] - factor * maps[1]
    return normed(given, weighted(given, pattern, v)) * (1 - start), pattern


def linear(given: Given):
    q, k, v = all_parts(given)
    length = len(given.x)
    pattern = np.zeros((given.heads, length, length))

    def feature(row):
        return np.where(row > 0, row + 1, np.exp(np.minimum(row, 0)))

    for h in range(given.heads):
        for i in range(length):
            total = sum(feature(q[h][i]) @ feature(k[h][j]) for j in range(i + 1))
            for j in range(i + 1):
                query, key = given.code(feature(q[h][i]), i, h, False), given.code(feature(k[h][j]), j, h, True)
                pattern[h, i, j] = query @ key / total
    return weighted(given, pattern, v), pattern


def linear_example(given: Given):
    q, k, v = all_parts(given)
    length = len(given.x)
    pattern = np.zeros((given.heads, length, length))
    for h in range(given.heads):
        for i in range(length):
            for j in range(i + 1):
                query, key = given.code(q[h][i], i, h, False), given.code(k[h][j], j, h, True)
                pattern[h, i, j] = query @ key / (i + 1)
    return weighted(given, pattern, v), None


def forgetting(given: Given):
    q, k, v = all_parts(given)
    length = len(given.x)
    pattern = np.zeros((given.heads, length, length))
    for h in range(given.heads):
        gates = []
        for i in range(length):
            if given.options.gate == "frozen":
                gates.append(1 - given.options.start)
                continue
            raised = given.x[i] @ given.p["gate"][:, h] if given.options.gate == "input" else 0.0
            gates.append(sigmoid(raised + given.p["gate_bias"][h]))
        for i in range(length):
            scores = [
                score(given, h, i, j, q[h][i], k[h][j]) + sum(math.log(gates[step]) for step in range(j + 1, i + 1))
                for j in range(i + 1)
            ]
            pattern[h, i, : i + 1] = softmax(scores)
    return weighted(given, pattern, v), pattern


def gated_delta(given: Given):
    length, d = len(given.x), given.size
    rows = {name: given.x @ given.p[name] for name in ("query", "key", "value")}
    if given.options.convolution:
        for place, name in enumerate(rows):
            old, new = rows[name], np.zeros_like(rows[name])
            for i in range(length):
                for back in range(min(i + 1, given.options.convolution)):
                    new[i] += given.p["taps"][back, place] * old[i - back]
            rows[name] = new * sigmoid(new)
    output = np.zeros_like(given.x)
    for h in range(given.heads):
        own, state = slice(h * d, (h + 1) * d), np.zeros((d, d))
        for t in range(length):
            q, k, v = (rows[name][t, own] for name in rows)
            q, k = given.code(q, t, h, False), given.code(k, t, h, True)
            q, k = (part / np.linalg.norm(part) for part in (q, k))
            if given.options.gate == "frozen":
                alpha = 1 - given.options.start
            else:
                raised = given.x[t] @ given.p["gate"][:, h] + given.p["gate_bias"][h]
                alpha = math.exp(-math.exp(given.p["gate_rate"][h]) * math.log1p(math.exp(raised)))
            beta = sigmoid(given.x[t] @ given.p["write"][:, h])
            if t == 0:
                state = np.zeros((d, len(k)))
            state = alpha * state @ (np.eye(len(k)) - beta * np.outer(k, k)) + beta * np.outer(v, k)
            output[t, own] = state @ q
    return normed(given, output), None


def multi_token(given: Given):
    q, k, v = all_parts(given)
    length, options = len(given.x), given.options
    after = (options.keys - 1) // 2
    pattern = np.zeros((given.heads, length, length))
    for h in range(given.heads):
        kernel = np.array(given.p["kernel"][h]) if "kernel" in given.p else np.zeros((options.queries, options.keys))
        kernel[0, after] += 1
        kernel[0, after + 1] = share(given, h)
        products = np.zeros((length, length))
        for i in range(length):
            for j in range(i + 1):
                query, key = given.code(q[h][i], i, h, False), given.code(k[h][j], j, h, True)
                products[i, j] = query @ key / math.sqrt(given.size)
        for i in range(length):
            scores = []
            for j in range(i + 1):
                total = given.bias(h, i, j)
                for back in range(options.queries):
                    for column in range(options.keys):
                        at, key = i - back, j - (column - after)
                        if at >= 0 and 0 <= key <= at:
                            total += kernel[back, column] * products[at, key]
                scores.append(total)
            pattern[h, i, : i + 1] = softmax(scores)
    if options.mixed > 1:
        old = pattern.copy()
        for h in range(given.heads):
            group, row = divmod(h, options.mixed)
            mixing = given.p["mixing"][group]
            pattern[h] = sum(mixing[row, m] * old[group * options.mixed + m] for m in range(options.mixed))
    return normed(given, weighted(given, pattern, v)), pattern


MECHANISMS: dict[str, Callable[[Given], tuple[Array, Array | None]]] = {
    "softmax": plain, "by_layer": plain, "smeared": smeared, "short_convolution": short_convolution,
    "sliding_window": sliding_window, "qk_norm": qk_norm, "sink": sink, "grouped_query": grouped_query,
    "multi_query": grouped_query, "previous_token": previous_token, "latent": latent, "differential": differential,
    "linear": linear, "forgetting": forgetting, "gated_delta": gated_delta, "multi_token": multi_token,
    "dilated": dilated, "linear_example": linear_example,
}  # fmt: skip
"""By name: output before the projection that joins heads [position, width], and weights [head, query, key]."""
