"""Edges of attention between kinds of position: which there are, what cutting them does, and their control."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from tiny_mllm import FAMILIES, OTHERS, production, task

from miclab.cli import main
from miclab.mllm.attention import watchable
from miclab.mllm.edge_knockout import windows
from miclab.mllm.edges import KINDS, cut_of, edges, kinds_named, random_edges
from miclab.mllm.edits import edges_cut
from miclab.mllm.episodes import make_episodes
from miclab.mllm.options import EpisodeOptions
from miclab.mllm.passes import forward
from miclab.mllm.reading import Reading
from miclab.mllm.results import read_table
from miclab.mllm.task import Episode, Example, Item
from miclab.worlds.roles import LABEL, OTHER, Roles


def by_hand() -> Reading:
    """The sequence  x1 q l1 l1 x2 q l2 t xq q > a a  of which q is a question, t text and > the chat's mark of a reply.
    The right answer is that of example 2."""
    item, label, text = 0, LABEL, OTHER
    kind = torch.tensor([item, text, label, label, item, text, label, text, item, text, text])
    exemplar = torch.tensor([0, -1, 0, 0, 1, -1, 1, -1, 2, -1, -1])
    episode = Episode("by hand", (Example(Item(), "ab"), Example(Item(), "c")), Item(), "c", "q")
    roles = Roles(("image",), 2, kind, exemplar)
    return Reading(episode, "c", 10, (11, 12), (), roles, torch.tensor([0, 1]), 1, (1, 5, 9))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("own-item:label", {(2, 0), (3, 0), (6, 4)}),
        ("other-item:label", {(6, 0)}),
        ("own-label:label", {(3, 2)}),
        ("other-label:label", {(6, 2), (6, 3)}),
        ("label:item", {(4, 2), (4, 3)}),
        ("other-item:item", {(4, 0)}),
        ("question:item", {(4, 1)}),
        ("item:question", {(1, 0), (5, 0), (5, 4), (9, 0), (9, 4)}),
        ("label:query", {(8, 2), (8, 3), (8, 6)}),
        ("right-label:answer", {(10, 6), (11, 6), (12, 6)}),
        ("wrong-label:answer", {(row, key) for row in (10, 11, 12) for key in (2, 3)}),
        ("right-item:query", {(8, 4)}),
        ("query:answer", {(10, 8), (11, 8), (12, 8)}),
        ("question:answer", {(row, key) for row in (10, 11, 12) for key in (1, 5, 9)}),
        ("text:answer", {(10, 7), (11, 7), (12, 7)}),
    ],
)
def test_edges_of_a_sequence_written_by_hand(kind: str, expected: set[tuple[int, int]]):
    (wanted,) = kinds_named([kind])
    found = edges(by_hand(), 15, [wanted])[wanted]
    assert {tuple(edge) for edge in found.nonzero().tolist()} == expected


def test_kinds_split_and_cover():
    """Fails if an edge between different positions of the prompt has no kind, or a split is not one."""
    reading = by_hand()
    found = {kind.name: of for kind, of in edges(reading, 15, KINDS).items()}
    some = torch.stack(list(found.values())).any(0)
    expected = torch.ones(13, 13, dtype=torch.bool).tril(-1)
    # The answer's own tokens are no source.
    expected[:, 10:] = False
    assert torch.equal(some[:13, :13], expected)
    for whole in ("item -> answer", "label -> answer", "label -> query", "item -> query"):
        right, wrong = found[f"right {whole}"], found[f"wrong {whole}"]
        assert not (right & wrong).any()
        assert torch.equal(right | wrong, found[whole])
        assert right.any()


def batch_of(family: str, folder: Path) -> tuple:
    of = production(family)
    chosen = task(folder, of.view, names=("perpo", "zibbelwock"))
    prompter = of.prompter(chosen)
    encoded = prompter.encode([(e, answer) for e in chosen.episodes[:2] for answer in e.candidates])
    return of, encoded


@pytest.mark.parametrize(
    ("family", "edited"),
    [(family, (0, 1) if number % 2 else (1,)) for number, family in enumerate([*FAMILIES, *OTHERS])],
)
@torch.no_grad()
def test_a_cut_equals_a_mask_in_eager_attention(family: str, edited: tuple[int, ...], tmp_path: Path):
    of, encoded = batch_of(family, tmp_path)
    cut = cut_of(encoded, kinds_named(["own-item:label", "item:answer", "text:query"]))
    assert cut.flatten(1).any(1).all()
    positions = torch.arange(encoded.inputs["input_ids"].shape[1])
    layers = [layer for layer in of.layers if layer.index in edited]
    with watchable(of.model):
        plain = forward(of.model, encoded.to(of.model), positions)
        with edges_cut(of.model, layers, cut):
            found = forward(of.model, encoded.to(of.model), positions)
    of.model.set_attn_implementation("eager")

    def masked(module, arguments, more):
        mask = more["attention_mask"]
        return arguments, more | {"attention_mask": mask.masked_fill(cut[:, None], torch.finfo(mask.dtype).min)}

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.module.register_forward_pre_hook(masked, with_kwargs=True).remove)
        made = of.model(**encoded.to(of.model), use_cache=False, output_attentions=True)
    real = encoded.inputs["attention_mask"].bool()
    torch.testing.assert_close(found[real], made.logits[real], atol=1e-5, rtol=1e-4)
    assert (found[real] - plain[real]).abs().max() > 1e-3
    for layer in layers:
        attention = made.attentions[layer.index]
        assert attention.masked_select(cut[:, None].expand_as(attention)).abs().max() == 0


def test_random_edges_are_as_many_others(tmp_path: Path):
    _, encoded = batch_of("qwen2.5", tmp_path)
    cut = cut_of(encoded, kinds_named(["label:answer", "own-item:label"]))
    draws = [random_edges(encoded, cut, (0, "a", number)) for number in range(2)]
    assert not torch.equal(*draws)
    for drawn in draws:
        assert torch.equal(drawn.sum((1, 2)), cut.sum((1, 2)))
        assert not (drawn & cut).any()
        assert not drawn.triu().any()
        assert not drawn[~encoded.inputs["attention_mask"].bool()].any()
    # Both answers of an episode have one prompt. Its edges are the same but for the few that longer answers displace.
    first, second = encoded.readings[:2]
    assert len(first.written) != len(second.written)
    prompts = draws[0][:2, : first.length, : first.length]
    assert (prompts[0] != prompts[1]).sum() < prompts[0].sum() / 2
    # There are too few others: all of them.
    everything = torch.ones_like(cut).tril(-1)
    assert not random_edges(encoded, everything, (0, "a", 0)).any()


@pytest.mark.parametrize(
    ("layers", "size", "expected"),
    [
        ((0, 1), 0, ["layer 0", "layer 1", "all layers"]),
        ((0, 1), 2, ["all layers"]),
        ((3, 7, 11), 2, ["layers 3 to 7", "layer 11", "all layers"]),
        (tuple(range(36)), 0, [f"layers {i} to {min(i + 4, 35)}" for i in range(0, 36, 5)] + ["all layers"]),
        ((4,), 0, ["all layers"]),
    ],
)
def test_windows_cover_the_layers(layers: tuple[int, ...], size: int, expected: list[str]):
    found = windows(layers, size)
    assert [one.name.replace("layers 35 to 35", "layer 35") for one in found] == [
        name.replace("layers 35 to 35", "layer 35") for name in expected
    ]
    assert found[-1].layers == layers


@pytest.fixture(scope="module")
def letters(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("task") / "letters"
    return make_episodes(folder, EpisodeOptions(episodes=12, seed=7, template="{item}{answer}\n"))


def test_the_tiny_model_reads_the_right_label(capsys, letters: Path, tmp_path: Path):
    requested = ["mllm", "edges", "tiny", "--task", str(letters), "--batch", "12", "--json", "--draws", "1"]
    names = ["right-label:answer", "wrong-label:answer", "question:answer"]
    assert main([*requested, "--output", str(tmp_path / "o"), "--edges", *names]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["absent"] == ["question:answer"]
    effects = {(one["edges"], tuple(one["layers"])): one for one in found["effects"]}
    assert effects.keys() == {(name, layers) for name in names[:2] for layers in ((0,), (1,), (0, 1))}
    untouched = found["untouched"]["correct"]["mean"]
    assert untouched >= 0.75
    right = effects["right-label:answer", (1,)]
    assert right["correct"]["mean"] == 0
    assert right["beyond_control"]["correct"]["high"] < 0
    assert right["change"]["correct"]["mean"] == pytest.approx(-untouched)
    assert effects["wrong-label:answer", (0, 1)]["correct"]["mean"] > 0.5
    rows = read_table(tmp_path / "o", "answers.parquet")
    assert len(rows) == 12 * (1 + 2 * 3 * 2)
    (mean,) = (rows.filter(edges="right-label:answer", layers="layer 0", draw=-1)["probability"].mean(),)
    assert mean == pytest.approx(effects["right-label:answer", (0,)]["probability"]["mean"], abs=1e-6)
    page = (tmp_path / "o" / "edges.html").read_text()
    assert "right label -&gt; answer" in page
    assert "edges-probability" in page


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--edges", "label:anwser"], "did you mean 'label:answer'"),
        (["--edges", "question:item"], "No prompt of letters has such edges"),
        (["--window", "-1"], "window = -1"),
        (["--judge", "benchmark"], "judge"),
    ],
)
def test_edges_that_are_not_there_are_refused(more, message, capsys, letters: Path, tmp_path: Path):
    requested = ["mllm", "edges", "tiny", "--task", str(letters), "--output", str(tmp_path / "o"), *more]
    try:
        status = main(requested)
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    assert message in capsys.readouterr().err
