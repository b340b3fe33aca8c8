"""All measures of heads on many sequences against a plain loop over sequences, in alternation, one thread.

python -m benchmarks.measures             half a minute on an idle core
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from dataclasses import dataclass

import torch

from benchmarks import program
from benchmarks.program import FailedError, Line, Lines
from miclab.config.parts import OptimiserConfig
from miclab.config.run import RunConfig, two_modalities
from miclab.measures.attention import strengths
from miclab.model.decoder import Decoder
from miclab.worlds.sequences import Batch, training_batch
from miclab.worlds.world import draw_world


def looped(attention: torch.Tensor, batch: Batch) -> dict[str, list[float]]:
    """The same measures, one sequence and one position after the other, as a script would write them."""
    roles, found = batch.roles, {}
    kinds, exemplars = roles.kind.tolist(), roles.exemplar.tolist()
    length = len(kinds)
    label_at = {e: i for i, (k, e) in enumerate(zip(kinds, exemplars, strict=True)) if k == -1}
    for s in range(len(batch)):
        a = attention[s, 0]
        target, labels = int(batch.target[s]), batch.labels[s].tolist()
        row: dict[str, float] = {}
        for offset in (1, 2):
            row[f"previous_token_{offset}"] = sum(float(a[i, i - offset]) for i in range(offset, length)) / (
                length - offset
            )
        right = [float(a[-1, label_at[e]]) for e in range(len(labels)) if labels[e] == target]
        wrong = [float(a[-1, label_at[e]]) for e in range(len(labels)) if labels[e] != target]
        mean_right = sum(right) / max(1, len(right))
        row["induction"] = mean_right - sum(wrong) / max(1, len(wrong))
        row["induction_total"] = sum(right) - sum(wrong)
        places = {label_at[e] for e in range(len(labels)) if labels[e] == target}
        others = [float(a[-1, i]) for i in range(length) if i not in places]
        row["induction_all_positions"] = mean_right - sum(others) / len(others)
        row["target_label_attention"] = mean_right
        row["total_label_attention"] = sum(right) + sum(wrong)
        for kind, name in enumerate(roles.modalities):
            item_at = {e: i for i, (k, e) in enumerate(zip(kinds, exemplars, strict=True)) if k == kind}
            row[f"label_to_item.{name}"] = sum(float(a[label_at[e], item_at[e]]) for e in label_at) / len(label_at)
            mine = [float(a[-1, item_at[e]]) for e in range(len(labels)) if labels[e] == target]
            row[f"target_item_attention.{name}"] = sum(mine) / max(1, len(mine))
        row["entropy"] = -sum(float(p) * math.log(max(float(p), 1e-30)) for p in a[-1]) / math.log(length)
        spread = []
        for i in label_at.values():
            spread.append(-sum(float(p) * math.log(max(float(p), 1e-30)) for p in a[i, : i + 1]) / math.log(i + 1))
        row["label_row_entropy"] = sum(spread) / len(spread)
        for name, value in row.items():
            found.setdefault(name, []).append(value)
    return found


@dataclass(frozen=True, kw_only=True)
class Options(program.Options):
    """Sizes of the benchmark."""

    sequences: int = 1000
    """Sequences that are measured."""
    rounds: int = 5
    """Times that each way is timed, in turn."""


@torch.no_grad()
def measure(options: Options) -> Lines:
    """Both times and their ratio; fails if they do not give the same numbers."""
    torch.set_num_threads(1)
    config = RunConfig(modalities=two_modalities(), optimiser=OptimiserConfig(batch_size=options.sequences))
    batch = training_batch(config, draw_world(config), 0)
    decoder = Decoder(config)
    trace = decoder.trace(decoder.initial_parameters(0), batch, capture=("blocks.1.attention.pattern",))
    attention = trace.activations["blocks.1.attention.pattern"]
    times: dict[str, list[float]] = {"vectorised": [], "loop": []}
    fast, slow = {}, {}
    for _ in range(options.rounds):
        start = time.process_time()
        fast = strengths(attention, batch.roles, batch.labels, batch.target)
        times["vectorised"].append(time.process_time() - start)
        start = time.process_time()
        slow = looped(attention, batch)
        times["loop"].append(time.process_time() - start)
    if set(fast) != set(slow):
        raise FailedError(f"Only one of both ways has {', '.join(sorted(set(fast) ^ set(slow)))}.")
    worst = max(float((fast[n][:, 0] - torch.tensor(slow[n])).abs().max()) for n in fast)
    quick, plain = (statistics.median(times[n]) * 1e3 for n in ("vectorised", "loop"))
    yield Line(
        f"{len(fast)} measures on {options.sequences:,} sequences of {config.sequence_length} positions, one layer, one"
        f" head:\nvectorised {quick:.2f} ms of the processor, plain loop {plain:.0f} ms, ratio {plain / quick:.0f}"
        f" (aim: at least 100); largest difference {worst:.1e}",
        {"measures": len(fast), "sequences": options.sequences, "vectorised, ms": quick, "plain loop, ms": plain,
         "largest difference": worst},
    )  # fmt: skip


main = program.program("measures", Options, measure, __doc__)

if __name__ == "__main__":
    sys.exit(main(None))
