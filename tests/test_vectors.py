"""`vectors:PATH`: every format gives the same data; what cannot be used is refused by name; the centre; a training."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import save_file
from tiny import tiny_config

from miclab.cli import main
from miclab.config import schema
from miclab.config.parts import ModalityConfig
from miclab.config.request import Request, SplitSizes
from miclab.config.run import RunConfig
from miclab.data import DataError, MissingDataError, load
from miclab.data.check import check, common_shares
from miclab.data.items import Exemplars
from miclab.errors import ConfigError, RunError
from miclab.training.loop import train_config
from miclab.worlds.exemplars import known_exemplars
from miclab.worlds.sequences import training_batch
from miclab.worlds.source_facts import resolved
from miclab.worlds.splits import split_batches
from miclab.worlds.world import draw_world, world_from_tensors

CLASSES, EACH, DIMENSION = 20, 5, 6
NAMES = [f"thing {number}" for number in range(CLASSES)]
LABELS = [name for name in NAMES for _ in range(EACH)]


def cube(seed: int = 0, offset: float = 0.0, spread: float = 0.3, dimension: int = DIMENSION) -> np.ndarray:
    """Vectors around one mean a class, float32 [class, exemplar, dimension]; all are moved by `offset`."""
    generator = np.random.default_rng(seed)
    means = generator.normal(size=(CLASSES, 1, dimension))
    return (means + spread * generator.normal(size=(CLASSES, EACH, dimension)) + offset).astype(np.float32)


def rows(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, values.shape[-1])


def write_csv(path: Path, labels: list[str], header: str = "label") -> None:
    path.write_text("\n".join([header, *labels] if header else labels) + "\n", encoding="utf-8")


def frame(values: np.ndarray, labels: list[str], kind: pl.DataType | type[pl.DataType] = pl.Float32) -> pl.DataFrame:
    columns = {"embedding": rows(values).tolist(), "note": [0.5] * len(labels), "label": labels}
    return pl.DataFrame(columns, schema_overrides={"embedding": pl.List(kind)})


def npy_cube(folder: Path, values: np.ndarray) -> Path:
    np.save(folder / "v.npy", values)
    write_csv(folder / "v.labels.csv", NAMES, header="")
    return folder / "v.npy"


def npy_rows(folder: Path, values: np.ndarray) -> Path:
    np.save(folder / "v.npy", rows(values).astype(np.float64))
    write_csv(folder / "v.labels.csv", [f"{n},{label}" for n, label in enumerate(LABELS)], header="number,Label")
    return folder / "v.npy"


def npy_labels(folder: Path, values: np.ndarray) -> Path:
    # Fortran order and foreign bytes are still the same numbers.
    np.save(folder / "v.npy", np.asfortranarray(rows(values)).astype(">f4"))
    np.save(folder / "v.labels.npy", np.array(LABELS))
    return folder / "v.npy"


def npz(folder: Path, values: np.ndarray) -> Path:
    np.savez_compressed(folder / "v.npz", vectors=rows(values), labels=np.array(LABELS))
    return folder / "v.npz"


def tensors(folder: Path, values: np.ndarray) -> Path:
    numbers = np.arange(CLASSES).repeat(EACH)
    metadata = {"class_names": json.dumps(NAMES)}
    save_file({"vectors": rows(values), "labels": numbers}, folder / "v.safetensors", metadata=metadata)
    return folder / "v.safetensors"


def parquet(folder: Path, values: np.ndarray) -> Path:
    frame(values, LABELS).write_parquet(folder / "v.parquet")
    return folder / "v.parquet"


def parquet_array(folder: Path, values: np.ndarray) -> Path:
    whole = frame(values, LABELS).with_columns(pl.col("embedding").cast(pl.Array(pl.Float32, values.shape[-1])))
    whole.write_parquet(folder / "v.parquet")
    return folder / "v.parquet"


def datasets(folder: Path, values: np.ndarray) -> Path:
    """What `Dataset.save_to_disk` of Hugging Face writes: Arrow streams, and class names in the description."""
    place = folder / "dataset"
    place.mkdir()
    numbered = frame(values, LABELS).with_columns(label=pl.Series(np.arange(CLASSES).repeat(EACH)))
    files = [f"data-0000{part}-of-00002.arrow" for part in range(2)]
    numbered[: CLASSES * EACH // 2].write_ipc_stream(place / files[0])
    numbered[CLASSES * EACH // 2 :].write_ipc_stream(place / files[1])
    state = {"_data_files": [{"filename": file} for file in files], "_indices_data_files": None}
    (place / "state.json").write_text(json.dumps(state))
    features = {"label": {"names": NAMES, "_type": "ClassLabel"}, "embedding": {"_type": "Sequence"}}
    (place / "dataset_info.json").write_text(json.dumps({"features": features}))
    return place


WRITERS = (npy_cube, npy_rows, npy_labels, npz, tensors, parquet, parquet_array, datasets)


@pytest.mark.parametrize("write", WRITERS)
def test_every_format_gives_the_same_data(tmp_path: Path, write: Callable[[Path, np.ndarray], Path]) -> None:
    """Fails if a format loses, reorders or rounds a vector, or takes another label."""
    values = cube()
    data = load(f"vectors:{write(tmp_path, values)}")
    assert data.class_names == tuple(NAMES)
    assert data.items.dtype == torch.float32
    assert torch.equal(data.items, torch.from_numpy(rows(values)))
    assert data.class_of.tolist() == np.arange(CLASSES).repeat(EACH).tolist()
    (tmp_path / "again").mkdir()
    reference = load(f"vectors:{npy_cube(tmp_path / 'again', values)}")
    assert data.content == reference.content
    values[3, 1, 2] += 1
    (tmp_path / "other").mkdir()
    assert load(f"vectors:{write(tmp_path / 'other', values)}").content != reference.content


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_precisions_become_float32(tmp_path: Path, kind: type) -> None:
    np.save(tmp_path / "v.npy", cube().astype(kind))
    data = load(f"vectors:{tmp_path / 'v.npy'}")
    assert torch.equal(data.items, torch.from_numpy(rows(cube().astype(kind).astype(np.float32))))
    # Classes of an array without labels are named by their places.
    assert data.class_names[:2] == ("class 0", "class 1")


def test_a_fifth_of_the_classes_and_of_each_class_is_held_out_wherever_its_rows_stand(tmp_path: Path) -> None:
    """Fails if a training item is held out too, or if what is held out depends on the order of classes."""
    order = np.random.default_rng(1).permutation(len(LABELS))
    np.savez(tmp_path / "a.npz", vectors=rows(cube())[order], labels=np.array(LABELS)[order])
    shuffled, straight = load(f"vectors:{tmp_path / 'a.npz'}"), load(f"vectors:{npz(tmp_path, cube())}")
    for data in (shuffled, straight):
        assert int(data.held_out_classes.sum()) == CLASSES // 5
        parts = [data.indices(part) for part in ("training", "held-out exemplars", "held-out classes")]
        assert torch.equal(torch.cat(parts).sort().values, torch.arange(len(LABELS)))
        assert torch.bincount(data.class_of[data.held_out_exemplars]).tolist() == [1] * CLASSES

    def out(data):
        return {n for n, held in zip(data.class_names, data.held_out_classes.tolist(), strict=True) if held}

    assert out(shuffled) == out(straight)


# -- what is refused ----------------------------------------------------------------------------------------------
def changed(row: int | slice, value: float) -> np.ndarray:
    values = rows(cube())
    values[row] = value
    return values


def cube_with_nan(label: int, exemplar: int) -> np.ndarray:
    values = cube()
    values[label, exemplar, 1] = np.nan
    return values


def save_rows(values: np.ndarray, labels: list | None = None) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.savez(folder / "v.npz", vectors=values, labels=np.array(LABELS if labels is None else labels))
        return folder / "v.npz"

    return write


def save_frame(change: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        change(frame(cube(), LABELS)).write_parquet(folder / "v.parquet")
        return folder / "v.parquet"

    return write


def with_row(row: int, value: list | None) -> Callable[[pl.DataFrame], pl.DataFrame]:
    def change(whole: pl.DataFrame) -> pl.DataFrame:
        lists = whole["embedding"].to_list()
        lists[row] = value
        return whole.with_columns(pl.Series("embedding", lists, dtype=pl.List(pl.Float32)))

    return change


def objects(folder: Path) -> Path:
    np.save(folder / "v.npy", np.array([[1, "a"], [2, None]], dtype=object), allow_pickle=True)
    return folder / "v.npy"


def cut(write: Callable[[Path, np.ndarray], Path]) -> Callable[[Path], Path]:
    """A file that ends early."""

    def short(folder: Path) -> Path:
        path = write(folder, cube())
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        return path

    return short


def unlabelled(folder: Path) -> Path:
    np.save(folder / "v.npy", rows(cube()))
    return folder / "v.npy"


def both_labels(folder: Path) -> Path:
    npy_labels(folder, cube())
    return npy_rows(folder, cube())


def text(name: str, content: str = "x") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
        return folder / name

    return write


def state(content: dict) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        place = datasets(folder, cube())
        (place / "state.json").write_text(json.dumps(content))
        return place

    return write


def unnamed_class(folder: Path) -> Path:
    numbers = np.arange(CLASSES).repeat(EACH)
    save_file({"vectors": rows(cube()), "labels": numbers}, folder / "v.safetensors", metadata={"class_names": '["a"]'})
    return folder / "v.safetensors"


REFUSED = {
    "NaN": (save_rows(changed(7, np.nan)), r"row 7 \(counted from 0\) has NaN"),
    "NaN in a class": (lambda folder: npy_cube(folder, cube_with_nan(3, 2)), "class 3, exemplar 2 .* has NaN"),
    "infinity": (save_rows(changed(slice(3, None, 20), np.inf)), "rows 3, 23, 43, 63, 83 "),
    "too large for float32": (save_rows(changed(2, 1.0).astype(np.float64) * 1e39), "too large for float32"),
    "a norm too large": (save_rows(changed(4, 3e38)), "row 4 .* too large for float32"),
    "a zero row": (save_rows(changed(9, 0.0)), r"row 9 .* length 0"),
    "one class": (save_rows(rows(cube()), ["a"] * 100), "has 1 class; at least 10"),
    "few classes": (save_rows(rows(cube())[:45], LABELS[:45]), "has 9 classes; at least 10"),
    "a class of one row": (save_rows(rows(cube()), [*LABELS[:-1], "alone"]), "'alone' with fewer than two"),
    "names that differ in case": (save_rows(rows(cube()), [*LABELS[:-2], "Thing 1", "Thing 1"]), "same name"),
    "mismatched lengths": (save_rows(rows(cube()), LABELS[:-1]), "99 labels for 100 rows"),
    "an empty label": (save_rows(rows(cube()), [*LABELS[:3], "  ", *LABELS[4:]]), "row 3 .* empty label"),
    "labels of floats": (save_rows(rows(cube()), [0.5] * 100), "labels are one list of texts"),
    "whole numbers": (save_rows(np.ones((100, 4), int)), "type int64; vectors are float16"),
    "one dimension": (save_rows(rows(cube())[:, :1]), "have 1 number"),
    "four axes": (save_rows(cube()[None]), r"has shape \[1, 20, 5, 6\]"),
    "no labels": (unlabelled, r"no labels. Put one label a row into v\.labels\.csv"),
    "two files of labels": (both_labels, r"both v\.labels\.csv and v\.labels\.npy"),
    "objects": (objects, "Python objects"),
    "a .npy that is cut": (cut(npy_cube), r"v\.npy: it cannot be read"),
    "a .npz that is cut": (cut(npz), r"v\.npz: it cannot be read"),
    "safetensors that are cut": (cut(tensors), r"v\.safetensors: it cannot be read"),
    "Parquet that is cut": (cut(parquet), r"v\.parquet: it cannot be read"),
    "Parquet of mixed dimensions": (save_frame(with_row(5, [1.0, 2.0])), "row 5 .* has 2 numbers, and row 0 has 6"),
    "Parquet without a vector": (save_frame(with_row(5, None)), "row 5 .* is empty"),
    "Parquet with a hole": (save_frame(with_row(6, [1.0] * 5 + [None])), "row 6 .* null"),
    "Parquet without vectors": (save_frame(lambda whole: whole.drop("embedding")), "one column of lists of floats"),
    "Parquet of many labels": (
        save_frame(lambda whole: whole.rename({"label": "a"}).with_columns(b=pl.col("a"))), "name one 'labels'",
    ),
    "a label without a name": (unnamed_class, "row 5 has the label 1, and there are 1 class names"),
    "a pickle": (text("v.pt"), "may be pickles"),
    "HDF5": (text("v.h5"), "With h5py"),
    "another folder": (text("folder/note.txt"), "format that is not read"),
    "a state that leads out": (state({"_data_files": [{"filename": "../v.arrow"}]}), "no file of this folder"),
    "a state without files": (state({"_data_files": []}), "names no data files"),
    "a choice of rows": (state({"_data_files": [], "_indices_data_files": [{}]}), "flatten_indices"),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_what_cannot_be_used_is_refused_with_the_file_and_the_row(tmp_path: Path, fault: str) -> None:
    write, message = REFUSED[fault]
    path = write(tmp_path)
    with pytest.raises(DataError, match=message) as raised:
        load(f"vectors:{path}")
    assert str(tmp_path) in str(raised.value)


def test_what_is_not_there_is_named_with_what_is_near(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"did you mean vectors:mine\.npz\?"):
        load("mine.npz")
    npy_cube(tmp_path, cube())
    with pytest.raises(MissingDataError, match=r"did you mean .*v\.npy\?"):
        load(f"vectors:{tmp_path / 'vv.npy'}")
    with pytest.raises(DataError, match=r"without state\.json"):
        load(f"vectors:{tmp_path}")
    (tmp_path / "dict" / "train").mkdir(parents=True)
    text("dict/dataset_dict.json", "{}")(tmp_path)
    with pytest.raises(DataError, match=r"as in .*dict/train"):
        load(f"vectors:{tmp_path / 'dict'}")


@pytest.mark.parametrize("write", WRITERS[:-1])
def test_no_damage_ends_in_a_traceback(tmp_path: Path, write: Callable[[Path, np.ndarray], Path]) -> None:
    """Fails if bytes of a damaged file raise anything else than a DataError (or load, where they hit numbers alone)."""
    path = write(tmp_path, cube())
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    for _ in range(20):
        content = bytearray(whole)
        for place in generator.integers(0, min(len(whole), 300), 3):
            content[place] = generator.integers(256)
        path.write_bytes(bytes(content))
        with contextlib.suppress(DataError):
            load(f"vectors:{path}")


def test_equal_vectors_are_reported(tmp_path: Path) -> None:
    values = cube()
    values[1, 0] = values[0, 0]
    values[2, EACH - 1] = values[2, 0]
    path = npy_cube(tmp_path, values)
    report = check("v", lambda: load(f"vectors:{path}"))
    assert report["faults"] == []
    assert any("1 exemplars equal one of another class" in note for note in report["notes"])
    assert any("1 exemplars equal one of their own class; in 1 of these pairs" in note for note in report["notes"])


# -- the centre ---------------------------------------------------------------------------------------------------
def config_of(*paths: Path, **fields: object) -> RunConfig:
    parts = {"labels": 4, "noise": 0.0, **fields}
    modalities = {f"m{n + 1}": {"source": f"vectors:{path}", **parts} for n, path in enumerate(paths)}
    plain = {
        "modalities": modalities,
        "sequence": {"context": 4, "burstiness": 2, "pairing": "concept"},
        "decoder": {"positions": "onehot", "position_slots": 20, "initial_std": 0.1},
        "optimiser": {"name": "adamw", "learning_rate": 1e-2, "batch_size": 64},
        "numerics": {"mode": "eager"},
    }
    return resolved(schema.from_mapping(RunConfig, plain))


def test_the_centre_is_the_mean_of_training_items_alone_and_takes_the_common_direction_away(tmp_path: Path) -> None:
    """Fails if a held-out item goes into the mean, held-out items are not centred by it, items lose their norm, or the
    common share stays."""
    path = npy_cube(tmp_path, cube(offset=3.0))
    config = config_of(path, centre="training", classes=12)
    world = draw_world(config)
    known = known_exemplars(config.modalities["m1"]).data
    units = known.items.double() / known.items.double().norm(dim=1, keepdim=True)
    classes = world.tensors()["classes.m1"]
    chosen = (
        (known.class_of[:, None] == classes).any(1)
        & ~known.held_out_exemplars
        & ~known.held_out_classes[known.class_of]
    )
    assert int(chosen.sum()) == 12 * (EACH - 1)
    centre = units[chosen].mean(0)
    assert torch.allclose(world.tensors()["centre.m1"].double(), centre, atol=1e-6)
    wanted = (units - centre) / (units - centre).norm(dim=1, keepdim=True)
    batches = [training_batch(config, world, 0)]
    batches += [b for _, b in split_batches(config, world, "icl", SplitSizes(sequences=10, novel_sets=1))]
    for batch in batches:
        items = batch.items["m1"].flatten(0, 1).double()
        assert torch.cdist(items, wanted).min(1).values.max() < 1e-5
        assert torch.allclose(items.norm(dim=1), torch.ones(len(items), dtype=torch.double), atol=1e-5)
    shares = common_shares(load(f"vectors:{path}"))
    assert shares["off"]["training"] > 0.8
    assert shares["training"]["training"] < 0.01
    assert shares["training"]["held-out classes"] < 0.5 * shares["off"]["held-out classes"]
    again = world_from_tensors(config, world.tensors())
    assert torch.equal(training_batch(config, again, 3).items["m1"], training_batch(config, world, 3).items["m1"])
    with pytest.raises(RunError, match=r"centre\.m1"):
        world_from_tensors(config, {k: v for k, v in world.tensors().items() if k != "centre.m1"})


def test_the_common_share_is_what_its_definition_says(tmp_path: Path) -> None:
    """For items of length 1 it is the mean cosine over all pairs, an item with itself included."""
    data = load(f"vectors:{npy_cube(tmp_path, cube(offset=0.7))}")
    places = data.indices("training")
    units = data.floats(places).double()
    assert Exemplars(data).common_share(places) == pytest.approx(float((units @ units.T).mean()), abs=1e-6)


def test_the_centre_is_in_the_hash_only_when_it_is_used_and_is_refused_where_it_means_nothing(tmp_path: Path) -> None:
    path = npy_cube(tmp_path, cube())
    off, on = config_of(path), config_of(path, centre="training")
    assert schema.trajectory_hash(off) != schema.trajectory_hash(on)
    assert '"centre"' not in schema.field_text(RunConfig, "modalities", off.modalities)
    # The hash that configurations without the field had.
    assert schema.trajectory_hash(tiny_config(2)) == TINY_HASH
    for fields, message in (
        ({"centre": "training"}, r"centre = 'training'.*without .*source"),
        ({"centre": "training", "source": "x", "encoder": "mlp"}, r"'off' with .*encoder"),
        ({"centre": "mean", "source": "x"}, "did you mean|one of off, training"),
    ):
        with pytest.raises(ConfigError, match=message):
            ModalityConfig(**fields).check("modalities.m1")
    with pytest.raises(ConfigError, match="pictures and spectrograms"):
        resolved(schema.from_mapping(RunConfig, {"modalities": {"m": {
            "source": "small:glyphs", "centre": "training", "labels": 4}}}))  # fmt: skip


TINY_HASH = "fa4ab2dba5b20414cda79b1dce95db55ded791f08b07712988fdb185f771b995"


def test_a_second_stage_keeps_the_centre_of_the_first(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    first = config_of(npy_cube(one, cube(offset=1.0)), centre="training", classes=12)
    second = config_of(one / "v.npy", npy_cube(two, cube(1, offset=1.0, dimension=4)), centre="training", classes=12)
    parent = draw_world(first).tensors()
    # A parent's centre is taken as it lies on disk, to the bit.
    kept = {**parent, "centre.m1": parent["centre.m1"] + 1e-3}
    world = draw_world(second, kept)
    assert torch.equal(world.tensors()["centre.m1"], kept["centre.m1"])
    assert world.sources["m1"].exemplars.centre is not None
    assert not torch.equal(world.tensors()["centre.m2"], world.tensors()["centre.m1"][:4])


# -- end to end ---------------------------------------------------------------------------------------------------
def test_two_files_are_paired_by_concept_and_learnt(tmp_path: Path) -> None:
    """Two modalities of different dimensions, one with rows in another order: fails if an exemplar's items are of two
    concepts, or if a hundred steps do not beat the copy of a label of the context (0.5)."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    order = np.random.default_rng(1).permutation(len(LABELS))
    first = npz(one, cube(dimension=12))
    np.savez(two / "v.npz", vectors=rows(cube(1, dimension=8))[order], labels=np.char.upper(np.array(LABELS)[order]))
    config = config_of(first, two / "v.npz")
    batch = training_batch(config, world := draw_world(config), 0)
    names = [
        [[s.names[c].casefold() for c in row] for row in batch.classes[m].tolist()] for m, s in world.sources.items()
    ]
    assert names[0] == names[1]
    request = Request(steps=100, evaluate_every=100, checkpoint_every=100, sequences=200, novel_sets=1)
    run, outcome = train_config(replace(config, seed=1), request, tmp_path / "runs")
    assert outcome.status == "finished"
    assert run.rows()[-1]["accuracy"]["train"] > 0.7


