"""Passes of a model over a batch of candidate answers. Candidates of one episode share their prompt.

    prefix   one row for each episode: what all its candidates have in common, up to before the last position
    rest     one row for each candidate: from there on, with the keys and values of its episode's prefix

Later passes over the batch also share what an intervention does not change (`miclab.mllm.replay`). Whether a model's
keys and values can be continued in this way is not known from its class. So on the first batch the logits are compared
with those of a whole pass. Where they differ, passes are whole and a warning says so. For interventions that depend
on positions they are whole as well.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from miclab.mllm.loading import Production
from miclab.mllm.reading import Encoded
from miclab.mllm.replay import MROPE, Replay

CLOSE = {torch.float32: 1e-3, torch.float64: 1e-3}
"""Largest difference of logits between a shared and a whole pass, by the type of the weights."""
COARSE = 0.25
"""The same for types of 16 bits and fewer, which round differently in a pass of another shape."""
LEAST = 2**25
"""Least product of weights and tokens that sharing a prompt has to save. A pass in two parts has two calls of every
layer, which costs small models with short prompts more than it saves."""


@dataclass(frozen=True)
class Intervention:
    """A change to a model.

    Arguments:
        context: gives the context in which a batch is answered.
        first: index of the lowest layer that it changes; None: it changes nothing.
        anywhere: whether it treats all positions alike, so that a part of a text can be read under it.
    """

    context: Callable[[Encoded], AbstractContextManager[None]]
    first: int | None
    anywhere: bool = False


UNTOUCHED = Intervention(lambda _: nullcontext(), None, True)
"""No change."""


def _plain(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def forward(
    model: Any, inputs: dict[str, Tensor], positions: Tensor | None = None
) -> Float[Tensor, "batch position vocabulary"]:
    """Logits at some positions; None: at the last alone.

    Where the model can, other positions' logits are not computed: with large vocabularies they are most of the memory.
    """
    return _read(model, inputs, positions)[0]


def _read(
    model: Any, inputs: dict[str, Tensor], positions: Tensor | None, cache: Any = None, keep: bool = False
) -> tuple[Tensor, Any]:
    """Logits at some positions, and keys and values if they are kept."""
    more: dict[str, Any] = {}
    if "logits_to_keep" in inspect.signature(_plain(model).forward).parameters:
        more["logits_to_keep"] = 1 if positions is None else positions
    cached = {} if cache is None else {"past_key_values": cache}
    made = model(**inputs, use_cache=keep, **cached, **more)
    logits = made.logits if more or positions is None else made.logits[:, positions]
    return logits, getattr(made, "past_key_values", None)


@dataclass(frozen=True)
class _Split:
    """A batch in two parts.

    Arguments:
        prefix: a row for each episode.
        rest: a row for each candidate.
        owner: the row in `prefix` of each candidate.
        start: number of positions of the prefix.
    """

    prefix: Encoded
    rest: Encoded
    owner: Tensor
    start: int


def _firsts(tensor: Tensor, groups: Sequence[Sequence[int]], sizes: Iterable[Sequence[int]]) -> Tensor | None:
    """The part of each group's first row of a tensor that holds pictures: of those of all rows, one after the other.

    Arguments:
        groups: rows of the batch, by episode.
        sizes: ways in which the rows may divide the tensor: how much of it each row has.

    Returns:
        None if no way fits.
    """
    for of_rows in sizes:
        if sum(of_rows) == len(tensor):
            parts = tensor.split(list(of_rows))
            return torch.cat([parts[rows[0]] for rows in groups])
    return None


def _pictures(encoded: Encoded, groups: Sequence[Sequence[int]]) -> dict[str, Tensor] | None:
    """The inputs that are not of tokens, of each episode's first row; None if it is not clear which they are."""
    ids = encoded.inputs["input_ids"]
    rows, others = len(ids), {n: t for n, t in encoded.inputs.items() if t.shape[:2] != ids.shape}
    episodes = [reading.episode for reading in encoded.readings]
    images = [sum(len(item.images) for item in (*(e.item for e in one.support), one.query)) for one in episodes]
    ways = [images]
    if sum(images) != rows:
        ways.append([1] * rows)
    for name, tensor in others.items():
        if "grid" in name and tensor.dim() == 2 and sum(images) == len(tensor):
            # Patches of a picture, by the processor's grid.
            ways.append([int(part.prod(-1).sum()) for part in tensor.split(images)])
    found = {name: _firsts(tensor, groups, ways) for name, tensor in others.items()}
    return None if any(one is None for one in found.values()) else {n: t for n, t in found.items() if t is not None}


