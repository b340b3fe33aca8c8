"""A directory of runs: make one, open one, find one by path, name or hash, list all."""

from __future__ import annotations

import difflib
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miclab import storage
from miclab.config import schema
from miclab.config.content import json_of
from miclab.config.extensions import check_fingerprints
from miclab.config.run import RunConfig
from miclab.errors import ConfigError, MistakenError, RunContentError, RunError
from miclab.runs.label import called
from miclab.runs.manifest import FORMAT, REFUSED, WHOLE, read_manifest
from miclab.runs.run import Run

if TYPE_CHECKING:
    from torch import Tensor

CANDIDATES = 5
"""Runs that a message names at most."""
OWN_NAME = re.compile(r"(?:encoder|unimodal|multimodal|early_fusion)-.+-([0-9a-f]{12})")
"""A directory's name that identifies its run. Other names, such as `copy`, are free."""
WHOLE_HASH = re.compile(r"[0-9a-f]{64}")


def open_run(path: Path | str) -> Run:
    """Opens a run for reading.

    Raises:
        RunError: there is none at `path`.
        MistakenError: the run is not the one in its directory's name.
        DamagedError: its manifest, configuration or world is damaged; the message names the file.
        ConfigError: it uses a plugin that is not loaded; the message names it.
    """
    path = Path(path)
    manifest = own_manifest(path)
    content = storage.read_checked(path / "config.json", manifest["files"]["config.json"], REFUSED)
    storage.read_checked(path / "world.safetensors", manifest["files"]["world.safetensors"], REFUSED)
    data = json_of(content, path / "config.json").mapping()
    check_fingerprints(data.get("plugins", ()))
    try:
        config = schema.from_mapping(RunConfig, data)
    except ConfigError as error:
        raise RunContentError(path / "config.json", f"expected a configuration ({error})", error.field) from error
    if not schema.names_trajectory(manifest["hash"], config):
        raise MistakenError(path / "config.json", manifest["hash"], schema.trajectory_hash(config))
    return Run(path, config, manifest)


