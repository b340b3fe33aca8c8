"""One interface for all data sets: classes, their exemplars, and what is held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from miclab.errors import ContentError, MiclabError, nearest
from miclab.storage import digest

Kind = Literal["picture", "glyph", "spectrogram", "vector"]
PARTS = ("training", "held-out exemplars", "held-out classes", "all")


class DataError(MiclabError):
    """A data set is missing, or its files are wrong."""


class DataContentError(ContentError, DataError):
    """A file or folder of data that does not hold what its reader needs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DataSet:
    """Classes with exemplars of one kind. Labels are no part of it: a world deals labels to classes.

    Arguments:
        name: under which it was loaded.
        kind: `picture`, `glyph`, `spectrogram` or `vector`. Pictures are uint8 [exemplar, 3, height, width], red,
            green, blue. Glyphs are uint8 [exemplar, 1, height, width], 0 paper, 1 ink. Spectrograms are uint8
            [exemplar, 1, band, frame], the highest band first. Vectors are float [exemplar, dimension].
        class_names: one name a class, no two equal without regard to case.
        items: the exemplars as stored; `floats` gives them normalised.
        class_of: the class of each exemplar, int64 [exemplar].
        held_out_classes: classes that training never sees, bool [class].
        held_out_exemplars: exemplars that training never sees though it may see their class, bool [exemplar].
        sources: origins of exemplars (artists, voices, typefaces, files).
        source_of: index into `sources` of each exemplar, int64 [exemplar].
        licence: of the data, in words.
        texts: what each exemplar says (`vector` of concepts: the phrase), or empty.

    Raises:
        DataContentError: the parts do not fit, a name is used twice, or a class has fewer than two exemplars.
    """

    name: str
    kind: Kind
    class_names: tuple[str, ...]
    items: Shaped[Tensor, "exemplar ..."]
    class_of: Int[Tensor, " exemplar"]
    held_out_classes: Bool[Tensor, " classes"]
    held_out_exemplars: Bool[Tensor, " exemplar"]
    sources: tuple[str, ...]
    source_of: Int[Tensor, " exemplar"]
    licence: str
    texts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        exemplars = len(self.items)
        lengths = {len(self.class_of), len(self.held_out_exemplars), len(self.source_of), exemplars}
        if (
            len(lengths) > 1
            or len(self.held_out_classes) != len(self.class_names)
            or len(self.texts) not in (0, exemplars)
        ):
            raise DataContentError(self.name, "its parts have different lengths.")
        dimensions = 2 if self.kind == "vector" else 4
        if self.items.dim() != dimensions:
            raise DataContentError(
                self.name, f"items of kind {self.kind} need {dimensions} dimensions, these have {self.items.dim()}."
            )
        reject_same_names(self.name, self.class_names)
        if exemplars and not 0 <= int(self.class_of.min()) <= int(self.class_of.max()) < len(self.class_names):
            raise DataContentError(self.name, "an exemplar is of a class that has no name.")
        few = [self.class_names[i] for i, count in enumerate(self.exemplars_per_class.tolist()) if count < 2]
        if few or not self.class_names:
            raise too_few(self.name, few) if few else DataContentError(self.name, "it has no class.")

    @cached_property
    def content(self) -> str:
        """SHA-256 of everything that a model could see: items, classes, their names, and what is held out."""
        parts = [self.kind.encode(), repr(self.item_shape).encode(), *(n.encode() for n in self.class_names)]
        tensors = (self.items, self.class_of, self.held_out_classes, self.held_out_exemplars)
        parts += [tensor.contiguous().numpy().tobytes() for tensor in tensors]
        return digest(b"".join(digest(part).encode() for part in parts))

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Shape of one item."""
        return tuple(self.items.shape[1:])

    @cached_property
    def exemplars_per_class(self) -> Int[Tensor, " classes"]:
        """Number of exemplars of each class."""
        return torch.bincount(self.class_of, minlength=len(self.class_names))

    def classes(self, part: str = "all") -> Int[Tensor, " chosen"]:
        """Indices of the classes that have exemplars in a part."""
        return self.class_of[self.indices(part)].unique()

    def indices(self, part: str = "all") -> Int[Tensor, " chosen"]:
        """Indices of the exemplars of a part. The three parts besides `all` are disjoint and make up `all`:

        `training`: training classes, without their held-out exemplars; `held-out exemplars`: the others of the same
        classes; `held-out classes`: every exemplar of the held-out classes, for the split `icl`.

        Raises:
            DataError: there is no such part.
        """
        of_held_out = self.held_out_classes[self.class_of]
        match part:
            case "training":
                chosen = ~of_held_out & ~self.held_out_exemplars
            case "held-out exemplars":
                chosen = ~of_held_out & self.held_out_exemplars
            case "held-out classes":
                chosen = of_held_out
            case "all":
                chosen = torch.ones_like(of_held_out)
            case _:
                raise DataError(f"{part!r} is no part of a data set: {nearest(part, PARTS)}.")
        return chosen.nonzero()[:, 0]

    def floats(self, exemplars: Int[Tensor, " chosen"] | None = None) -> Float[Tensor, "chosen ..."]:
        """Items normalised, float32: pictures and spectrograms from 0..255 to -1..1, glyphs -1 paper and 1 ink, vectors
        to length 1. All of them, or those of the indices given (in that order, repeats allowed)."""
        items = self.items if exemplars is None else self.items[exemplars]
        values = items.to(torch.float32)
        match self.kind:
            case "picture" | "spectrogram":
                return values / 127.5 - 1
            case "glyph":
                return values * 2 - 1
            case "vector":
                return values / values.norm(dim=1, keepdim=True).clamp_min(1e-12)

    def subset(self, classes: Sequence[int], name: str) -> DataSet:
        """The data set of some of the classes, in the order given, with all their exemplars."""
        place = torch.full((len(self.class_names),), -1)
        place[list(classes)] = torch.arange(len(classes))
        kept = (place[self.class_of] >= 0).nonzero()[:, 0]
        kept = kept[place[self.class_of[kept]].argsort(stable=True)]
        return replace(
            self,
            name=name,
            class_names=tuple(self.class_names[c] for c in classes),
            items=self.items[kept],
            class_of=place[self.class_of[kept]],
            held_out_classes=self.held_out_classes[list(classes)],
            held_out_exemplars=self.held_out_exemplars[kept],
            source_of=self.source_of[kept],
            texts=tuple(self.texts[i] for i in kept.tolist()) if self.texts else (),
        )


def reject_same_names(name: str, class_names: Sequence[str]) -> None:
    """Raises DataContentError if two classes have the same name without regard to case."""
    seen: dict[str, str] = {}
    for class_name in class_names:
        other = seen.setdefault(class_name.casefold(), class_name)
        if other is not class_name:
            raise DataContentError(
                name, f"two classes have the same name, {other!r} and {class_name!r}. Rename one of them."
            )


def too_few(name: str, few: Sequence[str]) -> DataContentError:
    """The error that some classes have fewer than two exemplars."""
    more = f" and {len(few) - 5} more" if len(few) > 5 else ""
    return DataContentError(
        name,
        f"{', '.join(map(repr, few[:5]))}{more} with fewer than two exemplars; one has to stand in the context and "
        "another as the query. Add exemplars or take the class away.",
    )
