"""The protocol as commands, on the tiny Qwen2.5-VL that comes with miclab and has learnt to induce names."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import torch
from places import REFUSED, gone, limited
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer, T5Config

from miclab.cli import main
from miclab.errors import GONE
from miclab.mllm import heads, shipped
from miclab.mllm.episodes import make_episodes
from miclab.mllm.errors import TaskError
from miclab.mllm.finetune import METRICS
from miclab.mllm.loading import load_model
from miclab.mllm.options import EpisodeOptions, LoadOptions
from miclab.mllm.results import Results, read_manifest, read_table
from miclab.mllm.task_folder import load_task

TEMPLATE = "{item}{answer}\n"


@pytest.fixture(scope="module")
def novel(tmp_path_factory) -> Path:
    """Episodes of letters and names that the tiny model was not trained on."""
    folder = tmp_path_factory.mktemp("task") / "novel"
    return make_episodes(folder, EpisodeOptions(episodes=56, seed=7, template=TEMPLATE))


@pytest.mark.parametrize(
    ("model", "cut"),
    [("tiny", ("top 2 previous-token", "both top 2")), ("tiny-marks", ("top 2 induction", "both top 2"))],
)
def test_the_tiny_models_induce_and_their_circuits_do_it(
    model: str, cut: tuple[str, ...], capsys, novel: Path, tmp_path: Path
):
    """Fails if cutting induction heads of `tiny-marks` takes no more than random heads do, as it is with `tiny`."""
    common = ["--task", str(novel), "--batch", "32", "--json"]
    requested = ["mllm", "knockout", model, *common, "--output", str(tmp_path / "knockout"), "--top", "2"]
    requested += ["--induction", "induction"] if model == "tiny-marks" else []
    assert main([*requested, "--rank", "8", "--layers", "none"]) == 0
    found = {effect["name"]: effect for effect in json.loads(capsys.readouterr().out)["effects"]}
    assert found["untouched"]["correct"]["mean"] >= 0.8
    # What is knocked out takes far more than as many random heads of the same layers do.
    for name in cut:
        assert found[name]["beyond_control"]["high"] < 0
        assert found[name]["correct"]["high"] < found[f"{name}: random heads"]["correct"]["low"]


def test_heads_compare_and_scale(capsys, novel: Path, tmp_path: Path):
    common = ["--task", str(novel), "--episodes", "8", "--batch", "8", "--json"]
    assert main(["mllm", "heads", "tiny", *common, "--output", str(tmp_path / "heads")]) == 0
    message = json.loads(capsys.readouterr().out)
    assert message["episodes"] == 8
    assert len(message["top"]["previous_token_1"]) == 5
    assert read_manifest(tmp_path / "heads")["status"] == "complete"
    page = (tmp_path / "heads" / "heads.html").read_text()
    assert "image q" in page
    assert "data:image/png" in page
    assert "Mean attention of each position on the one before it. Strongest:" in page
    # The same heads, each one place higher than it was, and the highest the last.
    first, second = str(tmp_path / "heads"), str(tmp_path / "turned")
    rows = read_table(tmp_path / "heads", "heads.parquet").filter(measure="previous_token_1").sort("rank").to_dicts()
    turned = [after | {"rank": row["rank"], "mean": row["mean"]}
              for row, after in zip(rows, [*rows[1:], rows[0]], strict=True)]  # fmt: skip
    with Results(Path(second), "heads", {"model": "turned"}) as results:
        results.table("heads.parquet", turned)
        results.finish()
    shared = {}
    for a, b in ((first, second), (second, first)):
        assert main(["mllm", "compare", a, b, "--top", "1", "--among", "2", "--json"]) == 0
        (message,) = json.loads(capsys.readouterr().out)
        shared[a] = message["shared"]
        assert message["expected"] == pytest.approx(2 / 16)
        assert -1 < message["correlation"] < 1
    assert shared == {first: [], second: [f"{rows[1]['layer']}.{rows[1]['head']}"]}
    assert main(["mllm", "scale", "tiny", "tiny", *common, "--output", str(tmp_path / "scale")]) == 0
    assert json.loads(capsys.readouterr().out)[1]["gain"]["mean"] == 0


def test_finetuning_goes_on_after_a_kill_as_if_there_had_been_none(capsys, novel: Path, tmp_path: Path):
    def requested(output: str) -> list[str]:
        return ["mllm", "finetune", "tiny", "--task", str(novel), "--episodes", "8", "--batch", "8", "--json",
                "--output", str(tmp_path / output), "--steps", "12", "--every", "2", "--train-batch", "2",
                "--learning-rate", "1e-3"]  # fmt: skip

    killed = subprocess.Popen(
        [sys.executable, "-m", "miclab", *requested("killed")], env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    rows = tmp_path / "killed" / "run" / METRICS
    while not (rows.exists() and len(rows.read_bytes().splitlines()) >= 2):
        assert killed.poll() is None, "it ended before it was killed"
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = rows.read_bytes().splitlines()
    assert 2 <= len(before) < 7
    assert read_manifest(tmp_path / "killed")["status"] == "partial"
    assert main(requested("killed")) == 0
    resumed = json.loads(capsys.readouterr().out)["rows"]
    assert main(requested("whole")) == 0
    whole = json.loads(capsys.readouterr().out)["rows"]
    assert resumed == whole
    assert [row["step"] for row in whole] == list(range(0, 13, 2))
    assert read_manifest(tmp_path / "killed")["status"] == "complete"
    assert {"previous_token_1", "induction_all_positions"} <= set(whole[0]["strengths"])
    for output, said in (("killed", "differ in seed (0, now 1)"), ("stopped", "differs in seed (0, now 1)")):
        if output == "stopped":
            shutil.copytree(tmp_path / "killed" / "run", tmp_path / "stopped" / "run")
        before = files(tmp_path / output)
        assert main([*requested(output), "--seed", "1"]) == 2
        assert said in capsys.readouterr().err
        assert files(tmp_path / output) == before


def test_episodes_that_ranked_heads_are_left_out(capsys, novel: Path, tmp_path: Path):
    common = ["tiny", "--task", str(novel), "--batch", "8", "--json"]
    assert main(["mllm", "heads", *common, "--episodes", "8", "--output", str(tmp_path / "heads")]) == 0
    capsys.readouterr()
    cut = ["mllm", "knockout", *common, "--top", "1", "--layers", "none", "--heads", str(tmp_path / "heads")]
    assert main([*cut, "--episodes", "12", "--output", str(tmp_path / "k")]) == 0
    message = json.loads(capsys.readouterr().out)
    assert (message["episodes"], message["left_out"]) == (4, 8)
    requested = read_table(tmp_path / "k", "answers.parquet")["episode"].unique(maintain_order=True).to_list()
    assert requested == [f"2-shot.json, episode {number}" for number in range(8, 12)]
    assert main([*cut, "--episodes", "8", "--output", str(tmp_path / "none")]) == 2
    assert "ranked the heads" in capsys.readouterr().err


def files(folder: Path) -> dict[str, bytes]:
    """All that is in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_finished_results_outlive_what_is_refused_or_fails(capsys, novel: Path, tmp_path: Path, monkeypatch):
    requested = ["mllm", "heads", "tiny", "--task", str(novel), "--episodes", "4", "--output", str(tmp_path / "o")]
    assert main([*requested, "--batch", "4"]) == 0
    before = files(tmp_path / "o")
    capsys.readouterr()
    assert main([*requested, "--batch", "4", "--maps", "1"]) == 2
    message = capsys.readouterr().err
    assert "differ in maps (2, now 1)" in message
    assert "--output" in message
    assert main(["mllm", "knockout", "tiny", "--task", str(novel), "--output", str(tmp_path / "o")]) == 2
    assert "command ('heads', now 'knockout')" in capsys.readouterr().err
    assert files(tmp_path / "o") == before

    def failing(*arguments, **more):
        raise TaskError("it failed")

    with monkeypatch.context() as patched:
        patched.setattr(heads, "measure_heads", failing)
        assert main([*requested, "--batch", "4", "--json"]) == 2
    assert files(tmp_path / "o") == before
    # The same may be done again, and how it is printed does not count.
    assert main([*requested, "--batch", "4", "--json"]) == 0
    assert read_manifest(tmp_path / "o")["status"] == "complete"


