"""Metric rows of a group of lanes, computed for all of its runs at once, on the group's device.

A row is that of `metric_row` or `classifier_row`, up to rounding of floats. Always all lanes of the group are computed,
and a lane that needs no row is given weights and sequences of one that does. So the bits of a row depend on the group's
width and not on the neighbours, as in a step. The evaluated sequences of a run are the same in every row. They are kept
on the device as far as an eighth of its memory allows, and otherwise drawn again.

A measure that `torch.func.vmap` does not take is computed lane by lane, from activations that were computed together.
If another part fails, or the device's memory is too small for one lane, rows are computed one by one on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from miclab.config import memory
from miclab.config.request import SPLITS, SplitSizes
from miclab.config.run import RunConfig
from miclab.errors import MiclabError
from miclab.measures.alignment import ROW_SHUFFLES, ROWS, aligned_modalities, row_part, sampled_pairs
from miclab.measures.encoder import classified, classifier_row, encoder_row, episodes
from miclab.measures.evaluate import CHUNK, SplitScores, metric_row, row_of
from miclab.measures.lane_scores import (
    LaneDecoder,
    batch_tensors,
    lane_alignment,
    lane_classes,
    lane_nearest,
    reason_of,
)
from miclab.measures.novel_alignment import novel_pairs
from miclab.model.classifier import Classifier
from miclab.model.decoder import Parameters
from miclab.seeds import stream
from miclab.training import numerics
from miclab.training.lane_program import Parts, mapped, stacked
from miclab.worlds.splits import split_batches
from miclab.worlds.world import World

AT_ONCE = 2**31
"""Bytes of activations of the lanes that are computed at once, by estimate."""
Row = dict[str, Any]


def lanes_at_once(config: RunConfig, sequences: int) -> int:
    """How many lanes of a group are evaluated at once, so that what they keep stays below `AT_ONCE`. It is a divisor of
    the group's width and depends on nothing else than the arguments.

    Arguments:
        sequences: of a chunk, in each lane.
    """
    decoder = config.decoder
    if config.is_classification:
        own = sequences * 64 * memory.NUMBER * next(iter(config.modalities.values())).dimension
    else:
        width, length = decoder.residual_width(config.item_width), config.sequence_length
        hidden = 0 if decoder.mlp == "none" else decoder.mlp_hidden or width
        # Beside queries, keys, values, heads, outputs and residuals there are some that are not kept for long.
        each = length * (10 * width + 2 * hidden) + 3 * decoder.heads * length**2
        own = sequences * decoder.layers * each * memory.NUMBER
    lanes = config.numerics.lanes
    fits = [number for number in range(2, lanes + 1) if lanes % number == 0 and number * own <= AT_ONCE]
    return max(fits, default=1)


class LaneRows:
    """Metric rows of a group.

    Arguments:
        configs, worlds, sizes: of the runs, by lane.
        device: where the group's weights are.
        on_separate: called with a text where something cannot be computed for all lanes at once.
    """

    def __init__(
        self,
        configs: Sequence[RunConfig],
        worlds: Sequence[World],
        sizes: Sequence[SplitSizes],
        device: torch.device,
        on_separate: Callable[[str], None] | None = None,
    ):
        self.configs, self.worlds, self.sizes, self.device = configs, worlds, sizes, device
        self.config, self.width = configs[0], configs[0].numerics.lanes
        self.on_separate = on_separate or (lambda text: None)
        self.parts: dict[int, Parts] = {}
        self.one_by_one = False
        self.held: dict[tuple[Any, ...], list[Any]] = {}
        self.too_large: set[tuple[Any, ...]] = set()
        self.room = (numerics.memory_of(str(device)) or memory.machine_memory()) // 8
        self.decoder: LaneDecoder | None = None

    def _halved(self, at_once: int) -> None:
        self.on_separate(f"{self.device} ran out of memory: of {self.width} lanes, {at_once} are evaluated at once")

    def _in_parts(self, sequences: int) -> Parts:
        """What calls programs on so many sequences of all lanes. It does not depend on other runs' sizes."""
        if sequences not in self.parts:
            self.parts[sequences] = Parts(self.width, self._halved)
            self.parts[sequences].at_once = lanes_at_once(self.config, sequences)
        return self.parts[sequences]

    @torch.no_grad()
    def rows(self, parameters: Parameters, lanes: Iterable[int]) -> dict[int, Row]:
        """Metric rows of some lanes.

        Arguments:
            parameters: of all lanes [lane ...], on the group's device.
            lanes: that need a row.

        Raises:
            MiclabError: as `metric_row`.
        """
        found = dict[int, Row]()
        by_sizes: dict[SplitSizes, list[int]] = {}
        for lane in lanes:
            by_sizes.setdefault(self.sizes[lane], []).append(lane)
        for sizes, due in by_sizes.items():
            if not self.one_by_one:
                try:
                    found |= self._together(parameters, sizes, due)
                    continue
                except MiclabError:
                    raise
                except Exception as error:  # A part may be a user's, and raises what it likes.
                    self.one_by_one, reason = True, reason_of(error)
                self.held.clear()
                self.on_separate(f"metric rows cannot be computed for all lanes at once ({reason}) and are one by one")
            found |= {lane: self.alone(parameters, lane) for lane in due}
        return found

    def alone(self, parameters: Parameters, lane: int) -> Row:
        """The metric row of a lane by itself, on the CPU."""
        own = {name: value[lane].cpu() for name, value in parameters.items()}
        measure = classifier_row if self.config.is_classification else metric_row
        return measure(self.configs[lane], self.worlds[lane], own, self.sizes[lane])

    def _together(self, parameters: Parameters, sizes: SplitSizes, due: Sequence[int]) -> dict[int, Row]:
        source = torch.tensor([lane if lane in due else due[0] for lane in range(self.width)], device=self.device)
        own = {name: value[source] for name, value in parameters.items()}
        make = self._encoder_rows if self.config.is_classification else self._decoder_rows
        return make(own, sizes, due)

    # -- sequences --------------------------------------------------------------------------------------------------
    def _kept(self, key: tuple[Any, ...], draw: Callable[[int], Iterable[Any]], due: Sequence[int]) -> Iterator[Any]:
        """What is drawn for each lane, with the lanes as first axis, on the device.

        Arguments:
            key: what it depends on beside the lane, the sizes of the evaluation among it.
            draw: gives nested tensors of a lane, one after the other; as many in each lane.
            due: lanes that need it. A lane that does not is given what the first of these has.
        """
        # What is kept is of all lanes of these sizes, since each will need it.
        sizes = self.sizes[due[0]]
        fits = key not in self.too_large
        equal = [lane for lane, own in enumerate(self.sizes) if own == sizes] if fits else list(due)
        source = [lane if lane in equal else due[0] for lane in range(self.width)]
        if key in self.held:
            yield from self.held[key]
            return
        kept, charged = [], 0
        for drawn in zip(*(draw(lane) for lane in equal), strict=True):
            by_lane = dict(zip(equal, drawn, strict=True))
            given = _placed([by_lane[lane] for lane in source], self.device)
            yield given
            if not fits:
                continue
            charged += _size(given)
            kept.append(given)
            if charged > self.room:
                # What does not fit takes no room from what does.
                self.too_large.add(key)
                fits = False
                kept.clear()
        if fits:
            self.held[key] = kept
            self.room -= charged

    def _chunks(self, program: Callable, parameters: Parameters, given: Any) -> Iterator[Any]:
        """What a program gives for each chunk of sequences."""
        count = _first(given).shape[1]
        for start in range(0, count, CHUNK):
            part = mapped(lambda value, here=slice(start, start + CHUNK): value[:, here], given)
            yield self._in_parts(min(count, CHUNK))(program, (parameters, part))

    # -- rows of decoders -------------------------------------------------------------------------------------------
    def _decoder_rows(self, parameters: Parameters, sizes: SplitSizes, due: Sequence[int]) -> dict[int, Row]:
        if self.decoder is None:
            one = {name: value[0] for name, value in parameters.items()}
            self.decoder = LaneDecoder(self.config, one, self._measure_separate)
        scores = {split: self._scores(parameters, split, sizes, due) for split in SPLITS}
        aligned = self._alignments(parameters, due)
        return {lane: row_of({split: found[lane] for split, found in scores.items()}, aligned[lane]) for lane in due}

    def _measure_separate(self, names: str, reason: str) -> None:
        self.on_separate(f"{names} cannot be measured for all lanes at once ({reason}), and is lane by lane")

    def _scores(
        self, parameters: Parameters, split: str, sizes: SplitSizes, due: Sequence[int]
    ) -> dict[int, SplitScores]:
        assert self.decoder is not None
        measured = split == "icl"
        program = self.decoder.measured if measured else self.decoder.answers

        def draw(lane: int) -> Iterator[Any]:
            for _, batch in split_batches(self.configs[lane], self.worlds[lane], split, sizes):
                yield batch_tensors(batch)

        correct, in_context, strengths = [], [], dict[str, list[Tensor]]()
        for given in self._kept((split, sizes), draw, due):
            answers, sums = [], dict[str, Tensor]()
            for found in self._chunks(program, parameters, given):
                answers.append(found)
                for name, value in found.get("sums", {}).items():
                    sums[name] = sums[name] + value if name in sums else value
            correct.append(torch.cat([one["correct"] for one in answers], 1))
            in_context.append(torch.cat([one["in_context"] for one in answers], 1))
            for name, value in sums.items():
                strengths.setdefault(name, []).append(value / sizes.sequences)
        # One copy from the device for all lanes.
        right, copied = (torch.stack(part, 1).cpu().numpy().astype(float) for part in (correct, in_context))
        taken = {name: torch.stack(value, 1).cpu().numpy().astype(float) for name, value in strengths.items()}
        return {
            lane: SplitScores(right[lane], copied[lane], strengths={name: value[lane] for name, value in taken.items()})
            for lane in due
        }

    def _alignments(self, parameters: Parameters, due: Sequence[int]) -> dict[int, dict[str, Row]]:
        found: dict[int, dict[str, Row]] = {lane: {} for lane in due}
        for name in aligned_modalities(self.config):
            given, novel, sought, chance = self._pairs(name)
            program = partial(lane_alignment, self.config, name)
            made = self._in_parts(CHUNK)(program, (parameters, given))
            numbers = {part: made[part].cpu().tolist() for part in ("cka", "null", "distance")}
            for lane in due:
                candidates, answers, right = sought[lane]
                # Lanes may have other numbers of candidates.
                nearest = torch.cdist(made["features"][lane], candidates).argmin(1)
                retrieved = float((answers[nearest] == right).float().mean())
                cka, null, distance = (numbers[part][lane] for part in ("cka", "null", "distance"))
                found[lane][name] = row_part(cka, null, distance, retrieved, chance[lane])
            if novel is not None:
                values = self._in_parts(CHUNK)(program, (parameters, novel))["cka"].cpu().tolist()
                for lane in due:
                    found[lane][name]["novel_cka"] = round(values[lane], 6)
        return found

    def _pairs(self, name: str) -> tuple[Any, ...]:
        """Of a secondary modality: what `lane_alignment` is given, also for novel classes; and by lane what the nearest
        prototype is sought among, and what a random one reaches."""
        if ("pairs", name) in self.held:
            return self.held["pairs", name][0]
        given, novel, sought, chance = [], [], [], []
        for config, world in zip(self.configs, self.worlds, strict=True):
            pairs = sampled_pairs(config, world, name, ROWS, stream(config.seed, "alignment", name, 0))
            generator = stream(config.seed, "alignment", name, "shuffles")
            orders = torch.stack([torch.randperm(ROWS, generator=generator) for _ in range(ROW_SHUFFLES)])
            given.append({"items": pairs.items, "prototypes": pairs.prototypes, "orders": orders})
            sought.append([part.to(self.device) for part in (pairs.candidates, pairs.answers, pairs.right)])
            chance.append(pairs.chance)
            if config.sequence.pairing == "class":
                parts = [torch.cat(part) for part in zip(*novel_pairs(config, world, name), strict=True)]
                novel.append({"items": parts[0], "prototypes": parts[1], "orders": orders[:0]})
        idle = self.width - len(given)
        together = _placed([*given, *given[:1] * idle], self.device)
        fresh = _placed([*novel, *novel[:1] * idle], self.device) if novel else None
        held = together, fresh, sought, chance
        size = _size(together) + (_size(fresh) if novel else 0) + sum(_size(part) for own in sought for part in own)
        if size < self.room:
            self.held["pairs", name] = [held]
            self.room -= size
        return held

    # -- rows of encoders -------------------------------------------------------------------------------------------
    def _encoder_rows(self, parameters: Parameters, sizes: SplitSizes, due: Sequence[int]) -> dict[int, Row]:
        count, configs = sizes.sequences * sizes.novel_sets, list(self.configs)
        if sizes.evaluation_seed >= 0:
            configs = [replace(config, seed=sizes.evaluation_seed) for config in configs]
        model = Classifier(self.config)

        def items(name: str, lane: int) -> Iterator[Any]:
            world = self.worlds[lane] if name == "train" else self.worlds[lane].evaluated()
            yield batch_tensors(classified(configs[lane], world, name, count))

        def queries(lane: int) -> Iterator[Any]:
            for index in range(sizes.novel_sets):
                yield episodes(configs[lane], self.worlds[lane], model.name, index, sizes.sequences)

        accuracy, sets = dict[str, Tensor](), []
        for name in ("train", *(("held out",) if model.modality.source else ())):
            for given in self._kept((name, sizes), partial(items, name), due):
                found = list(self._chunks(partial(lane_classes, model), parameters, given))
                accuracy[name.replace(" ", "_")] = torch.cat(found, 1).float().cpu().mean(1)
        for given in self._kept(("nearest", sizes), queries, due):
            found = list(self._chunks(partial(lane_nearest, model), parameters, given))
            sets.append(torch.cat(found, 1).float().cpu().mean(1))
        return {
            lane: encoder_row(
                {name: float(value[lane]) for name, value in accuracy.items()}, [float(one[lane]) for one in sets]
            )
            for lane in due
        }


def _placed(parts: Sequence[Any], device: torch.device) -> Any:
    """Nested tensors of lanes with a new first axis, on a device."""
    return mapped(lambda value: value.to(device), stacked(parts))


def _first(nested: Any) -> Tensor:
    return nested if isinstance(nested, Tensor) else _first(next(iter(nested.values())))


def _size(nested: Any) -> int:
    """Bytes of nested tensors."""
    if isinstance(nested, Tensor):
        return nested.numel() * nested.element_size()
    return sum(map(_size, nested.values()))
