"""Plugins: what is loaded, what is refused, and that nothing but an option or an installed package loads one."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

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


def test_a_plugin_registers_and_is_recorded_by_its_content(plugin, monkeypatch):
    """Fails if what a file registers cannot be found, or two contents have the same record."""
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
        assert extensions.fingerprints_of([(registry, "seven")]) == (loaded.fingerprint,)
        extensions.check_fingerprints([loaded.fingerprint])
        assert extensions.load_plugin(path) is loaded
        monkeypatch.chdir(path.parent)
        assert extensions.as_options()[-2:] == ["--plugin", "mine.py"]
        with pytest.raises(ConfigError, match=r"mine\.py has changed since .*SHA-256.* Restore .* train again"):
            extensions.check_fingerprints([loaded.fingerprint[:-1] + "x"])
        with pytest.raises(ConfigError, match=r"plugin 'other', which is not loaded.*--plugin other\.py"):
            extensions.check_fingerprints(["other:abc"])
        with pytest.raises(ConfigError, match=r"numbers\.name = 'sevn'.*'seven'.*--plugin"):
            registry.check("sevn")
        with pytest.raises(MiclabError, match="already"):
            registry.register("seven")(Registry)
        path.write_text(path.read_text() + "\n# changed\n")
        with pytest.raises(MiclabError, match="changed since this process loaded it"):
            extensions.load_plugin(path)
    finally:
        del extensions.numbers  # type: ignore[attr-defined]


def test_a_file_that_a_plugin_imports_is_recorded_too(plugin, tmp_path, monkeypatch):
    """Fails if what a neighbour of a plugin registers stands in no record, if a changed neighbour is taken up or
    executed by a worker, or if a run that was made with it is opened with another content."""
    registry: Registry = Registry("number", "numbers.name")
    monkeypatch.setattr(extensions, "numbers", registry, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    register = """
        from miclab.config.extensions import numbers

        @numbers.register("{name}")
        def number():
            return 0
    """
    beside = plugin(register.format(name="eight"), "neighbour_of_mine.py")
    mine = plugin("import neighbour_of_mine\n" + textwrap.dedent(register.format(name="seven")))
    try:
        loaded = extensions.load_plugin(mine)
        digest = hashlib.sha256(beside.read_bytes()).hexdigest()
        assert extensions.fingerprints_of([(registry, "seven")]) == (loaded.fingerprint,)
        marks = extensions.fingerprints_of([(registry, "eight")])
        assert marks == (f"neighbour_of_mine:{digest}",)
        handed = extensions.handed_on()
        assert handed == ((str(mine), loaded.digest), (str(beside), digest))
        beside.write_text(beside.read_text() + "raise SystemExit\n")
        extensions._loaded.clear()
        del sys.modules["neighbour_of_mine"]
        with pytest.raises(MiclabError, match=r"neighbour_of_mine\.py: the file has changed since it was named"):
            extensions.taken_up(handed)
        assert extensions.loaded() == ()
        beside.write_text(beside.read_text().replace("raise SystemExit", "# another content"))
        extensions.load_plugin(mine)
        with pytest.raises(ConfigError, match=r"neighbour_of_mine.*SHA-256"):
            extensions.check_fingerprints(marks)
    finally:
        sys.modules.pop("neighbour_of_mine", None)


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        ("x = 1\nx = x / 0", "mine.py", "in line 2 (ZeroDivisionError"),
        ("x = 1\n\ndef broken(:", "mine.py", "in line 3 (SyntaxError"),
        ("x = 1", "mine.txt", "ends in .py"),
        (None, "none.py", "cannot be read"),
        ("import nothing_of_this_name", "mine.py", "ModuleNotFoundError"),
    ],
)
def test_a_bad_plugin_is_named(plugin, tmp_path, capsys, content, name, words):
    """Fails if a bad file ends in a traceback, or the message does not name it."""
    path = tmp_path / name if content is None else plugin(content, name)
    assert cli.main(["runs", "--plugin", str(path)]) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert name in shown
    assert "Traceback" not in shown


def test_a_plugin_that_adds_nothing_is_remarked(plugin):
    """Fails if a script that was named by mistake is executed in silence."""
    with pytest.warns(UserWarning, match="mine.py: it adds nothing"):
        extensions.load_plugin(plugin("x = 1", "mine.py"))


def test_plugin_needs_a_file(capsys):
    """Fails if an option without its value is passed over."""
    assert cli.main(["runs", "--plugin"]) == 2
    assert "--plugin needs the path" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*it adds nothing")
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


EXTENSIONS = Path(__file__).parent / "extensions"
SMALL = [
    "--modalities.m1.classes", "64", "--sequence.context", "4", "--sequence.burstiness", "2",
    "--request.steps", "4", "--request.evaluate-every", "2", "--request.checkpoint-every", "4",
    "--request.sequences", "10",
]  # fmt: skip


FORKS = """
import json, os, sys, traceback
from miclab.cli import main
import miclab.training.loop  # It takes seconds.
for line in sys.stdin:
    folder, words, output, errors = json.loads(line)
    process = os.fork()
    if not process:
        os.chdir(folder)
        for number, file in ((1, output), (2, errors)):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
        try:
            status = main(words)
        except SystemExit as ended:
            status = ended.code
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status or 0)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def miclab(tmp_path_factory) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """A command in a process of its own, which has loaded no plugin yet: a fork of a Python that has only imported."""
    place, count = tmp_path_factory.mktemp("commands"), itertools.count()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", FORKS], cwd=Path(__file__).parents[1], **pipes) as forks:

        def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
            output, errors = (place / f"{next(count)}.txt" for _ in "oe")
            forks.stdin.write(json.dumps([str(folder), words, str(output), str(errors)]) + "\n")
            forks.stdin.flush()
            status = int(forks.stdout.readline())
            return subprocess.CompletedProcess(words, status, output.read_text(), errors.read_text())

        yield run


