"""YAML is read as it stands or refused with the line, in bounded time, whatever a file holds."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml
from tiny import tiny_mapping
from tiny_study import tiny_study

from miclab.cli import main
from miclab.config.options import named_fields
from miclab.config.strict_yaml import DEEPEST, MOST_BYTES, MOST_VALUES, YamlError, parse_yaml
from miclab.errors import ConfigError, ContentError, MiclabError
from miclab.studies.plan import Plan
from miclab.studies.study import load_study, presets_of

STUDIES = sorted((Path(__file__).parents[1] / "studies").glob("*.yaml"))
TOKENS = [*"[]{}:,-?&*!|>'\"%@`#\n \t", "<<: ", "&a ", "*a", "!!int ", "!!float ", "!!bool ", "!!timestamp ", "!",
          '"\\U00110000"', '"\\ud800"', "- ", "? ", ": ", "\x85", "\u2028", "0x", "0b", "1:2", "---\n", "...\n",
          "%YAML 9.9\n", "%TAG ! x\n", "9" * 200, "2020-13-40", "\ufeff", "\x00"]  # fmt: skip


def keys_of(text: str) -> list[yaml.Node]:
    """Every key of a text, as a node with its place."""
    found: list[yaml.Node] = []

    def walk(node: yaml.Node) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                found.append(key)
                walk(value)
        elif isinstance(node, yaml.SequenceNode):
            for value in node.value:
                walk(value)

    walk(yaml.compose(text, yaml.SafeLoader))
    return found


def test_the_committed_studies_are_read_as_before():
    for file in STUDIES:
        text = file.read_text()
        assert repr(parse_yaml(text)) == repr(yaml.safe_load(text))


def test_a_key_that_stands_twice_is_refused_with_its_line():
    """Every key of every study, once more where it stands."""
    tried = 0
    for file in STUDIES:
        text = file.read_text()
        for key in keys_of(text)[::8]:
            start, line = key.start_mark.index, key.start_mark.line + 1
            flow = text[:start].rpartition("\n")[2].strip() not in ("", "-")
            again = f"{key.value}: 0{', ' if flow else chr(10) + ' ' * key.start_mark.column}"
            with pytest.raises(YamlError, match=rf"^YAML: line {line + (not flow)}: the key '?{key.value}'? stands tw"):
                parse_yaml(text[:start] + again + text[start:])
            tried += 1
    assert tried > 100


@pytest.mark.parametrize("text", ["1: a\n'1': b", "on: a\ntrue: b", "a: 1\n<<: {b: 2}\n<<: {c: 3}", "~: 1\nnull: 2"])
def test_keys_that_are_the_same_to_a_reader_are_refused(text):
    with pytest.raises(YamlError, match="stands twice"):
        parse_yaml(text)


def test_merge_keys_and_aliases_mean_what_they_mean_elsewhere():
    for text in (
        "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3, z: 4}",
        "a: &a {x: 1}\nb: &b {x: 2, w: 3}\nc: {z: 0, <<: [*a, *b]}",
        "a: &a [1, 2]\nb: *a\nc: [*a, *a]",
        "a: !!str 5\nb: '<<'\nc: 0x1F\nd: 1e3\ne: 1.5e+3\nf: .inf\ng: 1_000\nh: yes\ni: ~\nj: |\n  x\n  y\n",
    ):
        assert repr(parse_yaml(text)) == repr(yaml.safe_load(text))
    assert parse_yaml("a: 2026-11-26\nb: 2026-13-45\nc: 2026-11-26 25:61:61") == {
        "a": "2026-11-26", "b": "2026-13-45", "c": "2026-11-26 25:61:61"}  # fmt: skip


def bomb(depth: int, width: int, merged: bool) -> str:
    """Aliases of aliases, or merge keys of merge keys."""
    lines = ["a0: &a0 {" + ", ".join(f"k{i}: 1" for i in range(width)) + "}"]
    for i in range(1, depth):
        listed = ", ".join([f"*a{i - 1}"] * width)
        lines.append(f"a{i}: &a{i} {{<<: [{listed}]}}" if merged else f"a{i}: &a{i} [{listed}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (bomb(9, 9, True), f"more than {MOST_VALUES:,} values"),
        (bomb(30, 9, False), f"more than {MOST_VALUES:,} values"),
        ("a: &a {b: *a}", "stands inside itself"),
        ("a: *b", "is not known"),
        ("[" * 100_000, f"more than {DEEPEST} mappings and lists"),
        ("- " * 100_000, f"more than {DEEPEST} mappings and lists"),
        ("{a: " * 100_000, f"more than {DEEPEST} mappings and lists"),
        ("#" * (MOST_BYTES + 1), f"more than {MOST_BYTES:,} bytes"),
        (f"a: {'9' * 5000}", "5,000 characters"),
        (f"a: 0x{'f' * 5000}", "5,002 characters"),
        ("\n\na: !!int x", "line 3: 'x' is no int"),
        ("a: !!python/object/apply:os.system [ls]", "is not read"),
        ("a: !!set {b, c}", "is not read"),
        ("a: !!binary aGk=", "is not read"),
        ('a: "\\ud800"', "surrogate"),
        ('a: "\n\\Uffffffff"', ": line 2: "),
        ("a: 1\nb: \x01", ": line 2: "),
        ("[a]: 1", "cannot be a key"),
        ("a: 1\n---\nb: 2", "second document"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_at_once(text, why):
    with pytest.raises(YamlError, match=why):
        parse_yaml(text)


def test_whatever_stands_in_a_file_is_read_or_refused(tmp_path):
    """Studies with pieces of YAML thrown in: through the door of studies, so that what is read is judged too."""
    chance, refused = random.Random(0), 0
    texts = [file.read_text() for file in STUDIES if file.stat().st_size < 900]
    file = tmp_path / "study.yaml"
    for _ in range(200):
        text = chance.choice(texts)
        for _ in range(chance.randint(1, 4)):
            start = chance.randrange(len(text))
            end = start + chance.choice([0, 0, 1, 3, 10])
            text = text[:start] + chance.choice(TOKENS) * chance.choice([1, 1, 1, 3, 50]) + text[end:]
        file.write_bytes(text.encode(errors="replace"))
        try:
            for preset in presets_of(file):
                load_study(file, preset)
        except ContentError as error:
            refused += error.file == str(file)
    assert 50 < refused < 200


def test_a_text_that_is_read_twice_gives_two_values():
    """Fails if a reader that changes its value changes what the next one reads."""
    text = "a: &shared [1, {b: 2}]\nc: *shared\n"
    first = parse_yaml(text)
    first["a"][1]["b"] = 3
    first["d"] = 4
    assert parse_yaml(text) == {"a": [1, {"b": 2}], "c": [1, {"b": 2}]}


def test_every_door_uses_it(tmp_path, capsys):
    """Configurations, studies and options of plugins."""
    twice = f"{yaml.safe_dump(tiny_mapping())}seed: 1\nseed: 2\n"
    (tmp_path / "run.yaml").write_text(twice)
    line = len(twice.splitlines())
    assert main(["train", "unimodal", "--config", str(tmp_path / "run.yaml"), "--runs", str(tmp_path / "runs")]) == 2
    assert f"line {line}: the key 'seed' stands twice" in capsys.readouterr().err
    (tmp_path / "s.yaml").write_text("title: a\ntitle: b\n")
    with pytest.raises(ContentError, match=r"s\.yaml: line 2: the key 'title' stands twice"):
        load_study(tmp_path / "s.yaml", "quick")
    with pytest.raises(ConfigError, match="window stands twice"):
        named_fields("sliding_window:window=3,window=4", "decoder.attention")
    for value in ("!!int x", "[" * 99, "9" * 5000, "{a: 1, a: 2}"):
        with pytest.raises(ConfigError, match="NAME:OPTION=VALUE"):
            named_fields(f"sliding_window:window={value}", "decoder.attention")


@pytest.mark.parametrize("context", [-1, 0, 1, 100_001, 10**8, 10**30])
def test_a_context_that_cannot_be_is_refused_when_the_study_is_read(context, tmp_path):
    with pytest.raises(MiclabError, match=r"probe_contexts = -?[0-9]+ is not possible"):
        tiny_study(tmp_path, probes=["context"], probe_contexts=[8, context])


def test_a_context_that_no_point_can_have_is_refused_when_the_study_is_planned(tmp_path):
    """One that some point can have stays, and is stored as refused for the others."""
    axis = {"decoder.positions": ["learned", "rope"]}
    for values, possible in ((["learned"], False), (["learned", "rope"], True)):
        study = tiny_study(tmp_path, probes=["context"], probe_contexts=[200], grid=[{"product": {**axis,
                           "decoder.positions": values}}])  # fmt: skip
        if possible:
            assert len(Plan([study], "eager").runs) == 4
        else:
            with pytest.raises(MiclabError, match="probe_contexts = 200 is possible at no point of the study"):
                Plan([study], "eager")


def test_only_pictures_are_shifted(tmp_path):
    for source, possible in (("small:concepts.words", False), ("small:concepts.pictures", True)):
        modality = {"source": source, "shift": 2, "labels": 8, "classes": 48, "encoder": "mlp"}
        study = tiny_study(tmp_path, 2, grid=[{"config": {"modalities": {"m2": modality}}}])
        if possible:
            Plan([study], "eager")
        else:
            with pytest.raises(MiclabError, match=r"m2\.shift = 2 is not possible.*are no pictures"):
                Plan([study], "eager")
