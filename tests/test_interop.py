"""Folders for other tools compute what the decoder computes; a checkpoint of the released code becomes a run."""

from __future__ import annotations

import ast
import importlib.util
import json
import math
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from pages_of_docs import ROOT, blocks
from safetensors.torch import load_file, save_file
from tiny import lively_parameters, tiny_config, tiny_mapping

import miclab
from miclab.circuits.interventions import knock_out_heads
from miclab.cli import main
from miclab.config import schema
from miclab.config.request import Request
from miclab.config.run import RunConfig
from miclab.errors import ConfigError, MiclabError, RunError
from miclab.interop import export as exporting
from miclab.interop import graph
from miclab.interop.exported.decoder import Decoder as Exported
from miclab.interop.network import CODES, MECHANISMS, network_config, network_tensors
from miclab.interop.released import drawn_world, from_released, released_shapes
from miclab.model.decoder import Decoder
from miclab.runs.run import Run
from miclab.seeds import stream
from miclab.training.loop import train_config
from miclab.worlds.sequences import Batch, plan_bursty, realise
from miclab.worlds.world import draw_world, world_from_tensors

EXTRA = "it needs the extra `interop`: pip install '.[interop]' in an environment of its own"


# -- the exported module computes what the decoder computes -------------------------------------------------------
def both(config: RunConfig) -> tuple[Decoder, dict, Batch, Exported]:
    """A decoder with its parameters and some sequences, and the exported module, in float64."""
    parameters, world = lively_parameters(config, dtype=torch.float64), draw_world(config)
    generator = stream(1, "sequences of a test")
    batch = realise(config, world, plan_bursty(config, world, 3, generator), generator)
    batch = replace(batch, items={name: value.double() for name, value in batch.items.items()},
                    label_vectors=batch.label_vectors.double())  # fmt: skip
    module = Exported(json.loads(json.dumps(network_config(config)))).double()
    module.load_state_dict(network_tensors(config, parameters, world.label_embeddings.double()))
    return Decoder(config), parameters, batch, module


@torch.no_grad()
def differences(config: RunConfig) -> dict[str, float]:
    """Largest difference of logits, and of the pattern and residual of each layer."""
    decoder, parameters, batch, module = both(config)
    names = {f"blocks.{i}.attention.pattern": f"blocks.{i}.attn.hook_pattern" for i in range(config.decoder.layers)}
    names |= {f"blocks.{i}.residual": f"blocks.{i}.hook_resid_post" for i in range(config.decoder.layers)}
    trace = decoder.trace(parameters, batch, capture=tuple(names))
    logits, kept = module.activations(names.values(), dict(batch.items), batch.labels, batch.placement)
    found = {ours: float((trace.activations[ours] - kept[theirs]).abs().max()) for ours, theirs in names.items()}
    return {"logits": float((logits - trace.logits).abs().max()), **found}


@pytest.mark.parametrize("code", CODES)
def test_every_position_code_norm_and_number_of_heads(code):
    """Fails if a code, a norm or a head is computed otherwise, with one, two or three modalities."""
    for place, (norm, heads) in enumerate(product(("rmsnorm", "layernorm", "none"), (1, 2))):
        decoder = {"positions": code, "norm": norm, "heads": heads, "width": 84, "initial_std": 0.1}
        found = differences(tiny_config(place % 3 + 1, decoder=decoder))
        assert max(found.values()) < 1e-9, (norm, heads, found)


VARIANTS = (
    "sliding_window:window=2", "grouped_query:groups=2", "multi_query", "qk_norm", "qk_norm:share=frozen,start=2",
    "sink", "sink:share=frozen", "smeared", "smeared:on=all,back=2", "smeared:on=values,share=free", "previous_token",
    "by_layer:each=[smeared, sink]", {"name": "smeared", "layers": [1]},
)  # fmt: skip
OTHERS = (
    {"mlp": "none"}, {"mlp": "swiglu", "mlp_hidden": 5}, {"mlp_bias": "off"}, {"layers": 3, "width": 12},
    {"input_map": "linear", "width": 6, "positions": "onehot"}, {"token_constant": 2.0, "token_constant_on": "items"},
    {"token_constant": 2.0, "token_constant_on": "labels"}, {"token_constant": 1.0}, {"centre_keys": "all"},
    {"centre_keys": "position"}, {"attention_bias": "both", "heads": 2}, {"output_projection": "on"},
    {"attention_bias": "key", "attention_bias_layers": [1]}, {"heads": 2, "output_projection": "off"},
    {"positions": "learned", "placement": "fixed"}, {"positions": "partial_rope:fraction=0.5"},
    {"positions": "yarn:factor=2,fast=2,original=9,slow=0.1"}, {"positions": "fire:threshold=3,hidden=5"},
)  # fmt: skip


