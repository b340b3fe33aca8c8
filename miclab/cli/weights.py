"""`miclab weights`."""

from __future__ import annotations

from dataclasses import dataclass

from miclab.cli.options import File, RunName, SizedOptions, output_file
from miclab.cli.progress import announce, forward
from miclab.cli.terminal import parse, print_result, refuse_ignored
from miclab.errors import ConfigError, MiclabError
from miclab.runs.find import find


@dataclass(frozen=True, kw_only=True)
class WeightsOptions(SizedOptions):
    """What the weights of heads say, beside random weights. A head copies if the eigenvalues of OV between labels and
    logits are positive. Further: which items match, Q-, K- and V-composition, and effective ranks and singular spectra
    of QK and OV. Last are the direct effect of each part on the logits, and the logit lens by layer and role."""

    run: RunName
    """Path, name, or start of a name or hash."""
    sequences: int = 100
    """Sequences for direct effects and the logit lens, for each set of novel classes."""
    output: File = ""
    """New file NAME.safetensors for QK and OV of every head in the basis of items and labels; default: none."""
    vectors: int = 32
    """Labels, and most frequent classes of each modality, of that basis at most."""
    overwrite: bool = False
    """Replace a file that is there."""


def run_weights(arguments: list[str]) -> int:
    """`miclab weights RUN`."""
    options = parse(WeightsOptions, "weights", arguments)
    if not options.output:
        refuse_ignored(arguments, ("vectors", "overwrite"), "no matrices are written without --output")
    file = output_file(options.output) if options.output else None
    if file is not None and file.suffix != ".safetensors":
        raise ConfigError("output", options.output, "NAME.safetensors")
    if file is not None and file.exists() and not options.overwrite:
        raise MiclabError(f"--output {file}: this file exists. Name another, or add --overwrite.")
    run = find(options.run, options.runs)
    from miclab.circuits.weights import weight_matrices, weights
    from miclab.storage import explained, replace_bytes, tensor_bytes

    if file is not None:
        matrices = weight_matrices(run, step=options.checkpoint, vectors=options.vectors)
        with explained(file):
            replace_bytes(file, tensor_bytes(matrices))

    announce("weights", options.sizes.sequences * options.sizes.novel_sets * forward(run.config), options.runs)
    return print_result(weights(run, step=options.checkpoint, sizes=options.sizes), [run], options.json)
