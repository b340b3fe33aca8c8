"""Names of parameters and of random streams are frozen: they seed the weights, and no hash of a run would notice."""

from __future__ import annotations

import ast
import hashlib
import itertools
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_config
from tiny_mllm import production, task

from miclab import seeds
from miclab.circuits.controls import control
from miclab.circuits.cumulative_knockout import drawn_heads
from miclab.circuits.diagnose import diagnose
from miclab.circuits.find import CircuitHeads
from miclab.circuits.knockout import ablate, knock_out
from miclab.circuits.transplant import transplant
from miclab.config import schema
from miclab.config.request import Request, SplitSizes
from miclab.config.run import RunConfig
from miclab.data import load
from miclab.data.contact import sampled_classes
from miclab.data.nearest import nearest_exemplar_accuracy
from miclab.measures.evaluate import evaluate
from miclab.mllm.edges import cut_of, kinds_named, random_edges
from miclab.mllm.episodes import Sampler
from miclab.mllm.finetune import Finetuning
from miclab.mllm.knockout import matched_draws
from miclab.mllm.options import EpisodeOptions, FinetuneOptions
from miclab.model.classifier import model_of
from miclab.training.loop import train_config
from miclab.worlds.exemplars import ordered
from miclab.worlds.sequences import raw_training_batch
from miclab.worlds.source_facts import resolved
from miclab.worlds.world import draw_world

PACKAGE = seeds.__name__.partition(".")[0]
SIZES = SplitSizes(sequences=4, novel_sets=2)
REQUEST = Request(steps=2, evaluate_every=2, checkpoint_every=2, sequences=4, novel_sets=2)
GLYPHS = {"source": "small:glyphs", "labels": 4, "features": 6, "classes": 16}

# -- parameters -------------------------------------------------------------------------------------------------------
# {a,b} stands for both.
DEFAULT = "decoder.blocks.{0,1}.attention.{query,key,value} decoder.blocks.{0,1}.mlp.{gate,value,out}.{weight,bias} \
    decoder.blocks.{0,1}.norm{1,2}.gain decoder.norm.gain decoder.readout"
EVERY_OPTION = "decoder.input decoder.positions.table decoder.blocks.{0,1}.attention.{query,key,value,output} \
    decoder.blocks.{0,1}.mlp.{gate,value,out}.weight decoder.blocks.{0,1}.norm{1,2}.{gain,bias} \
    decoder.norm.{gain,bias} decoder.readout bridge.m2.{0,1,2}"
LAYER = "linear{1,2}.{weight,bias} norm{1,2}.{weight,bias} self_attn.in_proj_{weight,bias} \
    self_attn.out_proj.{weight,bias}"
TOKENS = (
    "encoder.m2.embed.{weight,bias} encoder.m2.positions encoder.m2.norm.{weight,bias} encoder.m2.out.{weight,bias}"
)
ENCODERS = {
    "mlp": "encoder.m2.{0,2}.{weight,bias}",
    "cnn": "encoder.m2.stages.{0,1,3,4,6,7,9,10,12,13}.{weight,bias} encoder.m2.out.{weight,bias}",
    "transformer": " ".join([TOKENS, *(f"encoder.m2.layers.{{0,1}}.{part}" for part in LAYER.split())]),
    "vit": " ".join([TOKENS, *(f"encoder.m2.layers.{{0,1,2}}.{part}" for part in LAYER.split())]),
}


def expanded(names: str) -> set[str]:
    """Names with every choice of what stands in braces."""
    found = set()
    for name in names.split():
        parts = re.split(r"\{([^}]*)\}", name)
        choices = [part.split(",") if place % 2 else [part] for place, part in enumerate(parts)]
        found |= {"".join(chosen) for chosen in itertools.product(*choices)}
    return found


def classifying(modality: dict[str, Any]) -> RunConfig:
    """A run that pretrains an encoder."""
    plain = {"modalities": {"m2": modality}, "sequence": {"task": "classification"}, "numerics": {"mode": "eager"}}
    return resolved(schema.from_mapping(RunConfig, {**plain, "optimiser": {"name": "adam", "batch_size": 4}}))


def test_names_of_the_decoders_parameters():
    """Fails if a parameter is renamed, and so starts from other numbers than in old runs."""
    assert set(model_of(tiny_config(1)).shapes()) == expanded(DEFAULT)
    decoder = {"heads": 2, "mlp": "swiglu", "norm": "layernorm", "input_map": "linear", "width": 12}
    decoder |= {"positions": "learned", "position_slots": 20}
    config = tiny_config(2, decoder=decoder, bridge={"projector": "large"})
    assert set(model_of(config).shapes()) == expanded(EVERY_OPTION)