def test_every_variant_of_attention_and_every_option_of_the_decoder():
    """Fails if a mechanism, a constant, a bias, an MLP, a projector or a first token is lost or computed otherwise."""
    named = {v["name"] if isinstance(v, dict) else v.partition(":")[0] for v in VARIANTS}
    assert named - {"by_layer"} == set(MECHANISMS) - {"softmax"}
    pope = {"previous_token": "none"}
    configs = [tiny_config(1, decoder={"attention": v, "heads": 4, "positions": pope.get(str(v), "pope")})
               for v in VARIANTS]  # fmt: skip
    for place, options in enumerate(OTHERS):
        projector = ("small", "large", "linear")[place % 3]
        sequence = {"first_token": "learnt", "jitter": 5} if place % 2 else {"order": ["m2", "m1"]}
        decoder = {"initial_std": 0.3, **options}
        configs.append(tiny_config(2, decoder=decoder, sequence=sequence, bridge={"projector": projector}))
    for config in configs:
        found = differences(config)
        assert max(found.values()) < 1e-9 * max(1.0, found["logits"]), (config.decoder, found)


def test_an_edit_of_an_activation_is_that_of_the_decoder():
    """Fails if an exported activation is not the one that its name says, or an edit does not reach the logits."""
    config = tiny_config(2, decoder={"heads": 2, "initial_std": 0.3})
    decoder, parameters, batch, module = both(config)
    zeroed = decoder.trace(parameters, batch, edits=knock_out_heads([(0, 1)])).logits

    def without_head(point, given, z):
        return torch.cat([z[:, :, :1], torch.zeros_like(z[:, :, 1:])], 2)

    inputs = dict(batch.items), batch.label_vectors, batch.placement
    before = module(*inputs).detach()
    hook = module.blocks[0].attn.hook_z.register_forward_hook(without_head)
    torch.testing.assert_close(module(*inputs).detach(), zeroed, rtol=0, atol=1e-9)
    hook.remove()
    assert float((zeroed - before).abs().max()) > 1e-3


# -- folders ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A run of two modalities and two heads."""
    config = tiny_config(2, decoder={"heads": 2, "initial_std": 0.3}, sequence={"context": 4})
    request = Request(steps=2, evaluate_every=1, checkpoint_every=1, sequences=4, novel_sets=1)
    return train_config(config, request, tmp_path_factory.mktemp("interop"))[0]


