"""Writes all committed rows into one file for download, with what is needed to use and to cite them.

    python -m scripts.archive_rows [FILE]      default: build/miclab-rows.zip

Equal content gives equal bytes: entries are sorted and have one fixed time.
"""

from __future__ import annotations

import argparse
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
SINGLE = {"SCHEMA.md": "docs/reference/rows.md", "LICENSE": "LICENSE", "CITATION.cff": "CITATION.cff"}
"""Names in the archive, and files of the clone."""
SUMS = "SHA256SUMS"


def content(root: Path = ROOT) -> dict[str, bytes]:
    """The files of the archive by name; `SHA256SUMS` is as `sha256sum --check` reads it."""
    studies = root / "studies"
    files = [*studies.glob("*.yaml"), *studies.glob("rows/*/*.parquet"), *studies.glob("rows/*/tables.json")]
    found = {str(path.relative_to(root)): path.read_bytes() for path in files}
    found |= {name: (root / path).read_bytes() for name, path in SINGLE.items()}
    sums = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(found.items())]
    return {**found, SUMS: "".join(sums).encode()}


def write(file: Path, files: Mapping[str, bytes]) -> None:
    """Writes a zip file whose bytes are a function of its content."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(f"miclab-rows/{name}")
            # Parquet is compressed already.
            entry.compress_type = zipfile.ZIP_STORED if name.endswith(".parquet") else zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)


def main() -> None:
    """Writes the archive."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", nargs="?", type=Path, default=ROOT / "build/miclab-rows.zip", metavar="FILE")
    file = parser.parse_args().file
    write(file, content())
    print(f"{file}  {file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
