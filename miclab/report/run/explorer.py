"""The explorer of a run's report: the decoder's weights, vectors of some classes, and sequences to start from.

The page runs the decoder itself (`templates/decoder.js`). What is no weight, such as the angles of a rotary code, is
embedded as a table. So the script has one code path for many position codes.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from miclab.config.run import RunConfig
from miclab.errors import MiclabError, RunError
from miclab.model.decoder import EPSILON, Decoder
from miclab.model.positions import Learnt, PositionCode, ReleasedRotary, Rotary
from miclab.model.projector import DEPTH, secondary_modalities
from miclab.runs.run import Run
from miclab.seeds import stream
from miclab.worlds.sequences import config_roles, plan_bursty
from miclab.worlds.world import ClassTable, GaussianSource, World, novel_world, world_from_tensors

MOST_BYTES = 4_000_000
"""Most bytes of the numbers of all explorers on a page. In the page they are a third longer, since they are text."""
TRAINING_CLASSES, NOVEL_CLASSES = 24, 8
"""Most classes of each modality that the reader can choose from. There are more if one context has more."""
MOST_LABELS = 128
"""Most labels that the reader can choose from."""
LONGEST = 200
"""Most tokens of a sequence."""
STARTS = 4
"""Sequences to start from, of novel and of training classes each."""
CODES = ("none", "onehot", "learned", "sinusoidal", "rope", "rope_released", "hybrid", "alibi")
"""Position codes that the page's decoder has."""


@dataclass(frozen=True)
class Explorer:
    """The explorer of one run.

    Arguments:
        missing: why the run has none, in words; empty where it has one.
        data: its data for the page's script.
        size: bytes of its numbers.
    """

    missing: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    size: int = 0


def explorer_of(run: Run, room: int = MOST_BYTES) -> Explorer:
    """The explorer of a run's last good checkpoint. A reason why there is none is no error, and is in `missing`.

    Arguments:
        room: bytes that its numbers may have.
    """
    config, reason = run.config, why_not(run.config)
    if reason:
        return Explorer(reason)
    try:
        step, parameters = run.parameters()
        return explorer_at(config, world_from_tensors(config, run.world_tensors()), step, parameters, room)
    except MiclabError as error:
        return Explorer(f"It could not be made: {error}")


