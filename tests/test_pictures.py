"""Pictures as people have them: each seen as in a viewer, or refused by name; nothing between."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, features

from miclab.data.check import check, one_colour
from miclab.data.dataset import DataSet
from miclab.data.folders import load_folder, read_picture
from miclab.data.pictures import MOST_PIXELS, PictureError, open_picture, resolve
from miclab.data.registry import silent
from miclab.errors import ConfigError

SCENE = np.zeros((6, 9, 3), np.uint8)
SCENE[:3, :4] = (250, 10, 20)
SCENE[3:, 5:] = (10, 30, 240)
"""A picture that no turn and no mirror leaves as it is."""
UNDO = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
"""Pillow's transpositions (FLIP_LEFT_RIGHT 0, FLIP_TOP_BOTTOM 1, ROTATE_90 2, 180 3, 270 4, TRANSPOSE 5, TRANSVERSE 6)
that store an upright scene so that the orientation shows it upright."""


def seen(path: Path, background: str = "white") -> np.ndarray:
    """The pixels of a picture as it is shown."""
    image, _ = open_picture(path, background)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_stand_upright_for_tasks_and_for_data(orientation: int, tmp_path: Path):
    upright = Image.fromarray(SCENE)
    turn = UNDO[orientation]
    stored = upright if turn is None else upright.transpose(Image.Transpose(turn))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.png", exif=exif)
    np.testing.assert_array_equal(seen(tmp_path / "photo.png"), SCENE)
    np.testing.assert_array_equal(read_picture(tmp_path / "photo.png", False, None), SCENE.transpose(2, 0, 1))


def transparent(mode: str) -> Image.Image:
    """A black dot on a transparent ground whose hidden pixels are black."""
    grey = Image.new("L", (5, 5), 0)
    hidden = Image.new("L", (5, 5), 0)
    hidden.putpixel((2, 2), 255)
    if mode == "P":
        image = Image.new("P", (5, 5), 1)
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.putpixel((2, 2), 0)
        image.info["transparency"] = 1
        return image
    image = Image.merge("LA", (grey, hidden))
    return image if mode == "LA" else image.convert("RGBA")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_icons_lie_on_the_background(mode: str, tmp_path: Path):
    path = tmp_path / "icon.png"
    image = transparent(mode)
    image.save(path, **({"transparency": 1} if mode == "P" else {}))
    for background, colour in (("white", (255, 255, 255)), ("#102030", (16, 32, 48))):
        found = seen(path, background)
        assert tuple(found[0, 0]) == colour
        assert tuple(found[2, 2]) == (0, 0, 0)
    with pytest.raises(ConfigError, match="background"):
        open_picture(path, "nowhere")


RAMP = np.linspace(0, 1, 16).reshape(4, 4)


@pytest.mark.parametrize(
    ("values", "ending"),
    [
        ((RAMP * 65535).astype(np.uint16), "png"),
        ((RAMP * 65535).astype(np.uint16), "tiff"),
        (RAMP.astype(np.float32), "tiff"),
        ((RAMP * 255).astype(np.float32), "tiff"),
        ((RAMP * 7 - 3).astype(np.float32), "tiff"),
        ((RAMP * 65535).astype(np.int32), "tiff"),
        ((RAMP * 1e6).astype(np.int32), "tiff"),
    ],
)
def test_many_bits_are_scaled_and_not_cut_off(values: np.ndarray, ending: str, tmp_path: Path):
    Image.fromarray(values).save(tmp_path / f"deep.{ending}")
    found = seen(tmp_path / f"deep.{ending}")
    np.testing.assert_allclose(found[..., 0], RAMP * 255, atol=1.01)
    np.testing.assert_array_equal(found[..., 0], found[..., 2])


def test_deep_grey_is_dark_where_it_is_dark_and_clear_where_it_is_clear(tmp_path: Path):
    # PGM of 16 bits: nearly black, though no value is over 255.
    (tmp_path / "dark.pgm").write_bytes(b"P5 2 1 65535\n" + struct.pack(">HH", 250, 100))
    assert seen(tmp_path / "dark.pgm").max() == 1
    # PFM has floats, from its last row to its first.
    (tmp_path / "floats.pfm").write_bytes(b"Pf 2 1 -1.0\n" + struct.pack("<ff", 0.0, 1.0))
    assert seen(tmp_path / "floats.pfm")[0, :, 0].tolist() == [0, 255]
    Image.fromarray(np.full((2, 2), 700_000, np.int32)).save(tmp_path / "even.tiff")
    assert np.ptp(seen(tmp_path / "even.tiff")) == 0
    grey = np.array([[0, 30_000], [65_535, 0]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "clear.png")
    content, at = (tmp_path / "clear.png").read_bytes(), 33  # behind the signature and the header
    chunk = b"tRNS" + struct.pack(">H", 0)
    made = content[:at] + struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[at:]
    (tmp_path / "clear.png").write_bytes(made)
    np.testing.assert_array_equal(seen(tmp_path / "clear.png", "#010203")[[0, 1, 0], [0, 1, 1]],
                                  [[1, 2, 3], [1, 2, 3], [117, 117, 117]])  # fmt: skip


def test_cmyk_palette_grey_and_black_and_white_have_their_colours(tmp_path: Path):
    for mode in ("CMYK", "P", "L", "1"):
        picture = Image.fromarray(SCENE).convert(mode)
        path = tmp_path / f"{mode}.{'tiff' if mode == 'CMYK' else 'png'}"
        picture.save(path)
        np.testing.assert_allclose(seen(path).astype(int), np.asarray(picture.convert("RGB")).astype(int), atol=1)


def test_of_an_animation_the_first_frame_is_shown_and_it_is_said(tmp_path: Path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    for name in ("a.gif", "a.webp", "a.tiff", "a.png"):
        more = {"lossless": True} if name.endswith("webp") else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **more)
        image, remarks = open_picture(tmp_path / name)
        assert remarks == ("the first of 3 frames is shown",)
        assert image.getpixel((1, 1)) == (255, 0, 0)


def bomb(width: int, height: int) -> bytes:
    """A small PNG that says it is large."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def truncated() -> bytes:
    """The first half of a JPEG."""
    import io

    content = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(content, "JPEG")
    return content.getvalue()[: len(content.getvalue()) // 2]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bomb.png", bomb(30000, 30000), "pixels"),
        ("just.png", bomb(MOST_PIXELS, 1), "over 200 times"),
        ("warned.png", bomb(10000, 9000), "more than 89,478,485 pixels"),
        ("strip.png", bomb(2010, 10), "over 200 times"),
        ("half.jpg", truncated(), "truncated"),
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "vector drawing"),
        ("drawing.png", b"<?xml version='1.0'?><svg/>", "vector drawing"),
        ("print.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is none of"),
        ("phone.heic", b"\0\0\0\x18ftypheic" + bytes(40), "HEIC"),
        ("empty.png", b"", "it is empty"),
        ("text.png", b"no picture at all", "is damaged"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_its_reason(name: str, content: bytes, message: str, tmp_path: Path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PictureError, match=message) as caught:
        open_picture(path)
    assert name in str(caught.value)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_a_damaged_picture_is_refused_whatever_its_decoder_raises(tmp_path: Path):
    path = tmp_path / "a.avif"
    Image.new("RGB", (30, 20)).save(path)
    open_picture(path)
    path.write_bytes(path.read_bytes().replace(b"pitm", b"xxxx"))
    with pytest.raises(PictureError, match=r"a\.avif: it is no picture that can be read \(Failed to decode image"):
        open_picture(path)


def test_values_that_are_no_numbers_are_refused(tmp_path: Path):
    Image.fromarray(np.array([[0, np.nan], [1, 2]], np.float32)).save(tmp_path / "n.tiff")
    with pytest.raises(PictureError, match="no numbers"):
        open_picture(tmp_path / "n.tiff")


def test_a_path_is_found_below_its_roots_and_nowhere_else(tmp_path: Path):
    task, root = tmp_path / "bench" / "task", tmp_path / "bench"
    (task / "own").mkdir(parents=True)
    for path in (task / "own" / "a.png", root / "b.png", tmp_path / "secret.png"):
        path.write_bytes(b"")
    assert resolve("own/a.png", [task, root]) == task / "own" / "a.png"
    assert resolve("task/own/a.png", [task, root]) == task / "own" / "a.png"
    assert resolve("b.png", [task, root]) == root / "b.png"
    for outside in ("../secret.png", "own/../../../secret.png", str(tmp_path / "secret.png"), "C:\\secret.png"):
        with pytest.raises(PictureError, match="leads out"):
            resolve(outside, [task, root])
    with pytest.raises(PictureError, match="is missing"):
        resolve("own/none.png", [task, root])


def test_pictures_of_one_colour_are_reported(tmp_path: Path):
    for number in range(12):
        folder = tmp_path / f"class{number}"
        folder.mkdir()
        for i in range(3):
            image = Image.fromarray(np.roll(SCENE, number + i, 1))
            (Image.new("RGB", (9, 6), "grey") if (number, i) == (4, 1) else image).save(folder / f"{i}.png")
    data: DataSet = load_folder("folder:x", str(tmp_path), silent)
    assert one_colour(data) == [data.class_names.index("class4") * 3 + 1]
    assert torch.equal(data.items[0], torch.from_numpy(SCENE.transpose(2, 0, 1)))
    notes = check("folder:x", lambda: data)["notes"]
    assert any("1 exemplars are all of one colour" in note and "class4" in note for note in notes)


def test_pillow_agrees_on_what_upright_is(tmp_path: Path):
    """An oracle beside the table of turns: Pillow's own."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(SCENE).save(tmp_path / "p.jpg", exif=exif, quality=100)
    with Image.open(tmp_path / "p.jpg") as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(seen(tmp_path / "p.jpg"), expected)
