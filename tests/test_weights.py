"""Numbers of heads' weights: matrices built by hand have known scores, and parts add up to the logits."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny import lively_parameters, tiny_config

import miclab
from miclab.circuits.logit_lens import direct_logits, lens_values
from miclab.circuits.weights import (
    HeadMatrices,
    basis,
    composition,
    copied_logits,
    copying_score,
    effective_rank,
    head_matrices,
    head_scores,
    matching_score,
    path_matching,
    positive_share,
    spectra,
)
from miclab.cli import main
from miclab.config.request import Request
from miclab.errors import RunError
from miclab.model.decoder import Decoder
from miclab.seeds import stream
from miclab.training.loop import train_config
from miclab.worlds.sequences import plan_bursty, realise
from miclab.worlds.world import draw_world


def test_scores_of_matrices_with_known_eigenvalues():
    """Fails if a rotation counts as copying, a sign is lost, or a rank counts directions of no size."""
    one = torch.eye(6)
    turned = torch.zeros(2, 2).index_put((torch.tensor([0, 1]), torch.tensor([1, 0])), torch.tensor([1.0, -1.0]))
    assert [copying_score(m) for m in (one, -one, turned)] == pytest.approx([1, -1, 0], abs=1e-9)
    mixed = torch.diag(torch.tensor([3.0, 1.0, -1.0, -1.0]))
    assert (copying_score(mixed), positive_share(mixed)) == pytest.approx((2 / 6, 0.5))
    assert [effective_rank(m) for m in (one, torch.diag(torch.tensor([1.0, 1.0, 0.0])))] == pytest.approx([6, 2])
    clear = torch.tensor([[5.0, 1.0, -1.0], [-1.0, 5.0, 1.0], [1.0, -1.0, 5.0]])
    assert matching_score(clear) == pytest.approx(5 / (6 / 5) ** 0.5)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(0, 2))
def test_composition_is_one_where_subspaces_meet_and_zero_where_they_do_not(seed, place):
    """Fails if Q, K and V are mistaken for each other: each later head reads one direction in one of its inputs."""
    generator = torch.Generator().manual_seed(seed)
    frame = torch.linalg.qr(torch.randn(6, 6, generator=generator))[0]
    written, other, third, fourth = frame[:4]
    earlier = HeadMatrices(torch.outer(third, third), torch.outer(fourth, written))
    reads = {
        "Q": HeadMatrices(torch.outer(written, other), torch.outer(other, third)),
        "K": HeadMatrices(torch.outer(other, written), torch.outer(other, third)),
        "V": HeadMatrices(torch.outer(other, third), torch.outer(written, third)),
    }
    kind = "QKV"[place]
    found = {name: composition(earlier, reads[kind], name) for name in "QKV"}
    assert found == pytest.approx({name: float(name == kind) for name in "QKV"}, abs=1e-5)


@pytest.mark.parametrize("options", [{"heads": 2}, {"norm": "none", "mlp": "none"}, {"positions": "onehot"}])
def test_the_parts_add_up_to_the_logits(options):
    """Fails if a head's share of the output, an MLP or the last norm is left out or counted twice."""
    config = tiny_config(2, decoder={"initial_std": 0.3, **options})
    parameters, world, generator = lively_parameters(config), draw_world(config), stream(1, "sequences of a test")
    batch = realise(config, world, plan_bursty(config, world, 5, generator), generator)
    parts = direct_logits(config, parameters, batch)
    wanted = Decoder(config).logits(parameters, batch)
    torch.testing.assert_close(sum(parts.values()), wanted, rtol=1e-4, atol=1e-4)
    heads = config.decoder.layers * config.decoder.heads
    assert len(parts) == 1 + heads + config.decoder.layers * (config.decoder.mlp != "none")


