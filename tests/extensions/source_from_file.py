"""A source of one's own: measurements of flowers, one row an exemplar, from a CSV file.

    species,sepal length,sepal width,petal length
    setosa,5.1,3.5,1.4

Importing this file is all that it takes: `--modalities.m1.source flowers:FILE.csv` then works in every command.
"""

import csv
from pathlib import Path

import torch

from miclab.data import DataError, DataSet, Progress, source
from miclab.data.split import held_out_count, held_out_names, last_exemplars


@source("flowers", argument="FILE", words="measurements of flowers: a species and numbers in each row of a CSV file")
def flowers(name: str, argument: str, progress: Progress) -> DataSet:
    """Reads the file that stands after `flowers:`."""
    with Path(argument).open(newline="") as file:
        table = list(csv.reader(file))[1:]
    if not table:
        raise DataError(f"{name}: {argument} has no rows below its header.")
    # Exemplars have to stand class after class.
    table.sort(key=lambda row: row[0])
    species = sorted({row[0] for row in table})
    class_of = torch.tensor([species.index(row[0]) for row in table])
    held_out = held_out_names(species, held_out_count(len(species), 4))
    return DataSet(
        name=name,
        kind="vector",
        class_names=tuple(species),
        items=torch.tensor([[float(cell) for cell in row[1:]] for row in table]),
        class_of=class_of,
        held_out_classes=torch.tensor([kind in held_out for kind in species]),
        held_out_exemplars=last_exemplars(class_of),
        sources=(argument,),
        source_of=torch.zeros(len(table), dtype=torch.long),
        licence="not known to miclab",
    )