def test_a_diverged_finetuning_ends_with_1(capsys, novel: Path, tmp_path: Path):
    requested = ["mllm", "finetune", "tiny", "--task", str(novel), "--episodes", "4", "--steps", "3", "--every", "3"]
    assert main([*requested, "--train-batch", "1", "--learning-rate", "1e30", "--output", str(tmp_path / "o")]) == 1
    assert "Lower --learning-rate" in capsys.readouterr().err
    assert read_manifest(tmp_path / "o")["status"] == "partial"


def test_a_picture_that_goes_missing_is_named_and_the_rest_is_kept(capsys, novel: Path, tmp_path: Path):
    task = shutil.copytree(novel, tmp_path / "task")
    entry = json.loads((task / "2-shot.json").read_text())[3]
    (task / entry["query"]["image"][0]).write_bytes(b"no picture")
    requested = ["mllm", "heads", "tiny", "--task", str(task), "--episodes", "8", "--output", str(tmp_path / "o")]
    assert main(requested) == 2
    message = capsys.readouterr().err
    assert "1 of 8 episodes could not be read" in message
    assert "partial results are kept" in message
    manifest = read_manifest(tmp_path / "o")
    assert manifest["status"] == "partial"
    assert "episode 3: " in manifest["reason"]
    assert manifest["episodes"] == 7
    assert "Partial results" in (tmp_path / "o" / "heads.html").read_text()
    # Strengths of some episodes rank no heads.
    assert main(["mllm", "compare", str(tmp_path / "o"), str(tmp_path / "o")]) == 2
    assert "holds partial results of `miclab mllm heads`" in capsys.readouterr().err
    cut = ["mllm", "knockout", "tiny", "--task", str(task), "--output", str(tmp_path / "k")]
    assert main([*cut, "--heads", str(tmp_path / "o")]) == 2
    assert "holds partial results" in capsys.readouterr().err
    assert not (tmp_path / "k").exists()
    assert main([*cut, "--episodes", "10", "--rank", "6", "--top", "1", "--layers", "none", "--batch", "8"]) == 2
    assert "1 of 6 episodes could not be read" in capsys.readouterr().err
    assert read_manifest(tmp_path / "k")["status"] == "partial"
    assert len(read_table_of(tmp_path / "k")) == 4
    (task / entry["query"]["image"][0]).unlink()
    assert main(requested) == 2
    assert "is missing" in capsys.readouterr().err


