"""The loss: a weighted sum of terms, by default only the cross-entropy at the query.

A user's term is a class or a function with the decorator `loss_term`, in a file given by `--plugin`. The configuration
then accepts its name under `objective`. It sees the batch, the logits and the activations it needs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from miclab.config.options import LOSS_TERMS, LossOptions
from miclab.config.run import RunConfig
from miclab.errors import ConfigError, RunError
from miclab.model.classifier import Classifier, model_of
from miclab.model.decoder import Decoder, Parameters
from miclab.worlds.sequences import Batch

CROSS_ENTROPY = "cross_entropy"
Losses = dict[str, Tensor]
"""`loss`, the minimised value, and `loss.NAME`, the unweighted value of each term, if a run has terms."""
Activations = Mapping[str, Tensor]
Thing = TypeVar("Thing")


class LossTerm:
    """A term of the loss. A subclass has `__call__`; its options are an instance of its `Options`.

    Arguments:
        config: the run's configuration.
        options: the term's own.
    """

    Options: type[LossOptions] = LossOptions
    """Dataclass of the term's options; a subclass of `LossOptions` where it has more than weight and end."""
    needs: tuple[str, ...] = ()
    """Activations that the term needs (see `Decoder.activations`); a name may end in `*`. If there are any, every step
    computes all positions and is slower."""

    def __init__(self, config: RunConfig, options: LossOptions):
        self.config = config
        self.options: Any = options

    def __call__(
        self, batch: Batch, logits: Float[Tensor, "batch label"], activations: Activations
    ) -> Float[Tensor, ""]:
        """The term: a mean over the batch, without the weight.

        Arguments:
            logits: at the query.
            activations: those in `needs`, by name.
        """
        raise NotImplementedError


def loss_term(name: str, needs: tuple[str, ...] = ()) -> Callable[[Thing], Thing]:
    """A decorator that registers a term of the loss: a `LossTerm`, or a function of (batch, logits, activations).

    Arguments:
        needs: for a function, the activations that it gets.

    Raises:
        MiclabError: the name is not a plain word, or is taken.
    """

    def add(thing: Thing) -> Thing:
        term: Any = thing
        if not inspect.isclass(term):
            function = term
            own = {"__call__": lambda self, *given: function(*given), "needs": needs}
            term = type(name, (LossTerm,), {**own, "__doc__": function.__doc__, "__module__": function.__module__})
        LOSS_TERMS.register(name)(term)
        return thing

    return add


@loss_term(CROSS_ENTROPY)
def cross_entropy(batch: Batch, logits: Float[Tensor, "batch label"], activations: Activations) -> Float[Tensor, ""]:
    """Mean cross-entropy, in nats, over the labels at the query."""
    return F.cross_entropy(logits, batch.target)


class Objective:
    """The loss of a configuration.

    Arguments:
        config: the run's configuration.

    Raises:
        ConfigError: a term needs an activation that the decoder does not have.
    """

    def __init__(self, config: RunConfig):
        self.model: Decoder | Classifier = model_of(config)
        self.options = {CROSS_ENTROPY: LossOptions(), **config.objective}
        self.terms = {name: LOSS_TERMS.find(name)(config, options) for name, options in self.options.items()}
        self.is_plain = not config.objective
        for name, term in self.terms.items():
            if isinstance(self.model, Decoder) and term.needs:
                try:
                    self.model.named(term.needs)
                except RunError as error:
                    raise ConfigError(
                        "objective", name, f"a term whose activations the decoder has. {error}"
                    ) from error

    @property
    def names(self) -> tuple[str, ...]:
        """The names that `losses` can hold."""
        return ("loss",) if self.is_plain else ("loss", *(f"loss.{name}" for name in self.terms))

    def active(self, step: int) -> tuple[str, ...]:
        """The terms that are active in the update after `step` finished ones."""
        return tuple(name for name, options in self.options.items() if options.counts(step))

    def losses(self, parameters: Parameters, batch: Batch, active: tuple[str, ...]) -> Losses:
        """The loss and its terms.

        Arguments:
            active: the terms that count.
        """
        needs = tuple(dict.fromkeys(name for term in active for name in self.terms[term].needs))
        activations: Activations = {}
        if needs and isinstance(self.model, Decoder):
            trace = self.model.trace(parameters, batch, capture=needs)
            logits, activations = trace.logits, trace.activations
        else:
            logits = self.model.logits(parameters, batch)
        if self.is_plain:
            return {"loss": cross_entropy(batch, logits, activations)}
        device = batch.target.device
        if batch.roles.kind.device != device:
            batch = replace(batch, roles=batch.roles.on(device))
        found = {f"loss.{name}": self.terms[name](batch, logits, activations) for name in active}
        total = sum(self.options[name].weight * found[f"loss.{name}"] for name in active)
        return {"loss": total if isinstance(total, Tensor) else logits.sum() * 0, **found}
