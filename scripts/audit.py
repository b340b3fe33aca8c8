"""What of the supply can be checked without a network: `make audit`, or `python -m scripts.audit`.

Every installed package has the version of the lock files; every entry there has hashes; every installed file is the one
that its package recorded. The build backend is pinned, and nothing is built in isolation. What `miclab` imports is
declared, and what is declared is imported. A bill of materials is written to build/materials.json.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.markers import Marker

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "requirements-development.lock")
FIRST = ("torch", "uv", "pip", "setuptools", "miclab")
"""Installed before the lock files, by version (see the Makefile), and miclab itself."""
OUTSIDE = ("scripts", "tests", "benchmarks", "docs")
"""Folders of Python files that no package of miclab holds."""
MIRRORS = "loaded by its name in miclab/studies/mirrors.py"
GRAPH = "PyTorch and miclab/interop/graph.py load it by its name"
NOT_IMPORTED = {"onnx": GRAPH, "onnxscript": GRAPH, "onnxruntime": "only a test of exported graphs imports it",
                "nnsight": "it reads exported folders, and only their test imports it",
                "mlflow": MIRRORS, "trackio": MIRRORS, "wandb": MIRRORS, "tokenizers": "used by transformers",
                "num2words": "used by transformers", "accelerate": "used by transformers",
                "tensorboard": "imported by torch.utils.tensorboard"}  # fmt: skip
"""Declared, and imported by others or by name."""
NOT_DECLARED = {"_typeshed": "there for type checkers alone"}
"""Imported, and not declared."""
TOOLS = ("development", "docs", "data")
"""Extras whose packages are commands, or are imported outside miclab."""
ENTRY = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)\s*(?:;\s*([^\\]+))?")


def plain(name: str) -> str:
    """A package's name as registries compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(texts: Iterable[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Name, version and hashes of the entries of lock files that are for this machine."""
    for text in texts:
        for entry in re.split(r"\n(?=[A-Za-z0-9])", text.strip()):
            found = ENTRY.match(entry)
            if found and (not found[3] or Marker(found[3].strip()).evaluate()):
                yield plain(found[1]), found[2], re.findall(r"--hash=sha256:([0-9a-f]{64})", entry)


def lock_faults(entries: Iterable[tuple[str, str, list[str]]], installed: dict[str, str]) -> Iterator[str]:
    """What of the lock does not hold for what is installed. A package that is not installed is no fault."""
    known = {}
    for name, version, hashes in entries:
        known[name] = version
        if not hashes:
            yield f"{name}=={version} has no hash in the lock files"
        if installed.get(name, version) != version:
            yield f"{name} {installed[name]} is installed, and the lock files have {version}"


def changed_files(distribution: metadata.Distribution) -> Iterator[str]:
    """Files of a package that are not what it recorded when it was installed."""
    for file in distribution.files or ():
        if file.hash is None or file.hash.mode != "sha256" or file.suffix == ".pyc":
            continue
        path = Path(str(file.locate()))
        try:
            content = path.read_bytes()
        except OSError:
            yield f"{path} is missing"
            continue
        if base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode() != file.hash.value:
            yield f"{path} is not the file that {distribution.metadata['Name']} recorded"


def imported(folder: Path) -> set[str]:
    """Names of the modules at the root that the Python files of a folder import, without Python's own."""
    found = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"miclab"}


def declared_faults(project: dict[str, Any], modules: set[str], owners: dict[str, list[str]]) -> Iterator[str]:
    """What is imported and not declared, or declared and not imported.

    Arguments:
        project: the table `project` of pyproject.toml.
        modules: what is imported.
        owners: packages of each installed module.
    """
    extras = project.get("optional-dependencies", {})
    wanted = [*project["dependencies"], *(one for name, group in extras.items() if name not in TOOLS for one in group)]
    declared = {plain(re.split(r"[<>=!~; \[]", one)[0]) for one in wanted}
    used = {module: {plain(name) for name in owners.get(module, [module])} for module in modules}
    for module, names in sorted(used.items()):
        if module not in NOT_DECLARED and not names & declared:
            yield f"{module} is imported, and pyproject.toml does not declare {' or '.join(sorted(names))}"
    for name in sorted(declared.difference(*used.values())):
        if name not in NOT_IMPORTED:
            yield f"{name} is declared, and nothing in miclab imports it"


