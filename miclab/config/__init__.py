"""What a run is: its configuration, what is requested of it, and the presets."""
