"""Position codes with their own options, each in a file of its name. `miclab.model.positions` is their interface."""