def read_table_of(folder: Path) -> set[str]:
    """Episodes that partial results of a knockout answered."""
    return set(pl.read_parquet(folder / "answers.parquet")["episode"].to_list())


def test_a_damaged_model_is_refused(capsys, novel: Path, tmp_path: Path, monkeypatch):
    copied = shutil.copytree(shipped.FILES / shipped.MODELS["tiny"], tmp_path / shipped.MODELS["tiny"])
    monkeypatch.setattr(shipped, "FILES", tmp_path)
    shipped.shipped.cache_clear()
    (copied / "config.json").write_text((copied / "config.json").read_text() + " ")
    try:
        assert main(["mllm", "heads", "tiny", "--task", str(novel), "--output", str(tmp_path / "o")]) == 2
    finally:
        shipped.shipped.cache_clear()
    assert "config.json" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--four-bit"], "bitsandbytes"),
        (["--view", "text"], "no `text`"),
        (["--shots", "3"], "take fewer --shots"),
        (["--template", "{answer}"], "the item once and before the answer"),
        (["--batch", "-1"], "batch = -1"),
        (["--episodes", "-3"], "episodes = -3"),
        (["--maps", "-1"], "maps = -1"),
        (["--top", "0"], "top = 0"),
        (["--device", "cuda"], "device = 'cuda'"),
        (["--device", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_is_refused(more: list[str], message: str, capsys, novel: Path, tmp_path: Path):
    if more[-1] == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    try:
        status = main(["mllm", "heads", "tiny", "--task", str(novel), *more, "--output", str(tmp_path / "o")])
    except SystemExit as ended:
        # Values are checked while options are read.
        status = ended.code
    assert status == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


WORDS = {"text": "a thing", "answer": "dax"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("query.json", [{**WORDS, "support": {"dax": ["a", "b"]}}], "class 'dax' is no object"),
        ("query.json", [{**WORDS, "support": ["dax"]}], "`support` is no object"),
        ("query.json", [{**WORDS, "support": {"dax": {"texts": 3}}}], "3 is no text"),
        ("query.json", ["dax"], "it is no object"),
        ("2-shot.json", [{"query": "dax", "support": {"2-shot": [WORDS]}}], "`query` is no object"),
        ("2-shot.json", [{"query": WORDS, "support": {"2-shot": ["dax"]}}], "an entry is no object"),
        ("2-shot.json", [{"query": WORDS, "support": {"2-shot": "dax"}}], "a list"),
        ("task.json", [], "no object with `instruction`"),
    ],
)
def test_a_task_of_another_form_is_refused(name: str, content: object, message: str, capsys, tmp_path: Path):
    (tmp_path / "2-shot.json").write_text("[]")
    if name == "query.json":
        (tmp_path / "2-shot.json").unlink()
    (tmp_path / name).write_text(json.dumps(content))
    requested = ["mllm", "heads", "tiny", "--view", "text", "--task", str(tmp_path), "--output", str(tmp_path / "o")]
    assert main(requested) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("where", "message"), [(".", "cannot be made"), ("file", "is a file"), ("file/new", "Cannot write")]
)
def test_episodes_are_not_made_where_they_cannot_be(where: str, message: str, capsys, tmp_path: Path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path / "empty" if where == "." else tmp_path)
    assert main(["mllm", "make-episodes", where, "--data", "small:glyphs", "--shots", "1"]) == 2
    assert message in capsys.readouterr().err


