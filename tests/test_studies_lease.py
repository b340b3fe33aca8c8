"""Leases of runs: one owner at a time, dead ones are followed, living ones are left alone."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from miclab.studies import lease
from miclab.studies.lease import Owner, owners, reserve

DEAD = """
import json, os, sys
from pathlib import Path
from miclab.studies.lease import reserve
assert reserve(Path(sys.argv[1]), "run") is not None
os._exit(9)
"""
RACE = """
import sys, time
from pathlib import Path
from miclab.studies.lease import reserve
folder = Path(sys.argv[1])
won = 0
for turn in range(int(sys.argv[2])):
    while time.time() % 0.05 > 0.002:
        pass
    held = reserve(folder, "run")
    if held is not None:
        mark = folder / "inside"
        mark.mkdir()
        time.sleep(0.003)
        mark.rmdir()
        held.release()
        won += 1
print(won)
"""


def lease_of(folder: Path, owner: Owner, number: int = 0, age: float = 0.0) -> Path:
    """A lease of somebody, last touched `age` seconds ago."""
    path = folder / f"run.{number}"
    path.write_text(json.dumps(vars(owner)))
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.fixture
def myself() -> Owner:
    return Owner(lease.machine(), os.getpid(), lease.started(os.getpid()), "token")


def test_a_run_is_leased_once_and_is_free_after_release(tmp_path):
    held = reserve(tmp_path, "run")
    assert held is not None
    assert reserve(tmp_path, "run") is None
    assert owners(tmp_path) == {"run": held.owner}
    other = reserve(tmp_path, "other")
    assert other is not None
    held.release()
    assert owners(tmp_path) == {"other": other.owner}
    again = reserve(tmp_path, "run")
    assert again is not None
    again.release()
    other.release()
    assert list(tmp_path.iterdir()) == []
    assert owners(tmp_path / "missing") == {}


def test_the_lease_of_a_dead_process_is_taken_over_at_once(tmp_path):
    subprocess.run([sys.executable, "-c", DEAD, str(tmp_path)], check=False)
    assert (tmp_path / "run.0").exists()
    assert owners(tmp_path) == {}
    held = reserve(tmp_path, "run")
    assert held is not None
    assert held.path.name == "run.1"
    held.release()
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_another_process_has_now_is_no_sign_of_life(tmp_path, myself):
    lease_of(tmp_path, Owner(myself.machine, myself.process, "1", "token"))
    assert reserve(tmp_path, "run") is not None


def test_the_lease_of_another_machine_holds_as_long_as_its_heart_beats(tmp_path):
    """Its process number says nothing here: it is judged by the age of its last beat alone."""
    elsewhere = Owner("elsewhere/1/2", 1, "3", "token")
    lease_of(tmp_path, elsewhere, age=50)
    assert reserve(tmp_path, "run", timeout=100) is None
    assert owners(tmp_path, timeout=100) == {"run": elsewhere}
    assert owners(tmp_path, timeout=10) == {}
    held = reserve(tmp_path, "run", timeout=10)
    assert held is not None
    assert held.path.name == "run.1"


def test_a_beating_heart_touches_its_lease_and_sees_that_it_was_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.02)
    held = reserve(tmp_path, "run")
    assert held is not None
    os.utime(held.path, (1.0, 1.0))
    deadline = time.monotonic() + 20
    while held.path.stat().st_mtime < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert held.path.stat().st_mtime > time.time() - 60
    assert not held.lost
    successor = lease_of(tmp_path, Owner("elsewhere/1/2", 1, "3", "token"), number=1)
    while not held.lost and time.monotonic() < deadline:
        time.sleep(0.01)
    assert held.lost
    held.release()
    assert list(tmp_path.iterdir()) == [successor]


def test_who_followed_a_lease_that_was_given_back_meanwhile_gives_up(tmp_path, monkeypatch):
    """Between the judgement that a lease is stale and the successor's own lease, its owner lets go and another
    process leases the run anew: it keeps it."""
    stale = lease_of(tmp_path, Owner("elsewhere/1/2", 1, "3", "token"), age=50)
    write = lease.storage.write_bytes
    held: list = []

    def meanwhile(path: Path, content: bytes) -> str:
        monkeypatch.undo()
        stale.unlink()
        held.append(reserve(tmp_path, "run"))
        return write(path, content)

    monkeypatch.setattr(lease.storage, "write_bytes", meanwhile)
    assert reserve(tmp_path, "run", timeout=10) is None
    assert owners(tmp_path) == {"run": held[0].owner}


def test_of_many_threads_one_wins(tmp_path):
    won: list = []
    gate = threading.Barrier(8)

    def run() -> None:
        gate.wait()
        won.append(reserve(tmp_path, "run"))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(w is not None for w in won) == 1


def test_processes_that_race_are_never_inside_together(tmp_path):
    """Each winner makes a directory that another one inside would find; stale leases lie in the way now and then."""
    count, turns = 3, 40
    racers = [
        subprocess.Popen([sys.executable, "-c", RACE, str(tmp_path), str(turns)], stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    for _ in range(20):
        time.sleep(0.1)
        if not list(tmp_path.glob("run.*")):
            # A dead process's lease.
            temporary = tmp_path / ".dead.tmp"
            temporary.write_text(json.dumps(vars(Owner(lease.machine(), 2**22 + 7, "1", "dead"))))
            with contextlib.suppress(FileExistsError):
                os.link(temporary, tmp_path / "run.0")
    message = [racer.communicate()[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * count
    assert sum(map(int, message)) > 0