def why_not(config: RunConfig) -> str:
    """Why the page cannot run such a decoder, as a sentence; empty where it can."""
    if config.is_classification:
        return "This run pretrains an encoder and has no decoder."
    decoder = config.decoder
    real = [name for name, modality in config.modalities.items() if modality.source or config.encodes(name)]
    others = [name for name in decoder.attention.names() if name != "softmax"]
    length = config.sequence_length
    reasons = {
        f"The items of {', '.join(real)} are of real data or pass an encoder; the explorer draws items around the"
        " prototypes of Gaussian classes.": real,
        f"It runs softmax attention, and this decoder has {', '.join(others)}.": others,
        f"It runs the position codes {', '.join(CODES)}, and this decoder has {decoder.position_name}.": (
            decoder.position_name not in CODES
        ),
        "Keys of this decoder are centred over a batch, and the explorer has a single sequence.": (
            decoder.centre_keys != "off"
        ),
        "Every sequence of this decoder is shifted by a random vector (`sequence.jitter`), which it does not draw.": (
            config.sequence.jitter
        ),
        f"A sequence has {length:,} tokens, and it shows at most {LONGEST}.": length > LONGEST,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def explorer_at(
    config: RunConfig, world: World, step: int, parameters: Mapping[str, Tensor], room: int = MOST_BYTES
) -> Explorer:
    """The explorer of a decoder that the page can run (see `why_not`).

    Arguments:
        step: of the parameters.
        room: bytes that its numbers may have.

    Raises:
        RunError: its numbers have more bytes, or its labels are too many.
    """
    decoder = Decoder(config)
    few = -(-config.sequence.context // config.sequence.burstiness)
    worlds = {
        "training": _some_classes(config, world, max(TRAINING_CLASSES, few)),
        "novel": _some_classes(config, novel_world(config, world, "evaluation", 0), max(NOVEL_CLASSES, few)),
    }
    tables = {name: parameters[name] for name in decoder.shapes()} | _position_tables(decoder, parameters)
    for name in config.order:
        both = [source.prototypes for one in worlds.values() for source in [one.sources[name]]]
        tables[f"classes.{name}"] = torch.cat(both)
    tables["labels"] = world.label_embeddings[:MOST_LABELS]
    starts = [(kind, start) for kind in ("novel", "training") for start in _starts(config, worlds, kind)]
    if not starts:
        raise RunError(f"labels of its sequences are above {MOST_LABELS - 1}, and it shows no others.")
    size = 4 * sum(value.numel() for value in tables.values())
    if size > room:
        raise RunError(_too_large(size, room))
    data = {
        **_settings(config, decoder),
        "step": step,
        "shapes": {name: list(value.shape) for name, value in tables.items()},
        "numbers": _packed(list(tables.values())),
        "noun": "group" if config.sequence.task == "joint_label" else "label",
        "label_of": {name: worlds["training"].tables[name].label_of.tolist() for name in config.order},
        "training": {name: len(worlds["training"].tables[name].label_of) for name in config.order},
        "starts": [
            {"name": f"{kind} classes, sequence {number % STARTS + 1}", **start}
            for number, (kind, start) in enumerate(starts)
        ],
    }
    return Explorer(data=data, size=size)


def _too_large(size: int, room: int) -> str:
    if size > MOST_BYTES:
        return f"its weights and vectors have {size / 1e6:.1f} MB, and a page holds at most {MOST_BYTES / 1e6:.0f} MB."
    return (
        f"its weights and vectors have {size / 1e6:.1f} MB, and those of the runs before it leave {room / 1e6:.1f} MB"
        f" of a page's {MOST_BYTES / 1e6:.0f} MB. A report on this run alone shows it."
    )


def _packed(tables: list[Tensor]) -> str:
    """Numbers one after the other, as little-endian float32 in base64."""
    numbers = np.concatenate([table.detach().cpu().numpy().astype("<f4").ravel() for table in tables])
    return base64.b64encode(numbers.tobytes()).decode("ascii")


def _settings(config: RunConfig, decoder: Decoder) -> dict[str, Any]:
    """What the page's decoder must know beside its numbers."""
    options, roles, code = config.decoder, config_roles(config), decoder.positions
    shown = decoder.constant_on[:, 0].bool().tolist()
    slots = options.slots if code.slots_used else 0
    return {
        "order": list(config.order),
        "context": config.sequence.context,
        "layers": options.layers,
        "heads": options.heads,
        "width": decoder.width,
        "norm": options.norm,
        "epsilon": EPSILON,
        "mlp": options.mlp,
        "projector": dict.fromkeys(secondary_modalities(config), DEPTH[config.bridge.projector]),
        "noise": {name: config.modalities[name].noise for name in config.order},
        "names": roles.axis_names(),
        "constant_on": shown,
        "slots": slots,
        "places": 1 + (0 if options.placement == "fixed" or not slots else slots - config.sequence_length),
        "beside": options.position_facts.beside,
        "crossed": "neighbours" if isinstance(code, ReleasedRotary) else "halves",
    }


def _position_tables(decoder: Decoder, parameters: Learnt) -> dict[str, Tensor]:
    """Tables of the position code: what is added to the token of each slot, what turns each position of queries and
    keys, and what is added to scores by head and offset."""
    code, found = decoder.positions, {}
    if "decoder.positions.table" in parameters:
        found["positions.added"] = parameters["decoder.positions.table"]
    elif hasattr(code, "table"):
        found["positions.added"] = code.table  # type: ignore[attr-defined]
    if isinstance(code, Rotary):
        found |= {"positions.cosine": code.cosine, "positions.sine": code.sine}
    if type(code).bias is not PositionCode.bias:
        bias = code.bias({})
        assert bias is not None
        found["positions.offsets"] = bias[:, -1].flip(-1)
    return found


def _some_classes(config: RunConfig, world: World, count: int) -> World:
    """The world's first classes, equally frequent; of a paired modality the partners of these."""
    sources, tables, partners = {}, {}, {}
    for name in config.order:
        source = world.sources[name]
        assert isinstance(source, GaussianSource)
        chosen = torch.arange(min(count, len(source.prototypes)))
        if name in world.partners:
            chosen = world.partners[name][:count]
            partners[name] = torch.arange(len(chosen))
        sources[name] = GaussianSource(source.prototypes[chosen], source.noise)
        tables[name] = ClassTable(world.tables[name].label_of[chosen], torch.ones(len(chosen)))
    return World(sources, tables, world.label_embeddings, partners)


def _starts(config: RunConfig, worlds: Mapping[str, World], kind: str) -> list[dict[str, Any]]:
    """Bursty sequences of the chosen classes. Novel classes are numbered after those of training."""
    drawn = plan_bursty(config, worlds[kind], STARTS, stream(config.seed, "explorer", kind))
    tables = worlds["training"].tables
    behind = {name: len(tables[name].label_of) if kind == "novel" else 0 for name in config.order}
    classes = {name: (value + behind[name]).tolist() for name, value in drawn.classes.items()}
    labels = drawn.labels.tolist()
    # A label that the reader cannot choose cannot stand in a sequence either.
    return [
        {
            "classes": {name: classes[name][i] for name in config.order},
            "labels": labels[i][:-1],
            "target": labels[i][-1],
        }
        for i in range(STARTS)
        if max(labels[i]) < MOST_LABELS
    ]


def words_of(explorer: Explorer) -> dict[str, Any]:
    """The explorer's words and choices for the page's template."""
    data = explorer.data
    if explorer.missing:
        return {"missing": explorer.missing}
    heads = [f"{i}.{j}" for i in range(data["layers"]) for j in range(data["heads"])]
    return {
        "missing": "",
        "step": f"{data['step']:,}",
        "size": f"{math.ceil(explorer.size / 1000):,} kB",
        "starts": [(str(i), start["name"]) for i, start in enumerate(data["starts"])],
        "noise": [(name, f"{value:g}") for name, value in data["noise"].items()],
        "last_place": data["places"] - 1,
        "heads": heads,
    }
