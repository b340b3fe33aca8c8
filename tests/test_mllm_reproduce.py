"""The paper's three claims as commands, end to end on the tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import pearsonr, spearmanr
from tiny_mllm import production, task

from miclab.cli import main
from miclab.mllm.compare import published
from miclab.mllm.episodes import make_episodes
from miclab.mllm.heads import HeadTable, measure_heads
from miclab.mllm.options import INDUCTION, PREVIOUS_TOKEN, EpisodeOptions
from miclab.mllm.reproduce import Point, Points, beside
from miclab.mllm.results import read_manifest, read_table
from miclab.mllm.scale import Size


@pytest.fixture(scope="module")
def letters(tmp_path_factory) -> Path:
    """Episodes of letters, which the tiny model answers."""
    folder = tmp_path_factory.mktemp("task") / "letters"
    return make_episodes(folder, EpisodeOptions(data="small:glyphs", episodes=24, seed=7, template="{item}{answer}\n"))


def reproduced(capsys, *arguments: object) -> dict:
    """What a claim prints as JSON."""
    assert main(["mllm", "reproduce", *map(str, arguments), "--json", "--batch", "16"]) == 0
    return json.loads(capsys.readouterr().out)


def test_p1_ranks_compares_and_knocks_out_with_controls(capsys, letters: Path, tmp_path: Path):
    output = tmp_path / "p1"
    found = reproduced(capsys, "P1", "--model", "tiny", "--task", letters, "--examples", 8, "--answered", 6,
                       "--top", 2, "--output", output)  # fmt: skip
    rankings, overlaps, knockouts, called = found["tables"]
    # The strongest heads beside what they are called by their patterns.
    assert len(called["rows"]) == 4
    assert [row["measure"] for row in rankings["rows"]] == ["previous token 1", "induction all positions"]
    # The paper's models have 576 heads and the tiny one 16.
    assert not overlaps["rows"]
    assert all("576 heads and tiny 16" in note for note in overlaps["notes"])
    by = {row["intervention"]: row for row in knockouts["rows"]}
    assert by["untouched"]["the paper's 3B, top 5"] == 0.74
    assert by["both top 2"]["the paper's 3B, top 5"] == 0.56
    assert by["both top 2: random heads"]["the paper's 3B, top 5"] is None
    assert by["both top 2"]["accuracy"] < by["untouched"]["accuracy"]
    assert len({row["heads"] for row in knockouts["rows"] if "random" in row["intervention"]}) == 1
    answered = read_table(output, "answers.parquet")["episode"].unique(maintain_order=True).to_list()
    assert answered == [f"2-shot.json, episode {number}" for number in range(8, 14)]
    ranked = read_table(output, "heads.parquet").filter(measure=PREVIOUS_TOKEN).sort("rank")
    assert rankings["rows"][0]["heads"].split()[0] == f"{ranked['layer'][0]}.{ranked['head'][0]}"
    assert read_manifest(output)["status"] == "complete"


def test_p2_follows_heads_and_answers_while_it_trains(capsys, letters: Path, tmp_path: Path):
    found = reproduced(capsys, "P2", "--model", "tiny", "--task", letters, "--episodes", 8, "--steps", 2, "--every", 1,
                       "--top", 2, "--output", tmp_path / "p2")  # fmt: skip
    (made,) = found["tables"]
    assert [row["step"] for row in made["rows"]] == [0, 1, 2]
    assert made["rows"][0]["induction, top heads"] > 0


def test_p3_sets_strength_beside_accuracy(capsys, letters: Path, tmp_path: Path):
    found = reproduced(capsys, "P3", "--model", "tiny", "tiny", "tiny", "--task", letters, "--examples", 4,
                       "--answered", 4, "--top", 2, "--output", tmp_path / "p3")  # fmt: skip
    models, correlations = found["tables"]
    assert len(models["rows"]) == 3
    assert len({row["accuracy"] for row in models["rows"]}) == 1
    # Equal models do not vary, and nothing correlates with what does not vary.
    assert not correlations["rows"]
    assert "both have to vary" in correlations["notes"][0]
    rows = pl.read_parquet(tmp_path / "p3" / "answers.parquet")
    assert len(rows) == 12
    assert "written" in rows.columns


@pytest.mark.parametrize(("claim", "models"), [("P1", 3), ("P2", 2), ("P3", 1)])
def test_a_claim_takes_its_number_of_models(claim: str, models: int, capsys, letters: Path):
    assert main(["mllm", "reproduce", claim, "--model", *["tiny"] * models, "--task", str(letters)]) == 2
    assert f"{claim} takes" in capsys.readouterr().err


def points(strengths: list[float], accuracies: list[float]) -> Points:
    """Models of one strength and one accuracy each."""
    found = []
    for number, (strength, accuracy) in enumerate(zip(strengths, accuracies, strict=True)):
        size = Size(f"m{number}", 10**number, 2, 4, {"correct": np.array([accuracy])}, ("e",))
        found.append(Point(size, {INDUCTION: strength}, {INDUCTION: ("0.1",)}))
    return Points(tuple(found))


def test_correlations_over_models_are_scipys_and_need_three():
    x, y = [0.1, 0.2, 0.35, 0.3], [0.5, 0.55, 0.9, 0.6]
    found = points(x, y).correlation(INDUCTION, "correct")
    assert found == pytest.approx((*tuple(pearsonr(x, y)), *tuple(spearmanr(x, y))))
    assert points(x[:2], y[:2]).correlation(INDUCTION, "correct") is None
    assert points(x, [0.5] * 4).correlation(INDUCTION, "correct") is None


def test_rankings_are_set_beside_the_papers_where_heads_correspond(tmp_path: Path):
    heads = [(layer, head) for layer in range(36) for head in range(16)]
    paper = published()["paper:qwen2.5-vl-3b"]
    values = {}
    for measure, ranking in paper.items():
        place = {head: number for number, head in enumerate(ranking.heads)}
        values[measure] = np.array([[1.0 / (2 + place.get(head, 10**3)) for head in heads]])
    mine = HeadTable("mine", "t", tuple(heads), values)
    found = beside(mine)
    assert [len(one.shared) for one in found.overlaps["paper:qwen2.5-vl-3b"]] == [5, 5]
    # What the paper says of its text backbone.
    assert [len(one.shared) for one in found.overlaps["paper:qwen2.5-3b"]] == [4, 3]
    of = production("qwen2.5")
    table = measure_heads(of, task(tmp_path, "text"))
    own = beside(table, table, top=2, among=4)
    assert [len(one.shared) for one in own.overlaps["qwen2.5"]] == [2, 2]
    assert len(own.notes) == 2


@pytest.mark.parametrize(
    ("claim", "more"),
    [("P1", ["--steps", "3"]), ("P2", ["--draws", "20"]), ("P2", ["--judge", "benchmark"]), ("P3", ["--seed", "1"])],
)
def test_options_of_another_claim_are_refused(claim: str, more: list[str], capsys, letters: Path):
    models = ["tiny", "tiny"] if claim == "P3" else ["tiny"]
    assert main(["mllm", "reproduce", claim, "--model", *models, "--task", str(letters), *more]) == 2
    assert f"{more[0]} has no effect here: it is not for {claim}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("claim", "more"),
    [("P1", ["--examples", "2", "--answered", "2", "--top", "2"]), ("P2", ["--episodes", "5", "--steps", "1"]),
     ("P3", ["--examples", "2", "--answered", "2"])],
)  # fmt: skip
def test_a_claim_says_which_episodes_it_left_out(claim: str, more: list[str], capsys, letters: Path, tmp_path: Path):
    copied = tmp_path / "letters"
    shutil.copytree(letters, copied)
    first = json.loads((copied / "2-shot.json").read_text())[0]
    (copied / first["query"]["image"][0]).write_bytes(b"no picture")
    models = ["tiny", "tiny"] if claim == "P3" else ["tiny"]
    requested = ["mllm", "reproduce", claim, "--model", *models, "--task", str(copied), *more]
    assert main([*requested, "--output", str(tmp_path / "o")]) == 2
    assert f"1 of {more[1]} episodes could not be read and were left out" in capsys.readouterr().err
    assert read_manifest(tmp_path / "o")["status"] == "partial"
