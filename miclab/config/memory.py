"""Lower bounds on a configuration's memory, compared with the machine's before anything is allocated.

The bounds are in bytes and count the largest tensors alone. So a refused configuration could never have fitted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from miclab.config.run import RunConfig
from miclab.errors import MiclabError

NUMBER = 4
"""Bytes of a number in float32."""
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Files in which Linux gives the memory limit of a container."""


class TooLargeError(MiclabError):
    """The machine has too little memory."""


@cache
def machine_memory() -> int:
    """Most bytes of memory that this process can use."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for file in LIMITS:
        try:
            found.append(int(file.read_text()))
        except (OSError, ValueError):
            continue
    return min(found)


def in_words(size: int) -> str:
    """A number of bytes, such as `3.2 GiB`."""
    amount, units = float(size), ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while amount >= 1024 and len(units) > 1:
        amount, units = amount / 1024, units[1:]
    return f"{amount:,.1f} {units[0]}"


def check(parts: Mapping[str, int], advice: str) -> None:
    """Checks that tensors that are needed together fit into the machine's memory.

    Arguments:
        parts: bytes of each, by name.
        advice: what to lower.

    Raises:
        TooLargeError: they do not fit; the message names the largest.
    """
    total = sum(parts.values())
    if total <= machine_memory():
        return
    largest = max(parts, key=parts.__getitem__)
    raise TooLargeError(
        f"This needs at least {in_words(total)} of memory, {in_words(parts[largest])} of it for {largest}, and the"
        f" machine has {in_words(machine_memory())}. Nothing was begun. Lower {advice}."
    )


def check_world(config: RunConfig) -> None:
    """Checks that the prototypes of all classes fit. Raises TooLargeError."""
    drawn = {n: m.classes * m.dimension * NUMBER for n, m in config.modalities.items() if not m.source}
    parts = {f"the classes of {name}": size for name, size in drawn.items()}
    check(parts, "modalities.*.classes or modalities.*.dimension")


def check_model(config: RunConfig) -> None:
    """Checks that a decoder's weights and its mask of positions fit. Raises TooLargeError."""
    decoder = config.decoder
    width = decoder.residual_width(config.item_width)
    hidden = 0 if decoder.mlp == "none" else decoder.mlp_hidden or width
    length = config.sequence_length
    parts = {
        f"weights of {decoder.layers} layers of width {width:,}": decoder.layers
        * width
        * (width + 2 * hidden)
        * NUMBER,
        f"the readout of {config.label_count:,} labels": width * config.label_count * NUMBER,
        f"a mask over {length:,} positions": length**2 * NUMBER,
    }
    check(parts, "sequence.context, decoder.layers, decoder.width, decoder.mlp_hidden or the number of labels")


def _items(config: RunConfig, sequences: int) -> int:
    """Bytes of the items of a number of sequences."""
    across = sum(config.item_dimension(name) for name in config.modalities)
    return sequences * (1 if config.is_classification else config.sequence.context + 1) * across * NUMBER


def check_training(config: RunConfig) -> None:
    """Checks that a batch of training fits. Raises TooLargeError."""
    batch = config.optimiser.batch_size
    check({f"a batch of {batch:,} sequences": _items(config, batch)}, "optimiser.batch_size or sequence.context")


def lane_size(config: RunConfig) -> int:
    """Least bytes of one lane of a group. These are its weights, their gradient and two averages, its items, and what a
    step keeps of every layer for the gradient."""
    decoder = config.decoder
    if config.is_classification:
        return _items(config, config.optimiser.batch_size)
    width = decoder.residual_width(config.item_width)
    hidden = 0 if decoder.mlp == "none" else decoder.mlp_hidden or width
    weights = decoder.layers * width * (3 * width + 2 * hidden) + width * config.label_count
    # Normalised input, queries, keys and values, and their sum with the residual stream.
    kept = config.optimiser.batch_size * config.sequence_length * width * 4 * (decoder.layers - 1)
    return (4 * weights + kept) * NUMBER + _items(config, config.optimiser.batch_size)


def check_lanes(config: RunConfig, available: int = 0) -> None:
    """Makes sure that a group of `numerics.lanes` runs fits into a device.

    Arguments:
        available: bytes of the device's memory; 0: those of the machine.

    Raises:
        TooLargeError: it does not fit; the message says how many lanes do.
    """
    lanes, limit = config.numerics.lanes, available or machine_memory()
    own = lane_size(config)
    if lanes * own > limit:
        raise TooLargeError(
            f"A group of {lanes:,} lanes needs at least {in_words(lanes * own)} of memory, {in_words(own)} for each,"
            f" and {config.numerics.device} has {in_words(limit)}. Nothing was begun. At most {limit // own:,} lanes"
            f" fit: lower numerics.lanes, and train the runs in several groups."
        )


def check_evaluation(config: RunConfig, sequences: int, novel_sets: int) -> None:
    """Checks that the sequences of a split and the scores of all sets fit. Raises TooLargeError."""
    parts = {
        f"{sequences:,} sequences": _items(config, sequences),
        f"scores of {novel_sets:,} sets of novel classes": sequences * novel_sets * 2 * NUMBER,
    }
    check(parts, "sequences or novel_sets (--request.sequences, --request.novel_sets in training)")
