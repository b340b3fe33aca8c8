"""Circuits: the heads that make one, and what happens when they are cut."""