def imported_outside(root: Path) -> dict[str, set[str]]:
    """For each folder beside miclab, what its files import that is none of them."""
    return {
        folder: imported(root / folder) - {*OUTSIDE, *(file.stem for file in (root / folder).rglob("*.py"))}
        for folder in OUTSIDE
    }


def outside_faults(
    project: dict[str, Any], modules: dict[str, set[str]], owners: dict[str, list[str]]
) -> Iterator[str]:
    """What files outside miclab import, and no extra declares.

    Arguments:
        project, owners: as in `declared_faults`.
        modules: what is imported, by folder.
    """
    groups = [project["dependencies"], *project.get("optional-dependencies", {}).values()]
    declared = {plain(re.split(r"[<>=!~; \[]", one)[0]) for group in groups for one in group}
    for folder, names in modules.items():
        for module in sorted(names - NOT_DECLARED.keys()):
            if not {plain(name) for name in owners.get(module, [module])} & declared:
                yield f"{module} is imported in {folder}, and pyproject.toml does not declare it"


def build_faults(pyproject: dict[str, Any], makefile: str) -> Iterator[str]:
    """What of the build is not pinned."""
    for one in pyproject["build-system"]["requires"]:
        if not re.fullmatch(r"[\w.-]+==[\w.]+", one):
            yield f"the build backend is not pinned: {one}"
        elif one not in makefile:
            yield f"the Makefile does not install {one}, which the build needs"
    for line in makefile.splitlines():
        if ("--editable" in line and "--no-build-isolation" not in line) or (
            " -m build" in line and "--no-isolation" not in line
        ):
            yield f"this line of the Makefile builds in isolation, with packages that no lock names: {line.strip()}"


def bill(installed: dict[str, metadata.Distribution], hashes: dict[str, list[str]]) -> dict[str, Any]:
    """The bill of materials, in the format CycloneDX 1.5."""
    parts = []
    for name, one in sorted(installed.items()):
        text = dict(one.metadata.items()) if hasattr(one.metadata, "items") else {}  # type: ignore[attr-defined]
        licence = text.get("License-Expression") or str(text.get("License", "")).partition("\n")[0]
        part: dict[str, Any] = {"type": "library", "name": name, "version": one.version,
                                "purl": f"pkg:pypi/{name}@{one.version}"}  # fmt: skip
        if licence:
            part["licenses"] = [{"license": {"name": licence[:100]}}]
        if name in hashes:
            part["properties"] = [{"name": "sha256 of a file in the lock", "value": value} for value in hashes[name]]
        parts.append(part)
    return {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": parts}


def main() -> int:
    """Prints every fault; the exit status is 1 if there is one."""
    distributions = {plain(one.metadata["Name"]): one for one in metadata.distributions() if one.metadata["Name"]}
    entries = list(locked((ROOT / name).read_text(encoding="utf-8") for name in LOCKS))
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    versions = {name: one.version for name, one in distributions.items()}
    faults = [
        *lock_faults(entries, versions),
        *declared_faults(pyproject["project"], imported(ROOT / "miclab"), dict(metadata.packages_distributions())),
        *outside_faults(pyproject["project"], imported_outside(ROOT), dict(metadata.packages_distributions())),
        *build_faults(pyproject, (ROOT / "Makefile").read_text(encoding="utf-8")),
        *(fault for name, one in distributions.items() if name != "miclab" for fault in changed_files(one)),
    ]
    names = {name for name, _, _ in entries}
    faults += [f"{name} is installed, and no lock file has it" for name in sorted({*versions} - names - {*FIRST})
               if not re.match(r"triton|nvidia-|cuda-", name)]  # fmt: skip
    file = ROOT / "build" / "materials.json"
    file.parent.mkdir(exist_ok=True)
    content = bill(distributions, {name: hashes for name, _, hashes in entries})
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print("\n".join([*faults, f"{len(distributions)} packages, {len(faults)} faults; {file.relative_to(ROOT)}"]))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
