"""Separate seeds: each decides its own part of a run, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import tiny_config

from miclab.config.request import SplitSizes
from miclab.config.run import RunConfig
from miclab.config.seeds import SeedsConfig
from miclab.errors import ConfigError
from miclab.measures.evaluate import check_seeds
from miclab.training.lineage import Lineage
from miclab.training.loop import prepared
from miclab.worlds.sequences import training_batch
from miclab.worlds.splits import split_batches
from miclab.worlds.world import draw_world, novel_world

SIZES = SplitSizes(sequences=8, novel_sets=2)


def parts(config: RunConfig, sizes: SplitSizes = SIZES) -> dict[str, list[torch.Tensor]]:
    """What each seed decides, in one world that is drawn separately."""
    world = draw_world(replace(config, seed=0, seeds=SeedsConfig()))
    batch = training_batch(config, world, 3)
    fresh = novel_world(config, world, "training", 3)
    evaluated = [b.items["m1"] for _, b in split_batches(config, world, "icl", sizes)]
    return {
        "world": list(draw_world(config).tensors().values()),
        "weights": list(Lineage(config).first_parameters().values()),
        "sequences": [*batch.items.values(), batch.placement, fresh.sources["m1"].prototypes],
        "evaluation": [*evaluated, next(iter(split_batches(config, world, "swapped", sizes)))[1].items["m1"]],
    }


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    """Whether all tensors are equal."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("part", ["world", "weights", "sequences"])
def test_a_seed_decides_its_part_and_no_other(part):
    """Fails if a part follows another seed than its own, or the evaluation moves with the training."""
    base = tiny_config(2)
    found, other = parts(base), parts(replace(base, seeds=SeedsConfig(**{part: 5})))
    for name in found:
        changed = [not torch.equal(a, b) for a, b in zip(found[name], other[name], strict=True)]
        if name == part:
            assert any(changed), name
        else:
            assert not any(changed), name


def test_a_part_with_its_own_seed_is_that_of_a_run_with_that_seed():
    """Fails if a seed draws something else where it stands under a part's name."""
    whole = parts(tiny_config(2, seed=5))
    for part in ("world", "weights", "sequences"):
        own = parts(replace(tiny_config(2), seeds=SeedsConfig(**{part: 5})))
        assert same(own[part], whole[part]), part


def test_the_evaluation_follows_the_request():
    """Fails if novel classes or sequences are those of the run's seed although the request names another."""
    config, sizes = tiny_config(2), replace(SIZES, evaluation_seed=5)
    assert not same(parts(config)["evaluation"], parts(config, sizes)["evaluation"])
    assert same(parts(tiny_config(2, seed=5))["evaluation"], parts(config, sizes)["evaluation"])


def test_runs_that_differ_in_any_seed_are_one_experiment(tmp_path):
    """Fails if seeds of parts keep runs from being grouped, or group runs of another configuration."""
    config = tiny_config(1)
    runs = [
        prepared(one, tmp_path).run
        for one in (config, replace(config, seed=1), replace(config, seeds=SeedsConfig(world=3, weights=4)))
    ]
    assert len({run.hash for run in runs}) == 3
    check_seeds(runs)
    with pytest.raises(ConfigError, match=r"seeds\.world = -2.*at least -1"):
        replace(config, seeds=SeedsConfig(world=-2))