def test_a_run_names_its_plugins_and_is_refused_without_them(miclab, tmp_path):
    """Fails if a plugin's content is not part of a run's identity, or if a run is opened, resumed or listed without
    the plugin that it was trained with in another way than by naming it."""
    mine = tmp_path / "t5_bias.py"
    mine.write_text((EXTENSIONS / "t5_bias.py").read_text())
    words = ["train", "unimodal", *SMALL, "--decoder.positions", "t5_bias", "--json"]
    first = json.loads(miclab(tmp_path, *words, "--plugin", "t5_bias.py").stdout)
    config = json.loads((tmp_path / first["run"] / "config.json").read_text())
    assert config["plugins"] == [f"t5_bias:{hashlib.sha256(mine.read_bytes()).hexdigest()}"]
    for command in (["evaluate", first["run"]], ["resume", first["run"], "--steps", "6"]):
        refused = miclab(tmp_path, *command)
        assert refused.returncode == 2
        assert "--plugin t5_bias.py" in refused.stderr
        assert "Traceback" not in refused.stderr
    # A run that uses nothing of a plugin does not depend on it.
    plain = json.loads(miclab(tmp_path, "train", "unimodal", *SMALL, "--json", "--plugin", "t5_bias.py").stdout)
    assert json.loads((tmp_path / plain["run"] / "config.json").read_text())["plugins"] == []
    listed = miclab(tmp_path, "runs")
    assert Path(plain["run"]).name in listed.stdout
    assert "needs plugin" in listed.stdout
    assert "damaged" not in listed.stdout
    assert listed.returncode == 0
    mine.write_text(mine.read_text() + "\n# another content\n")
    changed = miclab(tmp_path, "evaluate", first["run"], "--plugin", "t5_bias.py")
    assert changed.returncode == 2
    assert "SHA-256" in changed.stderr
    second = json.loads(miclab(tmp_path, *words, "--plugin", "t5_bias.py").stdout)
    assert second["run"] != first["run"]


def test_a_study_hands_its_plugins_to_its_workers(miclab, tmp_path):
    """Fails if workers lack a plugin of their engine, if the plan names other runs than are trained, or if a study's
    folder loads code."""
    (tmp_path / "mine.yaml").write_text(
        """
        stage: unimodal
        config:
          modalities: {m1: {classes: 64}}
          sequence: {context: 4, burstiness: 2}
          decoder: {positions: t5_bias}
          numerics: {mode: eager}  # Without it, four steps are compiled for a minute.
        profiles:
          quick: {seeds: [0], request: {steps: 4, evaluate_every: 2, checkpoint_every: 4, sequences: 10}}
        """
    )
    (tmp_path / "t5_bias.py").write_text((EXTENSIONS / "t5_bias.py").read_text())
    refused = miclab(tmp_path, "study", "run", "mine.yaml", "--workers", "1")
    assert refused.returncode == 2
    assert "--plugin" in refused.stderr
    done = miclab(tmp_path, "study", "run", "mine.yaml", "--workers", "1", "--plugin", "t5_bias.py")
    assert done.returncode == 0, done.stderr
    planned = json.loads(miclab(tmp_path, "study", "plan", "mine.yaml", "--json", "--plugin", "t5_bias.py").stdout)
    runs = planned["runs"] if isinstance(planned, dict) else planned
    assert (tmp_path / "runs" / runs[0]["run"] / "manifest.json").is_file()


def test_an_installed_extension_is_loaded_by_its_entry_point(tmp_path):
    """Fails if an installed package cannot add to the registries, or one that fails is not named."""
    (tmp_path / "their_positions.py").write_text((EXTENSIONS / "t5_bias.py").read_text())
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[miclab.extensions]\ntheirs = their_positions\n")
    script = (
        "from miclab.config import extensions; from miclab.model.positions import POSITION_CODES;"
        "print([p.name for p in extensions.load_installed()], 't5_bias' in POSITION_CODES, extensions.handed_on())"
    )
    environment = {**os.environ, "PYTHONPATH": f"{Path.cwd()}:{tmp_path}"}
    command = [sys.executable, "-c", script]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["['theirs']", "True", "()"]
    (tmp_path / "their_positions.py").write_text("1 / 0")
    broken = subprocess.run(
        [sys.executable, "-m", "miclab", "runs"], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert broken.returncode == 2
    assert "'theirs'" in broken.stderr
    assert "Traceback" not in broken.stderr
