"""A decoder as an ONNX graph, which runs without Python; PyTorch writes it by means of `onnx` and `onnxscript`."""

from __future__ import annotations

import importlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from miclab.errors import MiclabError, RunError
from miclab.interop.exported.decoder import Decoder

PACKAGES = ("onnx", "onnxscript")
CLOSE = 1e-4
"""Allowed difference in float32 of a pattern, and of logits relative to the largest, between the graph and PyTorch."""


class Answers(nn.Module):
    """The exported decoder as a function of tensors alone.

    Arguments:
        decoder: the exported module.
        items: names of its modalities.
    """

    def __init__(self, decoder: Decoder, items: tuple[str, ...], layers: int):
        super().__init__()
        self.decoder, self.items = decoder, items
        self.points = [f"blocks.{layer}.attn.hook_pattern" for layer in range(layers)]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Items of each modality, labels and placement in; logits, and the pattern of each layer, out."""
        *items, labels, placement = inputs
        logits, kept = self.decoder.activations(
            self.points, dict(zip(self.items, items, strict=True)), labels, placement
        )
        return logits, *(kept[point] for point in self.points)


def check_packages() -> None:
    """Raises MiclabError if a package is missing that writes ONNX."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MiclabError(
            f"--to onnx needs packages that are missing here: {', '.join(missing)}. Install them with"
            " `pip install '.[onnx]'`, or give --to torch."
        )


def input_names(network: Mapping[str, Any]) -> list[str]:
    """Inputs of the graph, in its order; tensors of the example have the same names."""
    return [*(f"items.{one['name']}" for one in network["items"]), "labels", "placement"]


def output_names(network: Mapping[str, Any]) -> list[str]:
    """Outputs of the graph, in its order; tensors of the example have the same names."""
    return ["logits", *(f"pattern.{layer}" for layer in range(network["layers"]))]


def graph_bytes(network: Mapping[str, Any], tensors: Mapping[str, Tensor], example: Mapping[str, Tensor]) -> bytes:
    """The graph with its weights. The number of sequences is free, that of examples is the example's.

    Arguments:
        network: configuration of the exported module.
        tensors: its weights.
        example: inputs by `input_names`, and what the decoder gives on them by `output_names`.

    Raises:
        MiclabError: a package is missing.
        RunError: PyTorch cannot write this decoder, or ONNX's reference gives other numbers on the example.
    """
    check_packages()
    module = Decoder(dict(network))
    module.load_state_dict(dict(tensors))
    names = input_names(network)
    answers = Answers(module, tuple(one["name"] for one in network["items"]), network["layers"]).eval()
    # Contiguous copies: an example's tensors may be views of a larger batch.
    inputs = tuple(example[name].contiguous() for name in names)
    log = logging.getLogger("torch.onnx")
    level, written = log.level, io.BytesIO()
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            free = torch.export.Dim("sequences")
            # One entry for the one argument `inputs`, a tuple of tensors whose first axis is free.
            program: Any = torch.onnx.export(
                answers, inputs, dynamo=True, dynamic_shapes=(tuple({0: free} for _ in names),), input_names=names,
                output_names=output_names(network), verbose=False,
            )  # fmt: skip
            program.save(written)
    # PyTorch's exporter raises errors of many kinds, for whatever it cannot translate.
    except Exception as error:
        raise RunError(
            f"--to onnx: PyTorch cannot write this decoder as ONNX ({_cause(error)}). Give --to torch."
        ) from error
    finally:
        log.setLevel(level)
    content = written.getvalue()
    check_graph(content, network, example)
    return content


def _cause(error: BaseException) -> str:
    """The first line of what an error comes from. The exporter's own text is a page with colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def check_graph(content: bytes, network: Mapping[str, Any], example: Mapping[str, Tensor]) -> None:
    """Raises RunError unless ONNX's reference implementation gives the example's logits and patterns, on all of its
    sequences and on fewer."""
    onnx: Any = importlib.import_module("onnx")
    reference: Any = importlib.import_module("onnx.reference")
    session = reference.ReferenceEvaluator(onnx.load_from_string(content))
    for count in (len(example["labels"]), 3):
        found = session.run(None, {name: example[name][:count].numpy() for name in input_names(network)})
        for name, value in zip(output_names(network), found, strict=True):
            wanted = example[name][:count]
            difference = float((torch.as_tensor(value) - wanted).abs().max()) / max(1.0, float(wanted.abs().max()))
            # NaN compares as no difference.
            if not difference <= CLOSE:
                raise RunError(
                    f"--to onnx: nothing is written, since `{name}` of the graph differs by {difference:.1e}."
                )
