"""Path patching: edges and paths agree with explicit hooks, one at a time, and a circuit built by hand is known."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from test_patching import hand_built
from tiny import lively_parameters, tiny_config

import miclab
from miclab.circuits.corrupted_pairs import pairs_of_split, traced
from miclab.circuits.corruption import Clean, corrupt
from miclab.circuits.edges import Edge, Receiver, Sender
from miclab.circuits.graph import Graph
from miclab.circuits.path_result import PathPatching
from miclab.circuits.paths import Path, count_paths, pair_of, patched_values, path_logits
from miclab.cli import main
from miclab.config.corruptions import CORRUPTIONS
from miclab.config.request import Request, SplitSizes
from miclab.errors import RunError
from miclab.model.decoder import Decoder
from miclab.seeds import stream
from miclab.training.loop import train_config
from miclab.worlds.sequences import plan_bursty, realise
from miclab.worlds.world import draw_world


def both(config, name: str = "items_swapped"):
    """Four sequences, clean and corrupted."""
    world, generator = draw_world(config), stream(0, "sequences of a test")
    batch = realise(config, world, plan_bursty(config, world, 4, generator), generator)
    return batch, corrupt(CORRUPTIONS[name], Clean(config, world, batch, stream(1, "corruption")))[0]


# -- an oracle: hooks, formulas and a single edge at a time ------------------------------------------------------
class Hooks:
    """The decoder of a configuration with RMSNorm and the released MLP, patched by edits of `Decoder.trace`."""

    def __init__(self, config, parameters):
        self.decoder, self.p, self.heads = Decoder(config), parameters, config.decoder.heads
        self.layers = config.decoder.layers
        self.kept: dict[int, dict[str, torch.Tensor]] = {}

    def run(self, batch, edits=None):
        return self.decoder.trace(self.p, batch, capture=("*",), edits=edits or {})

    def norm(self, x, name):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * self.p[f"decoder.{name}.gain"]

    def sent(self, found, sender: Sender):
        """What a part adds to the stream."""
        if sender.kind == "embedding":
            return found["embedding"]
        if sender.kind == "mlp":
            return found[f"blocks.{sender.layer}.mlp.output"]
        heads = found[f"blocks.{sender.layer}.attention.heads"]
        size, head = heads.shape[-1], sender.head or 0
        weight = self.p[f"decoder.blocks.{sender.layer}.attention.output"]
        return heads[:, head] @ weight[head * size : (head + 1) * size]

    def stream(self, found, receiver: Receiver):
        """The stream that an input reads."""
        if receiver.kind == "logits":
            return found[f"blocks.{self.layers - 1}.residual"]
        before = found["embedding"] if receiver.layer == 0 else found[f"blocks.{receiver.layer - 1}.residual"]
        return before + found[f"blocks.{receiver.layer}.attention.output"] if receiver.kind == "mlp" else before

    def edits(self, found, receiver: Receiver, change, mask=None):
        """Edits that change what one input reads."""
        layer, x = receiver.layer, self.stream(found, receiver)
        if mask is not None:
            change = change * mask[..., None]
        if receiver.kind == "logits":
            return {f"blocks.{self.layers - 1}.residual": lambda value: value + change}
        if receiver.kind == "mlp":
            y, block = self.norm(x + change, f"blocks.{layer}.norm2"), f"decoder.blocks.{layer}.mlp"
            part = {n: y @ self.p[f"{block}.{n}.weight"] + self.p[f"{block}.{n}.bias"] for n in ("gate", "value")}
            hidden = part["gate"] * part["value"]
            hidden = hidden * torch.sigmoid(hidden)
            new = hidden @ self.p[f"{block}.out.weight"] + self.p[f"{block}.out.bias"]
            return {f"blocks.{layer}.mlp.output": lambda value: new}
        point = {"query": "queries", "key": "keys", "value": "values"}[receiver.kind]
        y = self.norm(x + change, f"blocks.{layer}.norm1") @ self.p[f"decoder.blocks.{layer}.attention.{receiver.kind}"]
        head, size = receiver.head or 0, y.shape[-1] // self.heads

        def edit(value):
            made = value.clone()
            made[:, head] = y[..., head * size : (head + 1) * size]
            return made

        return {f"blocks.{layer}.attention.{point}": edit}

    def untouched(self, batch):
        """Activations without edits."""
        if id(batch) not in self.kept:
            self.kept[id(batch)] = self.run(batch).activations
        return self.kept[id(batch)]

    def edge(self, base, other, edge: Edge, masks):
        found, given = self.untouched(base), self.untouched(other)
        change = self.sent(given, edge.sender) - self.sent(found, edge.sender)
        mask = masks[edge.receiver.role] if edge.receiver.role else None
        return self.run(base, self.edits(found, edge.receiver, change, mask)).logits

    def path(self, base, other, path: Path, masks):
        """One part after the other; of each step only what its own part sends is kept."""
        found, given = self.untouched(base), self.untouched(other)
        change = self.sent(given, path.sender) - self.sent(found, path.sender)
        for receiver in path.through:
            mask = masks[receiver.role] if receiver.role else None
            made = self.run(base, self.edits(found, receiver, change, mask))
            if receiver.kind == "logits":
                return made.logits
            kind = "mlp" if receiver.kind == "mlp" else "head"
            part = Sender(kind, receiver.layer, receiver.head)
            change = self.sent(made.activations, part) - self.sent(found, part)
        raise AssertionError(path)


@pytest.mark.parametrize("direction", ["restore", "corrupt"])
def test_every_edge_and_path_is_that_of_explicit_hooks(direction):
    """Fails if any edge or path of a decoder of two layers of two heads gets another part, role or input, or if what
    follows is not computed again."""
    config = tiny_config(1, decoder={"heads": 2, "initial_std": 0.3})
    parameters = lively_parameters(config, dtype=torch.float64)
    clean, corrupted = both(config)
    clean, corrupted = (doubled(batch) for batch in (clean, corrupted))
    graph, hooks = Graph(Decoder(config), parameters), Hooks(config, parameters)
    pair = pair_of(graph, clean, corrupted, direction)
    found = patched_values(graph, clean, corrupted, direction)
    base, other = (corrupted, clean) if direction == "restore" else (clean, corrupted)
    edges = [key for key in found[2] if isinstance(key, Edge)]
    paths = [key for key in found[2] if isinstance(key, Path)]
    plain = [edge for edge in edges if not edge.receiver.role]
    # Layer 0 has 6 inputs of heads and its MLP, layer 1 reads 1, 2 and 1 senders more.
    assert len(plain) == 6 * 1 + 3 + 6 * 4 + 6 + 7
    assert len(edges) == len(plain) + 7 * 4 * (1 + 4)
    assert len(paths) == len(set(paths)) == count_paths(graph, 7)
    for edge in edges[:: 2 if direction == "restore" else 7]:
        wanted = pair.values(hooks.edge(base, other, edge, pair.masks))
        torch.testing.assert_close(found[2][edge]["logit_difference"], wanted["logit_difference"], msg=str(edge))
    some = paths[:: 83 if direction == "restore" else 157]
    assert {len(path.through) for path in some} >= {2, 3, 4, 5}
    for path in some:
        wanted = pair.values(hooks.path(base, other, path, pair.masks))
        torch.testing.assert_close(found[2][path]["logit_difference"], wanted["logit_difference"], msg=str(path))
    for values, batch in zip(found[:2], (clean, corrupted), strict=True):
        wanted = pair.values(hooks.run(batch).logits)
        torch.testing.assert_close(values["logit_difference"], wanted["logit_difference"])


def doubled(batch):
    """A batch of float64."""
    items = {name: value.double() for name, value in batch.items.items()}
    return replace(batch, items=items, label_vectors=batch.label_vectors.double(), placement=batch.placement.double())


# -- a circuit built by hand -------------------------------------------------------------------------------------
def test_the_known_path_of_an_induction_circuit():
    """Fails if the path through the key of the induction head is not found, or any other gets a share: in this decoder
    items move into the labels' positions by head 0.0, and the key of head 1.0 reads them there."""
    decoder, parameters, world = hand_built()
    pairs = pairs_of_split(decoder.config, world, CORRUPTIONS["items_swapped"], "", "train", SplitSizes(sequences=40))
    assert pairs.kept == (40, 40)
    clean, corrupted, found = patched_values(Graph(decoder, parameters), *pairs.sets[0])
    ends = [values["logit_difference"] for values in (clean, corrupted)]
    assert [end.round().unique().tolist() for end in ends] == [[10], [-10]]
    shares = {str(key): (v["logit_difference"] - ends[1]) / (ends[0] - ends[1]) for key, v in found.items()}
    # With the own label alone put back, both labels match the query: half of the effect.
    known = {
        "embedding -> value of 0.0": 1.0,
        "embedding -> value of 0.0 at own item": 0.5,
        "embedding -> value of 0.0 at rival item": 0.5,
        "head 0.0 -> key of 1.0": 1.0,
        "head 0.0 -> key of 1.0 at own label": 0.5,
        "head 0.0 -> key of 1.0 at rival label": 0.5,
        "head 1.0 -> logits": 1.0,
        "embedding -> value of 0.0 -> key of 1.0 at own label -> logits": 0.5,
        "embedding -> value of 0.0 -> key of 1.0 at rival label -> logits": 0.5,
        "head 0.0 -> key of 1.0 at own label -> logits": 0.5,
        "head 0.0 -> key of 1.0 at rival label -> logits": 0.5,
    }
    for name, share in shares.items():
        wanted = torch.full_like(share, known.get(name, 0.0))
        torch.testing.assert_close(share, wanted, atol=1e-4, rtol=0, msg=name)
    assert set(known) <= set(shares)
    made = traced(pairs, lambda *given: patched_values(Graph(decoder, parameters), *given), {}, lambda done: None, 16)
    result = PathPatching(("a",), (0,), "train", "items_swapped", "", "restore", (made,))
    routes = {name: result.effect(paths) for name, paths in result.routes().items()}
    assert sum(len(paths) for paths in result.routes().values()) == 1 + 3 + 15 + 3 * 15
    for name, effect in routes.items():
        assert effect is not None
        assert effect.mean == pytest.approx(float(name == "head 0.0 -> key of 1.0 -> logits"), abs=1e-4)
    assert result.strongest(result.edges)[0] in {result.edge(name) for name, share in known.items() if share == 1}


