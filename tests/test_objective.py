"""The loss: the cross-entropy alone by default, or a weighted sum of named terms, some of them for a while."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import own_doors  # noqa: F401  (`attention_aid` is in the registry)
import pytest
import torch
import torch.nn.functional as F
from tiny import lively_parameters, tiny_config, tiny_mapping

from miclab.config.options import LOSS_TERMS, LossOptions
from miclab.config.request import Request
from miclab.config.run import RunConfig
from miclab.config.schema import from_mapping, to_mapping, trajectory_hash
from miclab.errors import ConfigError
from miclab.model.decoder import Decoder
from miclab.training import optimiser
from miclab.training.flat_parameters import TrainedParameters, gradient_function
from miclab.training.loop import prepared, train, train_config
from miclab.training.numerics import why_not_compiled
from miclab.training.objective import Objective, loss_term
from miclab.training.step import training_step
from miclab.worlds.sequences import raw_training_batch, training_batch
from miclab.worlds.world import draw_world

AIDED = {"attention_aid": {"weight": 0.5, "until": 3, "layer": 1}}


@loss_term("test_confidence", needs=("final",))
def confidence(batch, logits, activations):
    """A term that is a function: mean square of logits, and of the final residual."""
    return logits.square().mean() + activations["final"].square().mean()


def aid_by_hand(decoder: Decoder, parameters, batch, layer: int) -> torch.Tensor:
    """Minus the mean log of the attention of labels on their own item, in each sequence's best head."""
    name = f"blocks.{layer}.attention.pattern"
    pattern = decoder.trace(parameters, batch, capture=(name,)).activations[name]
    # One modality: x1 l1 x2 l2 ... xq, so label n stands at 2n + 1 and its item before it.
    context = batch.labels.shape[1]
    own = torch.stack([pattern[:, :, 2 * n + 1, 2 * n] for n in range(context)]).mean(0)
    return -torch.stack([max(heads) for heads in own]).log().mean()


@pytest.mark.parametrize("layer", [0, 1])
def test_loss_and_gradient_are_those_of_the_weighted_sum(layer):
    """Fails if a term sees another batch or layer, if its weight is left out or used twice, or if no gradient flows
    through the activations; the value of the aid is computed by hand."""
    objective = {"cross_entropy": 2.0, "attention_aid": {"weight": 0.5, "layer": layer}, "test_confidence": -0.1}
    config = tiny_config(1, objective=objective, decoder={"heads": 2})
    batch, parameters = training_batch(config, draw_world(config), 0), lively_parameters(config)
    trained = TrainedParameters(config, parameters)
    losses, slope = gradient_function(config, trained)(trained.flat, batch)
    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    decoder = Decoder(config)
    found = decoder.trace(leaves, batch, capture=("final",))
    terms = {
        "cross_entropy": F.cross_entropy(found.logits, batch.target),
        "attention_aid": aid_by_hand(decoder, leaves, batch, layer),
        "test_confidence": found.logits.square().mean() + found.activations["final"].square().mean(),
    }
    total = 2.0 * terms["cross_entropy"] + 0.5 * terms["attention_aid"] - 0.1 * terms["test_confidence"]
    assert set(losses) == {"loss", *(f"loss.{name}" for name in terms)}
    for name, value in {"loss": total, **{f"loss.{n}": v for n, v in terms.items()}}.items():
        assert float(losses[name]) == pytest.approx(float(value.detach()), rel=1e-5), name
    wanted = torch.cat([s.flatten() for s in torch.autograd.grad(total, list(leaves.values()))])
    torch.testing.assert_close(slope, wanted, rtol=1e-3, atol=1e-5)


