"""Measures of a network: accuracies, attention, alignment."""
