"""Transplants: the weights of one part of a decoder are put into an earlier or a later checkpoint of it.

    into `later`     the stage-1 weights of the part replace those of stage 2; ICL on stage 2's sequences
    into `earlier`   the stage-2 weights of the part replace those of stage 1; ICL on stage 1's sequences

If training refined the part, it still fits, and little in-context learning is lost. If training built something new, as
much is lost as with fresh random weights. Two controls stand beside each. One is as many weights from random places of
the decoder. The other is the same transplant between stage 1 and a sibling (see `miclab.config.presets.Stage`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from miclab.circuits.checkpoint_pair import BesideSibling, CheckpointPair
from miclab.circuits.existence import OnProgress
from miclab.circuits.find import stored_part
from miclab.config.request import SplitSizes
from miclab.measures.evaluate import CHUNK
from miclab.model.decoder import Decoder, Parameters
from miclab.model.parts import Mask, Shapes, decoder_parts, size
from miclab.runs.run import Run
from miclab.seeds import stream, stream_seed
from miclab.statistics.intervals import Interval, clustered_interval
from miclab.tables import Number, Table, table
from miclab.worlds.sequences import Batch
from miclab.worlds.splits import split_batches

Receiver = Literal["later", "earlier"]
Kind = Literal["transplanted", "random", "fresh"]
RECEIVERS: tuple[Receiver, ...] = get_args(Receiver)
KINDS: tuple[Kind, ...] = get_args(Kind)
DRAWS = 5
"""Random sets of weights that a control averages."""
BySet = NDArray[np.floating]
"""Accuracy on novel classes, by set of them [set]."""


def transplanted(receiver: Parameters, donor: Mapping[str, Tensor], part: Mask) -> dict[str, Tensor]:
    """The receiver's parameters with the donor's weights where the part is."""
    return {
        name: torch.where(part[name], donor[name], value) if name in part else value for name, value in receiver.items()
    }


def random_part(shapes: Shapes, count: int, generator: torch.Generator) -> Mask:
    """As many weights as requested, from random places of the decoder."""
    mine = {name: shape for name, shape in shapes.items() if name.startswith("decoder.")}
    sizes = [int(np.prod(shape)) for shape in mine.values()]
    flat = torch.zeros(sum(sizes), dtype=torch.bool)
    flat[torch.randperm(len(flat), generator=generator)[:count]] = True
    return {name: own.view(shape) for (name, shape), own in zip(mine.items(), flat.split(sizes), strict=True)}


@dataclass(frozen=True)
class Transplant:
    """A part's transplant into one receiver, with its controls.

    Arguments:
        part: its name (see `miclab.model.parts`).
        receiver: into which checkpoint.
        weights: number of weights of the part.
        untouched: ICL of the receiver.
        icl: ICL of the receiver with the other checkpoint's part (`transplanted`). `random`: with as many of its
            weights from random places, mean over draws. `fresh`: with fresh random weights in the part.
    """

    part: str
    receiver: Receiver
    weights: int
    untouched: BySet
    icl: Mapping[Kind, BySet]

    def lost(self, kind: Kind = "transplanted") -> Interval:
        """ICL lost, with its interval over sets of novel classes."""
        return clustered_interval([self.untouched - self.icl[kind]])

    @property
    def share(self) -> float | None:
        """What is lost as a share of what fresh weights lose; None where these lose nothing."""
        fresh = self.lost("fresh").mean
        return self.lost().mean / fresh if fresh > 0 else None

    def as_json(self) -> dict[str, Any]:
        """It as plain data."""
        share = self.share
        return {
            "part": self.part, "into": self.receiver, "weights": self.weights,
            "untouched": round(float(self.untouched.mean()), 6),
            "lost": {kind: self.lost(kind).as_json() for kind in KINDS},
            "share_of_fresh": None if share is None else round(share, 6),
        }  # fmt: skip


@dataclass(frozen=True)
class Transplants(BesideSibling[Transplant]):
    """Transplants of every part into both receivers; arguments: see `BesideSibling`."""

    def of(self, part: str, receiver: Receiver) -> Transplant:
        """One of them."""
        return next(one for one in self.found if (one.part, one.receiver) == (part, receiver))

    def tables(self) -> tuple[Table, ...]:
        """A table for each receiver, a row for each part."""
        beside = {(one.part, one.receiver): one for one in self.sibling}
        names = dict(zip(("earlier", "later"), self.runs, strict=True))
        tables = []
        for receiver in RECEIVERS:
            mine = [one for one in self.found if one.receiver == receiver]
            donor = names["later" if receiver == "earlier" else "earlier"]
            rows = []
            for one in mine:
                share = None if one.share is None else Number(one.share, 3)
                row = [one.part, one.weights, one.lost(), one.lost("random"), one.lost("fresh"), share]
                other = beside.get((one.part, receiver))
                if self.sibling:
                    row += [None, None] if other is None else [other.lost(), other.share and Number(other.share, 3)]
                rows.append(row)
            columns = ["part", "weights", "ICL lost", "as many random weights", "fresh weights", "share of fresh"]
            columns += ["sibling: ICL lost", "sibling: share"] if self.sibling else []
            before = f"{float(mine[0].untouched.mean()):.3f}"
            title = f"weights of {donor} put into {names[receiver]}, whose ICL is {before} [95 % interval over sets]"
            tables.append(table(title, columns, rows, self._notes(receiver)))
        return tuple(tables)

    def _notes(self, receiver: Receiver) -> list[str]:
        notes = [f"Checkpoints: {self.runs[0]} at step {self.steps[0]:,}, {self.runs[1]} at step {self.steps[1]:,}."]
        if receiver == "later" and not self.sibling:
            notes.append("Without --sibling nobody can say what training longer on stage 1 would have lost.")
        return notes if receiver == "later" else []

    def as_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return self.json_of("transplants")

    def stored(self) -> dict[str, BySet]:
        """ICL by set under the names of stored analyses, in which layers and heads count from 1."""
        values: dict[str, BySet] = {}
        for one in self.found:
            values[f"untouched {one.receiver}"] = one.untouched
            values |= {stored_part(one.part, f"{kind} into {one.receiver}"): one.icl[kind] for kind in KINDS}
        return values


class _Bench:
    """One receiver with its sequences, drawn once."""

    def __init__(self, checkpoints: CheckpointPair, receiver: Receiver, sizes: SplitSizes):
        is_later = receiver == "later"
        run = checkpoints.later if is_later else checkpoints.earlier
        self.name: Receiver = receiver
        self.decoder, self.seed = Decoder(run.config), run.config.seed
        self.mine, self.donor = checkpoints.weights[::-1] if is_later else checkpoints.weights
        self.shapes = self.decoder.shapes()
        self.fresh = self.decoder.initial_parameters(stream_seed(self.seed, "fresh weights"))
        self.sets = [batch for _, batch in split_batches(run.config, checkpoints.world(is_later), "icl", sizes)]
        self.untouched = self.icl(self.mine)
        self._random: dict[int, BySet] = {}

    @torch.no_grad()
    def icl(self, parameters: Parameters) -> BySet:
        """Accuracy of some parameters on novel classes [set]."""
        return np.array([self._right(parameters, batch).mean() for batch in self.sets])

    def _right(self, parameters: Parameters, batch: Batch) -> NDArray[np.floating]:
        right = [self.decoder.logits(parameters, one).argmax(-1) == one.target for one in batch.chunks(CHUNK)]
        return torch.cat(right).double().numpy()

    def random(self, count: int) -> BySet:
        """ICL with so many weights of the donor in random places, mean over draws; parts of one size share them."""
        if count not in self._random:
            drawn = [random_part(self.shapes, count, stream(self.seed, "transplant", count, i)) for i in range(DRAWS)]
            self._random[count] = np.mean([self.icl(transplanted(self.mine, self.donor, one)) for one in drawn], axis=0)
        return self._random[count]

    def transplant(self, part: str, mask: Mask) -> Transplant:
        """One part's transplant with its controls."""
        values: dict[Kind, BySet] = {
            "transplanted": self.icl(transplanted(self.mine, self.donor, mask)),
            "random": self.random(size(mask)),
            "fresh": self.icl(transplanted(self.mine, self.fresh, mask)),
        }
        return Transplant(part, self.name, size(mask), self.untouched, values)


