"""How options of the command line are read whose values are names of a registry, or a name with options of its own."""

from __future__ import annotations

from typing import Any

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from miclab.config.options import ATTENTION, LOSS_TERMS, AttentionOptions, LossOptions, named_fields, option_text
from miclab.config.registry import Name
from miclab.errors import ConfigError

RULES = ConstructorRegistry()
"""Rules for `tyro.cli`."""


@RULES.primitive_rule
def _named(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """One of a registry's names."""
    if not (isinstance(info.type, type) and issubclass(info.type, Name)):
        return None
    names = tuple(info.type.registry)
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{{{','.join(names)}}}",
        instance_from_str=lambda given: given[0],
        is_instance=lambda value: isinstance(value, str),
        str_from_instance=lambda value: [value],
        choices=names,
    )


@RULES.primitive_rule
def _attention(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """A mechanism with its options."""
    if info.type is not AttentionOptions:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{{{','.join(ATTENTION)}}}[:OPTION=VALUE,...]",
        instance_from_str=lambda given: AttentionOptions.read(given[0], "decoder.attention", None),
        is_instance=lambda value: isinstance(value, AttentionOptions),
        str_from_instance=lambda value: [option_text(value.name, value)],
    )


@RULES.primitive_rule
def _objective(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Terms of the loss with their options."""
    if info.type != dict[str, LossOptions]:
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=f"[{{{','.join(LOSS_TERMS)}}}[:OPTION=VALUE,...] ...]",
        instance_from_str=_terms,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [option_text(name, options) for name, options in value.items()],
    )


def _terms(given: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in given:
        name, fields = named_fields(text, "objective")
        if name in found:
            raise ConfigError("objective", given, f"each term once; {name} is named twice")
        found[name] = LossOptions.read(fields, f"objective.{name}", None)
    return found
