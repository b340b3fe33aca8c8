"""Two checkpoints of one line of descent: a run, and the run whose weights it started from."""

from __future__ import annotations

from dataclasses import dataclass

from miclab.errors import RunError
from miclab.model.decoder import Parameters
from miclab.runs.find import find
from miclab.runs.run import Run
from miclab.worlds.world import World, world_from_tensors


@dataclass(frozen=True)
class Descent:
    """A run and the run that it started from.

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
    def of(cls, run: Run, step: int | None = None) -> Descent:
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

    def sibling(self, run: Run) -> Descent:
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
        return Descent.of(run, self.steps[1])

    def world(self, is_later: bool) -> World:
        """The world of one of the two runs."""
        run = self.later if is_later else self.earlier
        return world_from_tensors(run.config, run.world_tensors())
