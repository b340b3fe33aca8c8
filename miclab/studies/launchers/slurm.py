"""A cluster under Slurm, through submitit: arrays of jobs, each cut to the largest that the site allows."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from miclab.config.extensions import Handed, handed_on
from miclab.errors import MiclabError
from miclab.studies.task import Stoppable, environment, perform

GATHERED = 5.0
"""Seconds during which tasks are gathered into one array."""
POLL = 5.0
"""Seconds between queries of jobs."""
REFUSED = 60.0
"""Seconds before an array that Slurm refused is submitted again."""
ARRAYS = 20
"""Arrays that are filled at a time."""
MINUTES = 24 * 60
"""Default time limit of a job. A run that reaches it saves a checkpoint and is submitted again."""


def answer_file(path: str) -> Path:
    """The file for a job's answer."""
    return Path(f"{path}.answer")


def work(path: str, plugins: Handed = ()) -> None:
    """Does a task in a job and writes the answer to a file. Slurm's warning before the end of a job's time, and
    `scancel`, let training save a checkpoint first."""
    os.environ.update(environment())
    Stoppable.take_signals()
    signal.signal(signal.SIGUSR2, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))
    text = perform(path, plugins)
    file = answer_file(path)
    temporary = file.with_suffix(f".{secrets.token_hex(4)}.tmp")
    temporary.write_text(text)
    os.replace(temporary, file)


def gpus_of_nodes(partition: str = "") -> list[int] | None:
    """GPUs of each kind of node, by `sinfo`; None where that cannot be found out.

    Arguments:
        partition: only its nodes; empty: all nodes.
    """
    command = ["sinfo", "--noheader", "--format", "%G", *(["--partition", partition] if partition else [])]
    try:
        lines = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    # A line is `(null)`, `gpu:4`, or `gpu:a100:4(S:0-1),gpu:v100:2`.
    return [sum(map(int, re.findall(r"\bgpu:(?:[^:,()]+:)?(\d+)", line))) for line in lines if line.strip()]


def check_gpus(gpus: int, partition: str = "") -> None:
    """Raises MiclabError if no node has so many GPUs. What Slurm does not say, it decides itself."""
    there = gpus_of_nodes(partition) if gpus else None
    if there is not None and gpus > max(there, default=0):
        where = f"of the partition {partition} " if partition else ""
        has = f"has at most {max(there)} GPUs" if any(there) else "has a GPU"
        verb = "every node" if any(there) else "no node"
        raise MiclabError(f"--gpus {gpus}: {verb} {where}{has}. `sinfo -o '%P %G'` lists them; choose a partition with "
                          "--slurm partition=NAME.")  # fmt: skip


class SlurmLauncher:
    """Jobs under Slurm.

    Arguments:
        folder: for scripts and logs of jobs; on a file system that all nodes share.
        array_limit: tasks in an array at most (`MaxArraySize` of the site).
        workers: jobs of an array that run at once; 0: as many as Slurm lets.
        parameters: of the jobs, as submitit names them: `partition`, `time` (minutes), `mem`, `account`, ...
        cluster: `slurm`; `local` starts the same jobs as processes of this machine.
        gpus: GPUs of each job; Slurm shows a job only its own ones.

    Raises:
        MiclabError: there is no Slurm here, a parameter is unknown, or no node has so many GPUs.
    """

    def __init__(
        self,
        folder: Path,
        array_limit: int = 1000,
        workers: int = 0,
        parameters: dict[str, Any] | None = None,
        cluster: str = "slurm",
        gpus: int = 0,
    ):
        if cluster == "slurm" and shutil.which("sbatch") is None:
            raise MiclabError("There is no `sbatch` here: start this on a login node of the cluster, or choose another "
                              "--launcher.")  # fmt: skip
        try:
            import submitit
            from submitit.core.utils import FailedJobError
        except ImportError as error:
            raise MiclabError("The launcher `slurm` needs `pip install '.[slurm]'` in the clone of miclab.") from error
        parameters = parameters or {}
        check_gpus(gpus, str(parameters.get("partition", "")))
        self.array_limit = array_limit
        self._executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        own = {"gpus_per_node": gpus} if gpus else {}
        requested = {"time": MINUTES, "cpus_per_task": 1, **own, **parameters}
        requested["array_parallelism"] = workers or array_limit
        try:
            self._executor.update_parameters(
                name="miclab",
                timeout_min=requested["time"],
                **{f"slurm_{name}": value for name, value in requested.items()},
            )
        except (NameError, ValueError, AssertionError) as error:
            raise MiclabError(f"Slurm's jobs cannot have these parameters: {error}") from error
        self._refusal = FailedJobError
        self._refused = False
        self._gathered: list[str] = []
        self._since = 0.0
        self._jobs: dict[str, Any] = {}

    def room(self) -> int:
        """Slurm keeps the queue: there is room for arrays until it refuses one."""
        return 0 if self._refused else ARRAYS * self.array_limit

    def submit(self, paths: list[str]) -> None:
        """Gathers tasks for an array."""
        if not self._gathered:
            self._since = time.monotonic()
        self._gathered += paths
        if len(self._gathered) >= self.array_limit:
            self._send()

    def _send(self) -> None:
        while self._gathered:
            chunk = self._gathered[: self.array_limit]
            try:
                jobs = self._executor.map_array(functools.partial(work, plugins=handed_on()), chunk)
            except self._refusal as error:
                if not self._jobs:
                    raise MiclabError(f"Slurm refused the first array: {str(error).strip()}") from error
                # Usually a limit on submitted jobs: after some end, there is room.
                self._refused, self._since = True, time.monotonic() + REFUSED
                return
            self._jobs.update(zip(chunk, jobs, strict=True))
            self._gathered, self._refused = self._gathered[len(chunk) :], False

    def wait(self, seconds: float) -> list[tuple[str, str | None]]:
        """Answers of ended jobs. A job that ended without an answer has died."""
        if self._gathered and time.monotonic() - self._since > GATHERED:
            self._send()
        found: list[tuple[str, str | None]] = []
        for path, job in list(self._jobs.items()):
            # The answer is sought first. Slurm is queried only about jobs without an answer.
            if not answer_file(path).exists() and not job.done():
                continue
            del self._jobs[path]
            try:
                found.append((path, answer_file(path).read_text()))
                answer_file(path).unlink()
            except FileNotFoundError:
                found.append((path, None))
        if not found:
            time.sleep(max(seconds, POLL) if self._jobs else seconds)
        return found

    def stop(self) -> None:
        """Cancels the jobs. Those in training save a checkpoint, those in the queue are removed."""
        self._gathered, unsent = [], self._gathered
        for job in self._jobs.values():
            with contextlib.suppress(Exception):  # Exceptions of submitit have no common type.
                job.cancel()
        # Nobody will answer for these.
        self._jobs.update({path: _Never() for path in unsent})

    def close(self) -> None:
        """Does nothing. Jobs outlive the process that submitted them, and a restarted study finds their results."""


class _Never:
    """A job that was not submitted."""

    def done(self) -> bool:
        return True