def test_a_term_that_has_ended_leaves_the_plain_step():
    """Fails if a term counts longer than its steps, or if what remains of it changes a bit: from the step at which it
    ends, training goes on as it does without any term."""
    aided, plain = (tiny_config(1, objective=terms) for terms in (AIDED, {}))
    world = draw_world(plain)
    states = {}
    for config in (aided, plain):
        trained = TrainedParameters(config, Decoder(config).initial_parameters(0))
        states[config.objective == {}] = trained, optimiser.initial_state(config.optimiser, {"trained": trained.flat})
    steps = {alone: training_step(plain if alone else aided, *state) for alone, state in states.items()}
    for step in range(6):
        if step == 3:
            # Both go on from the same place.
            states[True][0].flat.copy_(states[False][0].flat)
            for name, value in states[True][1].items():
                value.copy_(states[False][1][name])
        losses = steps[False](raw_training_batch(aided, world, step), 0.01, step)
        alone = steps[True](raw_training_batch(plain, world, step), 0.01, step)
        assert ("loss.attention_aid" in losses) == (step < 3)
        if step >= 3:
            assert torch.equal(losses["loss"], alone["loss"])
            assert torch.equal(losses["loss"], losses["loss.cross_entropy"])
            assert torch.equal(states[True][0].flat, states[False][0].flat)
        elif step:
            assert not torch.equal(states[True][0].flat, states[False][0].flat)


class CrashError(Exception):
    """Ends a training process between two steps."""


def test_terms_stand_in_the_rows_and_an_interrupted_run_keeps_its_bits(tmp_path):
    """Fails if a term is not logged, is logged after its end, or if a run that was interrupted while a term counted
    forgets what it had summed up."""
    config = tiny_config(1, objective={"attention_aid": {"weight": 0.5, "until": 6}})
    request = Request(steps=12, evaluate_every=4, checkpoint_every=4, sequences=4, novel_sets=1)
    whole, _ = train_config(config, request, tmp_path / "whole")
    rows = {row["step"]: row for row in whole.rows()}
    assert rows[0]["loss.attention_aid"] is None
    assert rows[4]["loss"] == pytest.approx(rows[4]["loss.cross_entropy"] + 0.5 * rows[4]["loss.attention_aid"])
    assert rows[8]["loss.attention_aid"] > 0
    assert rows[12]["loss.attention_aid"] is None
    assert rows[12]["loss"] == rows[12]["loss.cross_entropy"]

    def crash(progress) -> None:
        if progress.step == 5:
            raise CrashError

    cut = prepared(config, tmp_path / "cut").run
    with pytest.raises(CrashError):
        train(cut, request, crash)
    train(cut, request)
    assert cut.rows() == whole.rows()
    one, other = (run.parameters(12)[1] for run in (cut, whole))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert whole.config.objective == config.objective


def test_an_aid_raises_the_attention_that_it_is_for(tmp_path):
    """Fails if the term were lowered instead of raised, or did not reach the weights: with it labels look at their own
    items after the same steps; without it that head does so less."""
    request = Request(steps=60, evaluate_every=60, checkpoint_every=60, sequences=50, novel_sets=1)
    found = {}
    for weight in (0.0, 1.0):
        objective = {"attention_aid": {"weight": weight}}
        config = tiny_config(
            1,
            objective=objective,
            optimiser={"learning_rate": 0.02},
            decoder={"positions": "onehot", "initial_std": 0.1},
        )
        run, _ = train_config(config, request, tmp_path)
        found[weight] = run.rows()[-1]["measures"]["label_to_item.m1"][0][0]
    assert found[1.0] > found[0.0] + 0.2


# -- plain data ---------------------------------------------------------------------------------------------------
def test_a_configuration_without_terms_is_the_one_of_before():
    """Fails if the field renames old runs, or if text, numbers and mappings do not mean the same."""
    plain = tiny_config(1)
    assert trajectory_hash(tiny_config(1, objective={})) == trajectory_hash(plain)
    forms = [
        {"attention_aid": {"weight": 0.5, "until": 9}, "cross_entropy": {"weight": 2.0}},
        {"attention_aid": "weight=0.5,until=9", "cross_entropy": 2},
    ]
    configs = [from_mapping(RunConfig, {**tiny_mapping(1), "objective": form}) for form in forms]
    assert configs[0] == configs[1]
    assert trajectory_hash(configs[0]) == trajectory_hash(configs[1]) != trajectory_hash(plain)
    again = from_mapping(RunConfig, json.loads(json.dumps(to_mapping(configs[0]))))
    assert again == configs[0]
    other = tiny_config(1, objective={**forms[0], "attention_aid": {"weight": 0.5, "until": 9, "layer": 1}})
    assert trajectory_hash(other) != trajectory_hash(configs[0])