def exported(run: Run, folder: Path, target: str, capsys) -> Path:
    """The folder that the command writes."""
    assert main(["export", str(run.path), "--to", target, "--output", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["to"], found["step"], sorted(p.name for p in folder.iterdir())) == (target, 2, found["files"])
    assert max(found["difference"].values()) < 1e-5
    return folder


def imported_names(file: Path) -> set[str]:
    """Packages that a Python file imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." if node.level else str(node.module).partition(".")[0])
    return found


def items_of(example: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The items of an exported example, by modality."""
    return {name[6:]: value for name, value in example.items() if name.startswith("items.")}


def without_last_heads(run: Run) -> torch.Tensor:
    """Logits of the example's sequences with the heads of layer 1 set to zero, as miclab edits them."""
    ours = miclab.load(run.path)
    edits = {"blocks.1.attention.heads": lambda heads: heads * 0}
    return ours.activations("final", batch=ours.batch(sequences=exporting.EXAMPLES), edits=edits)["logits"]


def lens_folder(run: Run, folder: Path, capsys, monkeypatch) -> Path:
    """The folder for TransformerLens, whose module can then be imported; the test is skipped without the package."""
    pytest.importorskip("transformer_lens", reason=EXTRA)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    return exported(run, folder, "transformer-lens", capsys)


def readme_block(folder: Path) -> str:
    """The lines of Python in the README of a folder."""
    return (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]


def test_the_folder_for_pytorch_is_read_without_miclab(run, tmp_path, capsys, monkeypatch):
    """Fails if the file imports miclab, or the lines of the README do not run or give other logits."""
    folder = exported(run, tmp_path / "out", "torch", capsys)
    assert imported_names(folder / "decoder.py") <= set(sys.stdlib_module_names) | {"torch", "safetensors"}
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = importlib.util.spec_from_file_location("decoder", folder / "decoder.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "decoder", module)
    spec.loader.exec_module(module)
    names: dict = {}
    with torch.no_grad():
        exec(readme_block(folder), names)
    assert float((names["logits"] - names["example"]["logits"]).abs().max()) < 1e-5
    pattern = names["kept"]["blocks.0.attn.hook_pattern"]
    torch.testing.assert_close(pattern, names["example"]["pattern.0"], rtol=0, atol=1e-6)
    # One sequence with vectors in place of labels, and the target's rank: the example is what the run gives.
    batch = miclab.load(run.path).batch(sequences=exporting.EXAMPLES)
    assert torch.equal(names["example"]["items.m2"], batch.items["m2"])
    torch.testing.assert_close(names["example"]["logits"], miclab.load(run.path).model()(batch).detach())


def test_transformers_loads_the_folder_and_saves_it_again(run, tmp_path, capsys, monkeypatch):
    """Fails if the real package gives other logits or patterns, after one more round trip too; or no loss."""
    transformers = pytest.importorskip("transformers", reason="it needs the extra `mllm`: pip install '.[mllm]'")
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = exported(run, tmp_path / "out", "huggingface", capsys)
    for name in ("decoder.py", "modeling_miclab.py", "configuration_miclab.py"):
        assert "miclab" not in imported_names(folder / name)
    with pytest.raises(ValueError, match="trust_remote_code"):
        transformers.AutoModel.from_pretrained(folder, trust_remote_code=False)
    example = load_file(folder / "example.safetensors")
    items = items_of(example)
    for place in (folder, tmp_path / "again"):
        model = transformers.AutoModel.from_pretrained(place, trust_remote_code=True)
        with torch.no_grad():
            found = model(items, example["labels"], example["placement"], example["target"], output_attentions=True,
                          output_hidden_states=True)  # fmt: skip
        torch.testing.assert_close(found.logits, example["logits"], rtol=0, atol=1e-5)
        for layer, pattern in enumerate(found.attentions):
            torch.testing.assert_close(pattern, example[f"pattern.{layer}"], rtol=0, atol=1e-6)
        assert len(found.hidden_states) == 3
        torch.testing.assert_close(found.loss, F.cross_entropy(example["logits"], example["target"]))
        model.save_pretrained(tmp_path / "again")


def test_transformer_lens_caches_and_edits(run, tmp_path, capsys, monkeypatch):
    """Fails if the real package finds no hook point, other activations, or an edit that does not reach the logits."""
    folder = lens_folder(run, tmp_path / "out", capsys, monkeypatch)
    monkeypatch.chdir(folder)
    names: dict = {}
    with torch.no_grad():
        exec(readme_block(folder), names)
        model, cache, inputs, example = (names[name] for name in ("model", "cache", "inputs", "example"))
        zeroed = model.run_with_hooks(*inputs, fwd_hooks=[("blocks.1.attn.hook_z", lambda z, hook: z * 0)])
    torch.testing.assert_close(names["logits"], example["logits"], rtol=0, atol=1e-5)
    for layer in range(2):
        wanted = example[f"pattern.{layer}"]
        torch.testing.assert_close(cache[f"blocks.{layer}.attn.hook_pattern"], wanted, rtol=0, atol=1e-6)
    points = {"hook_embed", "blocks.0.hook_resid_pre", "blocks.0.attn.hook_rot_q", "blocks.1.mlp.hook_post",
              "blocks.1.hook_resid_post", "ln_final.hook_normalized"}  # fmt: skip
    assert points <= set(cache)
    torch.testing.assert_close(zeroed, without_last_heads(run), rtol=0, atol=1e-5)


def test_the_page_on_transformer_lens(run, tmp_path, capsys, monkeypatch):
    """Fails if a block of the page does not run with the real package, or patches another head than miclab would."""
    lens_folder(run, tmp_path / "decoder-lens", capsys, monkeypatch)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks(ROOT / "docs/start/in-transformer-lens.md"):
        if block.language == "python":
            exec(block.text, names)
    ours, example = miclab.load(run.path), names["example"]
    batch = ours.batch(sequences=exporting.EXAMPLES)
    traded = replace(batch, labels=names["traded"], label_vectors=ours.world().label_embeddings[names["traded"]])
    torch.testing.assert_close(batch.labels, example["labels"])

    def difference(sequences, edits=None):
        return names["difference"](ours.activations((), batch=sequences, edits=edits)["logits"])

    clean, broken = difference(batch), difference(traded)
    assert names["restored"].keys() == {"0.0", "0.1", "1.0", "1.1"}
    for found, share in names["restored"].items():
        layer, head = found.split(".")
        name = f"blocks.{layer}.attention.heads"
        given, chosen = ours.activations(name, batch=batch)[name], torch.arange(2)[:, None, None] == int(head)
        edit = {name: lambda old, given=given, chosen=chosen: torch.where(chosen, given, old)}
        assert share * (clean - broken) == pytest.approx(difference(traded, edit) - broken, abs=1e-4)


def test_nnsight_reads_and_edits(run, tmp_path, capsys):
    """Fails if the real package reads another pattern, or its edit of a head does not reach the logits."""
    nnsight = pytest.importorskip("nnsight", reason=EXTRA)
    folder = exported(run, tmp_path / "out", "torch", capsys)
    example = load_file(folder / "example.safetensors")
    items = items_of(example)
    traced = nnsight.NNsight(Exported.load(folder))
    with torch.no_grad(), traced.trace(items, example["labels"], example["placement"]):
        pattern = traced.blocks[1].attn.hook_pattern.output.save()
        traced.blocks[1].attn.hook_z.output[:] = 0
        logits = traced.output.save()
    torch.testing.assert_close(pattern, example["pattern.1"], rtol=0, atol=1e-6)
    torch.testing.assert_close(logits, without_last_heads(run), rtol=0, atol=1e-5)


def test_a_runtime_of_onnx_gives_logits_and_patterns(run, tmp_path, capsys, monkeypatch):
    """Fails if the real runtime gives other numbers, or if the number of sequences is not free."""
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason="it needs the extra `onnx`: pip install '.[onnx]'")
    runtime = pytest.importorskip("onnxruntime", reason="it needs the extra `onnx`: pip install '.[onnx]'")
    folder = exported(run, tmp_path / "out", "onnx", capsys)
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md", "config.json", "decoder.onnx", "example.safetensors"
    ]  # fmt: skip
    monkeypatch.chdir(folder)
    found: dict = {}
    exec(readme_block(folder), found)
    example = load_file("example.safetensors")
    session = runtime.InferenceSession("decoder.onnx", providers=["CPUExecutionProvider"])
    for count in (8, 5):
        values = session.run(None, {one.name: example[one.name][:count].numpy() for one in session.get_inputs()})
        for point, value in zip(session.get_outputs(), values, strict=True):
            torch.testing.assert_close(torch.as_tensor(value), example[point.name][:count], rtol=1e-5, atol=1e-5)