def transplants_of(
    checkpoints: CheckpointPair, sizes: SplitSizes, on_part: Callable[[str], None]
) -> tuple[Transplant, ...]:
    """Every part's transplants between two checkpoints.

    Arguments:
        on_part: called with a text after each.
    """
    found: list[Transplant] = []
    for name in RECEIVERS:
        bench = _Bench(checkpoints, name, sizes)
        for part, mask in decoder_parts(bench.decoder.config, bench.shapes).items():
            found.append(bench.transplant(part, mask))
            on_part(f"{part} into the {name} decoder")
    return tuple(found)


def part_count(run: Run) -> int:
    """Transplants between two checkpoints, for a bar of progress."""
    return len(RECEIVERS) * len(decoder_parts(run.config, Decoder(run.config).shapes()))


def transplant(
    run: Run,
    sibling: Run | None = None,
    *,
    step: int | None = None,
    sizes: SplitSizes | None = None,
    on_progress: OnProgress | None = None,
) -> Transplants:
    """What each part of a run's decoder is worth in the run that it started from, and the other way round.

    Arguments:
        run: a run of stage 2, or any that started from another run's weights.
        sibling: a run of one modality that started from the same checkpoint, looked at at the same step.
        step: the run's checkpoint; None: the last good one.
        sizes: sequences looked at, of novel classes.
        on_progress: called with the number of transplants done, and a text.

    Raises:
        RunError: the run started from random weights, the sibling is none, or attention is no plain softmax.
        ConfigError: there is no such checkpoint.
    """
    done = 0

    def on_part(text: str) -> None:
        nonlocal done
        done += 1
        if on_progress:
            on_progress(done, text)

    looked = sizes or SplitSizes()
    return Transplants.compared(run, sibling, step, lambda checkpoints: transplants_of(checkpoints, looked, on_part))
