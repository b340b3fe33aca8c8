"""Attention mechanisms, one in each file, which is called like the mechanism. `mechanism.py` is their interface."""
