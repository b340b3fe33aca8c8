"""`miclab weights`."""

from __future__ import annotations

from dataclasses import dataclass

from miclab.cli.options import RunName, SizedOptions
from miclab.cli.progress import announce, forward
from miclab.cli.terminal import parse, print_result
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


def run_weights(arguments: list[str]) -> int:
    """`miclab weights RUN`."""
    options = parse(WeightsOptions, "weights", arguments)
    run = find(options.run, options.runs)
    from miclab.circuits.weights import weights

    announce("weights", options.sizes.sequences * options.sizes.novel_sets * forward(run.config), options.runs)
    return print_result(weights(run, step=options.checkpoint, sizes=options.sizes), [run], options.json)
