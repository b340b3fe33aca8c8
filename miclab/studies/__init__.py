"""Studies: a grid over configurations and seeds becomes runs, each trained once by a launcher."""
