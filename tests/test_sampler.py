"""The sampler `device`: random numbers from counters, and the distributions that it shares with the sampler `host`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from tiny import tiny_config
from torch._subclasses.fake_tensor import FakeTensorMode

from miclab.config import schema
from miclab.config.request import SPLITS, SplitSizes
from miclab.config.run import RunConfig
from miclab.errors import ConfigError
from miclab.worlds import draws
from miclab.worlds.lane_sampler import LaneSampler, raw_tensors, serves
from miclab.worlds.philox import CounterGenerator, philox, stream_key
from miclab.worlds.sequences import Batch, raw_training_batch, training_batch
from miclab.worlds.splits import split_batches
from miclab.worlds.world import draw_world

KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
"""Counter, key and block: the known answers of Random123 for philox4x32-10."""


def words(text: str) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor(int(word, 16)) for word in text.split())


@pytest.mark.parametrize(("counter", "key", "block"), KNOWN)
def test_blocks_are_those_of_the_published_generator(counter, key, block):
    """Fails if a round, a constant or the order of words is another: then numbers differ between implementations."""
    assert philox(words(counter), words(key)) == words(block)


def test_a_number_is_a_function_of_stream_step_draw_and_index():
    """Fails if a number depends on how many others are drawn with it, or two streams, steps or draws are one."""

    def drawn(count, seed=0, name="batch", step=0, before=0):
        generator = CounterGenerator(stream_key(seed, name), torch.tensor(step))
        for _ in range(before):
            generator.words(3)
        return generator.words(count).tolist()

    first = drawn(9)
    assert first == drawn(1001)[:9]
    others = [
        drawn(9, seed=1),
        drawn(9, name="token_noise"),
        drawn(9, step=1),
        drawn(9, step=2**32),
        drawn(9, before=1),
    ]
    assert len({tuple(found) for found in (first, *others)}) == 6
    assert all(0 <= word < 2**32 for word in first)


# -- the same distributions ---------------------------------------------------------------------------------------
TESTS = 100
"""More tests than this file makes: a level of 1e-3 is shared between them."""


def alike(one: np.ndarray, other: np.ndarray, what: str) -> None:
    """Two samples of whole numbers have one distribution, by a chi-squared test of their counts. Rare values count as
    one."""
    values, places = np.unique(np.concatenate([one, other]), return_inverse=True)
    table = np.stack([np.bincount(part, minlength=len(values)) for part in np.split(places.ravel(), [len(one)])])
    common = table.sum(0) >= 20
    table = np.concatenate([table[:, common], table[:, ~common].sum(1, keepdims=True)], 1)
    table = table[:, table.sum(0) > 0]
    if table.shape[1] > 1:
        assert stats.chi2_contingency(table).pvalue > 1e-3 / TESTS, what


def summary(batches: list[Batch], config: RunConfig) -> dict[str, np.ndarray]:
    """One number a sequence for each: what a batch shows whose sequences are independent. Signs of items hang on
    the prototypes, which the samplers share unless classes are novel."""
    found: dict[str, list[torch.Tensor]] = {}
    for batch in batches:
        context = torch.stack([batch.classes[name][:, :-1] for name in config.order], -1)
        query = torch.stack([batch.classes[name][:, -1] for name in config.order], -1)
        copies = (context == query[:, None]).all(-1)
        as_first = (context == context[:, :1]).all(-1)
        numbers = {
            "label of the query": batch.target,
            "copies of the query's class": copies.sum(1),
            "first place of the query's class": torch.where(copies.any(1), copies.byte().argmax(1), -1),
            "different labels": torch.tensor([len(set(row)) for row in batch.labels.tolist()]),
            "places of the first class": (as_first * 2 ** torch.arange(as_first.shape[1])).sum(1),
            "placement": (batch.placement * 16).long(),
        }
        numbers |= {f"class of the query in {name}": batch.classes[name][:, -1] for name in config.order}
        numbers |= {f"sign of an item of {name}": (batch.items[name][:, 0, 0] > 0).long() for name in config.order}
        for name, value in numbers.items():
            found.setdefault(name, []).append(value)
    return {name: torch.cat(value).numpy() for name, value in found.items()}


MIXED = {"bursty_fraction": 0.5, "unpaired_independent": True, "novel_fraction": 0.3}
RELEASED = {"distinct_labels": "released"}
TASKS = {
    "one modality, skewed classes": (1, {"sequence": {"bursty_fraction": 0.5}}),
    "two modalities, some novel": (2, {"sequence": MIXED}),
    "distinct labels": (2, {"sequence": {"distinct_labels": "on"}}),
    "distinct labels of groups": (2, {"sequence": {"task": "joint_label", "groups": [2, 4], **RELEASED}}),
}


@pytest.mark.parametrize("name", TASKS)
def test_training_batches_have_the_distributions_of_the_other_sampler(name):
    """Fails if classes, bursts, shuffles, queries, novel classes or labels of a batch follow another law."""
    count, parts = TASKS[name]
    found = []
    for sampler in ("host", "device"):
        config = tiny_config(count, optimiser={"batch_size": 4000}, numerics={"sampler": sampler}, **parts)
        modalities = {n: replace(m, zipf_exponent=1.0) for n, m in config.modalities.items()}
        config = replace(config, modalities=modalities)
        found.append(summary([training_batch(config, draw_world(config), step) for step in range(2)], config))
    for what in found[0]:
        if "sign" not in what or not parts["sequence"].get("novel_fraction"):
            alike(found[0][what], found[1][what], what)


@pytest.mark.parametrize("split", SPLITS)
def test_splits_have_the_distributions_of_the_other_sampler(split):
    """Fails if an evaluation draws something else; the novel classes of `icl` are others, and as many."""
    found = []
    for sampler in ("host", "device"):
        config = tiny_config(2, numerics={"sampler": sampler})
        sizes = SplitSizes(sequences=3000, novel_sets=2)
        found.append(summary([b for _, b in split_batches(config, draw_world(config), split, sizes)], config))
    for what in found[0]:
        if "sign" not in what:
            alike(found[0][what], found[1][what], what)


def test_numbers_have_their_moments():
    """Fails if uniform numbers leave [0, 1), miss part of it, or noise is not standard normal; other shapes too."""
    generator = CounterGenerator(stream_key(0, "test"), torch.tensor(5))
    for level in (draws.uniform((40_000,), generator), draws.uniform_double((40_000,), generator)):
        assert float(level.min()) >= 0
        assert float(level.max()) < 1
        assert stats.kstest(level.numpy(), "uniform").pvalue > 1e-3 / TESTS
    assert stats.kstest(draws.normal_vectors((8001, 5), generator).flatten() * 5**0.5, "norm").pvalue > 1e-3 / TESTS
    whole = draws.whole_numbers(-2, 5, (3, 10_000), generator)
    assert stats.chisquare(torch.bincount(whole.flatten() + 2).numpy()).pvalue > 1e-3 / TESTS
    orders = draws.shuffles(3000, 6, generator)
    assert torch.equal(orders.sort(1).values, torch.arange(6).expand(3000, 6))


# -- what the field decides ---------------------------------------------------------------------------------------
def test_the_sampler_is_in_the_hash_and_the_default_is_not():
    """Fails if runs of both samplers share a name, or old runs are renamed."""
    config = tiny_config()
    device = replace(config, numerics=replace(config.numerics, sampler="device"))
    hashes = {schema.trajectory_hash(one) for one in (config, device)}
    assert len(hashes) == 2
    assert schema.trajectory_hash(replace(config, numerics=replace(config.numerics, sampler="host"))) in hashes
    with pytest.raises(ConfigError, match=r"numerics\.sampler.*host"):
        tiny_config(numerics={"sampler": "hots"})
    world = draw_world(config)
    assert not torch.equal(training_batch(config, world, 0).target, training_batch(device, world, 0).target)
    assert all(torch.equal(v, draw_world(device).tensors()[n]) for n, v in world.tensors().items())


# -- several runs at once -----------------------------------------------------------------------------------------
LANES = {
    "one modality": (1, {"sequence": {"bursty_fraction": 0.5}}),
    "two modalities": (2, {"sequence": {"bursty_fraction": 0.5, "unpaired_independent": True}}),
    "distinct labels": (2, {"sequence": {"distinct_labels": "on"}}),
    "joint labels": (2, {"sequence": {"task": "joint_label", "groups": [2, 4], "distinct_labels": "on"}}),
}


def nested(value) -> dict[str, torch.Tensor]:
    """Tensors, some of them in mappings, by one name each."""
    found = {name: part if isinstance(part, dict) else {"": part} for name, part in value.items()}
    return {f"{name}.{key}": tensor for name, part in found.items() for key, tensor in part.items()}


@pytest.mark.parametrize("name", LANES)
def test_several_runs_drawn_at_once_have_the_batches_that_each_draws_by_itself(name):
    """Fails if a lane reads another's table, padding is drawn, or a batch depends on the place: equal to the bit."""
    count, parts = LANES[name]
    base = tiny_config(count, numerics={"sampler": "device"}, optimiser={"batch_size": 50}, **parts)
    configs = []
    for seed, classes in enumerate((32, 64, 8)):
        m1 = replace(base.modalities["m1"], classes=classes, zipf_exponent=0.7 * seed, noise=0.1 + seed)
        configs.append(replace(base, seed=seed, modalities={**base.modalities, "m1": m1}))
    worlds = [draw_world(config) for config in configs]
    assert serves(configs)
    sampler = LaneSampler(configs, worlds, 4, torch.device("cpu"))
    drawn = nested(sampler.draw([5, 6, 2**40, 0]))
    for lane, step in enumerate((5, 6, 2**40)):
        alone = nested(raw_tensors(raw_training_batch(configs[lane], worlds[lane], step)))
        assert alone.keys() == drawn.keys()
        for part, value in alone.items():
            assert torch.equal(drawn[part][lane], value), part