def test_the_commands_know_vectors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = npy_cube(tmp_path, cube(offset=3.0))
    assert main(["data", "check", f"vectors:{path}"]) == 0
    out = capsys.readouterr().out
    assert "common to all items: training 0.9" in out
    assert "with centre = training: training 0.0" in out
    assert main(["data", "check", f"vectors:{path}", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)[0]
    assert report["common_share"]["off"]["training"] > report["common_share"]["training"]["training"]
    # As many labels as the note allows are trained, and one more is refused by name.
    most = int(re.search(r"Labels: 2 to (\d+), ", " ".join(report["notes"]))[1])
    words = ["train", "unimodal", "--modalities.m1.source", f"vectors:{path}", "--request.steps", "1",
             "--request.sequences", "2", "--request.novel-sets", "1", "--numerics.mode", "eager"]  # fmt: skip
    assert main([*words, "--runs", str(tmp_path / "most"), "--modalities.m1.labels", str(most)]) == 0
    for more in ([], ["--modalities.m1.labels", str(most + 1)]):
        capsys.readouterr()
        assert main([*words, "--runs", str(tmp_path / "most"), *more]) == 2
        assert "modalities.m1.labels = " in capsys.readouterr().err
    assert main(["data", "check", f"vectors:{tmp_path / 'none.npy'}"]) == 2
    assert main(["data", "show", f"vectors:{path}", "--output", str(tmp_path / "v.png")]) == 0
    runs = tmp_path / "runs"
    bad = save_rows(changed(7, np.nan))(tmp_path)
    assert main(["train", "unimodal", "--modalities.m1.source", f"vectors:{bad}", "--runs", str(runs)]) == 2
    assert "row 7" in capsys.readouterr().err
    assert not runs.exists() or not list(runs.iterdir())


def test_shipped_items_that_keep_their_mean(tmp_path):
    """Fails if something is subtracted from them, or the classes are not those of the shipped set."""
    plain, kept = load("small:concepts.speech"), load("uncentred:small:concepts.speech")
    pixels = plain.floats().flatten(1)
    expected = pixels / pixels.norm(dim=1, keepdim=True)
    everything = torch.arange(len(kept.items))
    torch.testing.assert_close(Exemplars(kept).vectors(everything), expected)
    assert kept.class_names == plain.class_names
    assert torch.equal(kept.held_out_exemplars, plain.held_out_exemplars)
    # Most of the energy of a run's items is no longer common once the mean of its training part is subtracted.
    shares = common_shares(kept)
    assert shares["off"]["training"] > 0.2 > 0.01 > shares["training"]["training"]
    with pytest.raises(DataError, match=r"'concepts\.speeches' is not shipped"):
        load("uncentred:concepts.speeches")
