"""Real data: classes with exemplars, shipped with miclab, or read from a folder, a file or a registered source."""

from miclab.data.catalogue import load
from miclab.data.dataset import DataError, DataSet
from miclab.data.registry import MissingDataError, Progress, source

__all__ = ["DataError", "DataSet", "MissingDataError", "Progress", "load", "source"]
