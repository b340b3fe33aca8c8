"""Causal tracing in production models: activations of one prompt put into another, by part, layer and kind of position.

A model reads an episode and its corrupted prompt (`miclab.mllm.episode_pairs`). Restoring puts activations of the clean
prompt into the pass over the corrupted one; corrupting does the opposite. All goes through hooks, batch by batch. The
activations of one part on one batch are held, on the CPU. A pass computes no layer below the first that is patched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from miclab.circuits.find import head_name
from miclab.errors import nearest
from miclab.mllm.batches import in_order, lost_text
from miclab.mllm.edge_knockout import windows
from miclab.mllm.episode_pairs import Pairs, answer_logits, corruption_named, left_out_notes, pairs
from miclab.mllm.errors import ModelError, OutOfMemoryError, memory_guard
from miclab.mllm.lens import ROLES, role_masks
from miclab.mllm.loading import Production
from miclab.mllm.options import PatchOptions
from miclab.mllm.patch_points import BY_HEAD, INPUT, PARTS, Activation, Point, points, recorded, replaced
from miclab.mllm.patching_result import Patching, Place
from miclab.mllm.reading import Reading
from miclab.mllm.replay import Replay
from miclab.mllm.scoring import OnProgress
from miclab.mllm.task import Task

EVERY = "all"
"""The role of every position of the prompt."""
COLUMNS = (*ROLES, EVERY)
"""Kinds of position that are patched. The last position is also of the query where nothing stands behind the query."""
USUAL = ("residual", "attention", "mlp")
"""Parts that are patched unless others are named."""


def parts_named(names: Sequence[str]) -> tuple[str, ...]:
    """Parts by their names; of none the usual ones.

    Raises:
        ModelError: there is no such part.
    """
    for name in names:
        if name not in PARTS:
            raise ModelError(f"{name!r} is no part of a layer: {nearest(name, PARTS)}. Parts are {', '.join(PARTS)}.")
    return tuple(dict.fromkeys(names)) or USUAL


@dataclass(frozen=True)
class Plan:
    """What is patched in a model.

    Arguments:
        places: without their role.
        points: where each activation is.
        first: index of the lowest layer that each place changes.
        remarks: parts that are left out, and why.
    """

    places: tuple[Place, ...]
    points: Mapping[Activation, Point]
    first: Mapping[Place, int]
    remarks: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """Parts that are patched."""
        return tuple(dict.fromkeys(place.part for place in self.places))

    def of(self, part: str) -> tuple[tuple[Place, ...], dict[Activation, Point]]:
        """The places of a part, and the activations that they replace."""
        found = tuple(place for place in self.places if place.part == part)
        needed = {(part, layer) for place in found for layer in place.layers}
        return found, {name: point for name, point in self.points.items() if name in needed}

    @property
    def patches(self) -> int:
        """Number of patches of each episode."""
        return len(self.places) * len(COLUMNS)


def plan(production: Production, options: PatchOptions) -> Plan:
    """What the options patch in a model.

    Raises:
        ModelError: there is no such part or layer, or a part that was named cannot be patched.
    """
    known = tuple(layer.index for layer in production.layers)
    missing = [str(index) for index in options.layers if index not in known]
    if missing:
        raise ModelError(f"There is no layer {missing[0]}: layers with attention are {', '.join(map(str, known))}.")
    found: dict[Activation, Point] = {}
    remarks: list[str] = []
    parts: list[str] = []
    for part in parts_named(options.parts):
        try:
            found |= points(production, [part])
        except ModelError as error:
            if options.parts:
                raise
            remarks.append(f"{part} was left out. {error}")
        else:
            parts.append(part)
    chosen = tuple(index for index in known if not options.layers or index in options.layers)
    places = tuple(place for part in parts for place in _places(part, chosen, known, options.window, found))
    # What a block gives is what the next one reads, so that the pass begins there.
    after = dict(zip(known, (*known[1:], known[-1]), strict=True)) | {INPUT: known[0]}
    first = {place: after[place.layers[0]] if place.part == "residual" else place.layers[0] for place in places}
    return Plan(places, found, first, tuple(remarks))


def _places(
    part: str, chosen: tuple[int, ...], known: tuple[int, ...], size: int, found: Mapping[Activation, Point]
) -> Iterator[Place]:
    """The places of a part, without their role."""
    if part in BY_HEAD:
        for index in chosen:
            for head in range(len(found[part, index].columns)):
                yield Place(part, (index,), head, "", head_name((index, head)))
        return
    among = windows(chosen, size)
    if part == "residual":
        yield Place(part, (INPUT,), None, "", "input")
        for window in among[: max(1, len(among) - 1)]:
            yield Place(part, window.layers[-1:], None, "", f"after layer {window.layers[-1]}")
        return
    for window in among:
        name = "all of these layers" if window.every and chosen != known else window.name
        yield Place(part, window.layers, None, "", name)


def _masks(readings: Sequence[Reading], length: int) -> dict[str, Bool[Tensor, "row position"]]:
    """Positions of each kind in a batch; those of the answer and of padding are of none."""
    found = {role: torch.zeros(len(readings), length, dtype=torch.bool) for role in COLUMNS}
    for row, reading in enumerate(readings):
        for role, mask in zip(ROLES, role_masks(reading), strict=True):
            found[role][row, : reading.length] = mask.bool()
        found[EVERY][row, : reading.length] = True
    return found


def _trace(
    production: Production, lot: Pairs, chosen: Plan, replay: Replay, direction: str, on_patch: Callable[[int], None]
) -> tuple[Tensor, Tensor, dict[Place, Tensor]]:
    """Logit differences of a batch [row]: clean, corrupted, and patched at every place; NaN where there is none.

    Arguments:
        on_patch: called with the number of patches done.
    """
    source, base = (lot.clean, lot.corrupted) if direction == "restore" else (lot.corrupted, lot.clean)
    masks = _masks(lot.clean.readings, lot.clean.inputs["input_ids"].shape[1])
    with replay.reading(base, None) as given:
        kept = lot.difference(answer_logits(production, given)).cpu()
    given_away, patched, done = kept, {}, 0
    for part in chosen.parts:
        places, needed = chosen.of(part)
        with recorded(needed) as activations:
            given_away = lot.difference(answer_logits(production, source)).cpu()
        for place in places:
            others = [(needed[part, layer], activations[part, layer]) for layer in place.layers]
            seen: dict[bytes, Tensor] = {}
            for role, mask in masks.items():
                key, there = mask.numpy().tobytes(), mask.any(1)
                if key not in seen and there.any():
                    with replay.reading(base, chosen.first[place]) as given, replaced(others, mask, place.head):
                        seen[key] = lot.difference(answer_logits(production, given)).cpu()
                value = torch.where(there, seen.get(key, kept), torch.nan)
                patched[Place(place.part, place.layers, place.head, role, place.where)] = value
                done += 1
                on_patch(done)
    clean, corrupted = (given_away, kept) if direction == "restore" else (kept, given_away)
    return clean, corrupted, patched


@torch.no_grad()
def trace(
    production: Production,
    task: Task,
    options: PatchOptions | None = None,
    *,
    batch: int = 0,
    on_progress: OnProgress | None = None,
) -> Patching:
    """Causal tracing of a model on a task: every part of every layer at every kind of position.

    Arguments:
        production: the model.
        task: the episodes.
        options: corruption, direction, parts and layers.
        batch: episodes at a time; 0: as many of similar length as fit (`miclab.mllm.batches`).
        on_progress: called with the number of patches done, over all episodes (`Plan.patches` of each).

    Raises:
        ConfigError: there is no such corruption.
        ModelError: there is no such part or layer, or a part that was named cannot be patched.
        TaskError: no episode has a pair of prompts.
        OutOfMemoryError: before the first batch was done; later the result has its `problem` set.
    """
    options = options or PatchOptions()
    corruption_named(options.corruption)
    chosen = plan(production, options)
    replay = Replay(production, set(chosen.first.values()))
    names: list[str] = []
    lost: dict[str, str] = {}
    left_out: dict[str, str] = {}
    found: list[tuple[Tensor, Tensor, dict[Place, Tensor]]] = []
    problem = ""
    try:
        for lot in pairs(production, task, options.corruption, batch, lost, left_out):
            before = (len(names) + len(lost) + len(left_out)) * chosen.patches

            def on_patch(done: int, before: int = before, rows: int = len(lot.names)) -> None:
                if on_progress:
                    on_progress(before + done * rows, "")

            with memory_guard(f"patching {lot.clean.inputs['input_ids'].shape[1]} tokens"):
                found.append(_trace(production, lot, chosen, replay, options.direction, on_patch))
            names += lot.names
    except OutOfMemoryError as error:
        if not names:
            raise
        problem = str(error)
    if on_progress:
        on_progress(len(task.episodes) * chosen.patches, "")
    order = in_order(names, task)

    def joined(parts: Sequence[Tensor]) -> NDArray[np.floating]:
        return torch.cat(list(parts))[order].double().numpy()

    patched = {place: joined([one[2][place] for one in found]) for place in found[0][2]}
    problem = "; ".join(text for text in (problem, lost_text(lost, len(task.episodes))) if text)
    return Patching(
        production.name, task.name, options.corruption, options.direction, tuple(names[row] for row in order),
        joined([one[0] for one in found]), joined([one[1] for one in found]),
        {place: values for place, values in patched.items() if not np.isnan(values).all()},
        (*left_out_notes(left_out), *chosen.remarks), problem,
    )  # fmt: skip
