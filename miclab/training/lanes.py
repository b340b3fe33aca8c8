"""Runs that are trained as one program: each is a lane, a row of the tensors of a group.

    flat, mean, square   [lane weight]   weights and the optimiser's averages; a run holds views of its own row
    raw batches          [lane ...]      stacked; an idle lane is given those of a busy one

Runs share a group if they share a step (`miclab.training.step.graph_key`). A group has a fixed width, filled up with
idle lanes, and no operation mixes lanes. So the bits of a lane depend on the width and not on its neighbours.

On a GPU the gradients of all lanes are one program (`torch.func.vmap`). On a CPU they are computed lane after lane. Its
products of matrices round by where a matrix lies in memory, so that a lane's place would move its last bits.

With `numerics.lane_step = compiled` the whole step is compiled. On a GPU it is one program of all lanes (see
`miclab.training.lane_program`), on a CPU the step of a single run, lane after lane.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from miclab.config.options import ATTENTION, LOSS_TERMS
from miclab.config.positions import POSITION_CODES
from miclab.config.run import RunConfig
from miclab.errors import RunError
from miclab.training import optimiser
from miclab.training.flat_parameters import TrainedParameters, gradient_function, moving, views
from miclab.training.lane_program import Parts, compiled_draw, lane_function, lane_program, stacked
from miclab.training.objective import Losses, Objective
from miclab.training.step import compiled_step, graph_key
from miclab.worlds.lane_sampler import LaneSampler, raw_tensors, serves
from miclab.worlds.sequences import RawBatch, config_roles
from miclab.worlds.world import World

ALIGNED = 64
"""Weights of a row are a multiple of this, so that every row begins alike in memory and no vector crosses two lanes."""

Gradient = Callable[..., tuple[Losses, Tensor]]
"""See `miclab.training.flat_parameters.gradient_function`."""


@dataclass(frozen=True)
class Update:
    """What a run needs for its next update.

    Arguments:
        raw: its raw batch; None where a sampler of the group draws it.
        rate: the learning rate.
        finished: finished steps.
    """

    raw: RawBatch | None
    rate: float
    finished: int

    @property
    def own_raw(self) -> RawBatch:
        """Its raw batch, where it has one."""
        assert self.raw is not None
        return self.raw


class Lanes:
    """A group of runs of one step.

    Arguments:
        configs: of the runs, with the same `graph_key` and `numerics.lanes`, which is the group's width.
        trained: their parameters, which become views of the group's.
        states: their optimisers' states, which become views too.
        together: whether all lanes are one program; None: on every device but a CPU.
        worlds: what the runs draw from. Where all lanes are one program, their batches may be drawn by it too.
        on_halved: called with the lanes computed at once, where the device's memory was too small for more.
        on_eager: called with the reason, where the step could not be compiled and is eager from then on.

    Raises:
        RunError: there are more runs than lanes, or their steps differ.
    """

    def __init__(
        self,
        configs: Sequence[RunConfig],
        trained: Sequence[TrainedParameters],
        states: Sequence[optimiser.State],
        together: bool | None = None,
        worlds: Sequence[World] = (),
        on_halved: Callable[[int], None] | None = None,
        on_eager: Callable[[str], None] | None = None,
    ):
        check_group(configs)
        self.config, self.width, self.states = configs[0], configs[0].numerics.lanes, states
        self.objective, self.template = Objective(self.config), trained[0]
        self.gradients: dict[tuple[str, ...], Gradient] = {}
        self.programs: dict[tuple[str, ...], Callable] = {}
        self.size = len(trained[0].flat)
        self.free = _padded(moving(self.config, trained[0].shapes), self.size, trained[0].flat.device)
        self.flat = torch.zeros(self.width, -(-self.size // ALIGNED) * ALIGNED, device=trained[0].flat.device)
        for row, own in zip(self.flat, trained, strict=False):
            row[: self.size] = own.flat
            own.lie_in(row[: self.size])
        self.mean, self.square = self._averages("mean.trained"), self._averages("square.trained")
        self.in_parts = Parts(self.width, on_halved or (lambda lanes: None))
        self.compiled, self.on_eager = self.config.numerics.lane_step == "compiled", on_eager or (lambda why: None)
        self.together = self.flat.device.type != "cpu" if together is None else together
        self.sampler: LaneSampler | None = None
        if self.together and worlds and serves(configs):
            self.sampler = LaneSampler(configs, worlds, self.width, self.flat.device)
        self.fixed = [own.fixed for own in trained]
        if self.together:
            self.all_fixed = stacked([*self.fixed, *[self.fixed[0]] * (self.width - len(trained))])

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Parameters of all lanes [lane ...], where all lanes are one program; an idle lane's mean nothing."""
        trained = views(self.flat[:, : self.size], self.template.shapes)
        return {**self.all_fixed, **trained}

    def _averages(self, name: str) -> Tensor | None:
        if name not in self.states[0]:
            return None
        averages = torch.zeros_like(self.flat)
        for row, state in zip(averages, self.states, strict=False):
            row[: self.size] = state[name]
            state[name] = row[: self.size]
        return averages

    def step(self, updates: Mapping[int, Update]) -> dict[int, Losses]:
        """Makes one update of some lanes. The others are idle: their weights stay, and they make no further update.

        Arguments:
            updates: what each lane needs that makes one.

        Returns:
            The losses before the update, by lane.
        """
        losses = dict[int, Losses]()
        numbers = [optimiser.coefficients(self.config.optimiser, 1, 0.0)] * self.width
        by_terms: dict[tuple[str, ...], dict[int, Update]] = {}
        for lane, update in updates.items():
            made = optimiser.next_step(self.states[lane], "trained")
            numbers[lane] = optimiser.coefficients(self.config.optimiser, made, update.rate)
            by_terms.setdefault(self.objective.active(update.finished), {})[lane] = update
        # Terms of the loss may end: where lanes stand at different steps, each set of terms is a program of its own.
        if self.config.numerics.lane_step == "compiled":
            for terms, some in by_terms.items():
                losses |= (self._program if self.together else self._compiled_one_by_one)(terms, some, numbers)
            return losses
        slopes = torch.zeros_like(self.flat)
        for terms, some in by_terms.items():
            losses |= (self._together if self.together else self._one_by_one)(terms, some, slopes)
        columns = torch.stack(numbers, 1).to(self.flat.device)[..., None]
        optimiser.move(self.config.optimiser, self.flat, slopes, self.mean, self.square, columns, self.free)
        return losses

    def _compiled_one_by_one(
        self, terms: tuple[str, ...], updates: Mapping[int, Update], numbers: Sequence[Tensor]
    ) -> dict[int, Losses]:
        """Moves some lanes, each by the compiled step of a single run."""
        step, losses = compiled_step(self.config, self.template, terms), dict[int, Losses]()
        for lane, update in updates.items():
            own = [None if part is None else part[lane, : self.size] for part in (self.flat, self.mean, self.square)]
            losses[lane] = step(*own, numbers[lane], self.fixed[lane], update.own_raw)
        return losses

    def _program(
        self, terms: tuple[str, ...], updates: Mapping[int, Update], numbers: Sequence[Tensor]
    ) -> dict[int, Losses]:
        """Moves some lanes, all by one compiled program (see `miclab.training.lane_program`)."""
        device = self.flat.device
        busy = torch.tensor([[lane in updates] for lane in range(self.width)], device=device)
        raw = self._raw(updates)
        inputs = (self.flat, self.mean, self.square, torch.stack(list(numbers)).to(device), busy, self.all_fixed, raw)
        found, moved = self._called(terms, inputs)
        held = [part for part in (self.flat, self.mean, self.square) if part is not None]
        for part, after in zip(held, moved, strict=True):
            part.copy_(after)
        return _by_lane(found, updates)

    def _called(self, terms: tuple[str, ...], inputs: tuple[Any, ...]) -> Any:
        """What the program of some terms gives. Where the compiler fails, programs are eager from then on; as a program
        changes no argument, none of its lanes has been moved by then."""
        while True:
            if terms not in self.programs:
                make = lane_program if self.compiled else lane_function
                self.programs[terms] = make(self.config, self.template, terms, self.free)
            try:
                return self.in_parts(self.programs[terms], inputs)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # The compiler's failures have no common type.
                if not self.compiled:
                    self._explain(terms, error)
                    raise
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """From now on all programs are eager."""
        self.compiled = False
        self.programs.clear()
        self.on_eager((str(error).strip() or type(error).__name__).splitlines()[0][:200])

    def _explain(self, terms: tuple[str, ...], error: Exception) -> None:
        """Raises RunError in words if an error of an eager step says that it cannot be computed for all lanes."""
        if str(error).startswith(("vmap", "Batching rule")):
            raise RunError(_not_as_one(self.config, terms, error)) from error

    def _every(self, updates: Mapping[int, Update]) -> list[Update]:
        """An update for each lane: an idle one is given that of a busy one."""
        spare = next(iter(updates.values()))
        return [updates.get(lane, spare) for lane in range(self.width)]

    def _raw(self, updates: Mapping[int, Update]) -> Any:
        """The raw batches of all lanes."""
        if self.sampler is None:
            return stacked([raw_tensors(update.own_raw) for update in self._every(updates)])
        inputs = self.sampler.inputs([update.finished for update in self._every(updates)])
        if self.compiled:
            try:
                return self.in_parts(compiled_draw(self.sampler), inputs)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # The compiler's failures have no common type.
                self._give_up(error)
        with self.sampler.device:
            return self.in_parts(self.sampler.drawn, inputs)

    def _gradient(self, terms: tuple[str, ...], make: Callable[[Gradient], Gradient]) -> Gradient:
        if terms not in self.gradients:
            self.gradients[terms] = make(gradient_function(self.config, self.template, terms))
        return self.gradients[terms]

    def _one_by_one(self, terms: tuple[str, ...], updates: Mapping[int, Update], slopes: Tensor) -> dict[int, Losses]:
        gradient, losses = self._gradient(terms, lambda function: function), dict[int, Losses]()
        for lane, update in updates.items():
            row = self.flat[lane, : self.size]
            losses[lane], slopes[lane, : self.size] = gradient(row, update.own_raw.batch(), self.fixed[lane])
        return losses

    def _together(self, terms: tuple[str, ...], updates: Mapping[int, Update], slopes: Tensor) -> dict[int, Losses]:
        roles = config_roles(self.config).on(self.flat.device)

        def make(gradient: Gradient) -> Gradient:
            return torch.func.vmap(lambda flat, fixed, raw: gradient(flat, RawBatch(**raw, roles=roles).batch(), fixed))

        inputs = (self.flat[:, : self.size], self.all_fixed, self._raw(updates))
        try:
            found, slope = self.in_parts(self._gradient(terms, make), inputs)
        except RuntimeError as error:
            self._explain(terms, error)
            raise
        busy = list(updates)
        slopes[busy, : self.size] = slope[busy]
        return _by_lane(found, updates)


