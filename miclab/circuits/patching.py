"""Causal tracing: activations of one run of the decoder put into another, by part, layer and role of position.

The decoder runs on clean sequences and on corrupted ones that differ in one thing (`miclab.circuits.corruption`).
Restoring (denoising) puts a clean activation into the corrupted run, corrupting (noising) a corrupted one into the
clean run. The effect is normalised: 0 is no effect, 1 is the whole effect of the corruption. See Meng et al., arXiv
2202.05262, section 2, and Zhang and Nanda, arXiv 2309.16042.

    x1 l1  x2 l2  x3 l3  x4 l4  xq        roles, where the query's label is l2 and the corrupted answer l3:
    |  |   |  |   |  |   |      |
    |  |   |  |   |  |   |      query
    |  |   |  |   |  rival label (item: x3)
    |  |   own item, own label
    other items, other labels
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from miclab.circuits.corrupted_pairs import Patched, Traced, Values, pairs_of_split, traced
from miclab.circuits.corruption import Corruption
from miclab.circuits.find import Head, head_name
from miclab.config.request import SplitSizes
from miclab.config.run import RunConfig
from miclab.errors import ConfigError
from miclab.model.decoder import Decoder, Parameters
from miclab.worlds.roles import Roles
from miclab.worlds.sequences import Batch
from miclab.worlds.world import World

Direction = Literal["restore", "corrupt"]
Metric = Literal["logit_difference", "probability", "accuracy"]
METRICS: tuple[Metric, ...] = ("logit_difference", "probability", "accuracy")
Part = Literal["residual", "attention", "mlp", "head", "query", "key", "value"]
POINTS: dict[str, str] = {
    "residual": "residual", "attention": "attention.output", "mlp": "mlp.output", "head": "attention.heads",
    "query": "attention.queries", "key": "attention.keys", "value": "attention.values",
}  # fmt: skip
"""Parts of a layer, and the activation of each, by the rest of its name after `blocks.LAYER.`."""
BY_HEAD = ("head", "query", "key", "value")


@dataclass(frozen=True)
class Place:
    """A patched place: a part of a layer or of one of its heads, at positions of one role."""

    part: str
    layer: int
    head: int | None
    role: str

    @property
    def where(self) -> str:
        """The layer, or LAYER.HEAD, from 0; `input` for the embedding."""
        if self.layer < 0:
            return "input"
        return str(self.layer) if self.head is None else head_name((self.layer, self.head))

    @property
    def activation(self) -> str:
        """Name of the activation."""
        return "embedding" if self.layer < 0 else f"blocks.{self.layer}.{POINTS[self.part]}"


def role_masks(
    roles: Roles, own: Bool[Tensor, "batch context"], rival: Bool[Tensor, "batch context"] | None = None
) -> dict[str, Bool[Tensor, "batch position"]]:
    """Positions of each role, by name, in the order in which they stand in tables.

    Arguments:
        roles: of the sequences, the same for all.
        own: examples with the query's label.
        rival: examples with the corrupted answer; None: there is no such answer.
    """
    groups = {"own": own} | ({"rival": rival} if rival is not None else {})
    groups["other"] = ~own if rival is None else ~own & ~rival
    several = len(roles.modalities) > 1
    kinds = [(f"item of {m}" if several else "item", roles.is_item(m)) for m in roles.modalities]
    kinds.append(("label", roles.is_label))
    masks: dict[str, Tensor] = {}
    place = roles.exemplar.clamp(0, roles.context - 1)
    in_context = (roles.exemplar >= 0) & (roles.exemplar < roles.context)
    for group, examples in groups.items():
        for kind, positions in kinds:
            masks[f"{group} {kind}"] = examples[:, place] & (in_context & positions)
    for modality in roles.modalities:
        query = roles.is_query & roles.is_item(modality)
        masks[f"query of {modality}" if several else "query"] = query.expand(len(own), -1)
    if bool((roles.exemplar < 0).any()):
        masks["first token"] = (roles.exemplar < 0).expand(len(own), -1)
    return masks


def answer_masks(clean: Batch, corrupted: Batch) -> dict[str, Bool[Tensor, "batch position"]]:
    """`role_masks` of sequences and their corrupted ones."""
    own = clean.labels == clean.target[:, None]
    has_rival = bool((clean.target != corrupted.target).any())
    rival = (clean.labels == corrupted.target[:, None]) & ~own if has_rival else None
    return role_masks(clean.roles, own, rival)


def answer_values(logits: Float[Tensor, "batch label"], clean: Batch, corrupted: Batch) -> dict[str, Tensor]:
    """Each metric of each sequence, all for the CLEAN answer.

    The logit difference is the logit of the clean answer minus that of the corrupted one. Where the corruption leaves
    the answer, it is minus the mean logit of the other labels of the context.
    """
    right = logits.gather(1, clean.target[:, None]).squeeze(1)
    rival = logits.gather(1, corrupted.target[:, None]).squeeze(1)
    other = (clean.labels != clean.target[:, None]).to(logits.dtype)
    mean = (logits.gather(1, clean.labels) * other).sum(1) / other.sum(1).clamp(min=1)
    foil = torch.where(clean.target == corrupted.target, mean, rival)
    return {
        "logit_difference": right - foil,
        "probability": logits.softmax(-1).gather(1, clean.target[:, None]).squeeze(1),
        "accuracy": (logits.argmax(-1) == clean.target).to(logits.dtype),
    }


def patched_in(
    other: Tensor, mask: Bool[Tensor, "batch position"], head: int | None = None
) -> Callable[[Tensor], Tensor]:
    """An edit that replaces an activation by that of another run.

    Arguments:
        other: the activation of the other run, [batch position width], or [batch head position dimension] with `head`.
        mask: positions that are replaced.
        head: the head that is replaced; None: the activation has no heads.
    """

    def apply(value: Tensor) -> Tensor:
        if head is None:
            return torch.where(mask[..., None], other, value)
        chosen = torch.zeros(value.shape[1], dtype=torch.bool)
        chosen[head] = True
        return torch.where(mask[:, None, :, None] & chosen[:, None, None], other, value)

    return apply


def places(decoder: Decoder, parts: Sequence[str], roles: Iterable[str]) -> tuple[list[Place], dict[str, str]]:
    """Every place of some parts, and why parts that the decoder does not have are left out."""
    known, names = decoder.activations(), list(roles)
    found: list[Place] = []
    left_out: dict[str, str] = {}
    for part in parts:
        rows: list[Head | tuple[int, None]] = [(-1, None)] if part == "residual" else []
        for layer in range(decoder.options.layers):
            if f"blocks.{layer}.{POINTS[part]}" not in known:
                left_out[part] = f"layer {layer} of the decoder has none"
                continue
            rows += [(layer, head) for head in range(decoder.options.heads)] if part in BY_HEAD else [(layer, None)]
        found += [Place(part, layer, head, role) for layer, head in rows for role in names]
    return found, left_out


def trace_batch(
    decoder: Decoder,
    parameters: Parameters,
    clean: Batch,
    corrupted: Batch,
    parts: Sequence[str] = tuple(POINTS),
    direction: Direction = "restore",
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[Place, dict[str, Tensor]], dict[str, str]]:
    """Metrics of each sequence: clean, corrupted, and patched at every place; and why parts are left out.

    Arguments:
        clean: sequences of the decoder's length.
        corrupted: the same sequences, corrupted.
        parts: names in `POINTS`.
        direction: `restore` puts clean activations into the corrupted run, `corrupt` the other way round.
    """
    masks = answer_masks(clean, corrupted)
    chosen, left_out = places(decoder, parts, masks)
    names = tuple(dict.fromkeys(place.activation for place in chosen))
    streams = ("embedding", *(f"blocks.{layer}.residual" for layer in range(decoder.options.layers)))
    source, base = (clean, corrupted) if direction == "restore" else (corrupted, clean)
    with torch.no_grad():
        given = decoder.trace(parameters, source, capture=names)
        kept = decoder.trace(parameters, base, capture=streams)
        patched: dict[Place, dict[str, Tensor]] = {}
        for place in chosen:
            edit = patched_in(given.activations[place.activation], masks[place.role], place.head)
            # Layers before a place are as without the patch, so the run starts at its own layer.
            if place.part == "residual":
                start, edits = (place.layer + 1, edit(kept.activations[place.activation])), None
            else:
                start, edits = (place.layer, kept.activations[streams[place.layer]]), {place.activation: edit}
            logits = decoder.trace(parameters, base, edits=edits, start=start).logits
            patched[place] = answer_values(logits, clean, corrupted)
    both = {id(source): given.logits, id(base): kept.logits}
    ends = [answer_values(both[id(batch)], clean, corrupted) for batch in (clean, corrupted)]
    return ends[0], ends[1], patched, left_out


def trace_split(
    config: RunConfig,
    world: World,
    parameters: Parameters,
    corruption: Corruption,
    modality: str = "",
    *,
    parts: Sequence[str] = tuple(POINTS),
    direction: Direction = "restore",
    split: str = "icl",
    sizes: SplitSizes | None = None,
    on_set: Callable[[int], None] = lambda done: None,
) -> Traced:
    """`trace_batch` of the sequences of a split that the corruption changes.

    Arguments:
        on_set: called with the number of sets of novel classes done.

    Raises:
        ConfigError: there is no such split or part.
        RunError: the corruption changes no sequence of the split.
    """
    for part in parts:
        if part not in POINTS:
            raise ConfigError("parts", part, f"some of {', '.join(POINTS)}")
    decoder = Decoder(config)
    pairs = pairs_of_split(config, world, corruption, modality, split, sizes or SplitSizes())
    left_out: dict[str, str] = {}

    def measured(clean: Batch, corrupted: Batch) -> tuple[Values, Values, Patched]:
        one, other, patched, reasons = trace_batch(decoder, parameters, clean, corrupted, parts, direction)
        left_out.update(reasons)
        return one, other, patched

    return replace(traced(pairs, measured, {}, on_set), left_out=left_out)
