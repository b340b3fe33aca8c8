"""YAML of files and options, read strictly. All configurations, studies and options of plugins are read here.

Only plain data are read: mappings, lists, texts, numbers, booleans, null. Repeated keys, tags, and unusable numbers and
texts are refused. So are files that are too large or too deep, also after aliases and merge keys (`<<`) are expanded. A
date is text. Each refusal names the line.
"""

from __future__ import annotations

import copy
import functools
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import Resolver
from yaml.scanner import Scanner

from miclab import storage
from miclab.errors import ContentError

MOST_BYTES = 1_000_000
MOST_VALUES = 100_000
"""Most values in all, with aliases expanded."""
DEEPEST = 40
"""Most levels of nested mappings and lists."""
LONGEST_NUMBER = 100
"""Most characters of a number."""
TAG = "tag:yaml.org,2002:"
TEXTS = ("str", "timestamp", "value")
"""Kinds of scalars that are taken as text: a date as it is written."""


class YamlError(ContentError):
    """A YAML text that is refused; the place is the line, from 1."""


class _Refusal(Exception):  # noqa: N818
    """A text is refused at a line, from 0."""

    def __init__(self, line: int, problem: str):
        self.line, self.problem = line, textwrap.shorten(problem, 200, placeholder=" ...")


class _Events(Reader, Scanner, Parser, Composer, Resolver):
    """The events of a text, and the kinds of its scalars."""

    def __init__(self, text: str):
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        Resolver.__init__(self)


@dataclass(frozen=True)
class _Anchor:
    """The value of an alias and its number of values. There is none while it is being read."""

    value: Any = None
    size: int = 0


