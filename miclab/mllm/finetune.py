"""LoRA fine-tuning on episodes, with head strengths, accuracy and CLA at a schedule; resumes after a kill.

A run is a folder: `metrics.jsonl`, one line an evaluation, and `checkpoint.safetensors`, the adapter with the
optimiser's state. Both are replaced as a whole, and a batch is a function of the seed and the step, so a run that was
killed goes on from its last evaluation as if it had not been.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from miclab import storage
from miclab.intervals import clustered_interval
from miclab.mllm.errors import ModelError, memory_guard
from miclab.mllm.heads import measure_heads
from miclab.mllm.layers import head_text
from miclab.mllm.loading import Production
from miclab.mllm.options import INDUCTION, PREVIOUS_TOKEN, FinetuneOptions
from miclab.mllm.results import REMEDY
from miclab.mllm.scoring import MEASURES, answers, batches, forward, joined
from miclab.mllm.task import Task
from miclab.seeds import stream, stream_seed

METRICS, CHECKPOINT, RUN = "metrics.jsonl", "checkpoint.safetensors", "run.json"
FOLLOWED = (PREVIOUS_TOKEN, "label_to_item", INDUCTION, "induction", "induction_total", "total_label_attention")
"""Measures whose heads are followed."""


class Finetuning:
    """One fine-tuning, in a folder.

    Arguments:
        production: the model; adapters are put into it.
        training: episodes to train on.
        held_out: episodes to evaluate on.
        folder: of the run; one that was killed is gone on with.
        options: how.
        evaluation_batch: episodes of an evaluation at a time.

    Raises:
        ModelError: the folder holds a run that was asked for otherwise.
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

        self.training, self.held_out, self.folder, self.options = training, held_out, folder, options
        self.evaluation_batch = evaluation_batch
        self.asked = asdict(options) | {
            "model": production.name, "training": training.name, "held_out": held_out.name, "shots": training.shots,
            "training_episodes": len(training.episodes), "held_out_episodes": len(held_out.episodes),
        }  # fmt: skip
        self._claim()
        torch.manual_seed(stream_seed(options.seed, "adapters"))
        # By identity: modules of a vision tower may end in the same names.
        own = {id(projection) for layer in production.layers for projection in layer.projections}
        targets = [name for name, module in production.model.named_modules() if id(module) in own]
        lora = LoraConfig(
            r=options.rank, lora_alpha=options.alpha, lora_dropout=options.dropout, target_modules=targets
        )
        with warnings.catch_warnings():
            # peft asks transformers for a property by a name that is going away.
            warnings.simplefilter("ignore", FutureWarning)
            model = get_peft_model(production.model, lora)
        self.production = Production(
            production.name, model, production.processor, production.layers, production.options
        )
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimiser = torch.optim.AdamW(self.trained.values(), lr=options.learning_rate)
        self.rows: list[dict[str, Any]] = []
        self.step = 0
        self._restore()

    def _claim(self) -> None:
        path = self.folder / RUN
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            storage.write_bytes(path, storage.sealed(self.asked))
            return
        before = storage.read_sealed(path, REMEDY)
        differ = [k for k, v in self.asked.items() if k != "steps" and before.get(k) != v]
        if differ:
            told = ", ".join(f"{k} ({before.get(k)!r}, now {self.asked[k]!r})" for k in differ)
            raise ModelError(f"{self.folder} holds a fine-tuning that differs in {told}. Give another --output.")

    def _restore(self) -> None:
        if not (self.folder / CHECKPOINT).exists():
            return
        tensors = storage.tensors_from((self.folder / CHECKPOINT).read_bytes())
        self.step = int(tensors["step"])
        for number, (name, parameter) in enumerate(self.trained.items()):
            parameter.data.copy_(tensors[f"adapter/{name}"])
            if self.step:
                self.optimiser.state[parameter] = {
                    key: tensors[f"optimiser/{number}/{key}"].to("cpu" if key == "step" else parameter.device)
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }
        lines = (self.folder / METRICS).read_text(encoding="utf-8").splitlines()
        self.rows = [row for row in map(json.loads, lines) if row["step"] <= self.step]

    def _save(self) -> None:
        tensors = {"step": torch.tensor(self.step)}
        for number, (name, parameter) in enumerate(self.trained.items()):
            tensors[f"adapter/{name}"] = parameter.data.cpu().contiguous()
            for key, value in self.optimiser.state.get(parameter, {}).items():
                tensors[f"optimiser/{number}/{key}"] = torch.as_tensor(value).cpu().contiguous()
        # Rows first: a row without its checkpoint is dropped on resume, a checkpoint without its row would be lost.
        lines = b"".join(storage.json_bytes(row).strip() + b"\n" for row in self.rows)
        storage.write_bytes(self.folder / METRICS, lines)
        storage.write_bytes(self.folder / CHECKPOINT, storage.tensor_bytes(tensors))

    def evaluate(self) -> dict[str, Any]:
        """Strengths of the followed heads, and answers, on the held-out episodes."""
        self.production.model.eval()
        table = measure_heads(self.production, self.held_out, self.evaluation_batch)
        parts = [
            answers(self.production, episodes, encoded)
            for episodes, encoded in batches(self.production.prompter(self.held_out), self.evaluation_batch)
        ]
        named = joined(parts).named()
        row: dict[str, Any] = {"step": self.step}
        row |= {name: clustered_interval([named[name][None]]).as_json() for name in MEASURES}
        strengths: dict[str, Any] = {}
        for measure in table.measures:
            plain = measure.split(".")[0]
            if plain not in FOLLOWED:
                continue
            means = dict(zip(table.heads, table.mean(measure).tolist(), strict=True))
            first = self.rows[0]["strengths"][plain]["top_heads"] if self.rows else None
            ranked = [head_text(head) for head in table.ranked(measure)[: self.options.top]]
            by_text = {head_text(head): value for head, value in means.items()}
            top = first or ranked
            strengths[plain] = {
                "top_heads": top,
                "top_mean": sum(by_text[head] for head in top) / len(top),
                "highest": max(means.values()),
                "highest_head": ranked[0],
                "mean": sum(means.values()) / len(means),
            }
        return row | {"strengths": strengths}

    def _loss(self, step: int) -> torch.Tensor:
        """Cross-entropy of the answers' tokens over a batch that is a function of the seed and the step."""
        episodes = self.training.episodes
        chosen = torch.randint(
            len(episodes), (self.options.train_batch,), generator=stream(self.options.seed, "batch", step)
        )
        some = [episodes[i] for i in chosen.tolist()]
        encoded = self.production.prompter(self.training).encode([(e, e.answer) for e in some])
        model = self.production.model
        needed = sorted({place - 1 for reading in encoded.readings for place in reading.answer_positions})
        logits = forward(model, encoded.to(model), torch.tensor(needed, device=model.device)).float()
        losses = []
        for row, reading in enumerate(encoded.readings):
            places = list(reading.answer_positions)
            own = logits[row, [needed.index(place - 1) for place in places]]
            losses.append(F.cross_entropy(own, encoded.inputs["input_ids"][row, places].to(own.device)))
        return torch.stack(losses).mean()

    def run(self, tell: Callable[[int, str], None] | None = None) -> list[dict[str, Any]]:
        """Trains to the last step; returns the rows of the evaluations.

        Raises:
            OutOfMemoryError: it does not fit; what was done up to the last evaluation is kept.
            ModelError: the loss is no number.
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
                raise ModelError(
                    f"The loss is {loss.item()} at step {step}. Lower --learning-rate, or use --dtype float32."
                )
            self.optimiser.step()
            self.optimiser.zero_grad()
            self.step, total, since = step + 1, total + loss.item(), since + 1
            if self.step % options.every == 0 or self.step == options.steps:
                self.rows.append(self.evaluate() | {"loss": total / since})
                total, since = 0.0, 0
                self._save()
            if tell:
                tell(self.step, f"accuracy {self.rows[-1]['correct']['mean']:.2f}")
        model.eval()
        return self.rows
