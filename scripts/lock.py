"""Writes the lock files: `python -m scripts.lock` (needs `pip install uv`).

`requirements.lock` is what `make demo` installs, `requirements-development.lock` what tests, docs and the extras need
beside it. Both hold the hashes of every platform's files. torch is not in them: it is installed first, by its version,
since a CPU build and a CUDA build of one version have different hashes.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TORCH = "2.13.0"
EXTRAS = ("data", "development", "docs", "mllm", "ray", "slurm")
CORE, DEVELOPMENT = ROOT / "requirements.lock", ROOT / "requirements-development.lock"
WITH_TORCH = re.compile(r"(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==")
"""torch, and what its CUDA builds bring."""
ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==")


def compiled(extras: tuple[str, ...], upgrade: bool) -> dict[str, str]:
    """The locked packages of the project with some extras, by name: the requirement and its hashes."""
    kept = [] if upgrade else [f for f in (CORE, DEVELOPMENT) if f.is_file()]
    pins = "".join(pinned(file) for file in kept) + f"torch=={TORCH}\n"
    names = {extra for extra in extras if f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")}
    command = [
        "uv", "pip", "compile", "pyproject.toml", "--universal", "--python-version", "3.11", "--generate-hashes",
        "--no-header", "--no-annotate", "--quiet", "--constraint", "-",
        *[word for name in sorted(names) for word in ("--extra", name)],
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, input=pins, text=True, capture_output=True)
    if done.returncode:
        sys.exit(done.stderr)
    locked: dict[str, str] = {}
    for entry in re.split(r"\n(?=[A-Za-z0-9])", done.stdout.strip()):
        if (found := ENTRY.match(entry)) and not WITH_TORCH.match(entry):
            # A package may have several versions, each for some versions of Python.
            name = found["name"]
            locked[name] = f"{locked[name]}\n{entry}" if name in locked else entry
    return locked


def pinned(file: Path) -> str:
    """The versions of a lock file as constraints."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return "".join(re.sub(r"\s*\\$", "", line) + "\n" for line in lines if ENTRY.match(line))


def main() -> None:
    """Writes both files; `--upgrade` takes the newest versions."""
    upgrade = "--upgrade" in sys.argv[1:]
    core, every = compiled((), upgrade), compiled(EXTRAS, upgrade)
    # One version of each package: what the extras settle holds for the core too.
    shared = {name: every[name] for name in core if name in every}
    rest = {name: entry for name, entry in every.items() if name not in shared}
    for file, entries in ((CORE, shared), (DEVELOPMENT, rest)):
        file.write_text("\n".join(entries[name] for name in sorted(entries)) + "\n", encoding="utf-8")
        print(f"{file.name}: {len(entries)} packages")


if __name__ == "__main__":
    main()
