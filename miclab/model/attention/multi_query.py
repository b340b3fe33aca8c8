"""Multi-query attention: all heads share one key and one value (Shazeer 2019, arXiv 1911.02150)."""

from __future__ import annotations

from miclab.config.options import AttentionOptions
from miclab.model.attention.grouped_query import GroupedQuery
from miclab.model.attention.mechanism import attention


@attention("multi_query")
class MultiQuery(GroupedQuery):
    """Softmax attention whose heads share one key and one value."""

    Options = AttentionOptions

    def group_count(self):
        return 1
