"""The registry of measures: definition, needed activations and explanation of each number by layer and head.

A measure is a function that returns one value for each head. Its arguments are found by their names: the activations of
one layer that `needs` lists, and the entries of `CONTEXT`. A user's file adds a measure by the decorator `measure`;
`miclab evaluate RUN --plugin FILE.py --measures NAME` computes it.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from miclab.config.registry import Registry
from miclab.errors import MiclabError

if TYPE_CHECKING:
    from miclab.config.run import RunConfig

    Guides = Callable[[RunConfig], Sequence[tuple[float, str]]]

CONTEXT = {
    "roles": "what each position of a sequence is (`miclab.worlds.roles.Roles`)",
    "labels": "labels of the context [batch, context]",
    "target": "label of the query [batch]",
    "modality": "name of a modality; the measure is then taken of each, as NAME.MODALITY",
    "visible": "whether a query may see a key, broadcast to [batch, head, query, key]",
    "head_count": "number of heads of a layer",
}
"""Arguments that every measure may have beside the activations that it needs."""
PARAMETERS = "parameters"
"""The need of a measure of weights: the layer's own parameters by name, such as `attention.query` [input, output]."""
BUILT_IN = ("miclab.measures.attention",)
"""Modules that register measures of this package."""
FIRST = "induction_total"
"""The measure that a report shows first."""


@dataclass(frozen=True)
class Measure:
    """A measure of every head.

    Arguments:
        name: its name in rows, options and files.
        function: gives [batch, head], or [head] if it does not depend on the sequence.
        needs: activations of a layer, by the last part of their name in a trace (`pattern` is
            `blocks.i.attention.pattern`, `residual` is `blocks.i.residual`), and `parameters`.
        range: lowest and highest value.
        title: a few words for a reader.
        words: its explanation, in one line.
        guides: reference levels with their names, for a configuration.
        assumes: facts about attention that it relies on. `softmax`: no weight is negative and each row sums to 1.
        always: whether every evaluation in training computes it, so that rows hold it.
    """

    name: str
    function: Callable[..., Any]
    needs: tuple[str, ...]
    range: tuple[float, float]
    title: str
    words: str
    guides: Guides
    assumes: tuple[str, ...] = ()
    always: bool = False

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The function: its file is the file of the measure."""
        return self.function

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of the function's arguments."""
        return _arguments(self.function)

    @property
    def is_by_modality(self) -> bool:
        """Whether there is one value for each modality."""
        return "modality" in self.arguments

    def why_not(self, activations: Collection[str], facts: Collection[str]) -> str:
        """Why a decoder cannot give the measure, in words; empty where it can.

        Arguments:
            activations: those of its layers, by the names of `needs`.
            facts: about its attention, by the names of `assumes`.
        """
        if missing := [need for need in self.needs if need not in activations]:
            return f"the decoder's attention gives no {' and no '.join(missing)}"
        if missing := [fact for fact in self.assumes if fact not in facts]:
            return f"it assumes {' and '.join(missing)}, which the decoder's attention is not"
        return ""


MEASURES: Registry[Measure] = Registry("measure")


@functools.cache
def _arguments(function: Callable[..., Any]) -> tuple[str, ...]:
    parameters = inspect.signature(function).parameters.values()
    return tuple(one.name for one in parameters if one.default is one.empty)


def _no_guides(config: RunConfig) -> Sequence[tuple[float, str]]:
    return ()


def measure(
    name: str,
    *,
    needs: tuple[str, ...],
    range: tuple[float, float],
    words: str,
    title: str = "",
    guides: Guides = _no_guides,
    assumes: tuple[str, ...] = (),
    always: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that registers a function as a measure and leaves the function as it is; arguments: see `Measure`.

    Raises:
        MiclabError: the name is taken, or the function has an unknown argument.
    """

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        known = (*needs, *CONTEXT)
        if wrong := [argument for argument in _arguments(function) if argument not in known]:
            raise MiclabError(
                f"The measure {name!r} has an argument {wrong[0]!r} that it is not given. Name an activation in `needs`"
                f" and as an argument, or use {', '.join(CONTEXT)}."
            )
        shown = title or name.replace("_", " ").capitalize()
        MEASURES.register(name)(Measure(name, function, needs, range, shown, words, guides, assumes, always))
        return function

    return add


def known() -> Registry[Measure]:
    """The registry with this package's own measures in it."""
    for module in BUILT_IN:
        importlib.import_module(module)
    return MEASURES


def chosen(names: bool | Iterable[str]) -> tuple[Measure, ...]:
    """Measures by name; True: those of every evaluation; False: none.

    Raises:
        ConfigError: there is no such measure; the message names the nearest ones.
    """
    registry = known()
    if isinstance(names, bool):
        return tuple(one for one in registry.values() if one.always) if names else ()
    return tuple(registry.find(name, "measures") for name in dict.fromkeys(names))


def describe(name: str) -> tuple[str, str]:
    """Title and explanation of a measure, `NAME` or `NAME.MODALITY`; of one that is not known, its name."""
    stem, _, modality = name.partition(".")
    found = known().get(stem)
    title, words = (found.title, found.words) if found else (stem.replace("_", " "), "")
    return (f"{title} ({modality})" if modality else title), words


def guides(name: str, config: RunConfig) -> list[tuple[float, str]]:
    """Levels that the measure itself names to help to read it, `NAME` or `NAME.MODALITY`, such as what it can reach."""
    found = known().get(name.partition(".")[0])
    return list(found.guides(config)) if found else []
