"""Path patching and attribution in production models, against a decoder written by hand and against differences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_mllm import production, task
from torch import Tensor

from miclab.circuits.attribution import INTERPOLATIONS
from miclab.circuits.edges import INPUTS, Receiver, Sender
from miclab.mllm import edge_rounds
from miclab.mllm.edge_attribution import attribute
from miclab.mllm.edge_gradients import edge_scores
from miclab.mllm.edge_patching import edge_differences, receiver_changed
from miclab.mllm.episode_pairs import Pairs, answer_logits, pairs
from miclab.mllm.errors import ModelError, OutOfMemoryError
from miclab.mllm.layers import attention_layers
from miclab.mllm.loading import Production
from miclab.mllm.options import AttributeOptions, PathOptions
from miclab.mllm.patch_points import points, recorded, replaced
from miclab.mllm.paths import patch_paths
from miclab.mllm.replay import Replay
from miclab.mllm.residual_graph import Block, ResidualGraph, matrix
from miclab.mllm.sender_changes import Changes, changes_of

FORMS = ["llama", "qwen2.5", "qwen2.5-vl", "gpt2", "opt", "gpt-neox"]


def exact(family: str, view: str = "", folder: Path = Path()) -> tuple[Production, Any]:
    """A model in 64 bits, whose biases and gains do something, and a task for it. Norms of its class round to 32."""
    of = production(family)
    of.model.double()
    torch.manual_seed(1)
    for name, parameter in of.model.named_parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, 1.0 if "weight" in name else 0.0, 0.3)
    for module in of.model.modules():
        if "RMSNorm" in type(module).__name__:
            module.forward = lambda x, own=module: (
                own.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + own.variance_epsilon)
            )
    return of, task(folder, view or of.view, names=("perpo", "blicket"))


def read(of: Production, chosen: Any, direction: str = "restore") -> tuple[ResidualGraph, Pairs, Replay, Changes]:
    """The graph of a model, and both runs over the pairs of a task as one batch."""
    (lot,) = pairs(of, chosen, "labels_swapped", 0, {}, {})
    graph, replay = ResidualGraph(of), Replay(of, range(len(of.layers)))
    with torch.no_grad():
        graph.check(lot.clean)
    return graph, lot, replay, changes_of(graph, lot, replay, direction)


class Oracle:
    """Qwen2 in plain steps: one prompt without padding, a loop over heads, each input with its own stream.

    Arguments:
        model: whose weights are taken.
    """

    def __init__(self, model: Any):
        self.weights = {name: value.detach() for name, value in model.named_parameters()}
        self.config = model.config
        self.size = model.config.hidden_size // model.config.num_attention_heads

    def norm(self, name: str, x: Tensor) -> Tensor:
        scale = (x**2).mean(-1, keepdim=True) + self.config.rms_norm_eps
        return self.weights[f"{name}.weight"] * x / scale.sqrt()

    def linear(self, name: str, x: Tensor, rows: slice) -> Tensor:
        return x @ self.weights[f"{name}.weight"][rows].T + self.weights[f"{name}.bias"][rows]

    def turned(self, x: Tensor) -> Tensor:
        half = self.size // 2
        base = float(self.config.rope_parameters["rope_theta"])
        steps = 1.0 / base ** (torch.arange(0, self.size, 2).float() / self.size)
        angles = torch.outer(torch.arange(len(x)).float(), steps)
        cos, sin = angles.cos().double(), angles.sin().double()
        a, b = x[:, :half], x[:, half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def run(self, ids: Tensor, added: dict[Receiver, Tensor]) -> tuple[dict[Sender, Tensor], Tensor]:
        """What every sender adds [position width], and logits [position vocabulary], where receivers read additions."""
        config, size = self.config, self.size
        share = config.num_attention_heads // config.num_key_value_heads
        x = self.weights["model.embed_tokens.weight"][ids]
        sent = {Sender("embedding"): x}
        mask = torch.full((len(ids), len(ids)), -torch.inf, dtype=torch.float64).triu(1)
        for layer in range(config.num_hidden_layers):
            path, start = f"model.layers.{layer}", x

            def reads(kind: Any, head: int, layer: int = layer, path: str = path, start: Tensor = start) -> Tensor:
                stream = start + added.get(Receiver(kind, layer, head), 0.0)
                normed, place = self.norm(f"{path}.input_layernorm", stream), head if kind == "query" else head // share
                return self.linear(f"{path}.self_attn.{kind[0]}_proj", normed, slice(place * size, (place + 1) * size))

            for head in range(config.num_attention_heads):
                first = head - head % share
                query, key = self.turned(reads("query", head)), self.turned(reads("key", first))
                pattern = torch.softmax(query @ key.T / size**0.5 + mask, -1)
                columns = slice(head * size, (head + 1) * size)
                out = self.weights[f"{path}.self_attn.o_proj.weight"][:, columns]
                sent[Sender("head", layer, head)] = pattern @ reads("value", first) @ out.T
                x = x + sent[Sender("head", layer, head)]
            stream = self.norm(f"{path}.post_attention_layernorm", x + added.get(Receiver("mlp", layer), 0.0))
            gate, up = (stream @ self.weights[f"{path}.mlp.{name}_proj.weight"].T for name in ("gate", "up"))
            made = (torch.nn.functional.silu(gate) * up) @ self.weights[f"{path}.mlp.down_proj.weight"].T
            sent[Sender("mlp", layer)] = made
            x = x + made
        last = Receiver("logits", config.num_hidden_layers)
        return sent, self.norm("model.norm", x + added.get(last, 0.0)) @ self.weights["lm_head.weight"].T


@pytest.mark.parametrize("direction", ["restore", "corrupt"])
def test_every_edge_is_that_of_a_decoder_written_by_hand(direction: str, tmp_path: Path):
    """Fails if a change reaches another receiver, head, layer or position, or another run is kept."""
    of, chosen = exact("qwen2.5", folder=tmp_path)
    graph, lot, replay, changes = read(of, chosen, direction)
    edges = graph.edges(graph.senders, graph.receivers)
    # 1 and 6 senders before the attention of two layers of 4 queries, 2 keys and 2 values; 5, 10, 11 before the rest.
    assert len(edges) == 1 * 8 + 6 * 8 + 5 + 10 + 11
    edges = edges if direction == "restore" else edges[::3]
    found = edge_differences(graph, changes, replay, edges)
    oracle, kept, largest = Oracle(of.model), changes.kept, 0.0
    given = lot.clean if direction == "restore" else lot.corrupted
    for row, reading in enumerate(lot.clean.readings):
        ids, others = (one.inputs["input_ids"][row, : reading.length] for one in (kept, given))
        right, rival = int(lot.right[row]), int(lot.rival[row])
        (before, plain), (after, _) = (oracle.run(one, {}) for one in (ids, others))
        base = float(plain[reading.last, right] - plain[reading.last, rival])
        assert base == pytest.approx(float((changes.corrupted if direction == "restore" else changes.clean)[row]),
                                     abs=1e-6)  # fmt: skip
        # Each edge in one of the prompts: a loop over heads is slow.
        for edge in edges[row::3]:
            _, logits = oracle.run(ids, {edge.receiver: after[edge.sender] - before[edge.sender]})
            expected = float(logits[reading.last, right] - logits[reading.last, rival])
            assert float(found[edge][row]) == pytest.approx(expected, abs=1e-6), str(edge)
            largest = max(largest, abs(expected - base))
    assert largest > 0.1


@torch.no_grad()
@pytest.mark.parametrize("family", FORMS)
def test_all_senders_together_are_the_whole_input(family: str, tmp_path: Path):
    """Fails if a sender is missing, counted twice, or written in another way into the stream."""
    of, chosen = exact(family, folder=tmp_path)
    graph, lot, replay, changes = read(of, chosen)
    known = points(of, ["mlp", *INPUTS])
    with recorded(known) as activations:
        whole = lot.difference(answer_logits(of, lot.clean))
    mask = lot.clean.inputs["attention_mask"].bool()
    for receiver in graph.receivers:
        together = torch.stack([changes.of(one) for one in graph.before(receiver)]).sum(0)
        with replay.reading(changes.kept, None) as given, receiver_changed(graph, receiver, together):
            made = lot.difference(answer_logits(of, given))
        if receiver.kind == "logits":
            assert made == pytest.approx(whole, abs=1e-6)
            continue
        name = receiver.kind, receiver.layer
        place = None
        if receiver.head is not None:
            share = 1 if receiver.kind == "query" else graph.blocks[receiver.layer].share
            place = receiver.head // share
        with replaced([(known[name], activations[name])], mask, place):
            expected = lot.difference(answer_logits(of, lot.corrupted))
        assert made == pytest.approx(expected, abs=1e-6), str(receiver)


@pytest.mark.parametrize("family", FORMS)
def test_gradients_are_those_of_small_changes(family: str, tmp_path: Path):
    """Fails if a gradient leaves out a part of a receiver, or is that of another."""
    of, chosen = exact(family, folder=tmp_path)
    graph, _, replay, changes = read(of, chosen)
    trained = [parameter.requires_grad for parameter in of.model.parameters()]
    found = edge_scores(graph, changes, replay, 0.0)
    assert [parameter.requires_grad for parameter in of.model.parameters()] == trained
    edges = graph.edges(graph.senders, graph.receivers)
    assert int(found.isfinite().sum()) == len(edges)
    sides = []
    for step in (1e-5, -1e-5):
        moved = replace(changes, by_module={name: step * one for name, one in changes.by_module.items()})
        sides.append(edge_differences(graph, moved, replay, edges[::4]))
    senders, receivers = graph.places
    for edge in edges[::4]:
        slope = float((sides[0][edge] - sides[1][edge]).sum()) / 2e-5
        assert float(found[senders[edge.sender], receivers[edge.receiver]]) == pytest.approx(slope, abs=1e-6), str(edge)
    assert float(found.nan_to_num().abs().max()) > 1e-2


@pytest.mark.parametrize("family", ["qwen2.5-vl", "gpt2"])
def test_gradients_on_the_way_add_up_to_the_whole_change(family: str, tmp_path: Path):
    """Edges of the embedding are all ways out of it, so integrated gradients of them have the whole change."""
    of, chosen = exact(family, folder=tmp_path)
    graph, _, replay, changes = read(of, chosen)
    whole = float((changes.clean - changes.corrupted).sum())
    # Gauss's nodes: with equal steps as small an error takes four times as many.
    nodes, weights = np.polynomial.legendre.leggauss(10)
    found = sum(
        weight / 2 * edge_scores(graph, changes, replay, (1 + node) / 2)[0].nansum()
        for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True)
    )
    plain = edge_scores(graph, changes, replay, 0.0)[0].nansum()
    assert float(found) == pytest.approx(whole, abs=5e-3 * max(1.0, abs(whole)))
    assert abs(float(plain) - whole) > 10 * abs(float(found) - whole)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_matrix_of_an_adapter_is_the_map_with_the_adapter():
    from peft import LoraConfig, get_peft_model

    of = production("llama")
    model: Any = get_peft_model(of.model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    module, x = model.base_model.model.model.layers[0].self_attn.q_proj, torch.randn(5, 32)
    assert x @ matrix(module, x) == pytest.approx(module(x), abs=1e-5)
    assert (x @ matrix(module.base_layer, x) - module(x)).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("gemma3", "a norm or a factor stands behind its attention"),
        ("gpt-oss", "its feed-forward part is a mixture of experts"),
        ("qwen3-vl", "something else enters the stream"),
    ],
)
def test_other_forms_are_refused_by_name(family: str, why: str, tmp_path: Path):
    of = production(family)
    chosen = task(tmp_path, of.view, names=("perpo", "blicket"))
    with pytest.raises(ModelError, match=why) as caught:
        attribute(of, chosen)
    assert "Llama, Qwen2" in str(caught.value)


def test_one_layer_has_no_edges_to_compare():
    of = production("qwen2.5")
    of.model.model.layers = of.model.model.layers[:1]
    with pytest.raises(ModelError, match=r"qwen2\.5 has one layer, so no head feeds another"):
        ResidualGraph(replace(of, layers=attention_layers(of.model)))


def test_feed_forward_parts_side_by_side_do_not_read_their_own_layer(monkeypatch, tmp_path: Path):
    """Fails if GPT-NeoX is read as a decoder whose heads feed the feed-forward part behind them, or as what its flag
    says alone."""
    found = {family: ResidualGraph(production(family)) for family in ("gpt-neox", "gpt2")}
    head = Sender("head", 0, 1)
    assert {family: head in graph.before(Receiver("mlp", 0)) for family, graph in found.items()} == {
        "gpt-neox": False, "gpt2": True,
    }  # fmt: skip
    for family, said in (("gpt-neox", False), ("gpt2", True)):
        of, chosen = exact(family, folder=tmp_path)
        monkeypatch.setattr(Block, "is_parallel", said)
        with pytest.raises(ModelError, match="the stream has another norm first"):
            read(of, chosen)


def test_batches_do_not_change_what_is_found(tmp_path: Path):
    """Fails if rows, padding or the order of episodes enter an effect, or edges are picked by other scores."""
    of, chosen = exact("qwen2.5", folder=tmp_path)
    found = []
    for batch in (1, 0):
        done: list[int] = []
        found.append(attribute(of, chosen, AttributeOptions(interpolations=1, check=4), batch=batch,
                               on_progress=lambda number, _, done=done: done.append(number)))  # fmt: skip
        assert done == sorted(done)
        assert done[-1] == 3 * (1 + 1 + 4)
    for method in ("eap", "eap_ig"):
        one, other = (of_batch.estimates.by_method[method] for of_batch in found)
        assert one == pytest.approx(other, abs=1e-8, nan_ok=True)
    assert found[0].places == found[1].places
    for edge in found[0].places:
        assert found[0].patched[edge] == pytest.approx(found[1].patched[edge], abs=1e-8)
    strongest = found[0].estimates.strongest(2)
    assert set(strongest) <= set(found[0].places)
    patched = patch_paths(of, chosen, PathOptions(top=4))
    # 4 heads of layer 0 send to 8 inputs of heads, 2 feed-forward parts and logits; those of layer 1 to the last two.
    assert patched.candidates == 4 * 11 + 4 * 2
    assert len(patched.places) == 4
    assert patched.is_picked
    assert all(edge.sender.kind == "head" for edge in patched.places)
    assert "EAP-IG picked 4 of" in patched.listed(2)[1].notes[-1]


def test_episodes_that_estimates_lack_are_said(monkeypatch, tmp_path: Path):
    """Fails if edges are picked by some of the episodes without a word."""
    of, chosen = exact("llama", folder=tmp_path)
    left: list[int] = []

    def scores(*arguments: Any) -> Tensor:
        if not left:
            raise OutOfMemoryError("no memory for gradients")
        left.pop()
        return edge_scores(*arguments)

    monkeypatch.setattr(edge_rounds, "edge_scores", scores)
    left += range(1 + INTERPOLATIONS)
    found = patch_paths(of, chosen, PathOptions(top=1), batch=1)
    assert found.problem == "no memory for gradients"
    assert len(found.names) == 3
    left += range(2)
    estimated = attribute(of, chosen, AttributeOptions(interpolations=1, check=2), batch=1)
    assert estimated.problem == "no memory for gradients"
    assert len(estimated.places) == 2
