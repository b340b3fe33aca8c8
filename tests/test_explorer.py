"""The explorer's decoder, run in a browser, gives PyTorch's logits and attention; what it cannot run says why."""

import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import browser
import pytest
import torch

from miclab.config.decoder import DecoderConfig
from miclab.config.options import ATTENTION
from miclab.config.parts import BridgeConfig, ModalityConfig, SequenceConfig
from miclab.config.request import SplitSizes
from miclab.config.run import RunConfig
from miclab.errors import RunError
from miclab.model.decoder import Decoder
from miclab.report.run.explorer import CODES, MOST_BYTES, explorer_at, why_not, words_of
from miclab.worlds.splits import split_batches
from miclab.worlds.world import draw_world

ONE = {"m1": ModalityConfig(classes=32, dimension=8, labels=8)}
TWO = {**ONE, "m2": ModalityConfig(classes=16, dimension=6, labels=8, noise=0.5)}
SHORT = SequenceConfig(context=4, burstiness=2)
SLOTS = {"position_slots": 20}

# Every position code, norm, MLP, projector and addition at least once.
CONFIGS = [
    RunConfig(modalities=ONE, sequence=SHORT, decoder=DecoderConfig(positions="rope")),
    RunConfig(modalities=TWO, sequence=SHORT, decoder=DecoderConfig(positions="rope_released", heads=2)),
    RunConfig(modalities=ONE, sequence=SHORT, decoder=DecoderConfig(positions="onehot", mlp="swiglu", **SLOTS)),
    RunConfig(modalities=ONE, sequence=SHORT, decoder=DecoderConfig(positions="learned", norm="layernorm", **SLOTS)),
    RunConfig(
        modalities=ONE,
        sequence=SHORT,
        decoder=DecoderConfig(positions="sinusoidal", width=12, input_map="linear", placement="fixed", **SLOTS),
    ),
    RunConfig(
        modalities=TWO,
        sequence=SHORT,
        decoder=DecoderConfig(positions="alibi", heads=4, layers=3, norm="none", mlp="none", width=16),
        bridge=BridgeConfig(projector="large"),
    ),
    RunConfig(
        modalities=ONE,
        sequence=replace(SHORT, first_token="learnt"),
        decoder=DecoderConfig(
            positions="hybrid", attention_bias="both", token_constant=1.0, token_constant_on="labels", **SLOTS
        ),
    ),
    RunConfig(
        modalities=TWO,
        sequence=replace(SHORT, order=("m2", "m1")),
        decoder=DecoderConfig(positions="none", heads=2, output_projection="off", mlp_bias="off", mlp_hidden=5),
        bridge=BridgeConfig(projector="linear"),
    ),
]


def _decoder_of(config: RunConfig) -> tuple[Decoder, dict[str, torch.Tensor]]:
    """A decoder with random weights that are large enough for sharp patterns."""
    decoder, generator = Decoder(config), torch.Generator().manual_seed(3)
    start = decoder.initial_parameters(0)
    return decoder, {n: v + 0.4 * torch.randn(v.shape, generator=generator) for n, v in start.items()}


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    """A page with nothing but the decoder."""
    path = tmp_path_factory.mktemp("script") / "decoder.html"
    source = files("miclab.report").joinpath("templates", "decoder.js").read_text(encoding="utf-8")
    path.write_text(f'<!DOCTYPE html><meta charset="utf-8"><link rel="icon" href="data:,"><script>{source}</script>')
    return path