def own_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a run, which is the one that its directory's name says.

    Raises:
        MistakenError: it is another run than its directory's name says.
        RunError: as `read_manifest`.
    """
    manifest = read_manifest(path)
    said = OWN_NAME.fullmatch(path.name if path.name not in ("", "..") else os.path.basename(os.path.abspath(path)))
    if said and not manifest["hash"].startswith(said[1]):
        raise MistakenError(path, said[0], manifest["hash"])
    return manifest


def open_known(path: Path | str, identity: str) -> Run:
    """Opens the run whose trajectory hash is known.

    Raises:
        MistakenError: another run lies there.
        RunError, ConfigError: as `open_run`.
    """
    run = open_run(path)
    if run.hash != identity:
        raise MistakenError(run.path, identity, run.hash)
    return run


def run_name(config: RunConfig) -> str:
    """Directory name of a run: stage, position code or encoder, and the start of the trajectory hash."""
    return directory_name(config.stage, config.variety, schema.trajectory_hash(config))


def directory_name(stage: str, variety: str, identity: str) -> str:
    """`run_name` where its parts and the trajectory hash are known."""
    return f"{stage}-{variety}-{identity[:12]}"


def glance(root: Path | str, name: str, config: RunConfig) -> Run | None:
    """The run of `config` under `root`, whose name is given; None if there is none. Only its manifest is read.

    Raises:
        DamagedError: the manifest is damaged.
        MistakenError: another run lies there.
    """
    path = Path(root, name)
    try:
        os.stat(f"{path}/manifest.json")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage.unreadable(f"{path}/manifest.json", error) from error
    return Run(path, config, own_manifest(path))


def create(root: Path | str, config: RunConfig, world: Mapping[str, Tensor]) -> Run:
    """The run of `config` under `root`, in a new or existing directory.

    Raises:
        RunError: it cannot be written.
    """
    path, identity = Path(root) / run_name(config), schema.trajectory_hash(config)
    if os.path.exists(path / "manifest.json"):
        return open_known(path, identity)
    # A place of this run alone: to look for it takes no listing of all runs.
    making = path.with_name(f".{path.name}.new")
    temporary = making / secrets.token_hex(6)
    try:
        with storage.explained(path):
            temporary.mkdir(parents=True, exist_ok=True)
        files = {
            "config.json": storage.write_bytes(
                temporary / "config.json", json.dumps(schema.to_mapping(config), indent=1).encode()
            ),
            "world.safetensors": storage.write_bytes(temporary / "world.safetensors", storage.tensor_bytes(world)),
        }
        manifest = {
            "format": FORMAT,
            "hash": identity,
            "status": "new",
            "reason": "not trained yet",
            "request": {},
            "environment": {},
            "timing": [],
            "files": files,
        }
        storage.write_bytes(temporary / "manifest.json", storage.sealed(manifest))
        with storage.explained(path):
            os.rename(temporary, path)
            storage.sync_directory(path.parent)
    except RunError:
        # Another process was first; its directory is the same run.
        if not os.path.exists(path / "manifest.json"):
            raise
    finally:
        # This also removes what a killed process left. A process that still writes there finds this run and uses it.
        shutil.rmtree(making, ignore_errors=True)
    return open_known(path, identity)


def list_runs(root: Path | str) -> list[Path]:
    """Directories of the runs under `root`, sorted by name.

    Raises:
        RunError: `root` is a file.
    """
    return look_over(root)[0]


def look_over(root: Path | str) -> tuple[list[Path], dict[Path, str]]:
    """Directories of the runs under `root`, sorted by name. The second value says what is wrong with runs whose
    manifest cannot be read.

    Raises:
        RunError: `root` is no directory, or cannot be read.
    """
    root = root_directory(root)
    found, broken = [], {}
    for name in _names(root):
        path, own = root / name, OWN_NAME.fullmatch(name) is not None
        try:
            os.stat(f"{root}/{name}/manifest.json")
            found.append(path)
        except (FileNotFoundError, NotADirectoryError):
            if own or any(os.path.lexists(path / part) for part in WHOLE):
                what = "has no manifest.json" if os.path.isdir(path) else "is no directory"
                broken[path] = f"{path} {what}: it was copied or deleted in part. {REFUSED}"
        except OSError as error:
            broken[path] = f"Cannot read {path}: {error.strerror or error}."
    return found, broken


def _names(root: Path) -> list[str]:
    """The names in a directory that are not hidden, sorted. Empty if there is no directory."""
    try:
        return sorted(name for name in os.listdir(root) if not name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(
            f"Cannot read {root}: {error.strerror or error}. Change its permissions, or give another with --runs."
        ) from error


def root_directory(root: Path | str) -> Path:
    """A directory of runs, which need not exist yet.

    Raises:
        RunError: it is a file.
    """
    root = Path(root)
    if os.path.isfile(root):
        raise RunError(f"{root} is a file. --runs names a directory of runs.")
    return root


def find(reference: str, root: Path | str = "runs") -> Run:
    """The run of `reference`: a path or, under `root`, a directory's name or a run's own name. The start of a
    directory's name or hash suffices if it is unique.

    Raises:
        RunError: no run matches, or several do.
        MistakenError: the directory holds another run.
    """
    if os.path.lexists(Path(reference) / "manifest.json"):
        return open_run(reference)
    names = [path.name for path in list_runs(root)]
    if reference in names:
        return open_run(Path(root) / reference)
    named = called(reference, (Path(root) / name for name in names)) if reference else []
    if len(named) == 1:
        return open_run(named[0])
    if named:
        text = f"{reference!r} is the name of {len(named)} runs under {root}: {_some([p.name for p in named])}."
        raise RunError(f"{text} Give the directory of the one that you mean.")
    # A hash may be given whole, and a name holds its beginning.
    meant = [n for n in names if n.startswith(reference) or n.rsplit("-", 1)[-1].startswith(reference[:12])]
    if len(meant) == 1 and reference:
        path = Path(root) / meant[0]
        return open_known(path, reference) if WHOLE_HASH.fullmatch(reference) else open_run(path)
    if not names:
        raise RunError(f"{reference!r} names no run: there is none yet under {root}; `miclab train` makes one.")
    if reference and meant:
        problem = f"{reference!r} begins the names or hashes of {len(meant)} runs under {root}: {_some(meant)}."
        raise RunError(f"{problem} Give more of the one that you mean.")
    close = difflib.get_close_matches(reference, names, n=1, cutoff=0.5)
    guess = f" Did you mean {close[0]}?" if close else ""
    raise RunError(f"{reference!r} names no run under {root}.{guess} There: {_some(names)}. `miclab runs` lists all.")


def _some(names: list[str]) -> str:
    """At most `CANDIDATES` names, and how many more there are."""
    more = len(names) - CANDIDATES
    return ", ".join(names[:CANDIDATES]) + (f" and {more} more" if more > 0 else "")
