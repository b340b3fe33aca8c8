"""Studies: a grid over configurations and seeds becomes runs, each trained once, by whichever launcher."""