class _Builder:
    """Builds plain values from events."""

    def __init__(self, text: str):
        self.events, self.numbers = _Events(text), SafeConstructor()
        self.anchors: dict[str, _Anchor] = {}
        self.count = 0

    def document(self) -> Any:
        """The only document; None where there is none."""
        self.events.get_event()
        if self.events.check_event(yaml.StreamEndEvent):
            return None
        self.events.get_event()
        found = self._value(0)
        self.events.get_event()
        if not self.events.check_event(yaml.StreamEndEvent):
            raise _Refusal(self.events.peek_event().start_mark.line, "a second document begins")
        return found

    def _value(self, depth: int) -> Any:
        event = self.events.get_event()
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        before = self.count
        self._counted(1, event)
        if event.anchor is not None:
            if event.anchor in self.anchors:
                raise _Refusal(event.start_mark.line, f"the anchor &{event.anchor} stands twice")
            self.anchors[event.anchor] = _Anchor()
        if depth > DEEPEST:
            raise _Refusal(event.start_mark.line, f"more than {DEEPEST} mappings and lists stand inside each other")
        if isinstance(event, yaml.ScalarEvent):
            found = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            found = self._list(event, depth)
        else:
            found = self._mapping(event, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = _Anchor(found, self.count - before)
        return found

    def _counted(self, size: int, event: Any) -> None:
        self.count += size
        if self.count > MOST_VALUES:
            raise _Refusal(event.start_mark.line, f"more than {MOST_VALUES:,} values, with aliases written out")

    def _alias(self, event: yaml.AliasEvent) -> Any:
        anchor = self.anchors.get(event.anchor)
        if anchor is None or not anchor.size:
            problem = "stands inside itself" if anchor else "is not known"
            raise _Refusal(event.start_mark.line, f"the alias *{event.anchor} {problem}")
        self._counted(anchor.size, event)
        return anchor.value

    def _list(self, event: yaml.SequenceStartEvent, depth: int) -> list[Any]:
        _check_tag(event, "seq")
        found = []
        while not self.events.check_event(yaml.SequenceEndEvent):
            found.append(self._value(depth + 1))
        self.events.get_event()
        return found

    def _mapping(self, event: yaml.MappingStartEvent, depth: int) -> dict[Any, Any]:
        _check_tag(event, "map")
        own: dict[Any, Any] = {}
        lines: dict[str, int] = {}
        merged: dict[Any, Any] = {}
        while not self.events.check_event(yaml.MappingEndEvent):
            first = self.events.peek_event()
            is_merge = isinstance(first, yaml.ScalarEvent) and self._kind(first) == "merge"
            key = self._value(depth + 1)
            if isinstance(key, (list, dict)):
                raise _Refusal(first.start_mark.line, "a list or a mapping cannot be a key")
            # Readers of the result take keys as text.
            if str(key) in lines:
                raise _Refusal(first.start_mark.line, f"the key {key!r} stands twice, first on line {lines[str(key)]}")
            lines[str(key)] = first.start_mark.line + 1
            value = self._value(depth + 1)
            if is_merge:
                merged = self._merged(value, first)
            else:
                own[key] = value
        self.events.get_event()
        return {**merged, **own}

    def _merged(self, value: Any, event: Any) -> dict[Any, Any]:
        """The fields of a merge key's mapping, or of several, of which earlier ones count."""
        several = value if isinstance(value, list) else [value]
        found: dict[Any, Any] = {}
        for one in reversed(several):
            if not isinstance(one, dict):
                raise _Refusal(event.start_mark.line, "the merge key << takes a mapping, or a list of mappings")
            found.update(one)
        return found

    def _kind(self, event: yaml.ScalarEvent) -> str:
        """The type of a scalar: `int`, `str`, `null`, ..."""
        tag = event.tag
        if tag is None or tag == "!":
            tag = self.events.resolve(yaml.ScalarNode, event.value, event.implicit)
        return tag.removeprefix(TAG)

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        kind, text = self._kind(event), event.value
        if kind in TEXTS or kind == "merge":
            if any("\ud800" <= letter <= "\udfff" for letter in text):
                raise _Refusal(event.start_mark.line, "a text holds half a character (a surrogate)")
            return text
        if kind == "null":
            return None
        if kind not in ("bool", "int", "float"):
            raise _Refusal(event.start_mark.line, f"the tag {kind!r} is not read: write the value without a tag")
        if len(text) > LONGEST_NUMBER:
            raise _Refusal(event.start_mark.line, f"a number has {len(text):,} characters; at most {LONGEST_NUMBER}")
        node = yaml.ScalarNode(TAG + kind, text)
        try:
            return getattr(self.numbers, f"construct_yaml_{kind}")(node)
        except (ValueError, KeyError, IndexError, OverflowError) as error:
            raise _Refusal(event.start_mark.line, f"{text!r} is no {kind}") from error


def _check_tag(event: Any, kind: str) -> None:
    if event.tag not in (None, "!", TAG + kind):
        raise _Refusal(event.start_mark.line, f"the tag {event.tag!r} is not read: write the value without a tag")


def parse_yaml(text: str, file: object = "YAML") -> Any:
    """The plain value of a YAML text; None where it is empty.

    Arguments:
        file: what it is the text of, for messages.

    Raises:
        YamlError: it is no YAML, or is refused (see the module); the message names the line.
    """
    try:
        return copy.deepcopy(_parsed(text))
    except _Refusal as error:
        raise YamlError(file, error.problem, f"line {error.line + 1}") from error


@functools.lru_cache(maxsize=128)
def _parsed(text: str) -> Any:
    """The value of a text. It is kept, since a study is read for its presets, and again for its plan."""
    if len(text.encode(errors="replace")) > MOST_BYTES:
        raise _Refusal(0, f"the text has more than {MOST_BYTES:,} bytes")
    builder = None
    try:
        builder = _Builder(text)
        return builder.document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _Refusal(mark.line if mark else 0, error.problem or "no YAML") from error
    except yaml.reader.ReaderError as error:
        raise _Refusal(text.count("\n", 0, error.position), error.reason) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # A scanner's own conversions, as of a character's number that is too large.
        raise _Refusal(builder.events.line if builder else 0, f"no YAML ({error})") from error


def read_yaml(file: Path) -> Any:
    """The plain value of a YAML file.

    Raises:
        YamlError: it cannot be read, or is refused.
    """
    try:
        storage.check_regular(file)
        with open(file, "rb") as opened:
            content = opened.read(MOST_BYTES + 1)
    except OSError as error:
        raise YamlError(file, f"expected a YAML file that can be read ({error.strerror or error})") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise YamlError(file, f"expected UTF-8, found the byte {content[error.start]:#04x}", f"line {line}") from error
    return parse_yaml(text, file)
