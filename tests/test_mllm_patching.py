"""Causal tracing in production models, against swaps inside plain attention and against the models' own logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_mllm import production, task, tokenizer
from transformers import FalconConfig, FalconForCausalLM, Phi3Config, Phi3ForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.modeling_utils import AttentionInterface

from miclab.cli import main
from miclab.mllm.episode_pairs import Pairs, answer_logits, pairs
from miclab.mllm.episodes import make_episodes
from miclab.mllm.errors import ModelError
from miclab.mllm.layers import attention_layers
from miclab.mllm.lens import ROLES, role_masks
from miclab.mllm.loading import Production
from miclab.mllm.options import EpisodeOptions, LoadOptions, PatchOptions
from miclab.mllm.patching import EVERY, trace
from miclab.mllm.patching_result import Patching, Place
from miclab.mllm.results import read_table
from miclab.mllm.task import Task
from miclab.report.model_patching import patch_page

ROUNDING, MOVED = 2e-5, 2e-4
"""Differences of logits that are rounding at most, and that are an effect at least."""
OTHERS = {
    "phi3": lambda text: Phi3ForCausalLM(Phi3Config(**text, num_key_value_heads=2, pad_token_id=0)),
    "falcon": lambda text: FalconForCausalLM(FalconConfig(**text, multi_query=True, new_decoder_architecture=False)),
}


def of_family(family: str, folder: Path) -> tuple[Production, Task]:
    """A model whose queries, keys and values also have biases that do something, and a task for it."""
    if family in OTHERS:
        torch.manual_seed(0)
        tokens = tokenizer()
        text = {"vocab_size": len(tokens), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
                "num_attention_heads": 4, "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0}  # fmt: skip
        model: Any = OTHERS[family](text).eval()
        of = Production(family, model, tokens, attention_layers(model), LoadOptions())
    else:
        of = production(family)
    torch.manual_seed(1)
    for name, parameter in of.model.named_parameters():
        if parameter.dim() == 1 and "sinks" not in name:
            torch.nn.init.normal_(parameter, 1.0 if "weight" in name and family != "gemma3" else 0.0, 0.3)
    return of, task(folder, of.view, names=("perpo", "blicket"))


@torch.no_grad()
def differences(
    of: Production, chosen: Task, corruption: str = "labels_swapped"
) -> tuple[Pairs, np.ndarray, np.ndarray]:
    """The pairs of a task as one batch, and logit differences of whole passes: clean and corrupted [episode]."""
    (lot,) = pairs(of, chosen, corruption, 0, {}, {})
    clean, corrupted = (lot.difference(answer_logits(of, one)).double().numpy() for one in (lot.clean, lot.corrupted))
    assert np.abs(clean - corrupted).min() > MOVED
    return lot, clean, corrupted


def at(found: Patching, part: str, where: str, role: str) -> np.ndarray:
    """Logit differences under one patch [episode]."""
    rows, roles, places = found.of(part)
    assert where in rows
    assert role in roles
    return found.patched[places[where, role]]


FAMILIES = ["llama", "qwen2.5-vl", "gemma3", "gpt2", "gpt-neox", "opt", "gpt-oss"]


@pytest.mark.parametrize(
    ("family", "direction", "batch"),
    [*((family, "restore", 0) for family in FAMILIES), ("llama", "corrupt", 2), ("qwen2.5-vl", "restore", 2)],
)
def test_the_whole_stream_has_the_whole_effect(family: str, direction: Any, batch: int, tmp_path: Path):
    """Fails if a patch is at another position, row, layer or in another direction than it says."""
    of, chosen = of_family(family, tmp_path)
    _, clean, corrupted = differences(of, chosen)
    source, base = (clean, corrupted) if direction == "restore" else (corrupted, clean)
    options = PatchOptions(direction=direction, parts=("residual", "attention", "mlp"))
    done: list[int] = []
    found = trace(of, chosen, options, batch=batch, on_progress=lambda number, _: done.append(number))
    assert found.names == tuple(episode.name for episode in chosen.episodes)
    assert found.clean == pytest.approx(clean, abs=1e-4)
    assert found.corrupted == pytest.approx(corrupted, abs=1e-4)
    for where, role in (("input", EVERY), ("after layer 0", EVERY), ("after layer 1", "last")):
        assert at(found, "residual", where, role) == pytest.approx(source, abs=1e-4)
        effect = found.effect(found.of("residual")[2][where, role])
        assert effect is None or effect.mean == pytest.approx(1, abs=1e-3)
    # Only labels differ before layers mix positions, and nothing reads a position but the last after them.
    for where, role in (
        ("input", "right item"),
        ("input", "text"),
        ("input", "last"),
        ("after layer 1", "wrong label"),
    ):
        assert at(found, "residual", where, role) == pytest.approx(base, abs=1e-4)
    both = at(found, "residual", "input", "right label"), at(found, "residual", "input", "wrong label")
    assert all(np.abs(one - base).max() > 1e-4 for one in both)
    assert np.abs(at(found, "attention", "layer 0", EVERY) - base).max() > 1e-4
    assert np.abs(at(found, "mlp", "all layers", EVERY) - base).max() > 1e-4
    assert sorted(done) == done
    assert done[-1] == 3 * len({(p.part, p.where) for p in found.places}) * (len(ROLES) + 1)


@pytest.mark.parametrize(("family", "view"), [("llama", "text"), ("qwen2.5-vl", "image"), ("qwen2.5-vl", "text")])
@pytest.mark.parametrize("corruption", ["items_swapped", "query_other"])
def test_other_corruptions_enter_at_items(family: str, view: Any, corruption: str, tmp_path: Path):
    of, _ = of_family(family, tmp_path)
    chosen = task(tmp_path, view, names=("perpo", "blicket"))
    _, clean, corrupted = differences(of, chosen, corruption)
    found = trace(of, chosen, PatchOptions(corruption=corruption, parts=("residual",)))
    assert at(found, "residual", "input", EVERY) == pytest.approx(clean, abs=ROUNDING)
    items = ["query"] if corruption == "query_other" else ["right item", "wrong item"]
    for role in ("right label", "right item", "wrong item", "query"):
        changed = np.abs(at(found, "residual", "input", role) - corrupted).max() > 2 * ROUNDING
        assert changed == (role in items)


class Swaps:
    """Attention in plain steps, in which rows of another pass take the place of queries, keys, values or outputs.

    Arguments:
        of: the model.
    """

    def __init__(self, of: Production):
        self.layers = {id(layer.module): layer.index for layer in of.layers}
        self.kept: dict[tuple[str, int], torch.Tensor] = {}
        self.swap: tuple[str, int, int, torch.Tensor] | None = None
        AttentionInterface.register("swaps", self)
        AttentionMaskInterface.register("swaps", eager_mask)
        of.model.set_attn_implementation("swaps")

    def changed(self, name: str, index: int, value: torch.Tensor) -> torch.Tensor:
        """Keeps a value [row, head, position, size], or swaps it."""
        if self.swap is None:
            self.kept[name, index] = value.clone()
        elif self.swap[:2] == (name, index):
            _, _, head, mask = self.swap
            value = value.clone()
            value[:, head][mask] = self.kept[name, index][:, head][mask]
        return value

    def __call__(self, module, query, key, value, attention_mask, scaling=None, dropout=0.0, **more):
        if id(module) not in self.layers:
            return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
        index, groups = self.layers[id(module)], query.shape[1] // key.shape[1]
        query = self.changed("query", index, query)
        key, value = (self.changed(name, index, one).repeat_interleave(groups, 1)
                      for name, one in (("key", key), ("value", value)))  # fmt: skip
        scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        made = torch.softmax(scores + attention_mask, -1) @ value
        return self.changed("head", index, made).transpose(1, 2).contiguous(), None


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "qwen2.5-vl", "gemma3", "phi3", "gpt2", "gpt-neox", "opt"])
def test_slices_of_heads_are_those_inside_attention(family: str, tmp_path: Path):
    """Fails if a slice is that of another head, or of another part of a fused projection."""
    of, chosen = of_family(family, tmp_path)
    parts = ("head", "query", "key", "value")
    found = trace(of, chosen, PatchOptions(parts=parts, layers=(0,)))
    lot, _, corrupted = differences(of, chosen)
    layer, length = of.layers[0], lot.clean.inputs["input_ids"].shape[1]
    swaps = Swaps(of)
    answer_logits(of, lot.clean)
    for role in ("right label", "all"):
        mask = torch.zeros(3, length, dtype=torch.bool)
        for row, reading in enumerate(lot.clean.readings):
            mask[row, : reading.length] = True if role == EVERY else role_masks(reading)[ROLES.index(role)].bool()
        for part in parts:
            heads = layer.heads if part in ("head", "query") else layer.key_value_heads
            assert found.of(part)[0] == [f"0.{head}" for head in range(heads)]
            moved = 0.0
            for head in range(heads):
                swaps.swap = (part, 0, head, mask)
                expected = lot.difference(answer_logits(of, lot.corrupted)).double().numpy()
                assert at(found, part, f"0.{head}", role) == pytest.approx(expected, abs=ROUNDING), (part, head, role)
                moved = max(moved, float(np.abs(expected - corrupted).max()))
            assert moved > MOVED


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_all_heads_at_once_are_the_output_of_attention(family: str, tmp_path: Path):
    from miclab.mllm.patch_points import points, recorded, replaced

    of, chosen = of_family(family, tmp_path)
    lot, _, corrupted = differences(of, chosen)
    known = points(of, ["head", "attention"])
    with recorded(known) as activations:
        answer_logits(of, lot.clean)
    mask = lot.clean.inputs["attention_mask"].bool()
    made = []
    for part in ("head", "attention"):
        with replaced([(known[part, 0], activations[part, 0])], mask):
            made.append(lot.difference(answer_logits(of, lot.corrupted)).numpy())
    assert made[0] == pytest.approx(made[1], abs=1e-4)
    assert np.abs(made[0] - corrupted).max() > 1e-3


def test_projections_in_an_unknown_order_are_refused_by_name(tmp_path: Path):
    of, chosen = of_family("falcon", tmp_path)
    with pytest.raises(ModelError, match=r"key of h.0.self_attention cannot be patched: FalconAttention fuses"):
        trace(of, chosen, PatchOptions(parts=("residual", "key")))
    _, clean, _ = differences(of, chosen)
    found = trace(of, chosen, PatchOptions(parts=("residual", "head"), layers=(1,)))
    assert at(found, "residual", "input", EVERY) == pytest.approx(clean, abs=1e-4)


def test_effects_are_ratios_of_means_over_the_episodes_that_have_the_position():
    clean, corrupted = np.array([4.0, 1.0, 3.0, 2.0]), np.array([-4.0, -2.0, -2.0, -1.0])
    place = Place("mlp", (0,), None, "question", "layer 0")
    patched = {place: np.array([0.0, np.nan, 3.0, 2.0])}
    for direction, expected in (("restore", (4 + 5 + 3) / 16), ("corrupt", 4 / 16)):
        found = Patching("m", "t", "labels_swapped", direction, tuple("abcd"), clean, corrupted, patched)
        effect = found.effect(place)
        assert effect is not None
        assert effect.mean == pytest.approx(expected)
        assert effect.low < effect.mean < effect.high
        assert found.accuracy(place).mean == pytest.approx(2 / 3)
    same = Patching("m", "t", "labels_swapped", "restore", tuple("abcd"), clean, clean[::-1].copy(), patched)
    assert same.effect(place) is None
    assert "so nothing has a normalised effect" in same.notes[-1]
    assert patch_page(same, 0).figures["patch-mlp"]["data"][0]["z"] == [[None]]


@pytest.fixture(scope="module")
def letters(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("task") / "letters"
    return make_episodes(folder, EpisodeOptions(episodes=16, seed=7, template="{item}{answer}\n"))


def test_the_tiny_model_takes_the_label_to_the_end_in_layer_1(capsys, letters: Path, tmp_path: Path):
    requested = ["mllm", "patch", "tiny", "--task", str(letters), "--output", str(tmp_path / "o"), "--json"]
    assert main([*requested, "--parts", "residual", "attention", "value"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["episodes"] == 16
    assert found["logit_difference"]["change"]["low"] > 0
    effects = {(one["part"], one["where"], one["role"]): one["effect"]["mean"] for one in found["effects"]}
    assert effects["residual", "input", "all"] == pytest.approx(1, abs=1e-4)
    assert effects["residual", "after layer 0", "right label"] > 0.8
    assert abs(effects["residual", "after layer 0", "last"]) < 0.2
    assert effects["residual", "after layer 1", "last"] == pytest.approx(1, abs=1e-4)
    assert effects["attention", "layer 1", "last"] > 0.8
    assert abs(effects["attention", "layer 0", "last"]) < 0.2
    in_layer = [effects["value", f"1.{head}", "right label"] for head in range(4)]
    assert max(in_layer) > 0.25
    others = [effects["value", f"1.{head}", role] for head in range(4) for role in ("right item", "wrong item", "text")]
    assert max(others) < 0.1
    rows = read_table(tmp_path / "o", "patches.parquet").filter(part="attention", where="layer 1", role="last")
    share = float((rows["patched"] - rows["corrupted"]).sum()) / float((rows["clean"] - rows["corrupted"]).sum())
    assert share == pytest.approx(effects["attention", "layer 1", "last"], abs=1e-5)
    page = (tmp_path / "o" / "patch.html").read_text()
    assert "patch-attention" in page
    assert "labels_swapped" in page


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--corruption", "labels_swaped"], "labels_swapped, items_swapped, query_other"),
        (["--parts", "atention"], "did you mean 'attention'"),
        (["--layers", "2"], "There is no layer 2: layers with attention are 0, 1"),
        (["--shots", "0"], "the context lacks the right answer or another"),
        (["--window", "-1"], "window = -1"),
        (["--judge", "benchmark"], "judge"),
    ],
)
def test_what_cannot_be_patched_is_refused(more, message, capsys, letters: Path, tmp_path: Path):
    requested = ["mllm", "patch", "tiny", "--task", str(letters), "--output", str(tmp_path / "o"), *more]
    try:
        status = main(requested)
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    assert message in " ".join(capsys.readouterr().err.split())