def test_logits_and_attention_are_pytorchs(script):
    """Items and labels are an evaluation's; with all heads, and with one off."""
    assert {config.decoder.positions for config in CONFIGS} == set(CODES)
    run = "([settings, sequences, off]) => sequences.map((one) => makeDecoder(settings).run(one, off))"
    with browser.opened(script) as tab:
        for config in CONFIGS:
            decoder, parameters = _decoder_of(config)
            world = draw_world(config)
            settings = dict(explorer_at(config, world, 0, parameters).data)
            _, batch = next(split_batches(config, world, "icl", SplitSizes(sequences=3, novel_sets=1)))
            place = decoder.positions.slot(batch.placement)[:, 0].tolist() if decoder.positions.slots_used else [0] * 3
            assert max(place) < settings["places"]
            sequences = [
                {
                    "items": {name: batch.items[name][i].tolist() for name in config.order},
                    "labels": batch.labels[i].tolist(),
                    "place": place[i],
                }
                for i in range(3)
            ]
            patterns = [f"blocks.{i}.attention.pattern" for i in range(config.decoder.layers)]
            last = config.decoder.heads - 1
            for off, edits in ([], {}), ([f"0.{last}"], {"blocks.0.attention.heads": _without(last)}):
                wanted = decoder.trace(parameters, batch, capture=tuple(patterns), edits=edits)
                found = tab.evaluate(run, [settings, sequences, off])
                logits = torch.tensor([one["logits"] for one in found])
                torch.testing.assert_close(logits, wanted.logits, atol=1e-4, rtol=1e-4)
                for layer, name in enumerate(patterns):
                    length = config.sequence_length
                    shown = torch.tensor([_padded(one["patterns"][layer], length) for one in found])
                    torch.testing.assert_close(shown, wanted.activations[name], atol=1e-4, rtol=0)
            untouched = decoder.logits(parameters, batch)
            # A head that does nothing would hide a knockout that does nothing.
            assert (untouched - wanted.logits).abs().max() > 1e-2


def _without(head: int):
    return lambda heads: torch.cat([heads[:, :head], torch.zeros_like(heads[:, head:])], 1)


def _padded(heads: list[list[list[float]]], length: int) -> list[list[list[float]]]:
    return [[row + [0.0] * (length - len(row)) for row in rows] for rows in heads]


DIFFERENTIAL = ATTENTION.find("differential").Options(name="differential")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            RunConfig(modalities=ONE, decoder=DecoderConfig(attention=DIFFERENTIAL)),
            "softmax attention, .* differential",
        ),
        (RunConfig(modalities=ONE, decoder=DecoderConfig(centre_keys="all")), "centred"),
        (RunConfig(modalities=ONE, sequence=SequenceConfig(jitter=4)), "jitter"),
        (RunConfig(modalities=ONE, sequence=SequenceConfig(context=200, burstiness=2)), "401 tokens"),
        (RunConfig(modalities={**ONE, "m2": replace(TWO["m2"], encoder="mlp")}), "The items of m2"),
    ],
)
def test_what_it_cannot_run_says_why(config, words):
    assert re.search(words, why_not(config))


def test_too_many_numbers_are_refused_by_size():
    decoder, parameters = _decoder_of(CONFIGS[0])
    world = draw_world(CONFIGS[0])
    made = explorer_at(CONFIGS[0], world, 0, parameters)
    assert decoder.parameter_count() * 4 < made.size < MOST_BYTES
    assert explorer_at(CONFIGS[0], world, 0, parameters, made.size) == made
    with pytest.raises(RunError, match="runs before it leave"):
        explorer_at(CONFIGS[0], world, 0, parameters, made.size - 1)
    wide = replace(CONFIGS[0], decoder=DecoderConfig(positions="none", width=512))
    with pytest.raises(RunError, match="a page holds at most 4 MB"):
        explorer_at(wide, draw_world(wide), 0, Decoder(wide).initial_parameters(0))


@pytest.mark.parametrize("task", ["shared_label", "joint_label"])
def test_sequences_to_start_from_obey_the_task(task):
    """The target is the label of every example with the query's classes; training classes have their own label."""
    joint = {"task": "joint_label", "groups": (2, 4)} if task == "joint_label" else {}
    config = RunConfig(modalities=TWO, sequence=replace(SHORT, **joint))
    data = explorer_at(config, draw_world(config), 0, _decoder_of(config)[1]).data
    assert [one[1] for one in words_of(explorer_at(config, draw_world(config), 0, _decoder_of(config)[1]))["starts"]]
    for start in data["starts"]:
        both = list(zip(*start["classes"].values(), strict=True))
        same = {label for pair, label in zip(both, start["labels"], strict=False) if pair == both[-1]}
        assert same == {start["target"]}
        is_novel = start["name"].startswith("novel")
        for name, classes in start["classes"].items():
            assert all((index >= data["training"][name]) == is_novel for index in classes)
        if task == "shared_label" and not is_novel:
            for classes, name in ((start["classes"][n], n) for n in config.order):
                assert [data["label_of"][name][index] for index in classes] == [*start["labels"], start["target"]]
