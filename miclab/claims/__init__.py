"""Claims of arXiv 2601.20796 and of ours: criteria fixed in advance, verdicts with intervals, the paper's figures
beside ours.

`registry` and `entries` hold the claims, `evidence` the rows of studies that decide them, and `ledger` each claim with
its verdict. `demonstration` holds the claims that one short training of each kind can decide.
"""
