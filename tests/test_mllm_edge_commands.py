"""`miclab mllm paths` and `attribute` on the shipped model: tables, JSON, pages, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from miclab.circuits.edges import Edge, Receiver, Sender
from miclab.cli import main
from miclab.mllm.edge_attribution import EdgeAttribution
from miclab.mllm.edge_rounds import Scores
from miclab.mllm.episodes import make_episodes
from miclab.mllm.options import EpisodeOptions
from miclab.mllm.results import read_table
from miclab.report.model_edges import attribution_page


def test_a_poor_estimate_has_a_warning():
    """Fails if agreement is of other edges than those that were patched, or is not said."""
    senders = tuple(Sender("head", 0, head) for head in range(12))
    receivers = (Receiver("logits", 1),)
    rising = np.arange(1.0, 13.0)[:, None]
    clean, corrupted = np.array([4.0, 5.0, 6.0]), np.array([-4.0, -6.0, -5.0])
    patched = {Edge(one, receivers[0]): corrupted + rising[number, 0] / 2 for number, one in enumerate(senders)}
    both = {"eap": rising / 2, "eap_ig": rising[::-1].copy()}
    scores = Scores(senders, receivers, 10.0, "restore", both)  # pyright: ignore[reportArgumentType]
    found = EdgeAttribution("m", "t", "labels_swapped", "restore", ("a", "b", "c"), clean, corrupted, patched,
                            scores=scores)  # fmt: skip
    agreed = found.agreements()
    assert agreed["eap"].correlation == pytest.approx(1)
    assert agreed["eap_ig"].correlation == pytest.approx(-1)
    (line,) = found.warnings
    assert line.startswith("warning: EAP-IG agrees too little with exact path patching")
    assert line in found.tables()[-1].notes
    frame = found.frame()
    assert frame["eap"].to_list() == pytest.approx(frame["exact"].to_list())
    assert scores.share(found.places[3]) == pytest.approx(0.9)
    worse = replace(scores, direction="corrupt")
    assert worse.share(found.places[3]) == pytest.approx(-0.9)
    # Without a change there are no shares, and what agrees still agrees.
    same = replace(found, clean=clean, corrupted=clean[[1, 2, 0]], scores=replace(scores, change=0.0))
    assert same.estimate(found.places[3], "eap") is None
    assert same.frame()["eap"].null_count() == 12
    assert same.json_of(2)["edges"][0]["eap"] is None
    assert attribution_page(same, 2).figures["agreement"]["data"][0]["y"] == [None] * 12
    assert not math.isnan(same.agreements()["eap"].correlation)


@pytest.fixture(scope="module")
def letters(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("task") / "letters"
    return make_episodes(folder, EpisodeOptions(episodes=16, seed=7, template="{item}{answer}\n"))


def test_the_tiny_model_has_its_edges_estimated_well(capsys, letters: Path, tmp_path: Path):
    requested = ["mllm", "attribute", "tiny", "--task", str(letters), "--output", str(tmp_path / "o"), "--json"]
    assert main([*requested, "--episodes", "8", "--interpolations", "2", "--check", "10"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["warnings"] == []
    assert found["agreement"]["eap_ig"]["rank_correlation"] > 0.9
    effects = {(one["sender"], one["receiver"]): one for one in found["edges"]}
    # What heads of the last layer add reaches the answer, and its feed-forward part takes some of it back.
    assert effects["mlp 1", "logits"]["exact"]["high"] < -0.1
    assert effects["head 1.7", "logits"]["eap_ig"] > 0.2
    every = read_table(tmp_path / "o", "edges.parquet")
    assert len(every) == 222
    assert every["exact"].is_not_null().sum() == 10
    assert len(read_table(tmp_path / "o", "exact.parquet")) == 10 * found["episodes"]
    assert "agreement" in (tmp_path / "o" / "attribute.html").read_text()


def test_the_tiny_model_sends_the_label_through_values(capsys, letters: Path, tmp_path: Path):
    start = ["mllm", "paths", "tiny", "--task", str(letters), "--json"]
    more = ["--sender", "embedding", "mlp 0", "0.6", "--receiver", "1.7:value", "1.7:query", "mlp 1", "logits"]
    assert main([*start, *more, "--output", str(tmp_path / "o")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["picked_by"] is None
    assert found["candidates"] == 12
    effects = {(one["sender"], one["receiver"]): one["effect"]["mean"] for one in found["edges"]}
    # Heads 6 and 7 share a value, which is named after the first.
    assert effects["embedding", "value of 1.6"] > 0.1
    assert abs(effects["embedding", "query of 1.7"]) < 0.05
    assert effects["embedding", "logits"] == pytest.approx(0, abs=1e-6)
    rows = read_table(tmp_path / "o", "edges.parquet").filter(sender="embedding", receiver="value of 1.6")
    share = float((rows["patched"] - rows["corrupted"]).sum()) / float((rows["clean"] - rows["corrupted"]).sum())
    assert share == pytest.approx(effects["embedding", "value of 1.6"], abs=1e-5)
    assert "value of 1.6" in (tmp_path / "o" / "paths.html").read_text()


def test_a_ranking_gives_the_senders(capsys, letters: Path, tmp_path: Path):
    ranked = ["mllm", "heads", "tiny", "--task", str(letters), "--episodes", "6", "--shown", "0", "--maps", "0"]
    assert main([*ranked, "--output", str(tmp_path / "h"), "--json"]) == 0
    top = json.loads(capsys.readouterr().out)["top"]
    wanted = {one["head"] for measure in ("previous_token_1", "induction_all_positions") for one in top[measure]}
    start = ["mllm", "paths", "tiny", "--task", str(letters), "--json", "--receiver", "logits", "mlp 1"]
    assert main([*start, "--heads", str(tmp_path / "h"), "--output", str(tmp_path / "o")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {one["sender"] for one in found["edges"]} == {f"head {name}" for name in wanted}
    assert found["episodes"] <= 10
    assert found["picked_by"] is None


@pytest.mark.parametrize(
    ("command", "more", "message"),
    [
        ("attribute", ["--corruption", "labels_swaped"], "labels_swapped, items_swapped, query_other"),
        ("attribute", ["--interpolations", "0"], "interpolations = 0"),
        ("attribute", ["--check", "1"], "check = 1"),
        ("paths", ["--sender", "1.9"], "There is no head 1.9: layers are 0 to 1, heads of a layer 0 to 7"),
        ("paths", ["--sender", "mlp 2"], "'mlp 2' names no feed-forward part: write 'mlp LAYER', 0 to 1"),
        ("paths", ["--receiver", "1.1:vlaue"], "did you mean 'value'"),
        ("paths", ["--sender", "1.1", "--receiver", "0.1:key"], "None of the senders (head 1.1) comes before"),
        ("paths", ["--layers", "5"], "There is no layer 5: layers are 0 to 1"),
        ("paths", ["--layers", "0", "--sender", "0.1"], "none with --sender"),
        ("paths", ["--heads", "h", "--sender", "0.1"], "each names the senders"),
    ],
)
def test_what_cannot_be_patched_is_refused(command: str, more, message, capsys, letters: Path, tmp_path: Path):
    requested = ["mllm", command, "tiny", "--task", str(letters), "--output", str(tmp_path / "o"), *more]
    try:
        status = main(requested)
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "o").exists()
