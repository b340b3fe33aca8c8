"""Position codes with options of their own, one in each file, which is called like the code. `miclab.model.positions`
is their interface."""
