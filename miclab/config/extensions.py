"""Extensions that add to the registries: files given by `--plugin`, and installed packages.

A folder never causes code to be loaded: not a run, not a study, not a task. Only `--plugin FILE.py` and an installed
entry point of the group `miclab.extensions` do. A configuration records the extensions that it uses as `NAME:SHA-256 of
the file`. So the same configuration with another file is another run. A file that a plugin imports and that registers
something is a plugin too.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import sys
import traceback
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from miclab.config.registry import Registry, recorded
from miclab.errors import ConfigError, MiclabError

PACKAGE = Path(__file__).parents[1]
GROUP = "miclab.extensions"
"""Group of entry points; each names a module that registers its extensions when it is imported."""


@dataclass(frozen=True)
class Plugin:
    """A file of code that was loaded.

    Arguments:
        name: its stem, or the name of the entry point.
        file: its path.
        digest: SHA-256 of its content in hexadecimal.
    """

    name: str
    file: Path
    digest: str

    @property
    def fingerprint(self) -> str:
        """Its record in a configuration."""
        return f"{self.name}:{self.digest}"

    def covers(self, file: Path) -> bool:
        """Whether a file is a part of it: the file itself, or of an installed package any module of it."""
        return file == self.file or (self.file.name == "__init__.py" and self.file.parent in file.parents)


_loaded: dict[Path, Plugin] = {}
_installed: set[Path] = set()


def loaded() -> tuple[Plugin, ...]:
    """The plugins of this process, in the order in which they were loaded."""
    return tuple(_loaded.values())


def load_plugin(path: Path | str, digest: str = "") -> Plugin:
    """Loads a plugin's file, once.

    Arguments:
        path: a Python file.
        digest: SHA-256 that its content must have; empty: any.

    Raises:
        MiclabError: the file cannot be read, has another content than is required, or fails when it is executed.
    """
    file, content, found = _read(path, digest)
    old = _loaded.get(file)
    if old is not None:
        if old.digest != found:
            raise MiclabError(f"--plugin {path}: the file has changed since this process loaded it.")
        return old
    _check_name(file)
    name = f"miclab_plugin_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if file.suffix != ".py" or spec is None or spec.loader is None:
        raise MiclabError(f"--plugin {path}: name a Python file that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        # The bytes that were hashed are those that are executed.
        with recorded() as registered:
            exec(compile(content, str(file), "exec"), module.__dict__)
    except MiclabError:
        del sys.modules[name]
        raise
    except Exception as error:
        del sys.modules[name]
        place = _line_of(error, file)
        raise MiclabError(
            f"--plugin {path}: it fails when it is loaded{place} ({type(error).__name__}: {error})."
        ) from error
    plugin = Plugin(file.stem, file, found)
    _loaded[file] = plugin
    _note_others(registered)
    if all(PACKAGE in Path(name).resolve().parents for name in registered):
        warnings.warn(f"--plugin {path}: it adds nothing. A plugin uses a decorator, such as @measure.", stacklevel=2)
    return plugin


def _line_of(error: Exception, file: Path) -> str:
    """Where in a plugin's file an error arose, in words; empty where that is not known."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    if isinstance(error, SyntaxError) and error.filename == str(file):
        lines.append(error.lineno)
    return f" in line {lines[-1]}" if lines and lines[-1] else ""


def _read(path: Path | str, digest: str) -> tuple[Path, bytes, str]:
    """A plugin's file, its content and the SHA-256 of it; see `load_plugin` for errors."""
    file = Path(path).resolve()
    try:
        content = file.read_bytes()
    except OSError as error:
        raise MiclabError(f"--plugin {path}: the file cannot be read ({error.strerror}).") from error
    found = hashlib.sha256(content).hexdigest()
    if digest and found != digest:
        raise MiclabError(f"--plugin {path}: the file has changed since it was named (SHA-256 {found}, not {digest}).")
    return file, content, found


def _check_name(file: Path) -> None:
    same = next((plugin for plugin in _loaded.values() if plugin.name == file.stem), None)
    if same is not None:
        raise MiclabError(f"--plugin {file}: another plugin has the same name ({same.file}); rename one of them.")


