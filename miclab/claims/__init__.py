"""Claims of arXiv 2601.20796: criteria fixed in advance, verdicts with intervals, the paper's figures beside ours.

`ledger` holds one entry per claim, judged from the committed rows of studies; `demonstration` holds what one short
training of each kind can speak to.
"""

from miclab.claims.entries.demonstration import CLAIMS, Claim, Judgement

__all__ = ["CLAIMS", "Claim", "Judgement"]
