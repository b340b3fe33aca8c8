"""A run's directory. This is the only module that knows the layout of a run on disk.

    runs/unimodal-rope-1a2b3c4d5e6f/
        config.json                        what was trained; its hash is the run's name
        world.safetensors                  prototypes and label embeddings
        checkpoints/000001000.safetensors  parameters, and `.optimiser.safetensors` to go on from
        rows/000001000.jsonl               metric rows since the checkpoint before, sealed with this one
        analyses/000001000.NAME.json       what was found out about a checkpoint after training
        label.json                         name and tags, if its owner gave it any (see miclab.runs.label)
        manifest.json                      SHA-256 of the files above but label.json, the state, a checksum of itself
        lock                               empty; held while a process trains the run

A checkpoint exists once the manifest names it, and the manifest is replaced atomically. After a crash at any instant,
the directory has its earlier or its later state. Times and speeds are in the manifest, so that rows can be equal to the
bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miclab import storage
from miclab.config.content import json_of
from miclab.config.run import RunConfig
from miclab.errors import ConfigError, DamagedError, RunContentError, RunError
from miclab.runs.folder import Folder
from miclab.runs.label import Label, read_label, write_label
from miclab.runs.manifest import REFUSED, checkpoints_of, read_manifest, rows_of, step_of

if TYPE_CHECKING:
    from torch import Tensor


class Run:
    """A run on disk. Use `create`, `open_run` or `find` of `miclab.runs.find`.

    Arguments:
        path: the run's directory.
        config: its configuration.
        manifest: its verified manifest.
    """

    def __init__(self, path: Path, config: RunConfig, manifest: dict[str, Any]):
        self.path, self.config, self._manifest = path, config, manifest
        self.warnings: list[str] = []
        self._passed_over: set[str] = set()

    # -- what it is ---------------------------------------------------------------------------------------------
    @property
    def hash(self) -> str:
        """Trajectory hash."""
        return self._manifest["hash"]

    @property
    def label(self) -> Label:
        """Name and tags that its owner gave it."""
        return read_label(self.path, self.warnings)

    @label.setter
    def label(self, label: Label) -> None:
        """Changes name and tags, also while the run trains. Raises RunError if they cannot be written."""
        write_label(self.path, label)

    @property
    def title(self) -> str:
        """Its name, or else that of its directory."""
        return self.label.name or self.path.name

    @property
    def status(self) -> str:
        """`new`, `running`, `stopped`, `finished` or `diverged`."""
        return self._manifest["status"]

    @property
    def reason(self) -> str:
        """Why it has this status, in words."""
        return self._manifest["reason"]

    @property
    def request(self) -> dict[str, Any]:
        """The last request: steps, schedule of evaluations and checkpoints, when to stop."""
        return self._manifest["request"]

    @property
    def environment(self) -> dict[str, Any]:
        """Versions and numeric mode in effect."""
        return self._manifest["environment"]

    @property
    def timing(self) -> list[dict[str, Any]]:
        """For each checkpoint its step, the seconds of training before it, and the time of day."""
        return self._manifest["timing"]

    @property
    def checkpoints(self) -> list[int]:
        """Steps whose parameters are kept."""
        return checkpoints_of(self._files)

    @property
    def step(self) -> int:
        """The last checkpoint's step; -1 before the first."""
        return max(self.checkpoints, default=-1)

    @property
    def analyses(self) -> list[tuple[int, str]]:
        """Step and name of the stored analyses."""
        names = [n.removeprefix("analyses/") for n in self._files if n.startswith("analyses/")]
        return sorted((step_of(n), n.removesuffix(".json").partition(".")[2]) for n in names)

    @property
    def _files(self) -> dict[str, str]:
        return self._manifest["files"]

    # -- reading ------------------------------------------------------------------------------------------------
    def _read(self, name: str, remedy: str) -> bytes:
        return storage.read_checked(self.path / name, self._files[name], remedy)

    def _tensors(self, name: str, remedy: str) -> dict[str, Tensor]:
        return storage.tensors_from(self._read(name, remedy), self.path / name)

    def world_tensors(self) -> dict[str, Tensor]:
        """Tensors of the world. Raises DamagedError."""
        return self._tensors("world.safetensors", REFUSED)

    def rows(self) -> list[dict[str, Any]]:
        """Metric rows by step. At a damaged segment reading ends, and `warnings` names it."""
        rows: list[dict[str, Any]] = []
        for name in sorted(n for n in self._files if n.startswith("rows/")):
            try:
                content = self._read(name, "The rows before it are used; `miclab resume` makes the others again.")
            except DamagedError as error:
                self.warnings.append(str(error))
                break
            rows += rows_of(content, self.path / name)
        return rows

    def parameters(self, step: int | None = None) -> tuple[int, dict[str, Tensor]]:
        """Step and parameters of a checkpoint; by default of the last one whose bytes are good.

        Raises:
            ConfigError: there is no checkpoint at `step`.
            DamagedError: the one at `step` is damaged.
            RunContentError: no checkpoint is left.
        """
        if step is not None:
            if step not in self.checkpoints:
                raise ConfigError("step", step, f"a checkpoint of {self.path.name}: {self.checkpoints}")
            return step, self._tensors(_weights(step), f"Others: {self.checkpoints}.")
        for candidate in reversed(self.checkpoints):
            try:
                return candidate, self._tensors(_weights(candidate), "The one before is used.")
            except DamagedError as error:
                self.warnings.append(str(error))
        raise RunContentError(self.path, f"it has no good checkpoint. Train it with `miclab resume {self.path}`")

    def resume_state(self, keeps: Callable[[int], bool]) -> tuple[int, dict[str, Tensor], dict[str, Tensor]] | None:
        """Step, parameters and optimiser state of the last checkpoint from which training can resume; None if it has to
        start again. All data up to that step are intact. Later steps are repeated, with the same bits.

        Arguments:
            keeps: whether the checkpoint of a step is kept permanently. A damaged one that is not is skipped.
        """
        found = self._damaged("What is good is used, and the rest is made again.")
        self.warnings += found.values()
        damaged = self._passed_over = {name for name in found if "/" in name}
        bad_rows = [step_of(n) for n in damaged if n.startswith("rows/")]
        bad_weights = [s for s in self.checkpoints if _weights(s) in damaged and keeps(s)]
        first_bad = min([*bad_rows, *bad_weights], default=self.step + 1)
        for step in reversed([s for s in self.checkpoints if s < first_bad]):
            if _optimiser(step) not in self._files:
                break
            if damaged.isdisjoint((_weights(step), _optimiser(step))):
                return step, self._tensors(_weights(step), ""), self._tensors(_optimiser(step), "")
        return None

    def _damaged(self, remedy: str) -> dict[str, str]:
        """A message for every damaged file."""
        found = {}
        for name in self._files:
            try:
                self._read(name, remedy)
            except DamagedError as error:
                found[name] = str(error).strip()
        return found

    def verify(self) -> list[str]:
        """Reads every file and returns a message for each damaged one."""
        return list(self._damaged("").values())

    # -- writing ------------------------------------------------------------------------------------------------
    @cached_property
    def _folder(self) -> Folder:
        return Folder(self.path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Locks the run for this process, and deletes half-written files of an earlier one.

        Raises:
            RunError: another process holds it, or a directory in it is a link that leads out of it.
        """
        busy = "is being trained by another process. Wait for it, or stop it with SIGTERM (it saves a checkpoint)."
        with storage.locked(self.path / "lock", f"{self.path} {busy}"):
            self._folder = Folder(self.path)
            self._folder.check_inside()
            self._manifest = read_manifest(self.path)
            self._drop_leftovers()
            yield

    def _drop_leftovers(self) -> None:
        """Removes half-written files and those that the manifest does not name. Files of the user stay."""
        for name in list(self._folder.leftovers(self._files)):
            self._folder.delete(name)

    def _commit(self, **changes: Any) -> None:
        manifest = {**self._manifest, **changes}
        self._folder.write("manifest.json", storage.sealed(manifest))
        self._manifest = manifest

    def note(self, status: str, reason: str, **changes: Any) -> None:
        """Records a status, its reason, and other entries of the manifest (`request`, `environment`)."""
        self._commit(status=status, reason=reason, **changes)

    def adopt(self, other: Run, step: int) -> None:
        """Takes the checkpoint of `step` from another directory with the same run.

        Raises:
            RunError: it is another run, another process trains one of them, or a file is damaged.
        """
        if other.hash != self.hash:
            raise RunError(f"{other.path} is not the run of {self.path}.")
        with self.locked():
            files = dict(self._files)
            for name in (_weights(step), _optimiser(step)):
                files[name] = self._folder.write(name, other._read(name, ""))
            self._commit(files=files)

    def save_analysis(self, step: int, name: str, content: Mapping[str, Any]) -> None:
        """Stores an analysis of the checkpoint of `step`, and replaces an older one of this name.

        Arguments:
            name: letters, digits, `.`, `-` and `_`.
            content: plain values; NaN becomes null.

        Raises:
            RunError: another process trains the run, or it cannot be written.
        """
        with self.locked():
            file = _analysis(step, name)
            sha256 = self._folder.write(file, storage.json_bytes(content))
            self._commit(files={**self._files, file: sha256})

    def analysis(self, step: int, name: str) -> dict[str, Any] | None:
        """The analysis that `save_analysis` stored. None if there is none, or if it is damaged (`warnings` names
        it)."""
        file = _analysis(step, name)
        if file not in self._files:
            return None
        try:
            return json_of(self._read(file, "`miclab study run` makes it again."), self.path / file).mapping()
        except DamagedError as error:
            self.warnings.append(str(error))
            return None

    def rewind(self, step: int) -> None:
        """Removes checkpoints, rows and timing after `step`, and checkpoints that `resume_state` skipped; -1 removes
        all."""
        files = {n: s for n, s in self._files.items() if "/" not in n or step_of(n) <= step}
        for name in self._passed_over & set(files):
            del files[name]
            if name.startswith("checkpoints/"):
                files.pop(_optimiser(step_of(name)), None)
        if files != self._files:
            self._commit(files=files, timing=[t for t in self.timing if t["step"] <= step])
            self._drop_leftovers()

    def save_checkpoint(
        self,
        step: int,
        parameters: Mapping[str, Tensor],
        optimiser_state: Mapping[str, Tensor],
        rows: list[dict[str, Any]],
        timing: dict[str, Any],
        keep: set[int],
    ) -> None:
        """Seals a checkpoint and the rows since the last one, then drops old checkpoints that are not in `keep`.

        The last two are always kept. Each has its optimiser state, so that training can resume from any.
        """
        files = dict(self._files)
        for name, content in (
            (_weights(step), storage.tensor_bytes(parameters)),
            (_optimiser(step), storage.tensor_bytes(optimiser_state)),
            (f"rows/{step:09d}.jsonl", b"".join(storage.json_bytes(row) for row in rows)),
        ):
            files[name] = self._folder.write(name, content)
        last = sorted({*self.checkpoints, step})[-2:]
        for old in self.checkpoints:
            if old not in last and old not in keep:
                files.pop(_weights(old), None)
                files.pop(_optimiser(old), None)
        gone = set(self._files) - set(files)
        self._commit(files=files, timing=[*self.timing, {"step": step, **timing}])
        for name in gone:
            self._folder.delete(name)


def _weights(step: int) -> str:
    return f"checkpoints/{step:09d}.safetensors"


def _optimiser(step: int) -> str:
    return f"checkpoints/{step:09d}.optimiser.safetensors"


def _analysis(step: int, name: str) -> str:
    return f"analyses/{step:09d}.{name}.json"