def _note_others(registered: Iterable[str]) -> list[Path]:
    """Records as plugins those files that registered something while another was loaded, if no plugin covers them yet.

    Raises:
        MiclabError: one has the name of another plugin.
    """
    noted = []
    for file in dict.fromkeys(Path(name).resolve() for name in registered):
        if PACKAGE in file.parents or any(plugin.covers(file) for plugin in _loaded.values()):
            continue
        _check_name(file)
        _loaded[file] = Plugin(file.stem, file, hashlib.sha256(file.read_bytes()).hexdigest())
        noted.append(file)
    return noted


Handed = tuple[tuple[str, str], ...]
"""Path and SHA-256 of each plugin that a process passes to its workers."""


def handed_on() -> Handed:
    """The plugins given by `--plugin`, and those that these import. A worker loads them by `taken_up`."""
    return tuple((str(plugin.file), plugin.digest) for plugin in _loaded.values() if plugin.file not in _installed)


def as_options() -> list[str]:
    """The options that load the plugins of this process, for a command that is shown; relative where they can be."""
    here = Path.cwd()
    files = [Path(path) for path, _ in handed_on()]
    shown = [file.relative_to(here) if file.is_relative_to(here) else file for file in files]
    return [word for file in shown for word in ("--plugin", str(file))]


def taken_up(handed: Handed) -> None:
    """Loads the plugins of the parent process, and the installed ones.

    Raises:
        MiclabError: one of them cannot be read here, or has changed since.
    """
    load_installed()
    # All are compared before any is executed, since one may import another.
    for path, digest in handed:
        _read(path, digest)
    for path, digest in handed:
        load_plugin(path, digest)


def load_installed() -> tuple[Plugin, ...]:
    """Loads the installed packages that have an entry point in the group `miclab.extensions`.

    Raises:
        MiclabError: one of them fails when it is imported.
    """
    plugins = []
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            with recorded() as registered:
                entry.load()
        except Exception as error:
            raise MiclabError(
                f"The installed extension {entry.name!r} ({entry.value}) fails when it is loaded:"
                f" {type(error).__name__}: {error}. Uninstall it or mend it."
            ) from error
        file = _file_of_module(entry.module)
        plugin = Plugin(entry.name, file, _digest_of_package(file))
        _loaded[file] = plugin
        _installed.update([file, *_note_others(registered)])
        plugins.append(plugin)
    return tuple(plugins)


def _file_of_module(name: str) -> Path:
    """The file of a module; of one without a file, such as a folder of modules, the name is refused."""
    found = getattr(sys.modules[name], "__file__", None)
    if not found:
        raise MiclabError(f"The installed extension {name!r} is a folder without a module: name a module of it.")
    return Path(found).resolve()


def _digest_of_package(file: Path) -> str:
    """SHA-256 of a module, or of all modules of the package whose `__init__.py` it is, by name."""
    if file.name != "__init__.py":
        return hashlib.sha256(file.read_bytes()).hexdigest()
    found = hashlib.sha256()
    for part in sorted(file.parent.rglob("*.py")):
        content = part.read_bytes()
        found.update(f"{part.relative_to(file.parent)}:{len(content)}\n".encode() + content)
    return found.hexdigest()


def fingerprints_of(uses: Iterable[tuple[Registry, str]]) -> tuple[str, ...]:
    """The records of plugins in a configuration, sorted.

    Arguments:
        uses: each registry and the name in it that the configuration uses.
    """
    files = {Path(registry.file(name)).resolve() for registry, name in uses if name in registry}
    return tuple(sorted({plugin.fingerprint for plugin in _loaded.values() if any(map(plugin.covers, files))}))


def check_fingerprints(fingerprints: Sequence[str]) -> None:
    """Raises ConfigError if a recorded plugin is not loaded or its content differs."""
    known = {plugin.name: plugin for plugin in _loaded.values()}
    for fingerprint in fingerprints:
        name, _, digest = fingerprint.partition(":")
        if name not in known:
            others = f"; loaded are {', '.join(known)}" if known else ""
            message = (
                f"The configuration needs the plugin {name!r}, which is not loaded{others}. Name its file with"
                f" --plugin {name}.py (in Python: miclab.load_plugin)."
            )
            raise ConfigError.worded("plugins", name, message)
        if known[name].digest != digest:
            message = (
                f"{known[name].file} has changed since the run was trained: it is another version of the plugin"
                f" {name!r} (SHA-256 {known[name].digest[:12]}..., and not {digest[:12]}...). Restore that version of"
                " the file, or train again with the one that is there."
            )
            raise ConfigError.worded("plugins", name, message)
