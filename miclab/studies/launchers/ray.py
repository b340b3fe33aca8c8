"""A Ray cluster: one task for each core, or for its GPUs, on any node. The runs lie on a file system that all nodes
share."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from miclab.config.extensions import handed_on
from miclab.errors import MiclabError
from miclab.studies.task import perform


class RayLauncher:
    """Tasks on a Ray cluster.

    Arguments:
        address: of the cluster; `auto`: the one that this machine belongs to; empty: a new one on this machine.
        workers: tasks at once; 0: one for each core of the cluster.
        gpus: GPUs of each task; Ray shows a task only its own ones.

    Raises:
        MiclabError: Ray is not installed, there is no cluster at the address, or none of its nodes has so many GPUs.
    """

    def __init__(self, address: str = "auto", workers: int = 0, gpus: int = 0):
        try:
            import ray
        except ImportError as error:
            raise MiclabError("The launcher `ray` needs `pip install '.[ray]'` in the clone of miclab.") from error
        self._ray: Any = ray
        self.workers, self.gpus = workers, gpus
        try:
            ray.init(
                address=address or None,
                ignore_reinit_error=True,
                configure_logging=False,
                log_to_driver=False,
                include_dashboard=None if address else False,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            problem = (
                f"There is no Ray cluster at {address!r} ({error}). Start one with `ray start --head`, or name its "
            )
            raise MiclabError(f"{problem}address with --ray-address.") from error
        try:
            self._check_gpus()
        except MiclabError:
            ray.shutdown()
            raise
        # The engine restarts a task that was lost with its node, since only it knows the progress.
        self._perform: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(perform)
        self._tasks: dict[Any, str] = {}

    def _check_gpus(self) -> None:
        each = [int(node["Resources"].get("GPU", 0)) for node in self._ray.nodes() if node["Alive"]]
        if self.gpus > max(each, default=0):
            there = f"{sum(each)} GPUs on {len(each)} nodes, at most {max(each, default=0)} on one"
            raise MiclabError(f"--gpus {self.gpus}: the Ray cluster has {there}. Request fewer, or add a node.")

    def room(self) -> int:
        """Tasks that the living nodes can take beside those that they have, by their cores and GPUs."""
        there = self._ray.cluster_resources()
        room = int(there.get("CPU", 0))
        if self.gpus:
            room = min(room, int(there.get("GPU", 0)) // self.gpus)
        return max(0, (min(room, self.workers) if self.workers else room) - len(self._tasks))

    def submit(self, paths: list[str]) -> None:
        """Starts tasks."""
        for path in paths:
            self._tasks[self._perform.remote(path, handed_on())] = path

    def wait(self, seconds: float) -> list[tuple[str, str | None]]:
        """Answers of ended tasks; None for one whose process or node died."""
        if not self._tasks:
            time.sleep(seconds)
            return []
        first, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=seconds)
        ended, _ = self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0) if first else ([], [])
        found: list[tuple[str, str | None]] = []
        for reference in ended:
            path = self._tasks.pop(reference)
            try:
                found.append((path, self._ray.get(reference)))
            except self._ray.exceptions.RayError:
                found.append((path, None))
        return found

    def stop(self) -> None:
        """Interrupts the tasks: training saves a checkpoint and ends."""
        for reference in self._tasks:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.cancel(reference, force=False)

    def close(self) -> None:
        """Leaves the cluster."""
        self._ray.shutdown()
