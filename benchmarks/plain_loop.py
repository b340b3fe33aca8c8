"""Training as a script with PyTorch alone does it: what the step of miclab is set beside.

It has the decoder and the sequences of miclab. It computes every position of every layer, calls `loss.backward()` and
`torch.optim.AdamW`, and is never compiled.
"""

from __future__ import annotations

import torch

from miclab.config.run import RunConfig
from miclab.model.decoder import Decoder
from miclab.worlds.sequences import training_batch
from miclab.worlds.world import draw_world


class PlainLoop:
    """Training as a script with PyTorch alone does it."""

    def __init__(self, config: RunConfig):
        self.config, self.world, self.decoder = config, draw_world(config), Decoder(config)
        start = self.decoder.initial_parameters(config.weights_seed)
        self.parameters = {name: value.clone().requires_grad_() for name, value in start.items()}
        own = config.optimiser
        self.optimiser = torch.optim.AdamW(
            self.parameters.values(), lr=1e-3, betas=(own.beta1, own.beta2), weight_decay=own.weight_decay
        )

    def step(self, steps: int) -> float:
        """Trains; returns the loss before the last update."""
        loss = torch.zeros(())
        for number in range(steps):
            batch = training_batch(self.config, self.world, number)
            loss = torch.nn.functional.cross_entropy(self.decoder.trace(self.parameters, batch).logits, batch.target)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
        return float(loss.detach())
