"""What an encoder's features are worth on held-out classes: the exemplar nearest to the query, two classes of four.

    python scripts/encoder_ceiling.py concepts.pictures --encoder mlp --features 64 --steps 300 --noise 0.5

The encoder is pretrained as `miclab train encoder` does (another order of exemplars). `items` is the same on the items
themselves, without an encoder. 2,000 episodes, so that a figure is good to about 0.01.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from miclab.config.parts import ModalityConfig
from miclab.data import DataSet
from miclab.model.classifier import SHARPNESS
from miclab.model.encoders import encode, initial_encoder
from miclab.worlds.exemplars import exemplars_of, shifted

EPISODES, COPIES, SEED = 2000, 4, 1000
"""Episodes, exemplars of each of the two classes, and a seed that no study uses."""


def accuracy(features: Tensor, data: DataSet, classes: Sequence[int]) -> float:
    """Share of episodes in which the nearest of 2 x 4 exemplars is of the query's class."""
    generator = torch.Generator().manual_seed(SEED)
    members = {c: (data.class_of == c).nonzero()[:, 0] for c in classes}
    queries, contexts = [], []
    for _ in range(EPISODES):
        requested, other = (classes[i] for i in torch.randperm(len(classes), generator=generator)[:2].tolist())
        mine, theirs = (members[c][torch.randperm(len(members[c]), generator=generator)] for c in (requested, other))
        queries.append(mine[0])
        contexts.append(torch.cat([(mine[1:].repeat(COPIES))[:COPIES], theirs.repeat(COPIES)[:COPIES]]))
    found = torch.einsum("ed,ekd->ek", features[torch.stack(queries)], features[torch.stack(contexts)]).argmax(1)
    return float((found < COPIES).float().mean())


def main() -> None:
    """Trains and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("--encoder", default="mlp")
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--shift", type=int, default=0)
    parser.add_argument("--noise", type=float, default=0.0)
    options = parser.parse_args()
    known = exemplars_of(options.source)
    data, items = known.data, known.vectors(torch.arange(len(known.data.items)))
    shape = tuple(data.item_shape) if len(data.item_shape) == 3 else ()
    modality = ModalityConfig(
        source=options.source, shape=shape, dimension=math.prod(data.item_shape), encoder=options.encoder,
        features=options.features,
    )  # fmt: skip
    training, rows = data.classes("training"), data.indices("training")
    novel = data.held_out_classes.nonzero()[:, 0].tolist()
    place = torch.zeros(len(data.class_names), dtype=torch.long)
    place[training] = torch.arange(len(training))
    parameters = {n: w.requires_grad_() for n, w in initial_encoder(modality, "m", SEED).items()}
    head = torch.randn(options.features, len(training), requires_grad=True)
    optimiser = torch.optim.Adam([*parameters.values(), head], 1e-3)
    generator, since = torch.Generator().manual_seed(SEED), time.process_time()
    print(f"items: {accuracy(F.normalize(items, dim=-1), data, novel):.3f}")
    for step in range(options.steps + 1):
        if step in (0, options.steps // 4, options.steps // 2, options.steps):
            with torch.no_grad():
                features = torch.cat([encode(modality, parameters, "m", part) for part in items.split(512)])
            cost = time.process_time() - since
            print(f"step {step}: {accuracy(features, data, novel):.3f} ({cost:.0f} s of one core)", flush=True)
        chosen = rows[torch.randint(len(rows), (options.batch,), generator=generator)]
        batch = items[chosen]
        if options.shift:
            batch = shifted(batch.unflatten(-1, shape), options.shift, generator).flatten(1)
        batch = batch + options.noise * torch.randn(batch.shape, generator=generator) / batch.shape[1] ** 0.5
        logits = SHARPNESS * encode(modality, parameters, "m", batch) @ F.normalize(head, dim=0)
        loss = F.cross_entropy(logits, place[data.class_of[chosen]])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


if __name__ == "__main__":
    main()
