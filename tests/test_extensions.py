"""Plugins: what is loaded, what is refused, and that nothing but an option or an installed package loads one."""

from __future__ import annotations

import json
import textwrap

import pytest

from miclab import cli
from miclab.config import extensions
from miclab.config.registry import Registry
from miclab.errors import ConfigError, MiclabError
from miclab.studies.task import perform


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No plugin is loaded at the start of a test, and none stays."""
    monkeypatch.setattr(extensions, "_loaded", {})
    monkeypatch.setattr(extensions, "_installed", set())


@pytest.fixture
def plugin(tmp_path):
    """A function that writes a plugin's file."""

    def write(content: str, name: str = "mine.py"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(content))
        return path

    return write


def test_a_plugin_registers_and_is_recorded_by_its_content(plugin):
    """Fails if what a file registers cannot be found, or the record does not tell two contents apart."""
    registry: Registry = Registry("number", "numbers.name")
    extensions.numbers = registry  # type: ignore[attr-defined]
    try:
        path = plugin(
            """
            from miclab.config.extensions import numbers

            @numbers.register("seven")
            def seven():
                \"\"\"The number 7.\"\"\"
                return 7
            """
        )
        loaded = extensions.load_plugin(path)
        assert registry.find("seven")() == 7
        assert registry.summary("seven") == "The number 7."
        assert extensions.marks_of([(registry, "seven")]) == (loaded.mark,)
        extensions.check_marks([loaded.mark])
        assert extensions.load_plugin(path) is loaded
        with pytest.raises(ConfigError, match=r"plugins = 'mine'.*SHA-256"):
            extensions.check_marks([loaded.mark[:-1] + "x"])
        with pytest.raises(ConfigError, match=r"--plugin other\.py"):
            extensions.check_marks(["other:abc"])
        with pytest.raises(ConfigError, match=r"numbers\.name = 'sevn'.*'seven'.*--plugin"):
            registry.check("sevn")
        with pytest.raises(MiclabError, match="already"):
            registry.register("seven")(Registry)
        path.write_text(path.read_text() + "\n# changed\n")
        with pytest.raises(MiclabError, match="changed since this process loaded it"):
            extensions.load_plugin(path)
    finally:
        del extensions.numbers  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        ("x = 1 / 0", "mine.py", "ZeroDivisionError"),
        ("def broken(:", "mine.py", "SyntaxError"),
        ("x = 1", "mine.txt", "ends in .py"),
        (None, "none.py", "cannot be read"),
        ("import nothing_of_this_name", "mine.py", "ModuleNotFoundError"),
    ],
)
def test_a_bad_plugin_is_named(plugin, tmp_path, capsys, content, name, words):
    """Fails if a bad file ends in a traceback, or the message does not name it."""
    path = tmp_path / name if content is None else plugin(content, name)
    assert cli.main(["runs", "--plugin", str(path)]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert name in told
    assert "Traceback" not in told


def test_plugin_needs_a_file(capsys):
    """Fails if an option without its value is passed over."""
    assert cli.main(["runs", "--plugin"]) == 2
    assert "--plugin needs the path" in capsys.readouterr().err


def test_a_worker_refuses_a_plugin_that_has_changed(plugin, tmp_path):
    """Fails if a worker executes another file than its engine did, or a plugin that the task's file names."""
    path = plugin("x = 1")
    loaded = extensions.load_plugin(path)
    handed = extensions.handed_on()
    assert handed == ((str(path), loaded.digest),)
    task = tmp_path / f"{'0' * 64}.engine.json"
    task.write_text(json.dumps({"plugins": [str(plugin("raise SystemExit", "other.py"))]}))
    path.write_text("x = 2")
    extensions._loaded.clear()
    answer = json.loads(perform(str(task), handed))
    assert answer["status"] == "failed"
    assert "has changed since it was named" in answer["reason"]
