"""Intervals, correlations, cells and regressions, and the colours of figures that show them."""
