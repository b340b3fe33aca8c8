"""Pictures in folders, one folder per class: Omniglot, mini-ImageNet, and any other set of this layout.

Pillow is imported where a picture is read: training on Gaussian classes needs none.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from miclab.data.dataset import DataContentError, DataSet, reject_same_names, too_few
from miclab.data.registry import MissingDataError, Progress, silent, source
from miclab.data.split import held_out_count, held_out_names, last_exemplars

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
PARTS = ("train", "val", "test")
SHOWN_FAULTS = 8


def path_and_side(argument: str) -> tuple[Path, int | None]:
    """The folder of `PATH` or `PATH@SIDE`, and the side in pixels that pictures are resized to, or None."""
    resized = re.fullmatch(r"(.+)@([1-9][0-9]{0,3})", argument)
    path, side = resized.groups() if resized else (argument, None)
    return Path(path).expanduser(), int(side) if side else None


def _class_folders(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))


def _pictures(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in ENDINGS and not file.name.startswith("."))


def require_folder(name: str, path: Path, how: str) -> None:
    """Raises MissingDataError, with the way to get the data, if there is no folder at `path`."""
    if not path.is_dir():
        fault = f"{path} is no folder" if path.exists() else f"there is no folder {path}"
        raise MissingDataError(name, f"{fault}. {how}")


def read_picture(path: Path, grey: bool, size: int | None) -> np.ndarray:
    """One picture, uint8 [channel, height, width]: one channel if grey, else red, green and blue.

    Raises:
        PictureError: it cannot be read as a picture.
    """
    from PIL import Image

    from miclab.data.pictures import open_picture

    plain = open_picture(path)[0]
    if grey:
        plain = plain.convert("L")
    if size is not None:
        plain = plain.resize(
            (size, size), Image.Resampling.BOX if min(plain.size) >= size else Image.Resampling.BILINEAR
        )
    values = np.asarray(plain)
    return values[None] if grey else values.transpose(2, 0, 1)


def read_classes(
    name: str, classes: dict[str, list[Path]], *, grey: bool, size: int | None, progress: Progress = silent
) -> tuple[torch.Tensor, torch.Tensor]:
    """Every picture of every class and its class: uint8 [exemplar, channel, height, width] and int64 [exemplar].

    Raises:
        DataContentError: a class has fewer than two pictures, two classes have one name, a picture is corrupt, or sizes
            differ. The first faults are named.
    """
    from miclab.data.pictures import PictureError

    reject_same_names(name, list(classes))
    few = [class_name for class_name, files in classes.items() if len(files) < 2]
    if few:
        raise too_few(name, few)
    files = [(number, file) for number, of_class in enumerate(classes.values()) for file in of_class]
    items: np.ndarray | None = None
    faults: list[str] = []
    for done, (_, file) in enumerate(files):
        try:
            picture = read_picture(file, grey, size)
        except PictureError as error:
            faults.append(str(error))
        else:
            # A single block, since a list of pictures and their stack would need twice the memory.
            items = np.empty((len(files), *picture.shape), np.uint8) if items is None else items
            if picture.shape != items.shape[1:]:
                (_, height, width), (_, first_height, first_width) = picture.shape, items.shape[1:]
                raise DataContentError(
                    name,
                    f"pictures of different sizes, the first is {first_width} x {first_height} and {file} is "
                    f"{width} x {height}. Give one size with @SIDE after the path, for example @84.",
                )
            items[done] = picture
        progress(done + 1, len(files))
    if faults or items is None:
        more = f"; and {len(faults) - SHOWN_FAULTS} more" if len(faults) > SHOWN_FAULTS else ""
        shown = "; ".join(fault.rstrip(".") for fault in faults[:SHOWN_FAULTS])
        raise DataContentError(name, f"{shown}{more}. Put good files there or take these away.")
    return torch.from_numpy(items), torch.tensor([number for number, _ in files])


def _data_set(
    name: str,
    classes: dict[str, list[Path]],
    held_out: frozenset[str],
    licence: str,
    *,
    grey: bool = False,
    size: int | None = None,
    progress: Progress = silent,
) -> DataSet:
    items, class_of = read_classes(name, classes, grey=grey, size=size, progress=progress)
    return DataSet(
        name=name,
        kind="glyph" if grey else "picture",
        class_names=tuple(classes),
        # Omniglot is black ink on white paper.
        items=(items < 128).to(torch.uint8) if grey else items,
        class_of=class_of,
        held_out_classes=torch.tensor([class_name in held_out for class_name in classes]),
        held_out_exemplars=last_exemplars(class_of),
        sources=(name,),
        source_of=torch.zeros(len(class_of), dtype=torch.long),
        licence=licence,
    )


def _by_folder(name: str, path: Path) -> dict[str, list[Path]]:
    folders = _class_folders(path)
    if not folders:
        raise DataContentError(
            path, "it holds no folder. It needs one folder per class, with that class's pictures inside."
        )
    return {folder.name: _pictures(folder) for folder in folders}


@source("folder", argument="PATH", words="pictures in one folder per class; PATH@SIDE resizes them")
def load_folder(name: str, argument: str, progress: Progress = silent) -> DataSet:
    """PATH/CLASS/PICTURE. A fifth of the classes is held out (smallest SHA-256 of the name). So is the last fifth of
    each class's pictures, in the order of their names.

    Raises:
        DataContentError: the folder is missing, empty, or holds what cannot be used.
    """
    path, size = path_and_side(argument)
    require_folder(name, path, "Give the folder that holds one folder per class.")
    classes = _by_folder(name, path)
    held_out = held_out_names(list(classes), held_out_count(len(classes), len(classes)))
    return _data_set(name, classes, held_out, "not known to miclab", size=size, progress=progress)


OMNIGLOT = (
    "Omniglot (Lake, Salakhutdinov and Tenenbaum 2015) is in the repository `omniglot` of its first author, Brenden "
    "Lake, on GitHub: unpack images_background.zip, and images_evaluation.zip if wanted, from its folder `python` into "
    "one folder and give that folder."
)


@source("omniglot", argument="PATH", words="handwritten characters of many alphabets; PATH@SIDE resizes them")
def load_omniglot(name: str, argument: str, progress: Progress = silent) -> DataSet:
    """PATH/images_background/ALPHABET/CHARACTER/PICTURE, and images_evaluation where it is there.

    A class is a character, named ALPHABET/CHARACTER. 128 classes are held out, as in the study: those with the smallest
    SHA-256 of the name. Of fewer than 640 classes, a fifth is. So is the last fifth of each class's drawers (17 to 20
    of 20).

    Raises:
        DataContentError: the folder is missing, empty, or holds what cannot be used.
    """
    path, size = path_and_side(argument)
    require_folder(name, path, OMNIGLOT)
    halves = [path / half for half in ("images_background", "images_evaluation") if (path / half).is_dir()]
    if not halves:
        raise DataContentError(path, f"it has no folder images_background. {OMNIGLOT}")
    folders = [
        (f"{alphabet.name}/{character.name}", character)
        for half in halves
        for alphabet in _class_folders(half)
        for character in _class_folders(alphabet)
    ]
    if not folders:
        raise DataContentError(halves[0], f"it holds no ALPHABET/CHARACTER folder. {OMNIGLOT}")
    reject_same_names(name, [class_name for class_name, _ in folders])
    classes = {class_name: _pictures(folder) for class_name, folder in folders}
    held_out = held_out_names(list(classes), held_out_count(len(classes), 128))
    return _data_set(name, classes, held_out, "MIT (Omniglot)", grey=True, size=size, progress=progress)


MINI_IMAGENET = (
    "mini-ImageNet (Vinyals and others 2016) is a choice of 100 classes of ImageNet, 600 pictures each; ImageNet's "
    "page gives the pictures to those who agree to its terms, and the lists of Ravi and Larochelle (2017) say which "
    "belong to it. Lay them out as PATH/CLASS/PICTURE, or PATH/train, PATH/val and PATH/test with such folders inside."
)


@source("mini-imagenet", argument="PATH", words="100 classes of photographs; PATH@SIDE resizes them")
def load_mini_imagenet(name: str, argument: str, progress: Progress = silent) -> DataSet:
    """PATH/CLASS/PICTURE, or PATH/{train,val,test}/CLASS/PICTURE.

    The classes of `test` are held out where such folders exist. Otherwise 20 are (smallest SHA-256 of the name), or a
    fifth of fewer than 100. So is the last fifth of each class's pictures, in the order of their names.

    Raises:
        DataContentError: the folder is missing, empty, or holds what cannot be used.
    """
    path, size = path_and_side(argument)
    require_folder(name, path, MINI_IMAGENET)
    parts = [path / part for part in PARTS if (path / part).is_dir()]
    if not parts:
        classes = _by_folder(name, path)
        held_out = held_out_names(list(classes), held_out_count(len(classes), 20))
    else:
        if [part.name for part in parts] not in (["train", "test"], ["train", "val", "test"]):
            raise DataContentError(
                path, f"it has {', '.join(p.name for p in parts)} but needs train, test and perhaps val."
            )
        split = [(part.name, _by_folder(name, part)) for part in parts]
        reject_same_names(name, [class_name for _, of_part in split for class_name in of_part])
        classes = {class_name: files for _, of_part in split for class_name, files in of_part.items()}
        held_out = frozenset(split[-1][1])
    return _data_set(name, classes, held_out, "ImageNet's terms: research only", size=size, progress=progress)
