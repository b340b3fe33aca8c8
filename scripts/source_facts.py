"""Writes miclab/data/files/sources.json: content, shape and number of training classes of the shipped data.

python scripts/source_facts.py
"""

from __future__ import annotations

from dataclasses import asdict

from miclab.data.shipped import SHIPPED, SMALL, WITH_MEAN
from miclab.storage import sealed, write_bytes
from miclab.worlds.source_facts import FACTS, read_facts


def main() -> None:
    names = [*SHIPPED, *(f"{SMALL}{name}" for name in SHIPPED), *(f"{WITH_MEAN}:{name}" for name in SHIPPED)]
    write_bytes(FACTS, sealed({name: asdict(read_facts(name)) for name in names}))


if __name__ == "__main__":
    main()
