"""All measures on 1,000 sequences against a plain loop over sequences, in alternation, one thread."""

from __future__ import annotations

import math
import statistics
import time

import torch

from miclab.config.parts import OptimiserConfig
from miclab.config.run import RunConfig, two_modalities
from miclab.measures.attention import strengths
from miclab.model.decoder import Decoder
from miclab.worlds.sequences import Batch, training_batch
from miclab.worlds.world import draw_world

SEQUENCES, ROUNDS = 1000, 5


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


@torch.no_grad()
def main() -> None:
    """Prints both times and their ratio, and checks that both give the same numbers."""
    torch.set_num_threads(1)
    config = RunConfig(modalities=two_modalities(), optimiser=OptimiserConfig(batch_size=SEQUENCES))
    batch = training_batch(config, draw_world(config), 0)
    decoder = Decoder(config)
    trace = decoder.trace(decoder.initial_parameters(0), batch, capture=("blocks.1.attention.pattern",))
    attention = trace.activations["blocks.1.attention.pattern"]
    times: dict[str, list[float]] = {"vectorised": [], "loop": []}
    fast, slow = {}, {}
    for _ in range(ROUNDS):
        start = time.perf_counter()
        fast = strengths(attention, batch.roles, batch.labels, batch.target)
        times["vectorised"].append(time.perf_counter() - start)
        start = time.perf_counter()
        slow = looped(attention, batch)
        times["loop"].append(time.perf_counter() - start)
    assert set(fast) == set(slow), set(fast) ^ set(slow)
    worst = max(float((fast[n][:, 0] - torch.tensor(slow[n])).abs().max()) for n in fast)
    quick, plain = (statistics.median(times[n]) * 1e3 for n in ("vectorised", "loop"))
    print(f"{len(fast)} measures on {SEQUENCES} sequences of {config.sequence_length} positions, one layer, one head:")
    print(f"vectorised {quick:.2f} ms, plain loop {plain:.0f} ms, ratio {plain / quick:.0f} (aim: at least 100); "
          f"largest difference {worst:.1e}")  # fmt: skip


if __name__ == "__main__":
    main()