def test_a_model_that_writes_nothing_behind_a_prompt_has_no_memory_table(capsys, tmp_path: Path):
    T5Config(d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8, vocab_size=32).save_pretrained(tmp_path)
    assert main(["mllm", "memory", str(tmp_path)]) == 2
    assert "is no model that writes behind a prompt" in capsys.readouterr().err


@pytest.mark.parametrize("offline", [True, False])
def test_code_of_checkpoints_is_not_run_and_offline_uses_no_network(offline: bool, monkeypatch):
    seen: list[tuple[str, bool | None, bool | None]] = []

    def watched(kind: type, name: str) -> None:
        whole = getattr(kind, name)

        def call(*arguments, **more):
            seen.append((kind.__name__, more.get("local_files_only"), more.get("trust_remote_code")))
            return whole(*arguments, **more)

        monkeypatch.setattr(kind, name, call)

    kinds = (AutoConfig, AutoModelForImageTextToText, AutoTokenizer, AutoImageProcessor)
    for kind in kinds:
        watched(kind, "from_pretrained")
    load_model("tiny", LoadOptions(offline=offline))
    assert {name for name, _, _ in seen} == {kind.__name__ for kind in kinds}
    assert {(local, trust) for _, local, trust in seen} == {(offline, False)}


def test_scale_notes_what_was_requested_and_names_a_missing_picture(capsys, novel: Path, tmp_path: Path):
    task = shutil.copytree(novel, tmp_path / "task")
    entries = json.loads((task / "2-shot.json").read_text())
    for entry in entries:
        for one in (entry["query"], *entry["support"]["2-shot"]):
            one["text"] = "a letter"
    (task / "2-shot.json").write_text(json.dumps(entries))
    requested = [
        "mllm",
        "scale",
        "tiny",
        "tiny",
        "--task",
        str(task),
        "--episodes",
        "4",
        "--output",
        str(tmp_path / "o"),
    ]
    assert main([*requested, "--batch", "4", "--prompt", "plain"]) == 0
    noted = read_manifest(tmp_path / "o")["asked"]
    assert (noted["prompt"], noted["batch"], noted["episodes"], noted["models"]) == ("plain", 4, 4, ["tiny", "tiny"])
    answered = read_table(tmp_path / "o", "answers.parquet")["episode"].to_list()
    assert answered[:4] == [f"2-shot.json, episode {number}" for number in range(4)]
    capsys.readouterr()
    (task / entries[3]["query"]["image"][0]).unlink()
    requested[-1] = str(tmp_path / "p")
    assert main(requested) == 2
    assert f"{entries[3]['query']['image'][0]}: it is missing" in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(("place", "size"), [("here", 0), ("here", 3000), ("refused", None), ("gone", None)])