def test_a_graph_with_a_wrong_weight_is_not_written(run, tmp_path, monkeypatch):
    """Fails if the graph is not compared with what miclab gives."""
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason="it needs the extra `onnx`: pip install '.[onnx]'")
    example_tensors = exporting.example_tensors

    def wrong(*arguments):
        found = example_tensors(*arguments)
        return {**found, "pattern.1": found["pattern.1"].flip(0)}

    monkeypatch.setattr(exporting, "example_tensors", wrong)
    with pytest.raises(RunError, match=r"pattern\.1"):
        exporting.export(run, "onnx", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_onnx_without_its_packages_says_what_to_install(run, tmp_path, capsys, monkeypatch):
    """Fails if a missing package ends in a traceback, or in half a folder."""
    monkeypatch.setattr(graph, "PACKAGES", ("onnx_of_no_one",))
    assert main(["export", str(run.path), "--to", "onnx", "--output", str(tmp_path / "x")]) == 2
    assert "pip install '.[onnx]'" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_an_export_goes_into_the_empty_directory_that_one_stands_in(run, tmp_path, monkeypatch):
    """Fails if `.` is refused, or its files land beside it."""
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(run.path), "--to", "torch", "--output", "."]) == 0
    assert any(path.suffix == ".safetensors" for path in tmp_path.iterdir())