@pytest.mark.parametrize("kind", ENCODERS)
def test_names_of_the_encoders_parameters(kind: str):
    """Fails if a checkpoint of an encoder could not be read any more, or its head starts from other numbers."""
    assert set(model_of(classifying({**GLYPHS, "encoder": kind})).shapes()) == expanded(ENCODERS[kind]) | {"classifier"}


# -- random streams ---------------------------------------------------------------------------------------------------
@pytest.fixture
def streams(monkeypatch) -> list[tuple[Any, ...]]:
    """The seed and the name of every random stream that is begun in the test."""
    begun: list[tuple[Any, ...]] = []
    original = seeds.stream_seed

    def recorded(seed: int, *name: str | int) -> int:
        begun.append((seed, *name))
        return original(seed, *name)

    # Modules that took the function over by name are given the other one too; `stream` looks it up in its own module.
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == PACKAGE and getattr(module, "stream_seed", None) is original:
            monkeypatch.setattr(module, "stream_seed", recorded)
    assert seeds.stream_seed is recorded
    return begun


def names(streams: list[tuple[Any, ...]]) -> set[str]:
    """Names without the seed; a number that is no part of a word is `#`."""
    return {re.sub(r"(?<![A-Za-z_\d])\d+", "#", "/".join(map(str, name))) for _, *name in streams}


WORLD = "world/labels world/prototypes/m1"
NOVEL = "novel/evaluation/#/m1"
SPLITS = "evaluation/train/# evaluation/icl/# evaluation/swapped/# evaluation/iwl/#"
DECODER = "parameters/decoder.blocks.#.attention.{query,key,value} parameters/decoder.norm.gain \
    parameters/decoder.blocks.#.mlp.{gate,value,out}.{weight,bias} parameters/decoder.blocks.#.norm{1,2}.gain \
    parameters/decoder.readout"
SECOND = "world/prototypes/m2 novel/evaluation/#/m2 parameters/bridge.m2.# alignment/m2/#"


def test_streams_of_training_and_of_analyses(tmp_path: Path, streams):
    """Fails if a stream of either stage is renamed, added or lost, or an evaluation draws from one of training."""
    first, _ = train_config(tiny_config(1, sequence={"novel_fraction": 0.5}), REQUEST, tmp_path)
    stage_one = f"{WORLD} {NOVEL} {SPLITS} {DECODER} batch/#"
    assert names(streams) == expanded(f"{stage_one} novel/training/#/m1")
    numbered = {(0, "batch", 1), (0, "novel", "training", 1, "m1"), (0, "evaluation", "icl", 1)}
    assert numbered | {(0, "batch", 0), (0, "novel", "evaluation", 1, "m1"), (0, "evaluation", "iwl", 0)} <= set(
        streams
    )
    streams.clear()
    grown = tiny_config(2, parent={"run": first.hash, "step": 2}, seed=7)
    run, _ = train_config(grown, REQUEST, tmp_path)
    shuffles = "alignment/m2/shuffles"
    assert names(streams) == expanded(f"{stage_one} {SECOND} {shuffles}")
    assert {seed for seed, *_ in streams} == {7}
    streams.clear()
    evaluate(run, sizes=SIZES)
    ablate([run], sizes=SIZES)
    assert names(streams) == expanded(f"{SPLITS} {NOVEL} novel/evaluation/#/m2")
    streams.clear()
    knock_out([run], baseline="mean", sizes=SIZES)
    assert (7, "batch", 2**60) in streams
    streams.clear()
    diagnose(run, sizes=SIZES)
    assert names(streams) == expanded(f"{SPLITS} {NOVEL} novel/evaluation/#/m2 alignment/m2/{{#,shuffles,trades}}")


def test_the_stream_of_noise_on_tokens(streams):
    """Fails if that noise is drawn from another stream, or changes what the batch's own stream gives."""
    config = tiny_config(1, sequence={"token_noise": 0.5})
    raw_training_batch(config, draw_world(config), 3)
    assert streams[-2:] == [(0, "batch", 3), (0, "token_noise", 3)]


def test_streams_of_a_control(streams):
    """Fails if the random heads of a control are drawn anew; heads are counted from 1 in the stream's name."""
    others = ((0, 1), (0, 2), (1, 1), (1, 2))
    control(CircuitHeads((1, 0), (0, 0), others), ((0, 0), (1, 0)), 3)
    assert streams == [(3, "control", "1.1", "2.1")]


