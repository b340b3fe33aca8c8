"""LoRA fine-tuning on episodes, with head strengths, accuracy and CLA at a schedule; resumes after a kill.

A run is a folder. `metrics.jsonl` has one line per evaluation. `checkpoint-STEP.safetensors` holds the adapter and the
optimiser's state. `run.json`, which is written last, holds the options and the checksums of both. `adapter` is the
adapter as PEFT writes it, and is a MODEL for all commands. A batch is a function of seed and step. So a run that was
killed resumes from its last evaluation with the same results.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from miclab import storage
from miclab.circuits.find import head_name
from miclab.errors import DamagedError
from miclab.mllm.adapters import save_adapter
from miclab.mllm.batches import batches, in_order, lost_text
from miclab.mllm.errors import DivergedError, ModelError, TaskError, memory_guard
from miclab.mllm.heads import measure_heads
from miclab.mllm.loading import Production
from miclab.mllm.options import INDUCTION, PREVIOUS_TOKEN, FinetuneOptions
from miclab.mllm.passes import Passes, forward
from miclab.mllm.results import ADDED, differences
from miclab.mllm.scoring import Answers, OnProgress, answers, joined
from miclab.mllm.task import Task
from miclab.seeds import stream, stream_seed
from miclab.statistics.intervals import episode_interval

METRICS, CHECKPOINT, RUN, ADAPTER = "metrics.jsonl", "checkpoint-{:06d}.safetensors", "run.json", "adapter"
REMEDY = "This fine-tuning cannot be resumed. Give another --output, or delete the folder of the run."
FOLLOWED = (PREVIOUS_TOKEN, "label_to_item", INDUCTION, "induction", "induction_total", "total_label_attention")
"""Measures whose top heads are followed."""


class Finetuning:
    """One fine-tuning, in a folder.

    Arguments:
        production: the model; adapters are put into it.
        training: episodes to train on.
        held_out: episodes to evaluate on.
        folder: of the run; a run that was killed is resumed.
        options: how.
        evaluation_batch: episodes of an evaluation at a time.

    Raises:
        ModelError: the folder holds a run with other options, or the model has an adapter already.
        DamagedError: a file of the run is missing or was changed.
    """

    def __init__(
        self,
        production: Production,
        training: Task,
        held_out: Task,
        folder: Path,
        options: FinetuneOptions,
        evaluation_batch: int = 1,
    ):
        from peft import LoraConfig, get_peft_model

        if hasattr(production.model, "peft_config"):
            raise ModelError(f"{production.name} is an adapter already. Merge it into its base with PEFT "
                             "(merge_and_unload), and fine-tune that.")  # fmt: skip
        self.training, self.held_out, self.folder, self.options = training, held_out, folder, options
        self.evaluation_batch = evaluation_batch
        self.requested = self._requested(production)
        saved = self._saved()
        self.lost: dict[str, str] = {}
        """Why an episode cannot be read, by its name. Such episodes are neither trained on nor evaluated."""
        self.training, self.held_out = (self._readable(production, task) for task in (training, held_out))
        torch.manual_seed(stream_seed(options.seed, "adapters"))
        # Compared by identity, since modules of a vision tower may end in the same names.
        own = {id(projection): projection for layer in production.layers for projection in layer.projections}
        targets = [name for name, module in production.model.named_modules() if id(module) in own]
        lora = LoraConfig(
            r=options.rank, lora_alpha=options.alpha, lora_dropout=options.dropout, target_modules=targets,
            # GPT-2's weights are [in, out].
            fan_in_fan_out=any(hasattr(projection, "nf") for projection in own.values()),
        )  # fmt: skip
        with warnings.catch_warnings():
            # peft reads a property of transformers by a deprecated name.
            warnings.simplefilter("ignore", FutureWarning)
            model = get_peft_model(production.model, lora)
        self.production = replace(production, model=model)
        self.prompter = self.production.prompter(self.training)
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimiser = torch.optim.AdamW(self.trained.values(), lr=options.learning_rate)
        self.rows: list[dict[str, Any]] = []
        self.step = 0
        if saved:
            self._restore(saved)

    def _readable(self, production: Production, task: Task) -> Task:
        """The task without episodes that cannot be read.

        Raises:
            TaskError: none is left.
        """
        found = [e for some, _ in batches(production.prompter(task), 1, self.lost, every=False) for e in some]
        if not found:
            raise TaskError(lost_text(self.lost, len(task.episodes)))
        return replace(task, episodes=tuple(found))

    def _requested(self, production: Production) -> dict[str, Any]:
        """Everything that determines the run, as stored on disk."""
        how, parts = asdict(production.options), {"training": self.training, "held_out": self.held_out}
        for name in ("offline", *(name for name, usual in ADDED.items() if how.get(name) == usual)):
            how.pop(name, None)
        form = production.prompter(self.training).form
        if form == "turns":
            # Earlier versions wrote a chat as one turn, under the same option.
            how["form"] = form
        requested = asdict(self.options) | how | {
            "device": production.options.torch_device, "model": production.name, "shots": self.training.shots,
            "view": self.training.view, "evaluation_batch": self.evaluation_batch, **asdict(self.training.style),
            **{name: part.name for name, part in parts.items()},
            **{f"{name}_episodes": len(part.episodes) for name, part in parts.items()},
            **{f"{name}_sha256": storage.digest("".join(part.digests).encode()) for name, part in parts.items()},
        }  # fmt: skip
        return json.loads(storage.json_bytes(requested))

    def _saved(self) -> dict[str, Any]:
        """Step, number of rows and checksums of the run in the folder; empty if there is none."""
        path = self.folder / RUN
        if not path.exists():
            return {}
        before = storage.read_sealed(path, REMEDY)
        differ = differences(before.get("asked", before), self.requested, {"steps"})
        if differ:
            raise ModelError(
                f"{self.folder} holds a fine-tuning that differs in {differ}. Give another --output, or delete the "
                "folder."
            )
        return before["saved"]

    def _restore(self, saved: dict[str, Any]) -> None:
        path = self.folder / METRICS
        # A crash may have left a row more than was saved.
        lines = path.read_bytes().splitlines(keepends=True)[: saved["rows"]] if path.exists() else []
        if storage.digest(b"".join(lines)) != saved["metrics_sha256"]:
            raise DamagedError(path, REMEDY)
        self.rows, self.step = list(map(json.loads, lines)), saved["step"]
        checkpoint = self.folder / CHECKPOINT.format(self.step)
        tensors = storage.tensors_from(storage.read_checked(checkpoint, saved["checkpoint_sha256"], REMEDY), checkpoint)
        for number, (name, parameter) in enumerate(self.trained.items()):
            parameter.data.copy_(tensors[f"adapter/{name}"])
            if self.step:
                self.optimiser.state[parameter] = {
                    key: tensors[f"optimiser/{number}/{key}"].to("cpu" if key == "step" else parameter.device)
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }

    def _save(self) -> None:
        tensors = {}
        for number, (name, parameter) in enumerate(self.trained.items()):
            tensors[f"adapter/{name}"] = parameter.data.cpu().contiguous()
            for key, value in self.optimiser.state.get(parameter, {}).items():
                tensors[f"optimiser/{number}/{key}"] = torch.as_tensor(value).cpu().contiguous()
        lines, now = b"".join(map(storage.json_bytes, self.rows)), self.folder / CHECKPOINT.format(self.step)
        saved = {
            "step": self.step,
            "rows": len(self.rows),
            "metrics_sha256": storage.write_bytes(self.folder / METRICS, lines),
            "checkpoint_sha256": storage.write_bytes(now, storage.tensor_bytes(tensors)),
        }
        save_adapter(self.production.model, self.folder / ADAPTER)
        # Written last, so that it never names a missing file.
        storage.write_bytes(self.folder / RUN, storage.sealed({"asked": self.requested, "saved": saved}))
        for old in self.folder.glob(CHECKPOINT.replace("{:06d}", "*")):
            if old != now:
                old.unlink()

    def evaluate(self) -> dict[str, Any]:
        """Strengths of the followed heads, and answers, on the held-out episodes."""
        self.production.model.eval()
        table = measure_heads(self.production, self.held_out, self.evaluation_batch).whole()
        if table.lost:
            raise TaskError(f"Pictures have changed since the fine-tuning began: {table.why_partial}")
        passes = Passes(self.production)
        parts: list[Answers] = []
        names: list[str] = []
        for episodes, encoded in batches(self.production.prompter(self.held_out), self.evaluation_batch):
            parts.append(answers(self.production, episodes, encoded, None, passes))
            names += [episode.name for episode in episodes]
        named = joined(parts).of(in_order(names, self.held_out)).named()
        if not np.isfinite(named["log_probability"]).all():
            raise self._diverged("An answer's log-probability", self.step)
        row: dict[str, Any] = {"step": self.step}
        row |= {name: episode_interval(of).as_json() for name, of in named.items()}
        strengths: dict[str, Any] = {}
        for measure in table.measures:
            plain = measure.split(".")[0]
            if plain not in FOLLOWED:
                continue
            means = dict(zip(table.heads, table.mean(measure).tolist(), strict=True))
            first = self.rows[0]["strengths"][plain]["top_heads"] if self.rows else None
            ranked = [head_name(head) for head in table.ranked(measure)[: self.options.top]]
            by_text = {head_name(head): value for head, value in means.items()}
            top = first or ranked
            strengths[plain] = {
                "top_heads": top,
                "top_mean": sum(by_text[head] for head in top) / len(top),
                "highest": max(means.values()),
                "highest_head": ranked[0],
                "mean": sum(means.values()) / len(means),
            }
        return row | {"strengths": strengths}

    def _diverged(self, what: str, step: int) -> DivergedError:
        return DivergedError(f"{what} is no finite number at step {step}. Lower --learning-rate, or use float32.")

    def _loss(self, step: int) -> torch.Tensor:
        """Cross-entropy of the answers' tokens over a batch that is a function of the seed and the step."""
        episodes = self.training.episodes
        chosen = torch.randint(
            len(episodes), (self.options.train_batch,), generator=stream(self.options.seed, "batch", step)
        )
        some = [episodes[i] for i in chosen.tolist()]
        encoded = self.prompter.encode([(e, e.answer) for e in some])
        model = self.production.model
        needed = sorted({place - 1 for reading in encoded.readings for place in reading.answer_positions})
        logits = forward(model, encoded.to(model), torch.tensor(needed)).float()
        losses = []
        for row, reading in enumerate(encoded.readings):
            places = list(reading.answer_positions)
            own = logits[row, [needed.index(place - 1) for place in places]]
            losses.append(F.cross_entropy(own, encoded.inputs["input_ids"][row, places].to(own.device)))
        return torch.stack(losses).mean()

    def run(self, on_progress: OnProgress | None = None) -> list[dict[str, Any]]:
        """Trains to the last step; returns the rows of the evaluations.

        Raises:
            OutOfMemoryError: it does not fit; results up to the last evaluation are kept.
            TaskError: not every held-out episode can be read.
            DivergedError: the loss, or an evaluated number, is not finite.
        """
        options, model = self.options, self.production.model
        if not self.rows:
            self.rows.append(self.evaluate())
            self._save()
        total, since = 0.0, 0
        for step in range(self.step, options.steps):
            model.train()
            torch.manual_seed(stream_seed(options.seed, "dropout", step))
            with memory_guard(f"training step {step}"):
                loss = self._loss(step)
                loss.backward()
            if not torch.isfinite(loss):
                raise self._diverged("The loss", step)
            self.optimiser.step()
            self.optimiser.zero_grad()
            self.step, total, since = step + 1, total + loss.item(), since + 1
            if self.step % options.every == 0 or self.step == options.steps:
                self.rows.append(self.evaluate() | {"loss": total / since})
                total, since = 0.0, 0
                self._save()
            if on_progress:
                on_progress(self.step, f"accuracy {self.rows[-1]['correct']['mean']:.2f}")
        model.eval()
        return self.rows
