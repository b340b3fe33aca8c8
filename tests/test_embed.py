"""`miclab data embed`: the vectors are the encoder's own; killed and begun again gives the same bytes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from tiny_encoders import save_encoder, write_pictures, write_sounds, write_texts
from transformers import AutoModel, AutoTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import miclab
from miclab.cli import main
from miclab.data import DataError, load
from miclab.data.embed import embed
from miclab.data.embed_items import find_items
from miclab.data.pretrained import EncoderError, load_encoder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encoders, pictures, texts and sounds."""
    folder = tmp_path_factory.mktemp("embed")
    for name in ("clip", "siglip", "dinov2", "bert", "clap"):
        save_encoder(name, folder / name)
    write_pictures(folder / "pictures")
    write_texts(folder / "texts.csv")
    write_sounds(folder / "sounds")
    return folder


CASES = {
    "clip images": ("clip", "--images", "pictures", "get_image_features", 24),
    "clip texts": ("clip", "--texts", "texts.csv", "get_text_features", 24),
    "siglip images": ("siglip", "--images", "pictures", "get_image_features", 32),
    "siglip texts": ("siglip", "--texts", "texts.csv", "get_text_features", 32),
    "dinov2 images": ("dinov2", "--images", "pictures", "pooled", 32),
    "bert texts": ("bert", "--texts", "texts.csv", "mean", 32),
    "clap audio": ("clap", "--audio", "sounds", "get_audio_features", 24),
}


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_encoder_makes_a_file_that_is_a_source(case: str, place: Path, tmp_path: Path, capsys) -> None:
    """Fails if a kind of encoder cannot be loaded with its own processor, or classes are not those of the folders."""
    name, option, items, method, dimension = CASES[case]
    output = tmp_path / "v.safetensors"
    arguments = ["--model", place / name, option, place / items, "--output", output, "--batch", "7", "--json"]
    assert main(["data", "embed", *map(str, arguments)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["features"], found["dimension"], found["reused_rows"]) == (method, dimension, 0)
    data = load(f"vectors:{output}")
    assert data.class_names == tuple(f"class {number}" for number in range(10))
    assert data.item_shape == (dimension,)
    assert [file.name for file in tmp_path.iterdir()] == ["v.safetensors"]
    # Different items differ, and their vectors do not depend on the batch.
    assert len(data.items.unique(dim=0)) > 10
    encoder = load_encoder(str(place / name), option.removeprefix("--"))  # type: ignore[arg-type]
    alone = embed(encoder, find_items(encoder.kind, place / items), tmp_path / "w.safetensors", batch=1)
    with pytest.raises(miclab.MiclabError, match="there already"):
        miclab.embed(str(place / name), output, **{encoder.kind: place / items})
    torch.testing.assert_close(load(f"vectors:{alone.path}").items, data.items, atol=2e-5, rtol=1e-4)


@torch.inference_mode()
def test_vectors_are_what_the_models_themselves_give(place: Path, tmp_path: Path) -> None:
    """CLIP by its own classes: fails if preprocessing, padding or pooling differ, or rows are in another order."""
    model = AutoModel.from_pretrained(place / "clip")
    files = sorted((place / "pictures").glob("*/*.png"))
    pixels = CLIPImageProcessorPil.from_pretrained(place / "clip")([Image.open(f) for f in files], return_tensors="pt")
    wanted = model.visual_projection(model.vision_model(**pixels).pooler_output)
    encoder = load_encoder(str(place / "clip"), "images")
    made = embed(encoder, find_items("images", place / "pictures"), tmp_path / "i.safetensors", batch=8)
    torch.testing.assert_close(load(f"vectors:{made.path}").items, wanted, atol=1e-5, rtol=1e-4)
    rows = (place / "texts.csv").read_text().splitlines()[1:]
    tokens = AutoTokenizer.from_pretrained(place / "clip")
    texts = [
        model.text_projection(model.text_model(**tokens([row.split('"')[1]], return_tensors="pt")).pooler_output)
        for row in rows
    ]
    encoder = load_encoder(str(place / "clip"), "texts")
    made = miclab.embed(str(place / "clip"), tmp_path / "t.safetensors", texts=place / "texts.csv", batch=8)
    torch.testing.assert_close(load(f"vectors:{made.path}").items, torch.cat(texts), atol=1e-5, rtol=1e-4)


class Killed(BaseException):
    """What stands for SIGKILL."""


def test_killed_and_begun_again_gives_the_same_bytes(place: Path, tmp_path: Path) -> None:
    """Fails if parts are not found again, are taken for items that changed since, or leave a trace in the file."""
    encoder = load_encoder(str(place / "clip"), "images")
    pictures = write_pictures(tmp_path / "pictures")

    def run(name: str, stop: int = 1000):
        def count(done: int, total: int) -> None:
            assert total == 30
            if done >= stop:
                raise Killed

        return embed(encoder, find_items("images", pictures), tmp_path / name, batch=1, on_progress=count)

    whole = run("whole.safetensors")
    with pytest.raises(Killed):
        run("cut.safetensors", stop=20)
    parts = sorted((tmp_path / "cut.safetensors.parts").glob("*.safetensors"))
    assert len(parts) == 2
    assert not (tmp_path / "cut.safetensors").exists()
    # A part that was damaged meanwhile is computed again.
    parts[0].write_bytes(parts[0].read_bytes()[:50])
    cut = run("cut.safetensors")
    assert cut.reused == 8
    assert cut.path.read_bytes() == whole.path.read_bytes()
    assert not (tmp_path / "cut.safetensors.parts").exists()
    with pytest.raises(Killed):
        run("changed.safetensors", stop=20)
    Image.new("RGB", (30, 30), "red").save(pictures / "class 0" / "0.png")
    changed = run("changed.safetensors")
    assert changed.reused == 8
    assert changed.path.read_bytes() == run("anew.safetensors").path.read_bytes() != whole.path.read_bytes()
    with safe_open(whole.path, framework="pt") as file:
        metadata = file.metadata()
    assert (metadata["features"], metadata["weights"]) == ("get_image_features", encoder.weights)


def test_what_cannot_be_embedded_is_refused(place: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    def refused(*arguments: object) -> str:
        assert main(["data", "embed", *map(str, arguments)]) == 2
        return capsys.readouterr().err

    pictures, output = place / "pictures", tmp_path / "v.safetensors"
    clip = ["--model", place / "clip", "--output", output]
    assert "Give one of --images" in refused(*clip)
    assert "Give one of --images" in refused(*clip, "--images", pictures, "--texts", place / "texts.csv")
    assert "there is no folder" in refused(*clip, "--images", tmp_path / "none")
    assert "label,text" in refused(*clip, "--texts", pictures)
    (tmp_path / "bad.csv").write_text("label,text\na,\n")
    assert "row 0" in refused(*clip, "--texts", tmp_path / "bad.csv")
    assert "holds no file .wav" in refused(*clip, "--audio", pictures)
    (tmp_path / "few").mkdir()
    for number in range(9):
        (tmp_path / "few" / f"{number}").symlink_to(pictures / f"class {number}")
    assert "has 9 classes" in refused(*clip, "--images", tmp_path / "few")
    assert "batch = 0" in refused(*clip, "--images", pictures, "--batch", 0)
    assert "end in .safetensors" in refused("--model", "x", "--output", tmp_path / "v.npy", "--images", pictures)
    assert "is no folder" in refused("--model", "./none", "--output", output, "--images", pictures)
    assert "auto or cpu" in refused(*clip, "--images", pictures, "--device", "tpu")
    assert "Is it a model for texts?" in refused(
        "--model", place / "dinov2", "--output", output, "--texts", place / "texts.csv"
    )
    output.write_bytes(b"x")
    assert "--overwrite" in refused(*clip, "--images", pictures)
    output.unlink()
    write_pictures(tmp_path / "damaged")
    (tmp_path / "damaged" / "class 3" / "1.png").write_bytes(b"no picture")
    assert "class 3/1.png: it is no picture" in refused(*clip, "--images", tmp_path / "damaged")
    assert not output.exists()
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "extra `mllm`, of which 'transformers' is not installed" in refused(*clip, "--images", pictures)


def test_pickled_and_missing_weights_are_refused(place: Path, tmp_path: Path) -> None:
    """Fails if a checkpoint that is a pickle is read, or weights that lack are drawn at random in silence."""
    save_encoder("dinov2", tmp_path / "pickled")
    weights = tmp_path / "pickled" / "model.safetensors"
    model = AutoModel.from_pretrained(tmp_path / "pickled")
    weights.unlink()
    torch.save(model.state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(EncoderError, match="safetensors"):
        load_encoder(str(tmp_path / "pickled"), "images", offline=True)
    save_encoder("dinov2", tmp_path / "holes")
    state = {k: v for k, v in model.state_dict().items() if k != "encoder.layer.1.mlp.fc1.weight"}
    model.save_pretrained(tmp_path / "holes", state_dict=state)
    with pytest.raises(EncoderError, match=r"lacks 1 weights, such as encoder\.layer\.1\.mlp\.fc1\.weight"):
        load_encoder(str(tmp_path / "holes"), "images", offline=True)
    with pytest.raises(DataError):
        find_items("images", tmp_path / "holes")
