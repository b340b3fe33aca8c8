"""What is measured of a network: accuracies, attention, alignment."""