REFUSED = {
    "unknown term": ({"attention_aidd": 1}, "objective.attention_aidd", "'attention_aid'", "--plugin"),
    "unknown option": ({"attention_aid": {"layr": 0}}, "objective.attention_aid.layr", "'layer'"),
    "layer that is not there": ({"attention_aid": {"layer": 2}}, "objective.attention_aid.layer", "at most 1"),
    "weight not finite": ({"attention_aid": {"weight": math.inf}}, "objective.attention_aid.weight", "finite"),
    "negative end": ({"attention_aid": "until=-1"}, "objective.attention_aid.until", "at least 0"),
    "no weight": ({"attention_aid": [1]}, "objective.attention_aid", "a weight"),
    "text of another form": ({"attention_aid": "until"}, "objective.attention_aid", "OPTION=VALUE"),
    "nothing to lower": ({"cross_entropy": 0}, "objective", "other than 0"),
    "nothing in the end": ({"cross_entropy": 0, "attention_aid": "until=5"}, "objective", "in all steps"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_field_and_what_is_allowed(name):
    """Fails if a term that cannot work is let through, or the message would not help to mend it."""
    terms, field, *words = REFUSED[name]
    with pytest.raises(ConfigError) as raised:
        from_mapping(RunConfig, {**tiny_mapping(1), "objective": terms})
    assert raised.value.field == field
    assert all(word in str(raised.value) for word in words), str(raised.value)


def test_options_of_another_term_and_missing_activations_are_refused():
    """Fails if a term in Python could have another one's options, or if a term that needs a pattern meets a decoder
    without one only in the middle of training."""
    plain = tiny_config(1)
    with pytest.raises(ConfigError, match=r"objective\.attention_aid"):
        replace(plain, objective={"attention_aid": LossOptions()})
    config = tiny_config(1, objective={"attention_aid": 1}, decoder={"attention": "linear_example"})
    with pytest.raises(ConfigError, match=r"objective = 'attention_aid'.*no activation named blocks\.0\.attention"):
        Objective(config)
    assert LOSS_TERMS.summary("test_confidence").startswith("A term that is a function")


COMPILED = """
import json, sys
sys.path.insert(0, "tests")
import own_doors
from tiny import lively_parameters, tiny_config
from miclab.training import optimiser, step
from miclab.training.flat_parameters import TrainedParameters
from miclab.worlds.sequences import raw_training_batch
from miclab.worlds.world import draw_world

found = {}
# One layer: the time is the compiler's.
DECODER = {"positions": "t5_bias", "heads": 2, "layers": 1}
for mode in ("compiled", "eager"):
    objective = {"attention_aid": {"weight": 0.5, "until": 2}}
    config = tiny_config(1, objective=objective, numerics={"mode": mode}, decoder=DECODER)
    world, run = draw_world(config), TrainedParameters(config, lively_parameters(config))
    state = optimiser.initial_state(config.optimiser, {"trained": run.flat})
    one = step.training_step(config, run, state)
    losses = [one(raw_training_batch(config, world, i), 0.01, i) for i in range(4)]
    found[mode] = [{n: float(v) for n, v in loss.items()} for loss in losses], run.flat.tolist()
print(json.dumps([found, len(step._compiled)]))
"""


@pytest.mark.slow
def test_a_compiled_step_with_terms_is_that_of_eager_mode(run_python):
    """Fails if a term is lost where the step is compiled, or if its end does not compile the step without it."""
    if reason := why_not_compiled():
        pytest.skip(reason)
    found, graphs = run_python(COMPILED)
    assert graphs == 2
    (losses, flat), (wanted, eager) = found["compiled"], found["eager"]
    assert [set(one) for one in losses] == [set(one) for one in wanted]
    for one, other in zip(losses, wanted, strict=True):
        assert one == pytest.approx(other, rel=1e-3)
    torch.testing.assert_close(torch.tensor(flat), torch.tensor(eager), rtol=1e-3, atol=1e-4)
