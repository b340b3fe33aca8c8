"""Optimisers and schedules against PyTorch's classes, and what a frozen part means."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import lively_parameters, tiny_config

from miclab.config.parts import OptimiserConfig
from miclab.model.decoder import Decoder
from miclab.training import optimiser
from miclab.training.flat_parameters import TrainedParameters, gradient_function, views
from miclab.training.objective import cross_entropy
from miclab.worlds.sequences import training_batch
from miclab.worlds.world import draw_world

CLASSES = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", CLASSES)
def test_five_steps_are_those_of_torchs_class(name, decay):
    """Fails if an argument is passed in another's place, decay is coupled where it should not be, or state is lost
    between steps; the learning rate changes at every step, as a schedule's does."""
    options = {"beta1": 0.8, "beta2": 0.95} if name != "sgd" else {}
    config = OptimiserConfig(name=name, learning_rate=0.05, weight_decay=decay, **options)
    generator = torch.Generator().manual_seed(0)
    ours = {n: torch.randn(shape, generator=generator) for n, shape in (("a", (5, 3)), ("b", (4,)))}
    theirs = {n: torch.nn.Parameter(v.clone()) for n, v in ours.items()}
    betas = {"betas": (0.8, 0.95)} if name != "sgd" else {}
    reference = CLASSES[name](theirs.values(), lr=0.05, weight_decay=decay, **betas)
    state = optimiser.initial_state(config, ours)
    for step in range(5):
        rate = 0.05 / (step + 1)
        slopes = {n: torch.randn(v.shape, generator=generator) for n, v in ours.items()}
        for n, parameter in theirs.items():
            parameter.grad = slopes[n].clone()
        reference.param_groups[0]["lr"] = rate
        reference.step()
        optimiser.update(config, ours, slopes, state, rate)
        for n in ours:
            torch.testing.assert_close(ours[n], theirs[n].detach(), rtol=1e-6, atol=1e-7)
    assert set(state) == ({f"{k}.{n}" for k in ("mean", "square", "step") for n in ours} if betas else set())


def test_a_constant_rate_is_constant_after_its_warm_up():
    """Fails if the warm-up starts at 0 (a lost step) or ends late."""
    config = OptimiserConfig(learning_rate=0.4, warmup_steps=4)
    found = [optimiser.learning_rate(config, step) for step in (0, 1, 2, 3, 4, 1000)]
    assert found == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


def test_a_cosine_falls_from_its_peak_to_zero():
    """Fails if the cosine starts before the warm-up ends, or rises again after its end; between, it is PyTorch's."""
    config = OptimiserConfig(learning_rate=0.4, warmup_steps=10, schedule="cosine", decay_steps=110)
    found = [optimiser.learning_rate(config, step) for step in range(200)]
    assert found[:10] == pytest.approx([0.04 * (step + 1) for step in range(10)])
    assert found[10] == pytest.approx(0.4)
    assert found[60] == pytest.approx(0.2)
    assert found[35] == pytest.approx(0.2 * (1 + math.cos(math.pi / 4)))
    assert found[110:] == [0.0] * 90
    reference = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(reference, T_max=100)
    for rate in found[10:110]:
        assert rate == pytest.approx(schedule.get_last_lr()[0], abs=1e-9)
        reference.step()
        schedule.step()


@pytest.mark.parametrize(
    ("frozen", "kept"),
    [
        (("decoder.blocks",), "decoder.blocks."),
        (("decoder",), "decoder."),
        (("decoder.blocks.1", "bridge.m2"), ("decoder.blocks.1.", "bridge.m2.")),
        (("decoder.readout",), "decoder.readout"),
        (("decoder.input", "decoder.positions"), ("decoder.input", "decoder.positions.")),
        (("decoder.norm",), "decoder.norm."),
        ((), ()),
    ],
)
def test_frozen_parts_do_not_move_and_all_others_do(frozen, kept):
    """Fails if a frozen weight moves (by decay as well), a prefix matches too much, or a free weight gets no
    gradient."""
    config = tiny_config(
        2,
        frozen=list(frozen),
        optimiser={"name": "adamw", "weight_decay": 0.1, "batch_size": 8},
        decoder={"positions": "learned", "input_map": "linear"},
    )
    before = Decoder(config).initial_parameters(0)
    trained = TrainedParameters(config, before)
    batch = training_batch(config, draw_world(config), 0)
    losses, slope = gradient_function(config, trained)(trained.flat, batch)
    wanted = cross_entropy(batch, Decoder(config).logits(before, batch), {})
    assert float(losses["loss"]) == pytest.approx(float(wanted), rel=1e-6)
    state = optimiser.initial_state(config.optimiser, {"trained": trained.flat})
    optimiser.update(config.optimiser, {"trained": trained.flat}, {"trained": slope}, state, 0.01)
    assert set(trained.named) == set(before)
    for name, value in before.items():
        moved = not torch.equal(value, trained.named[name])
        assert moved != name.startswith(kept), name


def test_the_flat_gradient_is_each_parameters_own():
    """Fails if the parts of the flat tensor are cut at other places than they are joined: autograd on the named
    parameters gives the same slopes, parameter by parameter."""
    config = tiny_config(2, decoder={"heads": 2, "initial_std": 0.3, "positions": "learned"})
    parameters, batch = lively_parameters(config), training_batch(config, draw_world(config), 0)
    trained = TrainedParameters(config, parameters)
    _, slope = gradient_function(config, trained)(trained.flat, batch)
    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    cross_entropy(batch, Decoder(config).logits(leaves, batch), {}).backward()
    found = views(slope, trained.shapes)
    assert set(found) == set(leaves)
    for name, leaf in leaves.items():
        torch.testing.assert_close(found[name], leaf.grad, rtol=1e-4, atol=1e-6)