@pytest.mark.parametrize("name", LANES)
def test_a_sampler_on_another_device_meets_no_tensor_of_the_cpu(name):
    """Fails if a table, a mask or a number stays behind: tensors of the device `meta` cannot be mixed with others."""
    count, parts = LANES[name]
    config = tiny_config(count, numerics={"sampler": "device"}, **parts)
    sampler = LaneSampler([config], [draw_world(config)], 2, torch.device("meta"))
    with FakeTensorMode(allow_non_fake_inputs=True):
        drawn = nested(sampler.draw([5, 6]))
    assert {value.device.type for value in drawn.values()} == {"meta"}


def test_what_one_sampler_does_not_serve():
    """Fails if runs whose draws differ in shape or in kind would share one."""
    base = tiny_config(2, numerics={"sampler": "device"})
    assert serves([base, replace(base, seed=1)])
    for change in ({"burstiness": 1}, {"bursty_fraction": 0.5}, {"order": ("m2", "m1")}):
        assert not serves([base, replace(base, sequence=replace(base.sequence, **change))])
    for change in ({"novel_fraction": 0.5}, {"token_noise": 0.1}, {"distinct_labels": "released"}):
        assert not serves([replace(base, sequence=replace(base.sequence, **change))])
    assert not serves([tiny_config(2)])
