"""What metric rows are made of, for many runs of equal shapes at once: answers, measures of heads, and alignment.

Every tensor has the lanes as its first axis, and nothing mixes them. The model and the measures are those of single
runs, called through `torch.func.vmap`. Sequences come as mappings of tensors, since vmap takes no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from miclab.config.run import RunConfig
from miclab.errors import MiclabError
from miclab.measures.attention import context_label_predictions
from miclab.measures.cka import Gram, hsic_norms, unbiased_hsic
from miclab.measures.encoder import is_nearest
from miclab.measures.evaluate import chunk_strengths, measures_of
from miclab.measures.registry import Measure
from miclab.model.classifier import Classifier
from miclab.model.decoder import Decoder, Parameters
from miclab.model.encoders import encode
from miclab.model.projector import project
from miclab.worlds.sequences import Batch, config_roles

Given = Mapping[str, Any]
"""Tensors, or nested mappings of them, with the lanes as their first axis."""


def batch_tensors(batch: Batch) -> dict[str, Any]:
    """The tensors of an evaluated batch that a decoder or a classifier may read."""
    named = ("items", "label_vectors", "labels", "target", "placement")
    return {name: getattr(batch, name) for name in named}


class LaneDecoder:
    """The decoders of a group on sequences of an evaluation.

    Arguments:
        config: of any run of the group.
        parameters: of any lane, on the group's device.
        on_separate: called once with the names of measures that `vmap` does not take, and the reason.
    """

    def __init__(self, config: RunConfig, parameters: Parameters, on_separate: Callable[[str, str], None]):
        self.device = next(iter(parameters.values())).device
        # Masks and codes of positions are made where the parameters are.
        with self.device:
            self.decoder = Decoder(config)
        self.roles = config_roles(config).on(self.device)
        self.measures = self.together = measures_of(self.decoder, parameters)
        self.separate: tuple[Measure, ...] = ()
        self.on_separate = on_separate

    def _batch(self, given: Given) -> Batch:
        return Batch(**given, classes={}, roles=self.roles)

    def answers(self, parameters: Parameters, given: Given) -> dict[str, Bool[Tensor, "lane sequence"]]:
        """`correct` and `in_context` of `miclab.measures.evaluate.SplitScores`, by the least work."""

        def one(parameters: Parameters, given: Given) -> dict[str, Tensor]:
            return _scored(self.decoder.logits(parameters, self._batch(given)), given)

        return torch.func.vmap(one)(parameters, given)

    def measured(self, parameters: Parameters, given: Given) -> dict[str, Any]:
        """`answers`, and under `sums` each measure [lane layer head], summed over the sequences.

        Raises:
            MiclabError: a measure does not return one value for each head.
        """

        def one(parameters: Parameters, given: Given) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
            trace = self.decoder.trace(parameters, self._batch(given), capture=("blocks.*",))
            return _scored(trace.logits, given), trace.activations

        found, activations = torch.func.vmap(one)(parameters, given)
        return {**found, "sums": self._sums((parameters, activations, given))}

    def _sums(self, inputs: tuple[Any, ...]) -> dict[str, Float[Tensor, "lane layer head"]]:
        try:
            found = self._at_once(self.together, inputs)
        except (torch.OutOfMemoryError, MiclabError):
            raise
        except Exception as error:  # A measure may be a user's, and raises what it likes.
            self._divide(inputs, error)
            found = self._at_once(self.together, inputs)
        if self.separate:
            lanes = range(len(inputs[2]["target"]))
            rows = [self._of_lane(self.separate, *(_lane(part, lane) for part in inputs)) for lane in lanes]
            found |= {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        order = [one.name for one in self.measures]
        return dict(sorted(found.items(), key=lambda item: order.index(item[0].partition(".")[0])))

    def _of_lane(
        self, measures: Sequence[Measure], parameters: Parameters, activations: Parameters, given: Given
    ) -> dict[str, Tensor]:
        return chunk_strengths(self.decoder, parameters, activations, self._batch(given), measures)[0]

    def _at_once(self, measures: Sequence[Measure], inputs: tuple[Any, ...]) -> dict[str, Tensor]:
        return torch.func.vmap(partial(self._of_lane, measures))(*inputs) if measures else {}

    def _divide(self, inputs: tuple[Any, ...], error: Exception) -> None:
        """Finds the measures that are to be taken lane by lane, on activations that were computed together."""
        separate = []
        for one in self.together:
            try:
                self._at_once((one,), inputs)
            except torch.OutOfMemoryError:
                raise
            except Exception:  # As above.
                separate.append(one)
        if not separate:
            raise error
        self.separate += tuple(separate)
        self.together = tuple(one for one in self.together if one not in separate)
        self.on_separate(" and ".join(one.name for one in separate), reason_of(error))


def reason_of(error: Exception) -> str:
    """The first line of an error, or its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _lane(nested: Any, lane: int) -> Any:
    if isinstance(nested, Tensor):
        return nested[lane]
    return {name: _lane(part, lane) for name, part in nested.items()}


def _scored(logits: Float[Tensor, "sequence label"], given: Given) -> dict[str, Bool[Tensor, " sequence"]]:
    return {
        "correct": logits.argmax(-1) == given["target"],
        "in_context": context_label_predictions(logits, given["labels"]),
    }


# -- alignment ----------------------------------------------------------------------------------------------------
def lane_alignment(config: RunConfig, modality: str, parameters: Parameters, given: Given) -> dict[str, Tensor]:
    """Alignment of a secondary modality, lane by lane the numbers of `miclab.measures.alignment.alignment_row`.

    Arguments:
        given: `items` and `prototypes` of pairs, and `orders` [lane shuffle row] of the null.

    Returns:
        `features` [lane row width], `cka` [lane], `null` [lane shuffle] and `distance` [lane].
    """

    def one(parameters: Parameters, given: Given) -> dict[str, Tensor]:
        features = project(config, parameters, modality, given["items"])
        k, m = Gram(features), Gram(given["prototypes"])
        norms = hsic_norms(k, m)
        null = [unbiased_hsic(k, m.permuted(order)) / norms for order in given["orders"].unbind()]
        distance = (features - given["prototypes"]).norm(dim=1).mean()
        return {
            "features": features,
            "cka": unbiased_hsic(k, m) / norms,
            "null": torch.stack(null) if null else norms.new_empty(0),
            "distance": distance,
        }

    return torch.func.vmap(one)(parameters, given)


# -- encoders -----------------------------------------------------------------------------------------------------
def lane_classes(model: Classifier, parameters: Parameters, given: Given) -> Bool[Tensor, "lane sequence"]:
    """Whether the class of each item is found, by the classifiers of a group."""

    def one(parameters: Parameters, given: Given) -> Tensor:
        batch = Batch(**given, classes={}, roles=config_roles(model.config))
        return model.logits(parameters, batch).argmax(-1) == given["target"]

    return torch.func.vmap(one)(parameters, given)


def lane_nearest(
    model: Classifier, parameters: Parameters, items: Float[Tensor, "lane episode item dimension"]
) -> Bool[Tensor, "lane episode"]:
    """Whether the nearest exemplar is the right one (see `miclab.measures.encoder.is_nearest`)."""

    def one(parameters: Parameters, items: Tensor) -> Tensor:
        return is_nearest(encode(model.modality, parameters, model.name, items))

    return torch.func.vmap(one)(parameters, items)
