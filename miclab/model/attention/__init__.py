"""Attention mechanisms, each in a file of its name. `mechanism.py` is their interface."""
