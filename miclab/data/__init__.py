"""Real data: classes with exemplars, shipped with miclab or read from a folder."""

from miclab.data.catalogue import load
from miclab.data.dataset import DataError, DataSet

__all__ = ["DataError", "DataSet", "load"]