def split(encoded: Encoded, saved: float = 0.0) -> _Split | None:
    """A batch as prefixes and the rest; None if that saves fewer tokens than `saved`, or a picture is in the rest."""
    groups = [list(rows) for _, rows in groupby(range(len(encoded.readings)),
                                                lambda row: encoded.readings[row].episode.name)]  # fmt: skip
    if len(groups) == len(encoded.readings):
        return None
    ids = encoded.inputs["input_ids"]
    start = min(reading.last for reading in encoded.readings)
    for rows in groups:
        differ = (ids[rows] != ids[rows[0]]).any(0).nonzero()[:, 0].tolist()
        start = min(start, *differ[:1]) if differ else start
    if start < 1 or start * (len(ids) - len(groups)) < saved:
        return None
    if any((reading.roles.kind[start:] >= 0).any() for reading in encoded.readings
                        if reading.roles.modalities == ("image",)):  # fmt: skip
        return None
    pictures = _pictures(encoded, groups)
    if pictures is None:
        return None
    stop = max(reading.written[-1] for reading in encoded.readings)
    tokens = {name: of for name, of in encoded.inputs.items() if of.shape[:2] == ids.shape}
    chosen = [rows[0] for rows in groups]
    prefix = {name: of[chosen, :start] for name, of in tokens.items()} | pictures
    rest = {name: of[:, (0 if name == "attention_mask" else start) : stop] for name, of in tokens.items()}
    owner = torch.tensor([number for number, rows in enumerate(groups) for _ in rows])
    return _Split(Encoded(prefix, tuple(encoded.readings[row] for row in chosen)), Encoded(rest, encoded.readings),
                  owner, start)  # fmt: skip


def _continued(positions: Tensor, owner: Tensor, count: int) -> Tensor:
    """Positions [axis, row, place] of the texts that follow prefixes whose positions were computed from pictures."""
    highest = positions[-MROPE:].amax((0, 2))[owner]
    found = (highest[:, None] + 1 + torch.arange(count)).expand(len(positions), -1, -1).clone()
    if len(positions) > MROPE:
        # Before the three axes stands the place in the text.
        found[0] = positions[0].amax(-1)[owner][:, None] + 1 + torch.arange(count)
    return found