def test_what_cannot_be_exported_is_refused_by_name(run, tmp_path, capsys):
    """Fails if a part is dropped in silence, or a folder with files in it is written over."""
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    assert main(["export", str(run.path), "--to", "torch", "--output", str(full)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [p.name for p in full.iterdir()] == ["mine.txt"]
    with pytest.raises(ConfigError, match="torch"):
        miclab.load(run.path).export("pytorch", tmp_path / "x")
    with pytest.raises(ConfigError, match="step"):
        miclab.load(run.path).export("torch", tmp_path / "x", step=7)
    modalities = {"m1": {"classes": 32, "dimension": 8, "labels": 8}}
    encoded = {**modalities, "m2": {"classes": 16, "dimension": 6, "labels": 4, "encoder": "mlp", "features": 8}}
    refused = {
        "differential": tiny_config(1, decoder={"attention": "differential", "heads": 2}),
        "gated_delta": tiny_config(1, decoder={"attention": {"name": "gated_delta", "layers": [1]}}),
        "modalities.m2.encoder": schema.from_mapping(RunConfig, tiny_mapping(2, modalities=encoded)),
    }
    for words, config in refused.items():
        with pytest.raises(ConfigError, match=words):
            network_config(config)
    assert not (tmp_path / "x").exists()


def test_a_module_that_differs_is_not_written(run, tmp_path, monkeypatch):
    """Fails if the check before writing lets a wrong weight through."""
    tensors = exporting.network_tensors

    def wrong(*arguments):
        found = tensors(*arguments)
        found["blocks.0.attn.W_K"][0, 0, 0] += 1e-3
        return found

    monkeypatch.setattr(exporting, "network_tensors", wrong)
    with pytest.raises(RunError, match="differs from the decoder"):
        exporting.export(run, "torch", tmp_path / "x")
    assert not (tmp_path / "x").exists()


# -- checkpoints of the released code -----------------------------------------------------------------------------
def released_logits(state: dict, tokens: torch.Tensor, heads: int, code: str) -> torch.Tensor:
    """The released decoder, written from its definition: layers of PyTorch's convention, weights [output, input]."""
    length, width = tokens.shape[1:]
    size = width // heads
    angle = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(0, size, 2) / size)
    cosine, sine = (torch.cat([part, part], -1) for part in (angle.cos(), angle.sin()))
    place = torch.arange(length)
    mask = torch.full((length, length), -math.inf).triu(1)
    if code == "alibi":
        slope = torch.tensor([2.0 ** (-8 * (head + 1) / heads) for head in range(heads)])
        mask = mask - slope[:, None, None] * (place[:, None] - place)

    def norm(x, name):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * state[f"{name}.weight"]

    def turned(x):
        crossed = torch.cat([-x[..., 1::2], x[..., ::2]], -1)
        return x * cosine + crossed * sine if code == "rope_released" else x

    x = tokens
    for layer in sorted({name.rsplit(".attn.")[0] for name in state if ".attn." in name}):
        normed = norm(x, f"{layer}.attn_norm")
        q, k, v = (
            F.linear(normed, state[f"{layer}.attn.{name}.weight"]).view(len(x), length, heads, size).transpose(1, 2)
            for name in ("wq", "wk", "wv")
        )
        pattern = (turned(q) @ turned(k).mT / math.sqrt(size) + mask).softmax(-1)
        merged = (pattern @ v).transpose(1, 2).reshape(len(x), length, width)
        x = x + (F.linear(merged, state[f"{layer}.attn.wo.weight"]) if heads > 1 else merged)
        one, two, three = ((state[f"{layer}.mlp.fc{i}.weight"], state[f"{layer}.mlp.fc{i}.bias"]) for i in (1, 2, 3))
        normed = norm(x, f"{layer}.mlp_norm")
        x = x + F.linear(F.silu(F.linear(normed, *one) * F.linear(normed, *two)), *three)
    return F.linear(norm(x[:, -1], "norm"), state["out.weight"])


def released_state(config: RunConfig) -> dict[str, torch.Tensor]:
    """Random weights in the released code's names."""
    generator = torch.Generator().manual_seed(2)
    shapes = released_shapes(config)
    state = {name: torch.randn(shape, generator=generator) * shape[-1] ** -0.5 for name, shape in shapes.items()}
    return {name: value + ("norm" in name) for name, value in state.items()}


def released_config(count: int, **decoder) -> RunConfig:
    mapping = tiny_mapping(count, decoder={"initial_std": 0.02, **decoder}, optimiser={"name": "sgd"})
    return schema.from_mapping(RunConfig, mapping)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("code", "heads", "slots"), [("rope_released", 1, 0), ("rope_released", 2, 0), ("alibi", 4, 0), ("onehot", 1, 20),
                                 ("onehot", 2, 20)],
)  # fmt: skip
def test_imported_weights_give_what_the_released_code_gives(code, heads, slots, count):
    """Fails if a weight is not transposed, a dimension of a one-hot token is misplaced, or a projector is lost."""
    config = released_config(count, positions=code, heads=heads, position_slots=slots)
    state, world = released_state(config), world_from_tensors(config, drawn_world(config))
    generator = stream(1, "sequences of a test")
    batch = realise(config, world, plan_bursty(config, world, 5, generator), generator)
    columns = [batch.items["m1"], F.pad(batch.label_vectors, (0, 0, 0, 1))]
    if count == 2:
        hidden = F.gelu(F.linear(batch.items["m2"], state["projector.fc1.weight"]))
        columns.insert(1, F.linear(hidden, state["projector.fc2.weight"]))
    tokens = torch.stack(columns, 2).flatten(1, 2)[:, :-1]
    if slots:
        first = (batch.placement * (slots - tokens.shape[1] + 1)).long()
        tokens = torch.cat([F.one_hot(first[:, None] + torch.arange(tokens.shape[1]), slots), tokens], -1)
    wanted = released_logits(state, tokens, heads, code)
    found = Decoder(config).logits(from_released(config, state), batch)
    assert float(wanted.std()) > 0.1
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_the_world_is_that_of_the_released_seed():
    """Fails if labels and prototypes are drawn in another order, or with other scales, than the released code does."""
    config = released_config(2, positions="rope_released")
    np.random.seed(0)
    labels = np.random.normal(size=(8, 8)) / np.sqrt(8)
    first, second = np.random.normal(size=(32, 8)) / np.sqrt(8), np.random.normal(size=(16, 6)) / np.sqrt(6)
    found = drawn_world(config)
    for name, wanted in {"label_embeddings": labels, "prototypes.m1": first, "prototypes.m2": second}.items():
        np.testing.assert_array_equal(found[name].numpy(), wanted.astype(np.float32))


