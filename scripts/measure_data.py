"""The table of baselines in docs/guide/data.md: nearest-exemplar accuracy on held-out classes, with nothing trained.

python scripts/measure_data.py
"""

from __future__ import annotations

from miclab.data import DataSet, load
from miclab.data.nearest import nearest_exemplar_accuracy
from miclab.data.shipped import SHIPPED

PARTS = ("held-out classes", "training")


def row(data: DataSet) -> str:
    """One row: accuracy of 2-way and 8-way choices on each part, with 95 % intervals."""
    cells = [str(nearest_exemplar_accuracy(data, ways, part=part)) for part in PARTS for ways in (2, 8)]
    return f"| {data.name} | {' | '.join(cells)} |"


def main() -> None:
    """Prints the table."""
    print(f"| data set | {' | '.join(f'{part}, {ways}-way' for part in PARTS for ways in (2, 8))} |")
    print("|---|---|---|---|---|")
    for name in SHIPPED:
        print(row(load(name)), flush=True)


if __name__ == "__main__":
    main()