def test_streams_of_transplants(tmp_path: Path, streams):
    """Fails if the random weights of a transplant's controls are drawn from other streams."""
    first, _ = train_config(tiny_config(1), REQUEST, tmp_path)
    run, _ = train_config(tiny_config(2, parent={"run": first.hash, "step": 2}, seed=7), REQUEST, tmp_path)
    streams.clear()
    transplant(run, sizes=SIZES)
    assert {(7, "transplant", 64, 0), (0, "transplant", 64, 4)} <= set(streams)
    assert {seed for seed, word, *_ in streams if word == "fresh weights"} == {0, 7}


def test_the_stream_of_cumulative_knockouts(streams):
    """Fails if their random heads are drawn anew."""
    drawn_heads([(layer, 0) for layer in range(7)], 2, 3)
    assert streams == [(3, "cuts", 2)]


def test_streams_of_an_encoders_pretraining(tmp_path: Path, streams):
    """Fails if a stream of the pretraining is renamed, added or lost."""
    train_config(classifying({"classes": 16, "dimension": 6, "labels": 2, "encoder": "mlp"}), REQUEST, tmp_path)
    drawn = "world/labels world/prototypes/m2 novel/evaluation/#/m2 batch/# parameters/classifier parameters/encoder/m2"
    assert names(streams) == expanded(f"{drawn} evaluation/{{train,nearest}}/#")
    streams.clear()
    train_config(classifying({**GLYPHS, "encoder": "mlp"}), REQUEST, tmp_path)
    drawn = "world/labels batch/# parameters/classifier parameters/encoder/m2"
    assert names(streams) == expanded(f"{drawn} evaluation/{{train,nearest}}/#") | {"evaluation/held out/#"}


def test_streams_of_data_and_of_production_models(tmp_path: Path, streams):
    """Fails if episodes, controls or fine-tunings of production models, or looks at data, draw from other streams."""
    data = load("small:glyphs")
    sampled_classes(data, 2, 0)
    nearest_exemplar_accuracy(data, 4, episodes=4)
    Sampler(data, EpisodeOptions(ways=2, shots=1, seed=5)).draw(3)
    matched_draws([(0, 1)], [(0, 1)], [(0, 0), (0, 1), (0, 2)], 2, 0)
    of, requested = production("qwen2.5"), task(tmp_path, "text")
    Finetuning(of, requested, requested, tmp_path / "run", FinetuneOptions(steps=1, train_batch=1, rank=2)).run()
    encoded = of.prompter(requested).encode([(requested.episodes[0], "dax")])
    random_edges(encoded, cut_of(encoded, kinds_named(["label:query"])), (0, "label:query", 1))
    assert streams == [
        (0, "contact sheet"),
        (0, "nearest exemplar", "small:glyphs", 4),
        (5, "episode", 3),
        (0, "control", "0.1"),
        (0, "adapters"),
        (0, "dropout", 0),
        (0, "batch", 0),
        (0, "edges", "label:query", "1", "episode 0"),
    ]


WORDS = "adapters alignment batch classifier contact_sheet control corruption cuts dropout edges encoder episode \
    evaluation explorer fresh_weights labels nearest nearest_exemplar novel order_of_edges parameters prototype_map \
    prototypes shuffled_offsets shuffles support token_noise trades training transplant world"


def test_no_stream_escapes_this_file():
    """Fails if a call names a stream by a word that no test above has met: then it has to be listed here."""
    found = set()
    for path in Path(seeds.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            called = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
            if called in ("stream", "stream_seed", "stream_of", "novel_world"):
                words = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
                found |= {word.replace(" ", "_") for word in words if isinstance(word, str)}
    assert found == set(WORDS.split())


# -- numbers ----------------------------------------------------------------------------------------------------------
def test_a_streams_number_is_a_hash_of_seed_and_name():
    """Fails if the rule changes that turns seed and name into a number: another computation, and three values of it."""
    digest = hashlib.blake2b(b"3/parameters/decoder.readout", digest_size=8).hexdigest()
    assert seeds.stream_seed(3, "parameters", "decoder.readout") == int(digest, 16) // 2
    assert seeds.stream_seed(0, "batch", 0) == 684584896067941722
    assert seeds.stream_seed(0, "world", "prototypes", "m1") == 7463540645829744818
    assert seeds.stream_seed(2**63 - 1, "evaluation", "icl", 7) == 7986478769057122042


def test_the_order_of_real_classes():
    """Fails if other classes of a data set are chosen or held out than in old runs; upper and lower case are one."""
    letters = list("ABcdefgh")
    assert "".join(letters[i] for i in ordered(letters, 0, "training classes")) == "fhecABdg"
    assert "".join(letters[i] for i in ordered(letters, 0, "novel classes")) == "BhfAegdc"
    assert "".join(letters[i] for i in ordered(letters, 1, "training classes")) == "AfedBchg"
