"""The README of an exported folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from miclab import __version__
from miclab.runs.run import Run

EXAMPLE = """example = load_file("example.safetensors")
items = {name[6:]: value for name, value in example.items() if name.startswith("items.")}
inputs = items, example["labels"], example["placement"]"""
LOADS = {
    "torch": f"""import sys

from safetensors.torch import load_file

sys.path.insert(0, ".")
from decoder import Decoder

model = Decoder.load(".")
{EXAMPLE}
logits, kept = model.activations(["blocks.0.attn.hook_pattern"], *inputs)
print((logits - example["logits"]).abs().max())""",
    "transformer-lens": f"""import sys

from safetensors.torch import load_file

sys.path.insert(0, ".")
from hooked import HookedDecoder

model = HookedDecoder.load(".")
{EXAMPLE}
logits, cache = model.run_with_cache(*inputs)
print((cache["blocks.0.attn.hook_pattern"] - example["pattern.0"]).abs().max())""",
    "huggingface": f"""from safetensors.torch import load_file
from transformers import AutoModel

model = AutoModel.from_pretrained(".", trust_remote_code=True)
{EXAMPLE}
found = model(*inputs, output_attentions=True)
print((found.logits - example["logits"]).abs().max())""",
    "onnx": """import onnxruntime
from safetensors.numpy import load_file

session = onnxruntime.InferenceSession("decoder.onnx", providers=["CPUExecutionProvider"])
example = load_file("example.safetensors")
inputs = {one.name: example[one.name] for one in session.get_inputs()}
logits, *patterns = session.run(None, inputs)
print(abs(logits - example["logits"]).max(), abs(patterns[0] - example["pattern.0"]).max())""",
}
"""Lines that load the folder, run in it."""
NEEDS = {
    "torch": "`torch` and `safetensors`",
    "transformer-lens": "`transformer-lens` 4, `torch` and `safetensors`",
    "huggingface": "`transformers`, `torch` and `safetensors`; `trust_remote_code` runs the Python files here",
    "onnx": "`onnxruntime`, or another runtime of ONNX, and `safetensors` for the example",
}


ACTIVATIONS = """Other numbers of examples are possible, as far as the position code allows.

## Activations

`decoder.py` names them as TransformerLens does; `model.named_modules()` lists all.

| name | axes |
|---|---|
| `hook_items.I` | items of the modality number I, after its projector [sequence, example, item width] |
| `hook_embed`, `hook_pos_embed` | tokens, and what an additive position code adds [sequence, position, width] |
| `blocks.L.hook_resid_pre`, `hook_resid_mid`, `hook_resid_post` | residual stream [sequence, position, width] |
| `blocks.L.attn.hook_q`, `hook_k`, `hook_v`, `hook_z` | [sequence, position, head, dimension] |
| `blocks.L.attn.hook_rot_q`, `hook_rot_k` | the same, rotated |
| `blocks.L.attn.hook_attn_scores`, `hook_pattern` | [sequence, head, query, key] |
| `blocks.L.mlp.hook_pre`, `hook_post`, `blocks.L.hook_attn_out`, `hook_mlp_out` | [sequence, position, ...] |

Weights: `W_Q`, `W_K`, `W_V` [head, width, dimension], `W_O` [head, dimension, width], used as `x @ W`.
Without `W_O` the heads are put beside each other.
"""
GRAPH = """The graph has this number of examples alone; the number of sequences is free. It also gives
`pattern.L`, the pattern of layer L [sequence, head, query, key]. It holds float32.
"""
"""What holds for a folder of PyTorch, and for a graph."""


def text(target: str, run: Run, step: int, network: Mapping[str, Any]) -> str:
    """The README.

    Arguments:
        step: training step of the checkpoint.
        network: the exported configuration.
    """
    count, labels = network["context"], network["labels"]
    graph = target == "onnx"
    named = "items.{}" if graph else "items[{!r}]"
    items = "\n".join(
        f"- `{named.format(one['name'])}`: [sequence, {count + 1}, {one['dimension']}]; the last is the query's."
        for one in network["items"]
    )
    placement = "0 to below 1." if graph else "0 to below 1; or None."
    return f"""# A decoder trained by miclab

Run {run.path.name} at step {step:,}, written by miclab {__version__}. Trajectory hash: {run.hash}.

It needs {NEEDS[target]}. Run in this folder:

```python
{LOADS[target]}
```

## Inputs

{items}
- `labels`: labels of the context, [sequence, {count}], whole numbers below {labels}.
- `placement`: start of a sequence in the slots of an absolute position code, {placement}

The answer, `logits`, is [sequence, {labels}]. {GRAPH if graph else ACTIVATIONS}"""
