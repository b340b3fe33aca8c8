"""The table of how cost grows: its plain loop trains the same runs, and its exponents are those of known powers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.growth import SIZES, exponent, sized
from benchmarks.plain_loop import PlainLoop
from benchmarks.step import TrainingProcess
from miclab.worlds.sequences import raw_training_batch


def test_the_plain_loop_has_the_losses_of_the_step():
    """Fails if it draws other sequences, computes another loss, or forgets to update."""
    config = sized("layers", 1)
    config = replace(config, optimiser=replace(config.optimiser, batch_size=8))
    plain, ours = PlainLoop(config), TrainingProcess(config)
    for number in range(3):
        ours_loss = float(ours.one(raw_training_batch(config, ours.world, number), 1e-3, number)["loss"])
        fresh = PlainLoop(config)
        assert fresh.step(number + 1) == pytest.approx(ours_loss, rel=1e-4)
    assert plain.step(3) != plain.step(3)


def test_only_the_named_size_changes_and_exponents_are_slopes():
    assert sized("classes K", 4096).modalities["m1"].classes == 4096
    assert [sized("width", size).decoder.width for size in SIZES["width"]] == list(SIZES["width"])
    assert [exponent((1, 2, 4, 8), [7.0 * n**p for n in (1, 2, 4, 8)]) for p in (0, 1, 2)] == pytest.approx([0, 1, 2])
