"""Options of the parts that a configuration chooses by name: the attention mechanism and the terms of the loss.

Each mechanism or term has a dataclass of its own options, a subclass of the one here. It stands in the file that
registers the mechanism or term; those of the package's own mechanisms stand in `mechanisms.py`. A configuration holds
an instance of it. In YAML and in Python's plain data it is a mapping, or text:

    decoder: {attention: {name: sliding_window, window: 3}}        objective: {attention_aid: {weight: 1, until: 300}}
    decoder: {attention: "sliding_window:window=3"}                objective: {attention_aid: 1}

and on the command line text: `--decoder.attention sliding_window:window=3 --objective attention_aid:until=300`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from miclab.config.checks import check_number, check_whole
from miclab.config.registry import Registry, modules_in
from miclab.config.schema import from_mapping, to_mapping
from miclab.errors import ConfigError

if TYPE_CHECKING:
    from miclab.config.run import RunConfig

SOFTMAX = "softmax"
"""Name of the usual attention, which needs no options of its own."""
ATTENTION: Registry[Any] = Registry(
    "attention mechanism", "decoder.attention", modules_in("miclab.model.attention", "mechanism", "share")
)
"""Attention mechanisms: classes, each with its dataclass of options as `Options`."""
LOSS_TERMS: Registry[Any] = Registry("loss term", "objective", {"cross_entropy": "miclab.training.objective"})
"""Terms of the loss: classes, each with its dataclass of options as `Options`."""


@dataclass(frozen=True, kw_only=True)
class AttentionOptions:
    """The attention of the blocks. A mechanism with its own options has a subclass with more fields."""

    name: str = SOFTMAX
    """The mechanism (see `miclab.model.attention`)."""
    layers: tuple[int, ...] = ()
    """Layers, from 0, that have it; the others have `softmax`. Empty: all of them."""

    @classmethod
    def read(cls, data: Any, where: str, base: AttentionOptions | None) -> AttentionOptions:
        """Options from plain data, a mapping or text; fields that it lacks are taken from `base`.

        Raises:
            ConfigError: an unknown mechanism or field (naming the nearest one), or a value of the wrong type.
        """
        if isinstance(data, AttentionOptions):
            return data
        if isinstance(data, str):
            name, found = named_fields(data, where)
            data = {**found, "name": name}
        if not isinstance(data, Mapping):
            raise ConfigError(where, data, "a mechanism's name, or a mapping of `name` and its options to values")
        name = data.get("name", base.name if base else SOFTMAX)
        kind = attention_options(name, f"{where}.name")
        return from_mapping(kind, data, where, base if type(base) is kind else None)

    def check(self, owner: str) -> None:
        """Raises ConfigError for values that cannot be; a subclass calls it too."""
        kind = attention_options(self.name, f"{owner}.name")
        if type(self) is not kind:
            raise ConfigError(owner, type(self).__name__, f"{kind.__name__}, the options of {self.name!r}")

    def check_shape(self, owner: str, config: RunConfig) -> None:
        """Raises ConfigError for options that contradict the rest, such as the width or the number of heads."""

    def names(self) -> tuple[str, ...]:
        """Names of the mechanisms that it chooses."""
        return (self.name,)

    def uses(self, layer: int) -> bool:
        """Whether a layer, from 0, has the mechanism."""
        return not self.layers or layer in self.layers


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """A term of the loss. A term with its own options has a subclass with more fields."""

    weight: float = 1.0
    """Factor of the term in the loss."""
    until: int = 0
    """Number of first steps in which the term is active; 0: all steps."""

    @classmethod
    def read(cls, data: Any, where: str, base: LossOptions | None) -> LossOptions:
        """Options from plain data: a mapping, text, or the weight alone. The term is named by the end of `where`.

        Raises:
            ConfigError: an unknown term or field (naming the nearest one), or a value of the wrong type.
        """
        kind = loss_options(where.rpartition(".")[2])
        if isinstance(data, LossOptions):
            return data
        if isinstance(data, str):
            _, data = named_fields(f"_:{data}", where)
        if isinstance(data, (int, float)) and not isinstance(data, bool):
            data = {"weight": data}
        if not isinstance(data, Mapping):
            raise ConfigError(where, data, "a weight, or a mapping of the term's options to values")
        return from_mapping(kind, data, where, base if type(base) is kind else None)

    def check(self, owner: str, config: RunConfig) -> None:
        """Raises ConfigError for values that cannot be; a subclass calls it too."""
        kind = loss_options(owner.rpartition(".")[2])
        if type(self) is not kind:
            raise ConfigError(owner, type(self).__name__, f"{kind.__name__}, the options of this term")
        check_number(owner, self, "weight", -1e6, 1e6)
        check_whole(owner, self, "until", 0)

    def counts(self, step: int) -> bool:
        """Whether the term is active in the update after `step` finished ones."""
        return self.weight != 0 and (not self.until or step < self.until)


def attention_options(name: str, field: str = "") -> type[AttentionOptions]:
    """The dataclass of a mechanism's options.

    Raises:
        ConfigError: there is no such mechanism.
    """
    from miclab.config.mechanisms import OPTIONS

    # Mechanisms of the package are read without torch.
    return OPTIONS[name] if name in OPTIONS else ATTENTION.find(name, field).Options


def loss_options(name: str) -> type[LossOptions]:
    """The dataclass of a loss term's options.

    Raises:
        ConfigError: there is no such term.
    """
    return LOSS_TERMS.find(name, f"objective.{name}").Options


def named_fields(text: str, where: str) -> tuple[str, dict[str, Any]]:
    """Name and fields of text such as `sliding_window:window=3,layers=[0]`; values are read as YAML.

    Raises:
        ConfigError: the text has another form.
    """
    from miclab.config.strict_yaml import YamlError, parse_yaml

    name, _, rest = text.partition(":")
    found: dict[str, Any] = {}
    # Commas inside brackets belong to a value.
    for part in re.split(r",(?![^\[]*\])", rest) if rest else ():
        field, equals, value = part.partition("=")
        try:
            plain = parse_yaml(value)
        except YamlError:
            equals, plain = "", None
        if field.strip() in found:
            raise ConfigError(where, text, f"each option once: {field.strip()} stands twice")
        if not equals or not field.strip():
            raise ConfigError(where, text, "NAME, or NAME:OPTION=VALUE,OPTION=VALUE")
        found[field.strip()] = plain
    return name.strip(), found


def option_text(name: str, options: Any) -> str:
    """The text that `named_fields` reads: the name, and the fields that differ from their default."""
    changed = [item.name for item in fields(options) if getattr(options, item.name) != item.default]
    plain = to_mapping(options)
    values = [f"{field}={plain[field]}".replace(", ", ",") for field in changed if field != "name"]
    return f"{name}:{','.join(values)}" if values else name