def test_finetuning_that_cannot_write_ends_with_a_message(place, size, novel: Path, tmp_path, capsys):
    """Fails if a full disk, a place that refuses or a lost working directory ends it in another way, or leaves a file
    that is not whole."""
    output = {"here": tmp_path / "output", "refused": REFUSED / "output", "gone": Path("output")}[place]
    requested = ["mllm", "finetune", "tiny", "--task", str(novel), "--episodes", "4", "--steps", "1", "--every", "1",
                 "--output", str(output)]  # fmt: skip
    with limited(size) if size is not None else gone(tmp_path) if place == "gone" else contextlib.nullcontext():
        assert main(requested) == 2
    message = {"here": "File too large", "refused": "miclab-refuses", "gone": GONE}[place]
    assert message in capsys.readouterr().err.splitlines()[-1]
    left = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert all(0 < file.stat().st_size <= (size or 0) and ".tmp" not in file.name for file in left), left


@pytest.mark.parametrize("command", ["heads", "vectors", "edges", "lens", "patch", "paths", "attribute", "finetune"])
def test_the_benchmarks_judging_is_refused_where_it_has_no_effect(command: str, capsys, novel: Path):
    with pytest.raises(SystemExit, match="2"):
        main(["mllm", command, "tiny", "--task", str(novel), "--judge", "benchmark"])
    assert "judge = 'benchmark' is not possible. Allowed: exact: " in " ".join(capsys.readouterr().err.split())


def test_two_pictures_an_example_are_read_with_marks(capsys, novel: Path, tmp_path: Path):
    """Fails if pairs of pictures lose a picture, or its marks, on their way to a model with Qwen's marks."""
    folder = tmp_path / "matching_mi"
    shutil.copytree(novel / "images", folder / "images")
    first, second, third = ({"image": [f"images/{name}"]} for name in sorted(os.listdir(novel / "images"))[:3])
    question = {"question": "Same?"}
    same = {"image": first["image"] * 2, "answer": "yes"} | question
    pairs = [
        {"same": same, "diff": {"image": first["image"] + other["image"], "answer": "no"} | question}
        for other in (second, third)
    ]
    (folder / "support.json").write_text(json.dumps(pairs))
    (folder / "query.json").write_text(json.dumps([pairs[0]["same"] | {"id": 0}, pairs[1]["diff"] | {"id": 1}]))
    requested = ["mllm", "heads", "tiny-marks", "--task", str(folder), "--shots", "1", "--output", str(tmp_path / "o")]
    assert main([*requested, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 2
    of = load_model("tiny-marks")
    task = load_task(folder, shots=1)
    ids = of.prompter(task).encode([(task.episodes[1], task.episodes[1].answer)]).inputs["input_ids"][0].tolist()
    start, picture, end = (
        of.processor.tokenizer.convert_tokens_to_ids(f"<|{name}|>")
        for name in ("vision_start", "image_pad", "vision_end")
    )
    # Two examples and the query of two pictures each, a token a picture.
    places = [place for place, token in enumerate(ids) if token == picture]
    assert len(places) == 6
    assert all((ids[place - 1], ids[place + 1]) == (start, end) for place in places)