def test_the_lens_ends_at_the_logits_and_begins_at_what_each_position_holds():
    """Fails if the lens reads another layer, another position, or another label than the query's."""
    config = tiny_config(2, decoder={"initial_std": 0.3})
    parameters, world, generator = lively_parameters(config), draw_world(config), stream(1, "sequences of a test")
    batch = realise(config, world, plan_bursty(config, world, 6, generator), generator)
    found = lens_values(config, parameters, batch)
    own = batch.labels == batch.target[:, None]
    kept = own.any(1) & ~own.all(1)
    logits = Decoder(config).logits(parameters, batch)[kept]
    wanted = [
        row[answer] - row[labels[labels != answer]].mean()
        for row, labels, answer in zip(logits, batch.labels[kept], batch.target[kept], strict=True)
    ]
    last = config.decoder.layers - 1
    torch.testing.assert_close(found[str(last), "query of m2"], torch.stack(wanted), rtol=1e-4, atol=1e-4)
    roles = {role for _, role in found}
    assert roles == {*(f"{g} {k}" for g in ("own", "other") for k in ("item of m1", "item of m2", "label")),
                     "query of m1", "query of m2"}  # fmt: skip
    assert {place for place, _ in found} == {"input", *map(str, range(last + 1))}
    # Readout rows that read labels: the embedding of an own label says the answer, that of another label does not.
    labels = world.label_embeddings
    reading = {**parameters, "decoder.norm.gain": torch.ones_like(parameters["decoder.norm.gain"])}
    reading["decoder.readout"] = torch.zeros_like(parameters["decoder.readout"])
    reading["decoder.readout"][: labels.shape[1]] = labels.T
    first = lens_values(config, reading, batch)
    assert (first["input", "own label"] > 0).all()
    assert (first["input", "other label"] < 0).all()


def test_spectra_belong_to_their_head():
    """Fails if QK and OV are exchanged, a head has another's values, or values are not shares."""
    config = tiny_config(1, decoder={"heads": 2})
    matrices = head_matrices(config, lively_parameters(config))
    found = spectra(matrices)
    assert set(found) == {(head, name) for head in matrices for name in ("QK", "OV")}
    for (head, name), values in found.items():
        own = torch.linalg.svdvals(matrices[head].qk if name == "QK" else matrices[head].ov)
        assert len(values) == len(own) // 2
        assert values[0] / values[1] == pytest.approx(float(own[0] / own[1]), rel=1e-3)
        assert sum(value * value for value in values) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("heads", [1, 2])
def test_qk_gives_the_scores_and_ov_what_is_written(heads):
    """Fails if a gain, the scale of scores or a head's slice is lost: without positions both are what the decoder
    computes."""
    config = tiny_config(1, decoder={"positions": "none", "heads": heads, "layers": 1, "initial_std": 0.3})
    parameters, world, generator = lively_parameters(config), draw_world(config), stream(1, "sequences of a test")
    batch = realise(config, world, plan_bursty(config, world, 3, generator), generator)
    names = ("embedding", "blocks.0.attention.*")
    kept = Decoder(config).trace(parameters, batch, capture=names).activations
    x = kept["embedding"]
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)
    found = head_matrices(config, parameters)
    mask = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)
    patterns = [(x @ found[0, j].qk @ x.mT + mask).softmax(-1) for j in range(heads)]
    torch.testing.assert_close(kept["blocks.0.attention.pattern"], torch.stack(patterns, 1), rtol=1e-4, atol=1e-5)
    written = sum(pattern @ x @ found[0, j].ov for j, pattern in enumerate(patterns))
    torch.testing.assert_close(kept["blocks.0.attention.output"], written, rtol=1e-4, atol=1e-5)


def test_an_induction_circuit_built_by_hand_has_its_scores():
    """Fails if copying, or matching through the earlier head, is not seen in weights that do exactly that, or is seen
    in the head that does not."""
    config = tiny_config(1, decoder={"output_projection": "on", "mlp": "none", "width": 24, "positions": "none"})
    parameters, world = dict(Decoder(config).initial_parameters(0)), draw_world(config)
    # Items live in the first 8 dimensions: the first head copies them to the next 8, where keys of the second are read.
    place = {name: slice(8 * i, 8 * i + 8) for i, name in enumerate(("item", "copy", "out"))}
    for name, parameter in parameters.items():
        if ".attention." in name:
            parameters[name] = torch.zeros_like(parameter)
    first, second = (f"decoder.blocks.{i}.attention." for i in range(2))
    parameters[f"{first}value"][place["item"], place["copy"]] = torch.eye(8)
    parameters[f"{first}output"] = torch.eye(24)
    parameters[f"{second}query"][place["item"], place["item"]] = torch.eye(8)
    parameters[f"{second}key"][place["copy"], place["item"]] = torch.eye(8)
    parameters[f"{second}value"][place["item"], place["out"]] = torch.eye(8)
    parameters[f"{second}output"] = torch.eye(24)
    labels = basis(config, parameters, world)["labels"]
    parameters["decoder.readout"] = torch.zeros_like(parameters["decoder.readout"])
    parameters["decoder.readout"][place["out"]] = labels[:, :8].T
    scores = head_scores(config, parameters, world)
    assert scores[1, 0]["copying"] > 0.999
    assert scores[1, 0]["positive eigenvalues"] == 1
    assert scores[0, 0]["copying"] == pytest.approx(0, abs=1e-6)
    assert path_matching(config, parameters, world)[(0, 0), (1, 0)]["matching m1"] > 2
    assert abs(scores[1, 0]["matching m1"]) < 1e-6
    matrix = copied_logits(config, parameters, labels, head_matrices(config, parameters)[1, 0].ov)
    torch.testing.assert_close(matrix, labels[:, :8] @ labels[:, :8].T)