def write_checkpoint(folder: Path, **change) -> list[str]:
    """A checkpoint and its configuration in a folder, and the command that imports it."""
    config = released_config(1, positions="rope_released")
    save_file({name: value.contiguous() for name, value in {**released_state(config), **change}.items()},
              folder / "ckpt.safetensors")  # fmt: skip
    mapping = schema.to_mapping(config)
    kept = {"modalities": mapping["modalities"], "sequence": {"context": 4, "burstiness": 2}}
    (folder / "released.yaml").write_text(yaml.safe_dump(kept))
    few = ["--sequences", "4", "--novel-sets", "2"]
    return ["import", str(folder / "ckpt.safetensors"), "--config", str(folder / "released.yaml"), "--runs",
            str(folder / "runs"), *few]  # fmt: skip


def test_an_imported_run_is_analysed_and_a_later_stage_starts_from_it(tmp_path, capsys):
    """Fails if a command refuses the run, if it has the name of a trained run, or if it can be trained on."""
    command = [*write_checkpoint(tmp_path), "--step", "300000", "--name", "theirs", "--json"]
    assert main(command) == 0
    first = json.loads(capsys.readouterr().out)
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert main([word if word != "300000" else "1" for word in command]) == 2
    assert "imported with 300000 training steps" in " ".join(capsys.readouterr().err.split())
    run, where = miclab.find("theirs", tmp_path / "runs"), ["--runs", str(tmp_path / "runs")]
    assert (run.step, run.status, run.metrics()["step"].to_list()) == (300_000, "finished", [300_000])
    without = replace(run.config, parent=replace(run.config.parent, imported=""))
    assert schema.trajectory_hash(without) != run.hash
    few = ["--sequences", "4", "--novel-sets", "2", "--json"]
    assert main(["knockout", "theirs", *where, *few]) == 0, capsys.readouterr().err
    assert main(["resume", "theirs", *where, "--steps", "400000"]) == 2
    assert "was imported" in capsys.readouterr().err
    child = miclab.train("multimodal", stage_one=run, steps=1, runs=tmp_path / "runs", preset="paper",
                         fields={"modalities.m2.classes": 16, "modalities.m2.labels": 4, "request.sequences": 4,
                                 "request.novel_sets": 1})  # fmt: skip
    assert child.parent == run
    world = run.disk.world_tensors()
    assert torch.equal(child.disk.world_tensors()["prototypes.m1"], world["prototypes.m1"])
    with pytest.raises(ConfigError, match=r"parent\.imported"):
        train_config(run.config, Request(steps=1, evaluate_every=1, checkpoint_every=1), tmp_path)


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({"extra.weight": torch.ones(2)}, [], "has extra.weight"),
        ({"norm.weight": torch.ones(3)}, [], "norm.weight: expected shape (8,), found (3,)"),
        ({"norm.weight": torch.full((8,), math.nan)}, [], "norm.weight: expected finite numbers"),
        ({}, ["decoder: {layers: 3}"], "lacks layers.2.attn.wq.weight"),
        ({}, ["decoder: {positions: rope}"], "one of alibi, onehot, rope_released"),
        ({}, ["decoder: {heads: 2}"], "lacks layers.0.attn.wo.weight"),
        ({}, ["decoder: {norm: layernorm}"], "decoder.norm"),
        ({}, ["decoder: {attention: smeared}"], "decoder.attention.name"),
    ],
)  # fmt: skip
def test_a_state_dict_that_does_not_fit_is_refused_by_name(change, options, words, tmp_path, capsys):
    """Fails if a wrong checkpoint becomes a run, or the message does not name what is wrong."""
    command = write_checkpoint(tmp_path, **change)
    with (tmp_path / "released.yaml").open("a") as file:
        file.writelines(options)
    assert main(command) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_pickle_is_refused_with_the_line_that_converts_it(tmp_path, capsys, monkeypatch):
    """Fails if a pickle is opened, whatever its name, or the line in the message does not convert it."""
    state = released_state(released_config(1, positions="rope_released"))
    for name in ("ckpt.pt", "disguised.safetensors"):
        torch.save(state, tmp_path / name)
        assert main(["import", str(tmp_path / name)]) == 2
        message = capsys.readouterr().err
        assert "pickle" in message
    assert main(["import", str(tmp_path / "ckpt.pt")]) == 2
    line = capsys.readouterr().err.partition("python -c '")[2]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["-c", *line.partition("' ")[2].split()])
    exec(line.partition("' ")[0], {})
    found = load_file(tmp_path / "ckpt.safetensors")
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_a_missing_file_and_a_wrong_world_are_named(tmp_path, capsys):
    """Fails if a traceback comes, or a world of other shapes is taken."""
    command = write_checkpoint(tmp_path)
    save_file({"label_embeddings": torch.ones(3, 8)}, tmp_path / "w.safetensors")
    assert main([*command, "--world", str(tmp_path / "w.safetensors")]) == 2
    assert "label_embeddings should have shape (8, 8)" in capsys.readouterr().err
    with pytest.raises(MiclabError, match=r"Cannot read .*none\.safetensors"):
        miclab.import_checkpoint(tmp_path / "none.safetensors")