def test_heads_that_share_keys_have_one_edge_for_them():
    """Fails if a shared key is patched for one of its heads alone, or paths through it miss a head."""
    config = tiny_config(1, decoder={"heads": 2, "attention": {"name": "multi_query"}})
    graph = Graph(Decoder(config), lively_parameters(config))
    keys = [one for one in graph.receivers if one.kind == "key"]
    assert [str(one) for one in keys] == ["key of 0.0", "key of 1.0"]
    clean, corrupted = both(config)
    # A key of the first layer reads the embedding alone: its edge is that key in the other run.
    decoder, masks = graph.decoder, pair_of(graph, clean, corrupted, "restore")
    given = decoder.trace(graph.parameters, clean, capture=("blocks.0.attention.keys",)).activations
    edits = {name: lambda value, name=name: given[name] for name in given}
    wanted = masks.values(decoder.trace(graph.parameters, corrupted, edits=edits).logits)
    found = patched_values(graph, clean, corrupted)[2]
    values = found[Edge(Sender("embedding"), keys[0])]
    torch.testing.assert_close(values["probability"], wanted["probability"])
    passed = {str(path) for path in found if isinstance(path, Path)}
    assert "head 0.1 -> key of 1.0 at own label -> logits" in passed


# -- refusals and runs -------------------------------------------------------------------------------------------
def test_what_has_no_edges_is_named():
    """Fails if a decoder whose heads have other inputs gives a table, or a deep one never ends."""
    config = tiny_config(1, decoder={"attention": {"name": "forgetting"}})
    with pytest.raises(RunError, match="layer 0 of this decoder \\(forgetting\\)"):
        Graph(Decoder(config), lively_parameters(config))
    deep = tiny_config(1, decoder={"layers": 6, "heads": 2})
    graph = Graph(Decoder(deep), lively_parameters(deep))
    with pytest.raises(RunError, match="--parts edges"):
        next(path_logits(graph, pair_of(graph, *both(deep), "restore")))


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run that has hardly begun, and one of one layer."""
    request, folder = (
        Request(steps=2, evaluate_every=2, checkpoint_every=2, sequences=4, novel_sets=1),
        tmp_path_factory,
    )
    return [
        train_config(tiny_config(1, decoder={"layers": layers}), request, folder.mktemp("runs"))[0] for layers in (2, 1)
    ]


@pytest.mark.filterwarnings("ignore:.*no normalised effect")
def test_the_command_and_python_agree(begun, capsys):
    """Fails if the command prints other effects than Python gives, if routes miss a path from the embedding, or if a
    refusal is not a line."""
    words = ["paths", str(begun[0].path), "--sequences", "8", "--novel-sets", "2", "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    made = miclab.patch_paths(begun[0], sequences=8, novel_sets=2)
    assert json.loads(json.dumps(made.as_json())) == found
    starts = [path for path in found["paths"] if path["sender"] == "embedding"]
    assert sum(route["paths"] for route in found["routes"]) == len(starts) > 64
    assert made.frame().height == len(found["edges"]) + len(found["paths"])
    assert made.plot().get_xlabel() == "effect"
    for arguments, text in (
        ([str(begun[1].path)], "one layer"),
        ([str(begun[0].path), "--corruption", "modality_replaced.m7"], "modality_replaced.m1"),
        ([str(begun[0].path), "--split", "none"], "split"),
    ):
        assert main_status(["paths", *arguments]) == 2
        assert text in capsys.readouterr().err


def main_status(arguments: list[str]) -> int:
    """Exit status of a command."""
    try:
        return main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)