class Passes:
    """Passes over batches of candidate answers, one batch after the other. Each batch's first pass has to be one
    without an intervention, unless the interventions are not named.

    Arguments:
        production: the model.
        interventions: under which batches are read.
        shares: whether candidates may share their prompts.
        least: least product of weights and tokens that sharing has to save in a batch.
    """

    def __init__(
        self, production: Production, interventions: Iterable[Intervention] = (), shares: bool = True,
        least: int = LEAST,
    ):  # fmt: skip
        known = tuple(interventions)
        firsts = {one.first for one in known if one.first is not None}
        self.production = production
        self.whole, self.prefix, self.rest = (Replay(production, firsts) for _ in range(3))
        parameters = inspect.signature(_plain(production.model).forward).parameters
        can = "past_key_values" in parameters and all(one.anywhere for one in known)
        self.shares: bool | None = None if shares and can else False
        """Whether prompts are shared; None: not known before the first batch."""
        self.saved = least / max(1, sum(parameter.numel() for parameter in production.model.parameters()))
        """Least number of tokens that sharing has to save in a batch."""
        self.batch: Encoded | None = None
        self.split: _Split | None = None
        self.kept: list[Any] = []

    @torch.no_grad()
    def logits(
        self, encoded: Encoded, needed: Sequence[int], intervention: Intervention = UNTOUCHED
    ) -> Float[Tensor, "row position vocabulary"]:
        """Logits at some positions of every row. Those of rows that have no such position mean nothing.

        Arguments:
            encoded: the batch; rows of one episode stand together.
            needed: positions, none before the one that predicts an answer's first token.
            intervention: under which it is read.
        """
        if self.shares is not False and self.batch is not encoded:
            self.batch, self.split, self.kept = encoded, split(encoded, self.saved), []
        if self.shares is False or self.split is None:
            return self._wholly(encoded, needed, intervention)
        if self.shares is None:
            self.shares = self._agrees(encoded, needed, self.split)
            self.kept = []
            return self.logits(encoded, needed, intervention)
        return self._shared(self.split, needed, intervention)

    def _wholly(self, encoded: Encoded, needed: Sequence[int], intervention: Intervention) -> Tensor:
        model = self.production.model
        with self.whole.reading(encoded, intervention.first) as given, intervention.context(encoded):
            # The positions stay on the CPU, since with several GPUs logits and inputs are on different devices.
            return forward(model, given.to(model), torch.tensor(needed))

    def _shared(self, parts: _Split, needed: Sequence[int], intervention: Intervention) -> Tensor:
        model, first = self.production.model, intervention.first
        with self.prefix.reading(parts.prefix, first) as given, intervention.context(parts.prefix):
            _, cache = _read(model, given.to(model), None, keep=True)
        if not self.kept:
            self.kept = [copy(layer) for layer in cache.layers]
        for number in range(self.prefix.skipped(first)):
            # Blocks that were skipped have left no keys and values.
            index = self.prefix.indices[number]
            cache.layers[index] = copy(self.kept[index])
        for layer in cache.layers:
            layer.batch_select_indices(parts.owner.to(getattr(layer, "device", None)))
        rest = parts.rest
        positions = self.prefix.kept.positions if self.prefix.kept else None
        if positions is not None:
            made = _continued(positions, parts.owner, rest.inputs["input_ids"].shape[1])
            rest = self._rest_at(parts, made)
        with self.rest.reading(rest, first) as given, intervention.context(rest):
            places = torch.tensor(needed) - parts.start
            return _read(model, given.to(model), places, cache, keep=True)[0]

    def _rest_at(self, parts: _Split, positions: Tensor) -> Encoded:
        """The rest with its positions. It is one object for all passes, by which `Replay` knows a batch."""
        parts.rest.inputs.setdefault("position_ids", positions)
        return parts.rest

    def _agrees(self, encoded: Encoded, needed: Sequence[int], parts: _Split) -> bool:
        """Whether a shared pass over a batch gives the logits of a whole one. If not, a warning says why."""
        whole = forward(self.production.model, encoded.to(self.production.model), torch.tensor(needed)).float()
        try:
            found = self._shared(parts, needed, UNTOUCHED).float()
        except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
            # The code of a model's class runs here. What it raises at keys and values that it did not expect is its own
            # choice, and a fault of ours looks the same. So the error is shown, and the whole pass is used.
            _warn(f"it raised {type(error).__name__}: {error}")
            return False
        most = CLOSE.get(self.production.model.dtype, COARSE)
        differences = [
            (found[row, column] - whole[row, column]).abs().max()
            for row, reading in enumerate(encoded.readings)
            for column, place in enumerate(needed)
            if reading.last <= place < reading.written[-1]
        ]
        # NaN where a logit is NaN, which is no agreement.
        largest = float(torch.stack(differences).max()) if differences else 0.0
        if not largest <= most:
            _warn(f"its logits differ by up to {largest:.3g}, where at most {most:g} comes from rounding")
            return False
        return True


def _warn(reason: str) -> None:
    warnings.warn(
        "The model cannot continue from a prompt that answers share, so every answer is read whole, which is slower:"
        f" {reason}.", stacklevel=4,
    )  # fmt: skip