def test_matrices_are_written_in_the_basis_of_items_and_labels(tmp_path, capsys):
    """Fails if a head's matrix has another's name, queries and keys change places, or a file is replaced unasked."""
    config = tiny_config(2, decoder={"heads": 2})
    request = Request(steps=1, evaluate_every=1, checkpoint_every=1, sequences=4, novel_sets=1)
    run = train_config(config, request, tmp_path / "runs")[0]
    file = tmp_path / "matrices.safetensors"
    requested = ["weights", str(run.path), "--sequences", "4", "--novel-sets", "1", "--output", str(file)]
    assert main([*requested, "--vectors", "3"]) == 0
    found = load_file(file)
    assert {name for name in found if name.startswith("basis")} == {"basis.labels", "basis.items.m1", "basis.items.m2"}
    parameters = run.parameters()[1]
    own = head_matrices(run.config, parameters)[1, 1]
    torch.testing.assert_close(found["QK.1.1"], own.qk)
    item, label = found["basis.items.m1"][2], found["basis.labels"][0]
    assert found["QK.1.1.items.m1.labels"].shape == (3, 3)
    assert float(found["QK.1.1.items.m1.labels"][2, 0]) == pytest.approx(float(item @ own.qk @ label), rel=1e-4)
    written = copied_logits(run.config, parameters, label[None], own.ov)
    torch.testing.assert_close(found["OV.1.1.labels"][:1], written)
    assert found.keys() == miclab.weight_matrices(run.path, vectors=3).keys()
    capsys.readouterr()
    for more, why in (([], "this file exists"), (["--output", "matrices.npz"], "NAME.safetensors"),
                      (["--vectors", "0", "--overwrite"], "vectors = 0")):  # fmt: skip
        assert main([*requested, *more]) == 2
        assert why in capsys.readouterr().err
    assert main(["weights", str(run.path), "--vectors", "4"]) == 2
    assert "--vectors has no effect here" in capsys.readouterr().err


def test_the_command_and_what_is_refused(tmp_path, capsys):
    """Fails if a score has no baseline, JSON lacks a pair of heads, or attention without square matrices is shown."""
    config = tiny_config(2, decoder={"heads": 2, "layers": 3})
    request = Request(steps=1, evaluate_every=1, checkpoint_every=1, sequences=4, novel_sets=1)
    run = train_config(config, request, tmp_path)[0]
    assert main(["weights", str(run.path), "--sequences", "4", "--novel-sets", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["heads"]) == {f"{i}.{j}" for i in range(3) for j in range(2)}
    assert len(found["composition"]) == 3 * len(found["paths"]) == 3 * 12
    assert set(found["random"]) >= {"Q", "K", "V", "path matching m2", *found["heads"]["0.0"]}
    assert list(found["direct"])[:2] == ["embedding", "head 0.0"]
    assert len(found["spectra"]) == 2 * 6
    assert found["random_spectra"].keys() == {"QK", "OV"}
    assert {one["role"] for one in found["lens"]} == found["random_lens"].keys()
    assert all(one["low"] <= one["mean"] <= one["high"] for one in found["lens"])
    for one, other in pairwise(found["heads"].values()):
        assert one.keys() == other.keys()
    titles = [str(one.title) for one in miclab.weights(run.path, sequences=4, novel_sets=2).tables()]
    assert "weights of heads" in titles[0]
    assert [title.partition(":")[0] for title in titles[-3:]] == [
        "singular spectra", "direct effect on the target's logit minus the mean logit", "logit lens"
    ]  # fmt: skip
    for name in ("multi_query", "differential", "linear", "forgetting", "qk_norm", "smeared", "multi_token"):
        other = tiny_config(1, decoder={"attention": name, "heads": 2})
        with pytest.raises(RunError, match=name):
            head_matrices(other, lively_parameters(other))
    with pytest.raises(RunError, match="layernorm"):
        direct_logits(tiny_config(1, decoder={"norm": "layernorm"}), {}, miclab.load(run.path).batch())
