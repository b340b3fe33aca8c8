"""A run's checkpoint beside the one that its weights started from, and results that compare the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from miclab.errors import RunError
from miclab.model.decoder import Parameters
from miclab.runs.find import find
from miclab.runs.run import Run
from miclab.tables import Tabled
from miclab.worlds.world import World, world_from_tensors


@dataclass(frozen=True)
class CheckpointPair:
    """A checkpoint of a run, and the checkpoint that it started from.

    Arguments:
        earlier: the run that it started from.
        later: the run.
        steps: the checkpoint of each.
        weights: all parameters of each.
    """

    earlier: Run
    later: Run
    steps: tuple[int, int]
    weights: tuple[Parameters, Parameters]

    @classmethod
    def of(cls, run: Run, step: int | None = None) -> CheckpointPair:
        """A run's checkpoint and the one that it started from.

        Arguments:
            step: the run's checkpoint; None: the last good one.

        Raises:
            RunError: it started from random weights, or the run that it started from is gone.
            ConfigError: there is no such checkpoint.
        """
        parent = run.config.parent
        if not parent.run:
            raise RunError(
                f"{run.path} started from random weights, so there is nothing to compare it with. Name a run of stage"
                " 2, or a sibling (`miclab train unimodal --stage-one RUN`)."
            )
        earlier = find(parent.run, run.path.parent)
        at, weights = run.parameters(step)
        before, old = earlier.parameters(parent.step)
        return cls(earlier, run, (before, at), (old, weights))

    def sibling(self, run: Run) -> CheckpointPair:
        """A sibling at the same step.

        Raises:
            RunError: it started elsewhere, has another modality than the earlier run, or lacks the checkpoint.
        """
        mine, its = self.later.config.parent, run.config.parent
        if (mine.run, mine.step) != (its.run, its.step):
            how = f"`miclab train unimodal --stage-one {self.earlier.path.name}@{mine.step}` makes one"
            raise RunError(
                f"{run.path} is no sibling of {self.later.path}: it did not start from {self.earlier.path} at step"
                f" {mine.step}. {how}."
            )
        if run.config.modalities != self.earlier.config.modalities:
            raise RunError(f"{run.path} is no sibling: it has not the modalities of {self.earlier.path}.")
        if self.steps[1] not in run.checkpoints:
            raise RunError(
                f"The sibling {run.path} has no checkpoint at step {self.steps[1]}, as {self.later.path} has; it has"
                f" {run.checkpoints}."
            )
        return CheckpointPair.of(run, self.steps[1])

    def world(self, is_later: bool) -> World:
        """The world of one of the two runs."""
        run = self.later if is_later else self.earlier
        return world_from_tensors(run.config, run.world_tensors())


class _Part(Protocol):
    def as_json(self) -> dict[str, Any]: ...


Part = TypeVar("Part", bound=_Part)
Result = TypeVar("Result", bound="BesideSibling[Any]")


@dataclass(frozen=True)
class BesideSibling(Tabled, Generic[Part]):
    """How a run differs from the run that it started from, beside the same of a sibling.

    Arguments:
        runs: names of the earlier and the later run.
        steps: the checkpoint of each.
        found: of every part.
        sibling: the same of the sibling; empty: none was given.
        sibling_run: its name, or empty.
    """

    runs: tuple[str, str]
    steps: tuple[int, int]
    found: tuple[Part, ...]
    sibling: tuple[Part, ...] = ()
    sibling_run: str = ""

    @classmethod
    def compared(
        cls: type[Result],
        run: Run,
        sibling: Run | None,
        step: int | None,
        compare: Callable[[CheckpointPair], tuple[Any, ...]],
    ) -> Result:
        """Compares the two checkpoints, and those of the sibling.

        Arguments:
            run: a run of stage 2, or any that started from another run's weights.
            sibling: a run of one modality that started from the same checkpoint, looked at at the same step.
            step: the run's checkpoint; None: the last good one.
            compare: gives every part of two checkpoints.

        Raises:
            RunError: the run started from random weights, or the sibling is none.
            ConfigError: there is no such checkpoint.
        """
        checkpoints = CheckpointPair.of(run, step)
        other = None if sibling is None else checkpoints.sibling(sibling)
        names, found = (checkpoints.earlier.path.name, run.path.name), compare(checkpoints)
        if sibling is None or other is None:
            return cls(names, checkpoints.steps, found)
        return cls(names, checkpoints.steps, found, compare(other), sibling.path.name)

    def json_of(self, parts: str) -> dict[str, Any]:
        """Everything as plain data.

        Arguments:
            parts: what the parts are called.
        """
        return {
            "runs": {"earlier": self.runs[0], "later": self.runs[1]}, "steps": self.steps,
            parts: [one.as_json() for one in self.found],
            "sibling": self.sibling_run or None, f"sibling_{parts}": [one.as_json() for one in self.sibling],
        }  # fmt: skip
