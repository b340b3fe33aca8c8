"""The configuration of a run, its request, and the presets."""
