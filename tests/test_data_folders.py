"""Readers of Omniglot, mini-ImageNet, CIFAR-100 and plain folders, on tiny copies of their layouts made here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from miclab.cli import main
from miclab.data import DataError, load
from miclab.data.split import held_out_names


def write_picture(path: Path, value: int, side: int = 8, mode: str = "RGB") -> None:
    """A picture of one grey value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (side, side), value if mode in ("L", "1") else (value, value, 255 - value)).save(path)


def make_folder(path: Path, classes: list[str], exemplars: int = 5, side: int = 8) -> Path:
    """PATH/CLASS/PICTURE; picture e of class c is of the value 10 c + e."""
    for c, name in enumerate(classes):
        for e in range(exemplars):
            write_picture(path / name / f"{e}.png", 10 * c + e, side)
    return path


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    names = ["ant", "bee", "cat", "dog", "emu", "fox"]
    make_folder(tmp_path, names)
    (tmp_path / "cat" / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden").mkdir()
    data = load(f"folder:{tmp_path}", progress=lambda done, total: seen.append((done, total)))
    assert data.class_names == tuple(names)
    assert data.items.shape == (30, 3, 8, 8)
    assert data.items[12, :, 3, 3].tolist() == [22, 22, 233]
    assert data.held_out_exemplars.nonzero()[:, 0].tolist() == [4, 9, 14, 19, 24, 29]
    assert {n for n, out in zip(names, data.held_out_classes.tolist(), strict=True) if out} == held_out_names(names, 1)
    assert seen[-1] == (30, 30)


def test_a_folder_of_mixed_sizes_is_read_at_one_size_on_request(tmp_path: Path) -> None:
    make_folder(tmp_path, ["ant", "bee"])
    write_picture(tmp_path / "bee" / "1.png", 0, side=12)
    with pytest.raises(DataError, match=r"different sizes, the first is 8 x 8 and .*bee/1\.png is 12 x 12.*@SIDE"):
        load(f"folder:{tmp_path}")
    assert load(f"folder:{tmp_path}@4").item_shape == (3, 4, 4)
    assert load(f"folder:{tmp_path}@16").item_shape == (3, 16, 16)


def test_a_path_may_hold_an_at_sign(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "mine@home", ["ant", "bee"])
    assert load(f"folder:{folder}").item_shape == (3, 8, 8)
    assert load(f"folder:{folder}@4").item_shape == (3, 4, 4)


def test_bad_folders_are_rejected_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        load(f"folder:{tmp_path / 'nowhere'}")
    with pytest.raises(DataError, match="holds no folder"):
        load(f"folder:{tmp_path}")
    make_folder(tmp_path, ["ant", "bee", "cat"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="'empty' with fewer than two exemplars"):
        load(f"folder:{tmp_path}")
    write_picture(tmp_path / "empty" / "0.png", 0)
    with pytest.raises(DataError, match="'empty' with fewer than two exemplars"):
        load(f"folder:{tmp_path}")
    write_picture(tmp_path / "empty" / "1.png", 0)
    assert len(load(f"folder:{tmp_path}").class_names) == 4


def test_corrupt_pictures_are_all_named_before_anything_is_returned(tmp_path: Path) -> None:
    make_folder(tmp_path, ["ant", "bee", "cat"], side=40)
    whole = (tmp_path / "ant" / "1.png").read_bytes()
    (tmp_path / "ant" / "1.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cat" / "3.png").write_text("no picture at all")
    with pytest.raises(DataError, match=r"ant/1\.png: it is no picture.*cat/3\.png: it is no picture") as caught:
        load(f"folder:{tmp_path}")
    assert "good files" in str(caught.value)
    for e in range(5):
        for name in ("bee", "cat"):
            (tmp_path / name / f"{e}.png").write_text("")
    with pytest.raises(DataError, match="and 3 more"):
        load(f"folder:{tmp_path}")


def test_two_classes_of_one_name_are_rejected(tmp_path: Path) -> None:
    make_folder(tmp_path, ["Ant", "bee"])
    make_folder(tmp_path, ["ant"])
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("this file system does not distinguish upper from lower case")
    with pytest.raises(DataError, match="two classes have the same name, 'Ant' and 'ant'"):
        load(f"folder:{tmp_path}")


def _mixed(path: Path) -> None:
    write_picture(path / "bee" / "9.png", 1, side=9)


def _corrupt(path: Path) -> None:
    (path / "bee" / "2.png").write_bytes(b"no picture")


def _one_exemplar(path: Path) -> None:
    write_picture(path / "dab" / "0.png", 1)


def _same_name(path: Path) -> None:
    make_folder(path, ["ANT"])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (None, "holds no folder"),
        (_mixed, "pictures of different sizes"),
        (_corrupt, "is no picture that can be read"),
        (_one_exemplar, "'dab' with fewer than two exemplars"),
        (_same_name, "two classes have the same name"),
    ],
)
def test_bad_folders_end_the_commands_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None] | None, message: str
) -> None:
    """`data show` and `train` refuse with status 2 and leave nothing behind; `data check`, which says what is wrong,
    says it with status 1."""
    folder, output, runs = tmp_path / "data", tmp_path / "sheet.png", tmp_path / "runs"
    folder.mkdir()
    if spoil is not None:
        spoil(make_folder(folder, ["ant", "bee", "cat"]))
        if spoil is _same_name and len(list(folder.iterdir())) < 4:
            pytest.skip("this file system does not distinguish upper from lower case")
    name = f"folder:{folder}"
    assert main(["data", "show", name, "--output", str(output)]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert main(["train", "unimodal", "--modalities.m1.source", name, "--runs", str(runs)]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not output.exists()
    assert not runs.exists()
    assert main(["data", "check", name]) == 1
    assert message in " ".join(capsys.readouterr().out.split())


def make_omniglot(path: Path, half: str, alphabets: int, characters: int = 3, drawers: int = 20) -> None:
    """A tiny Omniglot: white paper, with one black row that says which drawer it was."""
    for a in range(alphabets):
        for c in range(characters):
            for d in range(drawers):
                cell = np.full((20, 20), 255, np.uint8)
                cell[d] = 0
                file = path / half / f"{half[7]}_Alphabet_{a}" / f"character{c + 1:02d}" / f"{c:04d}_{d + 1:02d}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(cell).convert("1").save(file)


def test_omniglot(tmp_path: Path) -> None:
    make_omniglot(tmp_path, "images_background", 3)
    data = load(f"omniglot:{tmp_path}")
    assert data.kind == "glyph"
    assert data.class_names[:2] == ("b_Alphabet_0/character01", "b_Alphabet_0/character02")
    assert data.items.shape == (9 * 20, 1, 20, 20)
    # Ink is 1, and the drawers are in order: 17 to 20 are held out.
    assert all(int(data.items[d, 0, d].sum()) == 20 and int(data.items[d].sum()) == 20 for d in range(20))
    assert data.held_out_exemplars.reshape(9, 20).sum(0).tolist() == [0] * 16 + [9] * 4
    assert int(data.held_out_classes.sum()) == 1
    make_omniglot(tmp_path, "images_evaluation", 1)
    assert len(load(f"omniglot:{tmp_path}@10").class_names) == 12


def test_omniglot_that_is_not_there_says_where_it_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder images_background\. .*Brenden Lake"):
        load(f"omniglot:{tmp_path}")
    (tmp_path / "images_background").mkdir()
    with pytest.raises(DataError, match="holds no ALPHABET/CHARACTER"):
        load(f"omniglot:{tmp_path}")


def test_mini_imagenet_flat_and_in_parts(tmp_path: Path) -> None:
    names = [f"n{i:08d}" for i in range(10)]
    flat = load(f"mini-imagenet:{make_folder(tmp_path / 'flat', names)}")
    assert int(flat.held_out_classes.sum()) == 2
    parts = tmp_path / "parts"
    for part, of_part in (("train", names[:6]), ("val", names[6:8]), ("test", names[8:])):
        make_folder(parts / part, of_part)
    data = load(f"mini-imagenet:{parts}")
    assert [n for n, out in zip(data.class_names, data.held_out_classes.tolist(), strict=True) if out] == names[8:]
    make_folder(parts / "test", names[:1])
    with pytest.raises(DataError, match="two classes have the same name"):
        load(f"mini-imagenet:{parts}")
    make_folder(tmp_path / "one" / "train", names)
    with pytest.raises(DataError, match="has train but needs train, test"):
        load(f"mini-imagenet:{tmp_path / 'one'}")
    with pytest.raises(DataError, match="ImageNet's page"):
        load(f"mini-imagenet:{tmp_path / 'nowhere'}")


def make_cifar(path: Path, names: list[str], train: int = 3, test: int = 2) -> None:
    """A tiny CIFAR-100, binary version: every pixel of exemplar e of class c is 10 c + e in its red plane."""
    path.mkdir(exist_ok=True)
    (path / "fine_label_names.txt").write_text("".join(f"{name}\n" for name in names))
    for file, first, count in (("train.bin", 0, train), ("test.bin", train, test)):
        records = b""
        for e in range(first, first + count):
            for c in range(len(names)):
                records += bytes([0, c]) + bytes([10 * c + e]) * 1024 + bytes([0]) * 2048
        (path / file).write_bytes(records)


def test_cifar_100(tmp_path: Path) -> None:
    names = [f"thing {i}" for i in range(10)]
    make_cifar(tmp_path, names)
    data = load(f"cifar-100:{tmp_path}")
    assert data.items.shape == (50, 3, 32, 32)
    assert data.items[:, 0, 5, 5].tolist() == [10 * c + e for c in range(10) for e in range(5)]
    assert int(data.items[:, 1:].sum()) == 0
    assert data.held_out_exemplars.reshape(10, 5).tolist() == [[False] * 3 + [True] * 2] * 10
    assert {n for n, out in zip(names, data.held_out_classes.tolist(), strict=True) if out} == held_out_names(names, 2)
    assert torch.equal(data.source_of.bool(), data.held_out_exemplars)


def test_bad_cifar_100_is_rejected(tmp_path: Path) -> None:
    make_cifar(tmp_path, ["apple", "bear"])
    with pytest.raises(DataError, match="leave @64 away"):
        load(f"cifar-100:{tmp_path}@64")
    content = (tmp_path / "test.bin").read_bytes()
    (tmp_path / "test.bin").write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"test\.bin: it has 12295 bytes, not a multiple of 3074"):
        load(f"cifar-100:{tmp_path}")
    (tmp_path / "test.bin").write_bytes(b"\x00\x02" + content[2:])
    with pytest.raises(DataError, match="fine label of 2, and there are 2 names"):
        load(f"cifar-100:{tmp_path}")
    (tmp_path / "test.bin").unlink()
    (tmp_path / "meta").write_bytes(b"\x80\x04")
    with pytest.raises(DataError, match=r"has no test\.bin\. This folder is the Python version, which is a pickle"):
        load(f"cifar-100:{tmp_path}")
