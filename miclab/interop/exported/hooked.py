"""The decoder of `decoder.py` for TransformerLens 4: `run_with_cache`, `run_with_hooks` and the rest of
`HookedRootModule`.

    from hooked import HookedDecoder
    model = HookedDecoder.load("FOLDER")
    logits, cache = model.run_with_cache(items, labels)            # cache["blocks.0.attn.hook_pattern"]
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformer_lens import HookedRootModule  # type: ignore[import-not-found]
from transformer_lens.hook_points import HookPoint  # type: ignore[import-not-found]

from miclab.interop.exported.decoder import Decoder


class HookedDecoder(Decoder, HookedRootModule):
    """The decoder, whose activations pass through hook points of TransformerLens.

    Arguments:
        config: what `config.json` holds.
    """

    def __init__(self, config: dict[str, Any]):
        super().__init__(config)
        for module in list(self.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Identity):
                    module._modules[name] = HookPoint()
        self.setup()
