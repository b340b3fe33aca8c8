"""The items of a data set in a run: each exemplar as one vector of about unit norm.

    vector                 x / |x|
    picture, spectrogram   (flattened - mean of the training part) / scale, mean square norm 1 over the training part
    vector, centred        u = x / |x|; v = u - centre; v / |v|

The centre is the mean of the items (u) that a run trains on. `common_share` measures the common part of all items. A
decoder that only compares items does not need it. One that only sees differences between positions may.
"""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from miclab.data.dataset import DataSet

CHUNK = 2048
"""Exemplars that are normalised at a time."""


class Exemplars:
    """Items of a data set as vectors, by the rules above.

    Arguments:
        data: the data set.
        features: used in place of its items, one row per exemplar; None: the items.
        centre: what is subtracted from items of length 1 before they are normalised again; None: nothing.
    """

    def __init__(
        self,
        data: DataSet,
        features: Float[Tensor, "exemplar dimension"] | None = None,
        centre: Float[Tensor, " dimension"] | None = None,
    ):
        self.data, self.features, self.centre = data, features, centre

    @cached_property
    def _origin_and_scale(self) -> tuple[Float[Tensor, " dimension"], float]:
        chunks = self.data.indices("training").split(CHUNK)
        total, squares, count = torch.zeros(()), 0.0, sum(map(len, chunks))
        for chunk in chunks:
            values = self.data.floats(chunk).flatten(1).double()
            total, squares = total + values.sum(0), squares + float(values.square().sum())
        mean = total / count
        return mean.float(), (squares / count - float(mean.square().sum())) ** 0.5

    def vectors(self, exemplars: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape dimension"]:
        """The items of exemplars."""
        places = exemplars.flatten()
        if self.features is not None:
            found = self.features.index_select(0, places)
        else:
            found = self.data.floats(places).flatten(1)
            if self.data.kind != "vector":
                origin, scale = self._origin_and_scale
                found = (found - origin) / scale
        if self.centre is not None:
            found = torch.nn.functional.normalize(found - self.centre, dim=1)
        return found.view(*exemplars.shape, -1)

    def mean(self, exemplars: Int[Tensor, " chosen"]) -> Float[Tensor, " dimension"]:
        """The mean item of exemplars, summed in float64."""
        total = torch.zeros((), dtype=torch.double)
        for chunk in exemplars.split(CHUNK):
            total = total + self.vectors(chunk).double().sum(0)
        return (total / len(exemplars)).float()

    def centred(self, centre: Float[Tensor, " dimension"]) -> Exemplars:
        """The same items less `centre`, of length 1 again."""
        return Exemplars(self.data, self.features, centre)

    def common_share(self, exemplars: Int[Tensor, " chosen"]) -> float:
        """The share of the norm that is common to some items: |mean|^2 / mean |item|^2, from 0 (the items cancel) to 1
        (they are equal)."""
        chunks = exemplars.split(CHUNK)
        squares = sum(float(self.vectors(chunk).double().square().sum()) for chunk in chunks) / len(exemplars)
        return float(self.mean(exemplars).double().square().sum()) / squares