def _not_as_one(config: RunConfig, terms: Iterable[str], error: Exception) -> str:
    """What to do where a part of the step cannot be computed for all lanes at once. Those of users come by name."""
    named = [("attention", config.decoder.attention.name, ATTENTION)]
    named += [("position code", config.decoder.positions.partition(":")[0], POSITION_CODES)]
    named += [("loss term", term, LOSS_TERMS) for term in terms]
    own = [f"{kind} {name}" for kind, name, known in named if known.find(name).__module__.partition(".")[0] != "miclab"]
    return (
        f"The step cannot be computed for all lanes at once. The cause may be {' or '.join(own) or 'a plugin'}:"
        f" {str(error).strip().splitlines()[0][:200]} Write it without .item(), float(...) and branches on values of"
        " tensors, or train these runs as single runs: without --lanes, with numerics.mode = 'auto'."
    )


def _by_lane(losses: Losses, lanes: Iterable[int]) -> dict[int, Losses]:
    """The losses of some lanes, where they can be read, from those of all."""
    values = {name: value.cpu() for name, value in losses.items()}
    return {lane: {name: value[lane] for name, value in values.items()} for lane in lanes}


def _padded(free: Tensor | None, size: int, device: torch.device) -> Tensor | None:
    """Which weights of a row are moved; what fills the row up may be moved."""
    if free is None:
        return None
    return torch.cat([free, free.new_ones(-size % ALIGNED)]).to(device)


def check_group(configs: Sequence[RunConfig]) -> None:
    """Makes sure that runs can be lanes of one group.

    Raises:
        RunError: there are more runs than lanes, one is there twice, or their steps differ.
    """
    # A run of another mode is alone.
    width = configs[0].numerics.lanes or 1
    if any((config.numerics.lanes or 1) != width for config in configs):
        widths = sorted({config.numerics.lanes for config in configs})
        raise RunError(f"Runs of one group have the same numerics.lanes; these have {widths}.")
    if len(configs) > width:
        raise RunError(f"{len(configs)} runs do not fit into a group of {width} lanes. Give them in several groups.")
    for place, config in enumerate(configs):
        if config in configs[:place]:
            raise RunError(
                f"Lanes {configs.index(config)} and {place} are the same run, so it would be trained twice at once."
                " Give each run once, or another seed."
            )
    if any(graph_key(config) != graph_key(configs[0]) for config in configs):
        raise RunError(
            "Runs of one group have the same shapes, optimiser and number of labels; these have not. They may differ in"
            " seed, number of classes, frequencies, noise, learning rate and how sequences are drawn."
        )
