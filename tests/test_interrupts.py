"""A SIGINT is heeded at the next step of work also where its KeyboardInterrupt was swallowed."""

from __future__ import annotations

import contextlib
import signal
import sys

import pytest
from tiny import tiny_config
from tiny_study import Here, planned, tiny_study

from miclab import cli
from miclab.cli import main
from miclab.cli.terminal import bar
from miclab.config.request import Request
from miclab.runs import interrupts
from miclab.studies.engine import Engine
from miclab.training.loop import prepared, train

REQUEST = Request(steps=4, evaluate_every=2, checkpoint_every=2, sequences=4, novel_sets=1)


@pytest.fixture(autouse=True)
def by_python():
    """The handler that Python installs, though this process may have been started to ignore the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def swallowed() -> None:
    """A signal whose exception goes no further, as in a finaliser."""
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
        # The handler runs between two instructions.
        for _ in range(1000):
            pass


def test_the_next_step_of_any_work_with_a_progress_bar_heeds_it(capsys):
    with interrupts.noted(), bar("work", 3) as on_step:
        on_step(1, "")
        swallowed()
        with pytest.raises(KeyboardInterrupt):
            on_step(2, "")


def test_training_that_begins_after_it_stops_with_a_checkpoint(tmp_path):
    run = prepared(tiny_config(), tmp_path).run
    with interrupts.noted():
        swallowed()
        outcome = train(run, REQUEST)
    assert (outcome.status, outcome.reason) == ("stopped", "stopped by SIGINT")
    assert train(run, REQUEST).status == "finished"


def test_a_study_that_begins_after_it_trains_nothing(tmp_path):
    with interrupts.noted():
        swallowed()
        tally = Engine(planned(tiny_study(tmp_path)), tmp_path / "runs", Here()).go()
    assert {state.status for state in tally.states.values()} == {"new"}


def test_a_command_that_swallows_it_ends_as_interrupted(monkeypatch, capsys):
    """Also one that has no further step; and the next command of the process is not concerned."""
    monkeypatch.setitem(cli.COMMANDS, "swallow", (__name__, ""))
    monkeypatch.setattr(sys.modules[__name__], "run_swallow", lambda arguments: swallowed(), raising=False)
    assert main(["swallow"]) == 1
    assert capsys.readouterr().err == "miclab: interrupted\n"
    monkeypatch.setattr(sys.modules[__name__], "run_swallow", lambda arguments: interrupts.heed(), raising=False)
    assert main(["swallow"]) == 0


def test_a_process_that_is_to_ignore_it_does(capsys):
    """As one in the background of a script."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts.noted():
        signal.raise_signal(signal.SIGINT)
        interrupts.heed()
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
